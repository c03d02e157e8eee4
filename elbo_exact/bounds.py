"""Each bound on log p(x), exactly: its side, when it is tight, what it costs; and the ladder of all of them.

Lower bounds are never above ``log_evidence`` and upper bounds never below, as doubles. Missing support gives the mathematically right
value, an infinity if need be, never a number that is no bound. `catalogue` says what is known of each; the page on bounds
says which orders between them are theorems and which are false.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._annealing import AisMoments, ais, ais_moments
from elbo_exact._bound_results import (
    BoundResults,
    Options,
    perturbative_results,
    renyi_bound_results,
    thermodynamic_results,
    tvo_results,
)
from elbo_exact._catalogue import CATALOGUE, Entry, catalogue
from elbo_exact._engine import shaped
from elbo_exact._k_sample import jackknife_results, k_sample_results, renyi_sample_results
from elbo_exact._ladder import Ladder, ladder
from elbo_exact._validate import integer, one_of, real_array, temperatures
from elbo_exact.importance import curve
from elbo_exact.variational import elbo, eubo

__all__ = [
    "CATALOGUE",
    "AisMoments",
    "Entry",
    "Ladder",
    "ais",
    "ais_moments",
    "catalogue",
    "cubo",
    "elbo",
    "eubo",
    "iwae",
    "iwae_upper",
    "jackknife",
    "ladder",
    "perturbative",
    "renyi",
    "sumo",
    "thermodynamic",
    "tvo",
]


def renyi(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    alpha: float,
    *,
    num_samples: int | None = None,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Variational Renyi bound log E_q[w**(1 - alpha)] / (1 - alpha) = log p(x) - D_alpha(q || posterior), w = p(x, z)/q(z).

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    alpha : float
        Any real number or an infinity: a lower bound for alpha >= 0, an upper one below. 1 is the ELBO, 0 is log p(x), or
        log p(x) + log(1 - miss) where q misses posterior mass; +inf is min log w, -inf is max log w.
    num_samples : int, optional
        K: E log mean_k w_k**(1 - alpha) / (1 - alpha) over K draws from q, which lies between the ELBO (K = 1) and the bound itself
        (K to infinity). A lower bound for alpha >= 0; for alpha < 0 an estimate and **no bound**.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...)
        -inf where alpha >= 1 or num_samples is given and q has mass on an impossible state; +inf where alpha < 0 and q misses a
        possible one, except with num_samples, whose draws know nothing of it.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        alpha is NaN or not one number, or an infinity with num_samples; num_samples is no integer of at least 1.

    Notes
    -----
    Non-increasing in alpha. O(S): two or three log sums, or one and a sum of non-negative terms for rows that are nearly tight. With K draws,
    the integrals of `iwae` for the target q w**(1 - alpha): O(S) for each of some 250 nodes, whatever K. Li & Turner (2016),
    arXiv:1602.02311, equations 4 and 7.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> [float(bounds.renyi(np.log([0.3, 0.1]), np.log([0.5, 0.5]), a).round(6)) for a in (2.0, 0.5, -1.0)]
    [-1.203973, -0.985627, -0.804719]
    >>> [float(bounds.renyi(np.log([0.3, 0.1]), np.log([0.5, 0.5]), 0.5, num_samples=k).round(6)) for k in (1, 2, 100)]
    [-1.060132, -1.022879, -0.986346]
    """
    order = real_array(alpha, "alpha")
    if order.ndim or np.isnan(order):
        raise ValueError(f"alpha must be one real number or an infinity; got {alpha!r}.")
    options = Options(unnormalized, nan_policy, executor)
    if num_samples is not None:
        count = integer(num_samples, "num_samples", 1)
        return _value(renyi_sample_results(log_joint, log_q, float(order), count, options))
    return _value(renyi_bound_results(log_joint, log_q, float(order), options))


