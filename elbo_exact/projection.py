"""The two projections of a posterior onto mean field, the products over the variables of a space.

I-projection, argmin KL(q || p): coordinate ascent on the ELBO, which may have several optima; all of those found are returned.
M-projection, argmin KL(p || q): the product of the posterior marginals, whose divergence is the total correlation.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import evidence_results, pair_results
from elbo_exact._mean_field import MeanField, Optimum, mean_field, table_over
from elbo_exact._validate import FloatArray
from elbo_exact.evidence import log_posterior
from elbo_exact.kernels.rows import OUT_FORWARD
from elbo_exact.space import LatentSpace

__all__ = ["MeanField", "MomentProjection", "Optimum", "mean_field", "moment_projection", "total_correlation"]

U = 2.0**-53


@dataclass(frozen=True)
class MomentProjection:
    """The product of the posterior marginals.

    Attributes
    ----------
    log_q : ndarray, shape (S,)
        As a log table.
    log_factors : tuple of ndarray
        log p(z_k | x) of each variable.
    forward_kl : float
        KL(posterior || product), the total correlation; bound in ``error``.
    error : namespace
        The bound of ``forward_kl``.
    """

    log_q: FloatArray
    log_factors: tuple[FloatArray, ...]
    forward_kl: float
    error: SimpleNamespace

    def to_dict(self) -> dict[str, Any]:
        """Plain floats and lists."""
        factors = [factor.tolist() for factor in self.log_factors]
        return {"forward_kl": self.forward_kl, "log_factors": factors, "error": vars(self.error).copy()}


@np.errstate(all="ignore")
def moment_projection(log_joint: npt.ArrayLike, space: LatentSpace) -> MomentProjection:
    """M-projection onto mean field: the product of the posterior marginals minimizes KL(posterior || q), in nats.

    Parameters
    ----------
    log_joint : array_like, shape (S,)
        log p(x, z) over ``space``; need not be normalized.
    space : LatentSpace
        The variables.

    Returns
    -------
    MomentProjection

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf.
    ZeroEvidence
        p(x) = 0.

    Notes
    -----
    Marginals are summed in logs, so that none underflows. If their product m is stored as m exp(d), d state by state,
    KL(p || stored) - KL(p || m) = log E_m exp(d) - E_p d, at most sum abs(p - m) abs(d) to first order: the divergence keeps its
    relative precision for nearly independent variables. O(S n).

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> projected = ee.projection.moment_projection(np.log([0.4, 0.1, 0.1, 0.4]), ee.LatentSpace((2, 2)))
    >>> np.exp(projected.log_q).round(4), round(projected.forward_kl, 6)
    (array([0.25, 0.25, 0.25, 0.25]), 0.192745)
    """
    table = table_over(log_joint, space)
    log_p = log_posterior(table)
    error = U * (4.0 * np.abs(log_p) + 4.0 * np.log(table.size) + 20.0)  # of log_posterior
    cube, errors = log_p.reshape(space.sizes), np.where(log_p > -np.inf, error, 0.0).reshape(space.sizes)
    log_factors, total, off = [], np.zeros(space.sizes), np.zeros(space.sizes)
    for axis, size in enumerate(space.sizes):
        rows = np.moveaxis(cube, axis, 0).reshape(size, -1)
        results, _ = evidence_results(rows, "raise", None)
        felt = rows > rows.max(axis=1, keepdims=True) - 745.0
        moved = np.max(np.moveaxis(errors, axis, 0).reshape(size, -1), axis=1, where=felt, initial=0.0)
        shape = [size if k == axis else 1 for k in range(len(space.sizes))]
        total = total + results[:, 0].reshape(shape)
        off = off + (1.01 * (results[:, 1] + moved)).reshape(shape) + U * np.abs(total)
        log_factors.append(results[:, 0].copy())
    log_q, off = np.ascontiguousarray(total).reshape(-1), np.where(total > -np.inf, off, 0.0).reshape(-1)
    (row,), _ = pair_results(table, log_q, True, True, "raise", None)
    p, m = np.exp(log_p), np.exp(log_q)
    shift = 1.01 * float(np.sum(np.abs(p - m) * off)) + 2.0 * float(np.sum((p + m) * off**2))
    bound = float(row[OUT_FORWARD + 1]) + shift
    return MomentProjection(log_q, tuple(log_factors), float(row[OUT_FORWARD]), SimpleNamespace(forward_kl=bound))


def total_correlation(log_p: npt.ArrayLike, space: LatentSpace) -> float:
    """Total correlation sum_k H(p_k) - H(p) = KL(p || product of its marginals), in nats.

    Parameters
    ----------
    log_p : array_like, shape (S,)
        log p over ``space``; need not be normalized.
    space : LatentSpace
        The variables.

    Returns
    -------
    float
        Never negative, 0 for independent variables. Its bound is ``moment_projection(log_p, space).error.forward_kl``.

    Raises
    ------
    LogTableError, ZeroEvidence
        As in `moment_projection`.

    Notes
    -----
    Computed as a divergence, not as a difference of entropies. O(S n). Watanabe (1960), IBM J. Res. Dev. 4:66.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> round(ee.projection.total_correlation(np.log([0.4, 0.1, 0.1, 0.4]), ee.LatentSpace((2, 2))), 6)
    0.192745
    """
    return moment_projection(log_p, space).forward_kl
