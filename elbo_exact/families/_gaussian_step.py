"""The closed-form M-step of Gaussians, its refusal to collapse, and what its rounding can lose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray
from elbo_exact.errors import CollapsedComponent
from elbo_exact.families._gaussian_statistics import GaussianStatistics
from elbo_exact.families._simplex import U
from elbo_exact.families._triangular import absolute_inverse, condition

__all__ = ["maximized_scales", "rounding_loss"]

COLLAPSED = 100.0 * U  # smallest eigenvalue over the trace of the total covariance, columns in units of their total deviation
TRUSTED = 1e-2
UNDERFLOW = 2.0**-960  # smallest variance whose squares and their rounding are normal numbers


def maximized_scales(
    old: FloatArray, covariance: str, total: GaussianStatistics, extra: float, variances: FloatArray | None
) -> FloatArray:
    """Scales or factors that maximize -(n + c) log|L| - tr(scatter inv(L L^T)) / 2, with c = ``extra`` from the prior.

    ``variances``: total variance of each column, to tell a collapse from a small component; None where a prior rules it out.
    """
    weights = total.weights
    if covariance == "diagonal":
        count = weights + extra
        found = np.sqrt(total.scatter / np.where(count > 0.0, count, 1.0))
        _refuse(found**2 / _unit(variances, found), count > 0.0, variances, len(old[0]))
        return np.where(count > 0.0, found, old)
    if covariance == "spherical":
        count = (weights + extra).sum(axis=1)
        found = np.sqrt(total.scatter.sum(axis=1) / np.where(count > 0.0, count, 1.0))
        limit = None if variances is None else np.array([variances.sum()])
        _refuse((found**2 / _unit(limit, found))[:, None], (count > 0.0)[:, None], limit, 1)
        return np.where(count > 0.0, found, old)
    if covariance == "tied":
        count = weights[:, 0].sum() + extra
        return _factor(total.scatter.sum(axis=0) / count, variances, None) if count > 0.0 else old
    counts = weights[:, 0] + extra
    pairs = enumerate(zip(counts, total.scatter, old, strict=True))
    return np.stack([_factor(scatter / n, variances, k) if n > 0.0 else kept for k, (n, scatter, kept) in pairs])


def rounding_loss(
    means: FloatArray, scales: FloatArray, covariance: str, total: GaussianStatistics, extra: float, relative: float
) -> float:
    """Largest loss, in nats, of the maximized objective by the rounding of statistics and M-step; inf where that is not small.

    Around the maximum, factors L (I + E) with E lower triangular and means moved by d lose at most
    1.05 (n + c) (||E||^2 + ||inv(L) d||^2 / 2) while both are below 0.01: the first order vanishes, and
    2 log det - tr E^2 + ... leaves sum E_ii^2 + ||E||^2 <= 2 ||E||^2 of twice the loss per observation. Errors, with s_i^2 the variances:

    * scatter_ij: off by at most (2 relative + (D + 12) u) n s_i s_j: weights and their sum, products, deviations, division, prior; sums of
      products are bounded by Cauchy and Schwarz. Scaled by inv(L): times || |inv L| s ||^2.
    * Cholesky: |E'| <= (D + 2) u |L| |L^T| (Higham 2002, Theorem 10.3), scaled: times c^2 with c = || |inv L| |L| ||.
    * means: (2 relative + 6 u) s + 2 u |mean|.

    Squares in the range of subnormal numbers have no bound on their relative error.
    """
    n_states, n_columns = means.shape
    loss, weights = 0.0, total.weights
    rough = 2.0 * relative + (n_columns + 12) * U
    pooled = total.squares.sum(axis=0) / max(float(weights.sum(axis=0).max()) + extra, 2.0**-1000)
    for k in range(n_states):
        used, count = weights[k] > 0.0, float(weights[k].max()) + extra
        if not count > 0.0:
            continue
        if (total.squares[k] < UNDERFLOW * weights[k])[used].any():
            return np.inf
        shift = (2.0 * relative + 6.0 * U) * np.sqrt(total.squares[k] / np.where(used, weights[k], 1.0))
        shift = np.where(used, shift + 2.0 * U * np.abs(means[k]), 0.0)
        if covariance in ("diagonal", "spherical"):
            scale = np.broadcast_to(scales[k], n_columns)
            moved, squared = float(np.linalg.norm(shift / scale)), n_columns * rough**2
        else:
            factor = scales if covariance == "tied" else scales[k]
            inverse, level = absolute_inverse(factor), np.sqrt(pooled if covariance == "tied" else total.squares[k] / count)
            moved = float(np.linalg.norm(inverse @ shift))
            spread = float(np.linalg.norm(inverse @ level))
            squared = (rough * spread**2 + (n_columns + 2) * U * condition(factor) ** 2) ** 2
        if not (moved < TRUSTED and squared < TRUSTED**2):
            return np.inf
        loss += 1.05 * count * (squared + 0.5 * moved**2)
    return loss


def _unit(variances: FloatArray | None, like: FloatArray) -> FloatArray:
    """Divisors that put variances into units of the total variance."""
    if variances is None:
        return np.ones_like(like[..., :1])
    return np.where(variances > 0.0, variances, np.inf)


def _refuse(shares: FloatArray, used: npt.NDArray[np.bool_], variances: FloatArray | None, n_columns: int) -> None:
    limit = 0.0 if variances is None else COLLAPSED * n_columns
    bad = used & ~(shares > limit)
    if bad.any():
        raise _collapse(int(np.argwhere(bad)[0, 0]), float(shares[bad][0]))


def _factor(covariance: FloatArray, variances: FloatArray | None, component: int | None) -> FloatArray:
    """Cholesky factor, unless the smallest eigenvalue says that there is none to trust."""
    if variances is not None:
        unit = np.sqrt(_unit(variances, variances))
        with np.errstate(invalid="ignore"):
            shape = covariance / unit / unit[:, None]
        # squares that overflowed have no eigenvalues
        smallest = float(np.linalg.eigvalsh(shape)[0]) if np.isfinite(shape).all() else np.nan
        if not smallest > COLLAPSED * len(unit):
            raise _collapse(component, smallest)
    try:
        return np.asarray(np.linalg.cholesky(covariance), np.float64)
    except np.linalg.LinAlgError:
        raise _collapse(component, 0.0) from None


def _collapse(component: int | None, smallest: float) -> CollapsedComponent:
    name = "the shared covariance" if component is None else f"component {component}"
    return CollapsedComponent(
        f"{name} collapsed: its smallest variance is {smallest:.2g} of the total, so the likelihood has no maximum here; "
        "start elsewhere, take fewer components, or give a prior.",
        component,
    )