def cubo(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    n: float = 2,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Chi upper bound log E_q[w**n] / n = log p(x) + (n - 1) D_n(posterior || q) / n, w = p(x, z)/q(z).

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    n : float
        Any real number above 1.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...)
        +inf where q misses a possible state; the plain formula would silently miss its mass.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        n is not a number above 1.

    Notes
    -----
    The Renyi bound of order 1 - n; non-decreasing in n. O(S). Dieng, Tran, Ranganath, Paisley & Blei (2017), arXiv:1611.00328.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> float(bounds.cubo(np.log([0.3, 0.1]), np.log([0.5, 0.5])).round(6))
    -0.804719
    """
    order = real_array(n, "n")
    if order.ndim or not order > 1.0:
        raise ValueError(f"n must be one real number above 1; got {n!r}.")
    return renyi(log_joint, log_q, 1.0 - float(order), unnormalized=unnormalized, nan_policy=nan_policy, executor=executor)


def perturbative(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    order: int = 3,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Perturbative lower bound log max_V exp(-V) E_q sum_(k <= K) (V + log w)**k / k! of odd order K, at the best V.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    order : int
        K, odd, below 2**53; 1 is the ELBO.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...)
        -inf where q has mass on an impossible state, and (with no bound) where a difference of log ratios is no double.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        order is even, or no integer from 1 to 2**53.

    Notes
    -----
    exp lies above its Taylor polynomials of odd degree everywhere; the best V solves E_q (V + log w)**K = 0. Higher orders need not
    be tighter. O(S K) for a few steps of a root search; orders from 1001, and tables whose q spans more than 690 nats, are computed in
    logarithms, in O(S) for some hundred steps. Bamler, Zhang, Opper & Mandt (2017), arXiv:1709.07433.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> [float(bounds.perturbative(np.log([0.3, 0.1]), np.log([0.5, 0.5]), k).round(6)) for k in (1, 3, 5)]
    [-1.060132, -0.919615, -0.916324]
    """
    return _value(perturbative_results(log_joint, log_q, order, Options(unnormalized, nan_policy, executor)))


