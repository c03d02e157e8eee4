"""The evidence lower bound, its upper sibling, its two terms and its gradient; every number is in nats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import direct_results, evidence_results, pair_results, pivoted_results, shaped
from elbo_exact._validate import NORMALIZER_TOLERANCE, FloatArray, broadcast_rows, log_table, same_states
from elbo_exact.errors import LogTableError
from elbo_exact.kernels.pivoted import cross_entropy_rows, gradient_rows
from elbo_exact.kernels.rows import OUT_GAP

__all__ = ["elbo", "elbo_gradient", "elbo_terms", "eubo"]


def elbo(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Evidence lower bound E_q[log p(x, z) - log q(z)], never above ``log_evidence``, in floating point, with no tolerance.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    unnormalized : bool
        Accept logits: q = exp(log_q) / sum exp(log_q).
    nan_policy : {"raise", "propagate"}
        What a NaN does: raise, or make its row NaN.
    executor : concurrent.futures.Executor, optional
        Where the work runs; by default threads.

    Returns
    -------
    float or ndarray, shape (...)
        -inf where q has mass on an impossible state.

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized.

    Notes
    -----
    q is renormalized exactly, which makes the inequality a theorem about stored doubles. O(S), one pass over memory. Jordan,
    Ghahramani, Jaakkola & Saul (1999), Machine Learning 37:183.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.elbo(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(-1.0601317681000455)
    """
    values, batch = direct_results(log_joint, log_q, False, unnormalized, nan_policy, executor)
    return shaped(values, batch)


def eubo(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Evidence upper bound log p(x) + KL(posterior || q), never below ``log_evidence``.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...)
        +inf where q misses a possible state.

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized.

    Notes
    -----
    Equal to E_posterior[log p(x, z) - log q(z)]. O(S). Ji & Shen (2019), arXiv:1911.05904.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.eubo(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    np.float64(-0.7854786959330182)
    """
    values, batch = direct_results(log_joint, log_q, True, unnormalized, nan_policy, executor)
    return shaped(values, batch)


def elbo_terms(
    log_likelihood: npt.ArrayLike, log_prior: npt.ArrayLike, log_q: npt.ArrayLike, *, unnormalized: bool = False
) -> tuple[Any, Any]:
    """The ELBO as reconstruction minus regularisation: (E_q[log p(x | z)], KL(q || prior)).

    Parameters
    ----------
    log_likelihood, log_prior, log_q : array_like, shape (..., S)
        log p(x | z), log p(z) and log q(z | x); leading axes broadcast. The prior must be normalized (to 1e-6 in log mass);
        what remains is renormalized exactly, like q.
    unnormalized : bool
        Accept logits for q.

    Returns
    -------
    reconstruction, kl_to_prior : float or ndarray, shape (...)

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support, q or the prior not normalized.

    Notes
    -----
    O(S). Kingma & Welling (2014), arXiv:1312.6114, equation 3.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> reconstruction, kl = ee.elbo_terms(np.log([0.6, 0.2]), np.log([0.5, 0.5]), np.log([0.5, 0.5]))
    >>> float(reconstruction), float(kl)
    (-1.0601317681000455, 0.0)
    """
    expected, batch = pivoted_results(
        cross_entropy_rows, log_likelihood, log_q, unnormalized, "raise", None, target_name="log_likelihood"
    )
    refuse_unnormalized_prior(log_prior)
    to_prior, prior_batch = pair_results(log_prior, log_q, False, unnormalized, "raise", None, "log_prior")
    return shaped(0.0 - expected[:, 0], batch), shaped(to_prior[:, OUT_GAP], prior_batch)


def elbo_gradient(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, *, unnormalized: bool = True, return_error: bool = False
) -> Any:
    """Derivative of the ELBO in the logits of q: g_z = q_z (e_z - E_q e), e = log(posterior/q), exact to rounding.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and the logits of q; leading axes broadcast.
    unnormalized : bool
        False checks that q is normalized.
    return_error : bool
        Return (gradient, error): a rigorous bound on the rounding error of every entry beside it.

    Returns
    -------
    ndarray, shape (..., S), or a pair of them
        Exactly 0 where log_q = -inf; a NaN row where the gap is infinite, which has no gradient (its error is +inf). The gradient
        of ``gap`` is -g; the derivative in log_joint is q itself.

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support.

    Notes
    -----
    g = q (e + gap), with e around the engine's pivot: it vanishes at the posterior instead of drowning in rounding. O(S).

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.elbo_gradient(np.log([0.3, 0.1]), np.log([0.5, 0.5])).round(6)
    array([ 0.274653, -0.274653])
    """
    _, out, bounds, batch = gradient_results(log_joint, log_q, unnormalized)
    gradient, error = (table.reshape(*batch, table.shape[-1]) for table in (out, bounds))
    return (gradient, error) if return_error else gradient


def gradient_results(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, unnormalized: bool
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[int, ...]]:
    """What `elbo_gradient` is made of, row by row: ``pair_results``, the gradient, its error bounds, and the leading axes."""
    results, batch = pair_results(log_joint, log_q, False, unnormalized, "raise", None)
    target, q = log_table(log_joint, "log_joint"), log_table(log_q, "log_q")
    shape = same_states(target, "log_joint", q, "log_q")
    out, bounds = np.empty((2, len(results), target.shape[-1]))
    with np.errstate(all="ignore"):
        gradient_rows(broadcast_rows(target, shape), broadcast_rows(q, shape), results, out, bounds)
    return results, out, bounds, batch


def refuse_unnormalized_prior(log_prior: npt.ArrayLike) -> None:
    """The prior of the reconstruction form must be a distribution, to 1e-6 in log mass."""
    masses, _ = evidence_results(log_prior, "raise", None, "log_prior")
    largest = float(np.max(np.abs(masses[:, 0]), initial=0.0))
    if largest > NORMALIZER_TOLERANCE:
        raise LogTableError(
            f"log_prior must be normalized; its log normalizer reaches {largest:.3g} in size; for an unnormalized model pass the "
            "joint table to elbo().",
            "log_prior",
            largest,
        )
