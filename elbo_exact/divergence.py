"""Divergences between a target table and q, each exact up to a few roundings, never negative, in nats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import pair_results, pivoted_results, shaped
from elbo_exact._validate import FloatArray, real_array
from elbo_exact.kernels.divergences import CHI2, HELLINGER, JENSEN_SHANNON, RENYI, TOTAL_VARIATION, divergence_rows
from elbo_exact.kernels.pivoted import cross_entropy_rows
from elbo_exact.kernels.rows import OUT_ENTROPY, OUT_FORWARD, OUT_GAP

__all__ = [
    "chi2_divergence",
    "cross_entropy",
    "entropy",
    "forward_kl",
    "gap",
    "hellinger",
    "jeffreys",
    "jensen_shannon",
    "renyi_divergence",
    "reverse_kl",
    "total_variation",
]


def gap(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """KL(q || posterior) = log p(x) - ELBO, to full relative precision, never negative.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast. log_joint need not be normalized.
    unnormalized : bool
        Accept logits: q = exp(log_q) / sum exp(log_q).
    nan_policy : {"raise", "propagate"}
        What a NaN does: raise, or make its row NaN.
    executor : concurrent.futures.Executor, optional
        Where the work runs; by default threads.

    Returns
    -------
    float or ndarray, shape (...)
        +inf where q has mass on an impossible state; NaN where p(x) = 0.

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized.

    Notes
    -----
    A sum of non-negative terms around a pivot, not a difference of large numbers; see the page on numerics. O(S), one pass over
    memory. Kullback & Leibler (1951), Ann. Math. Stat. 22:79.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.gap(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(0.1438410362258904)
    """
    results, batch = pair_results(log_joint, log_q, False, unnormalized, nan_policy, executor, "log_joint")
    return shaped(results[:, OUT_GAP], batch)


def reverse_kl(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """KL(q || p): the divergence that the ELBO minimizes; the same engine as `gap`.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)
        +inf where q has mass and p has none.

    Raises
    ------
    LogTableError
        As in `gap`.

    Notes
    -----
    O(S). Kullback & Leibler (1951), Ann. Math. Stat. 22:79.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.reverse_kl(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(0.1438410362258904)
    """
    results, batch = pair_results(log_p, log_q, False, unnormalized, nan_policy, executor, "log_p")
    return shaped(results[:, OUT_GAP], batch)


def forward_kl(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """KL(p || q): the mass-covering direction.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)
        +inf where p has mass and q has none.

    Raises
    ------
    LogTableError
        As in `gap`.

    Notes
    -----
    O(S). Kullback & Leibler (1951), Ann. Math. Stat. 22:79.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.forward_kl(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(0.13081203594113688)
    """
    results, batch = pair_results(log_p, log_q, True, unnormalized, nan_policy, executor, "log_p")
    return shaped(results[:, OUT_FORWARD], batch)


def jeffreys(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """KL(q || p) + KL(p || q).

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)
        +inf where either direction is.

    Raises
    ------
    LogTableError
        As in `gap`.

    Notes
    -----
    O(S). Jeffreys (1946), Proc. R. Soc. A 186:453.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.jeffreys(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(0.2746530721670273)
    """
    results, batch = pair_results(log_p, log_q, True, unnormalized, nan_policy, executor, "log_p")
    return shaped(results[:, OUT_GAP] + results[:, OUT_FORWARD], batch)


def cross_entropy(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """-E_q[log p] of the table as given, so that elbo = entropy - cross_entropy(log_joint, log_q).

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)
        +inf where q has mass and p has none.

    Raises
    ------
    LogTableError
        As in `gap`.

    Notes
    -----
    O(S).

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.cross_entropy(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(1.753278948659991)
    """
    results, batch = pivoted_results(cross_entropy_rows, log_p, log_q, unnormalized, nan_policy, executor)
    return shaped(results[:, 0], batch)


def entropy(log_q: npt.ArrayLike, *, unnormalized: bool = False, nan_policy: str = "raise", executor: Any = None) -> Any:
    """Entropy H(q) = -E_q[log q], in nats.

    Parameters
    ----------
    log_q : array_like, shape (..., S)
        log q.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)

    Raises
    ------
    LogTableError
        NaN, +inf, no support, or not normalized.

    Notes
    -----
    O(S). Shannon (1948), Bell Syst. Tech. J. 27:379.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.entropy(np.log([0.5, 0.5]))
    np.float64(0.6931471805599453)
    """
    results, batch = pair_results(log_q, log_q, True, unnormalized, nan_policy, executor, "log_q")
    return shaped(results[:, OUT_ENTROPY], batch)


def chi2_divergence(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """chi-square of p from q: E_q[(p/q)**2] - 1, the relative variance of importance weights.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)
        +inf where p has mass and q has none.

    Raises
    ------
    LogTableError
        As in `gap`.

    Notes
    -----
    O(S). Pearson (1900), Phil. Mag. 50:157.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.chi2_divergence(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(0.24999999999999986)
    """
    results, batch = f_divergence(log_p, log_q, CHI2, unnormalized, nan_policy, executor)
    return shaped(results[:, 0], batch)


def total_variation(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Half the L1 distance, ``sum abs(p - q) / 2``, between 0 and 1.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)

    Raises
    ------
    LogTableError
        As in `gap`.

    Notes
    -----
    O(S).

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.total_variation(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(0.24999999999999994)
    """
    results, batch = f_divergence(log_p, log_q, TOTAL_VARIATION, unnormalized, nan_policy, executor)
    return shaped(results[:, 0], batch)


def hellinger(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Hellinger distance sqrt(1 - sum sqrt(p q)), between 0 and 1.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)

    Raises
    ------
    LogTableError
        As in `gap`.

    Notes
    -----
    O(S). Hellinger (1909), J. reine angew. Math. 136:210.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.hellinger(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(0.18459191128251448)
    """
    results, batch = f_divergence(log_p, log_q, HELLINGER, unnormalized, nan_policy, executor)
    return shaped(results[:, 0], batch)


def jensen_shannon(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Jensen-Shannon divergence KL(p || m)/2 + KL(q || m)/2 with m = (p + q)/2, between 0 and log 2.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)

    Raises
    ------
    LogTableError
        As in `gap`.

    Notes
    -----
    O(S). Lin (1991), IEEE Trans. Inf. Theory 37:145.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.jensen_shannon(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(0.03382207556860521)
    """
    results, batch = f_divergence(log_p, log_q, JENSEN_SHANNON, unnormalized, nan_policy, executor)
    return shaped(results[:, 0], batch)


def renyi_divergence(
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    alpha: float,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Renyi divergence D_alpha(q || p) = log(sum q**alpha p**(1 - alpha)) / (alpha - 1).

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S)
        log p and log q; leading axes broadcast. log_p need not be normalized.
    alpha : float
        The order: any real number or +inf.
    unnormalized, nan_policy, executor
        As in `gap`.

    Returns
    -------
    float or ndarray, shape (...)
        D_1 is the reverse KL, D_inf is log max q/p, D_0 is -log p(q > 0); negative orders by skew symmetry are <= 0.

    Raises
    ------
    LogTableError
        As in `gap`.
    ValueError
        alpha is NaN, -inf or not one number.

    Notes
    -----
    O(S). Orders below 1/2 use alpha D_(1-alpha)(p || q) / (1 - alpha). van Erven & Harremoes (2014), IEEE Trans. Inf. Theory
    60:3797.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.renyi_divergence(np.log([0.3, 0.1]), np.log([0.5, 0.5]), alpha=0.5)
    np.float64(0.06933646419507387)
    """
    results, batch = renyi_results(log_p, log_q, alpha, unnormalized, nan_policy, executor)
    return shaped(results[:, 0], batch)


def f_divergence(
    log_p: npt.ArrayLike, log_q: npt.ArrayLike, kind: int, unnormalized: bool, nan_policy: str, executor: Any
) -> tuple[FloatArray, tuple[int, ...]]:
    """(value, bound) of a divergence without a parameter."""
    return pivoted_results(divergence_rows, log_p, log_q, unnormalized, nan_policy, executor, (kind, 0.0))


def renyi_results(
    log_p: npt.ArrayLike, log_q: npt.ArrayLike, alpha: float, unnormalized: bool, nan_policy: str, executor: Any
) -> tuple[FloatArray, tuple[int, ...]]:
    """(value, bound) of D_alpha(q || p): the KL at 1, the Renyi kernel elsewhere."""
    order = real_array(alpha, "alpha")
    if order.ndim or not order > -np.inf:
        raise ValueError(f"alpha must be one real number or +inf; got {alpha!r}.")
    alpha = float(order)
    if alpha == 1.0:
        results, batch = pair_results(log_p, log_q, False, unnormalized, nan_policy, executor, "log_p")
        return results[:, OUT_GAP : OUT_GAP + 2], batch
    return pivoted_results(divergence_rows, log_p, log_q, unnormalized, nan_policy, executor, (RENYI, alpha))