def tvo(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    betas: npt.ArrayLike | int,
    side: str = "lower",
    *,
    restricted: bool = False,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Thermodynamic bound: the left ("lower") or right ("upper") Riemann sum of E_pi_b[log w] over b, pi_b prop. to q w**b.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    betas : array_like, shape (T + 1,), or int
        Schedule, strictly increasing from 0 to 1; an integer T means T equal steps.
    side : {"lower", "upper"}
        Which sum.
    restricted : bool
        Where q has mass q0 on impossible states: use q restricted to the possible ones and add log(1 - q0), which makes both sums
        finite and valid. False keeps the definition, whose lower sum is -inf there.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...)
        The upper sum is +inf where q misses a possible state.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        A schedule that is not strictly increasing from 0 to 1, or an unknown side.

    Notes
    -----
    One step gives the ELBO and the EUBO; refining a schedule tightens both sums. The gap is the sum of KL(pi_b || pi_b') between
    neighbors, and keeps its relative precision. O(S T), one pass per point. Masrani, Le & Wood (2019), arXiv:1907.00031.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> [float(bounds.tvo(np.log([0.3, 0.1]), np.log([0.5, 0.5]), 5, side).round(6)) for side in ("lower", "upper")]
    [-0.944008, -0.889077]
    """
    one_of(side, "side", ("lower", "upper"))
    options = Options(unnormalized, nan_policy, executor)
    return _value(tvo_results(log_joint, log_q, temperatures(betas), side, restricted, options))


def thermodynamic(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    betas: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> SimpleNamespace:
    """The thermodynamic integrand E_pi_b[log w] and its slope Var_pi_b[log w] at every b; pi_b prop. to q w**b.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    betas : array_like, shape (T,)
        Points between 0 and 1, in any order.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    namespace
        ``integrand`` and ``variance``, shape (..., T), and ``error`` with their bounds. Where q has mass on an impossible state the
        integrand is -inf at b = 0 and the variance NaN.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        betas outside [0, 1], or not one axis.

    Notes
    -----
    log p(x) is the integral over [0, 1]; with mass q0 on impossible states and missed mass, log p(x) + log(1 - miss) is
    log(1 - q0) plus the integral over (0, 1]. O(S T). Gelman & Meng (1998), Stat. Sci. 13:163.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> bounds.thermodynamic(np.log([0.3, 0.1]), np.log([0.5, 0.5]), [0.0, 0.5, 1.0]).integrand.round(6)
    array([-1.060132, -0.912946, -0.785479])
    """
    points = real_array(betas, "betas")
    if points.ndim != 1 or points.size == 0 or not ((points >= 0.0) & (points <= 1.0)).all():
        raise ValueError(f"betas must be one axis of points between 0 and 1; got {betas!r}.")
    columns, _, batch = thermodynamic_results(log_joint, log_q, points, Options(unnormalized, nan_policy, executor))
    parts = [np.ascontiguousarray(columns[..., k]).reshape(*batch, points.size) for k in range(4)]
    error = SimpleNamespace(integrand=parts[1], variance=parts[3])
    return SimpleNamespace(integrand=parts[0], variance=parts[2], error=error)


def iwae(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    num_samples: int | Sequence[int] | npt.NDArray[Any],
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Importance-weighted lower bound E log mean_k w_k of K draws from q, w = p(x, z)/q(z), for any K.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    num_samples : int or sequence of int
        K, from 1 to 2**53; a sequence adds a last axis.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...) or (..., len(num_samples))
        -inf where q has mass on an impossible state, for every K.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        num_samples is not made of integers from 1 to 2**53.

    Notes
    -----
    Non-decreasing in K; K = 1 is the ELBO. ``lower`` of `elbo_exact.importance.curve`, which also has its error and noise. O(S) for
    each of some 250 nodes, whatever K. Burda, Grosse & Salakhutdinov (2016), ICLR, arXiv:1509.00519.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> bounds.iwae(np.log([0.3, 0.1]), np.log([0.5, 0.5]), [1, 10, 10**6]).round(6)
    array([-1.060132, -0.929264, -0.916291])
    """
    return curve(log_joint, log_q, num_samples, unnormalized=unnormalized, nan_policy=nan_policy, executor=executor).lower


def iwae_upper(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    num_samples: int | Sequence[int] | npt.NDArray[Any],
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Upper bound E log mean_k w_k of K draws, the first from the posterior and the others from q, for any K.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    num_samples : int or sequence of int
        K, from 1 to 2**53; a sequence adds a last axis.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...) or (..., len(num_samples))
        +inf where q misses a possible state, for every K; NaN where p(x) = 0.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        num_samples is not made of integers from 1 to 2**53.

    Notes
    -----
    Non-increasing in K; K = 1 is the EUBO; at most log p(x) + log(1 + chi2/K). ``upper`` of `elbo_exact.importance.curve`; costs
    what `iwae` does. Sobolev & Vetrov (2019), NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> bounds.iwae_upper(np.log([0.3, 0.1]), np.log([0.5, 0.5]), [1, 10, 10**6]).round(6)
    array([-0.785479, -0.903638, -0.916291])
    """
    return curve(log_joint, log_q, num_samples, unnormalized=unnormalized, nan_policy=nan_policy, executor=executor).upper


def jackknife(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, num_samples: int, order: int = 1, *, unnormalized: bool = False
) -> Any:
    """Jackknife combination of the bounds of K, K - 1, ... K - m samples: an estimate of log p(x) and **no bound**.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    num_samples, order : int
        K and m, with 0 <= m < K; m = 0 is the importance-weighted bound itself.
    unnormalized : bool
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...)
        -inf where q has mass on an impossible state.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        num_samples or order is no integer in its range.

    Notes
    -----
    sum over j of (-1)**j (K - j)**m / ((m - j)! j!) L_(K - j), computed from the gaps. Its bias is O(K**-(m + 1)).
    Nowozin (2018), ICLR, equation 12.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> a, b = np.log([0.1, 0.9]), np.log([0.3, 0.7])
    >>> print(f"{bounds.jackknife(a, b, 2):.6f} lies above log p(x) = 0")
    0.024702 lies above log p(x) = 0
    """
    options = Options(unnormalized)
    return _value(
        jackknife_results(log_joint, log_q, integer(num_samples, "num_samples", 1), integer(order, "order", 0), options)
    )


def sumo(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, terms: int, *, unnormalized: bool = False) -> Any:
    """Expectation of the SUMO estimator's series truncated after m terms, the importance-weighted bound of m + 1 samples.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    terms : int
        m >= 0.
    unnormalized : bool
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...)
        -inf where q has mass on an impossible state.

    Raises
    ------
    LogTableError
        As in `elbo`.
    ValueError
        terms is no integer of at least 0.

    Notes
    -----
    Its terms telescope, so that the expectation is `iwae` of m + 1 samples, and costs the same. Luo, Beatson, Norouzi, Zhu, Duvenaud,
    Adams & Chen (2020), ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> [float(bounds.sumo(np.log([0.3, 0.1]), np.log([0.5, 0.5]), m).round(6)) for m in (0, 9)]
    [-1.060132, -0.929264]
    """
    return _value(k_sample_results(log_joint, log_q, integer(terms, "terms", 0, 2**53 - 1) + 1, "lower", Options(unnormalized)))


def _value(results: BoundResults) -> Any:
    return shaped(results.value, results.batch)
