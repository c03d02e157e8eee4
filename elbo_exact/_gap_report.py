"""What an approximation costs on a data set: evidence, ELBO, the best q of the family, and both gaps, row by row and in total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from elbo_exact._audit import Audit, audit
from elbo_exact._sums import observation_counts, weighted_sum
from elbo_exact._validate import FloatArray
from elbo_exact.anatomy import GapAnatomy, gap_anatomy
from elbo_exact.evidence import log_posterior
from elbo_exact.projection import mean_field
from elbo_exact.variational import elbo, elbo_gradient

__all__ = ["GapReport", "gap_report"]


@dataclass(frozen=True, eq=False)
class GapReport:
    """log p(x) = best ELBO + approximation gap = ELBO + amortization gap + approximation gap, with bounds in ``error``.

    Attributes
    ----------
    log_evidence, elbo, best_elbo : ndarray, shape (N,)
        log p(x_n), the ELBO of the guide's q, and that of the best q of its family, in nats.
    gap, approximation, amortization : ndarray, shape (N,)
        KL(q || posterior), KL(best q || posterior), and their difference. Unless the family holds every distribution, the best q is the best that a local search
        found, so the second is at most too large and the third at most too small.
    forward_kl : ndarray, shape (N,)
        KL(posterior || q).
    log_q_best : ndarray, shape (N, S)
        The best q.
    error : namespace
        ``abs(value - exact) <= bound`` for each, given the log tables.
    """

    log_evidence: FloatArray
    elbo: FloatArray
    best_elbo: FloatArray
    gap: FloatArray
    approximation: FloatArray
    amortization: FloatArray
    forward_kl: FloatArray
    log_q_best: FloatArray
    error: SimpleNamespace

    NAMES = ("log_evidence", "elbo", "best_elbo", "gap", "approximation", "amortization", "forward_kl")

    def total(self, weights: npt.ArrayLike | None = None) -> SimpleNamespace:
        """Sums over observations, weighted by counts (1 by default), with their bounds in ``.error``.

        Raises
        ------
        LogTableError
            Weights of another shape, negative or not finite.
        """
        counts = observation_counts(weights, np.shape(self.gap))
        sums = {name: weighted_sum(counts, getattr(self, name), getattr(self.error, name)) for name in self.NAMES}
        errors = SimpleNamespace(**{name: bound for name, (_, bound) in sums.items()})
        return SimpleNamespace(**{name: value for name, (value, _) in sums.items()}, error=errors)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and floats: every quantity row by row, and the totals."""
        total = self.total()
        rows = {name: getattr(self, name).tolist() for name in self.NAMES}
        return rows | {"total": {name: float(getattr(total, name)) for name in self.NAMES}}

    def __str__(self) -> str:
        """One aligned line for each total."""
        total = self.total()
        return "\n".join(
            f"{name:<14} {float(getattr(total, name)):>24.15g} ± {float(getattr(total.error, name)):.1e}" for name in self.NAMES
        )


def gap_report(
    model: Any, guide: Any, x: npt.ArrayLike, *, restarts: int = 5, rng: np.random.Generator | int | None = None
) -> GapReport:
    """Split the gap between log p(x) and the ELBO of a guide, for every observation.

    Parameters
    ----------
    model : Mixture, or any model with log_joint
    guide : Free, MeanField, Structured, Amortized, or any guide with log_q, logits, space and factors
    x : array_like, N observations
    restarts : int
        Random starts of the search for the best product, beside the guide's own q.
    rng : numpy.random.Generator or seed, optional
        Passed once through ``numpy.random.default_rng``.

    Returns
    -------
    GapReport

    Raises
    ------
    LogTableError
        Bad observations.
    ZeroEvidence
        An observation that the model cannot produce.

    Notes
    -----
    The best q of the family of all distributions is the posterior, that of the products is sought by `projection.mean_field`, that of other
    factorizations by L-BFGS-B; both count the guide's q among their starts, so the amortization gap is negative only by rounding. O(N S),
    for all but the first times sweeps and starts. Cremer, Li & Duvenaud (2018), ICML.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> model = ee.models.Mixture.random(3, [2, 2], rng=0)
    >>> guide = ee.guides.Amortized.random(2, model.space, rng=0)
    >>> total = ee.gap_report(model, guide, [[0, 0], [1, 0], [0, 1]]).total()
    >>> bool(total.approximation < 1e-14), bool(abs(total.gap - total.amortization) < 1e-14)
    (True, True)
    """
    log_joint, log_q = model.log_joint(x), guide.log_q(x)
    best = _best(log_joint, log_q, guide, x, restarts, np.random.default_rng(rng))
    own, other = audit(log_joint, log_q), audit(log_joint, best)
    parts = gap_anatomy(log_joint, best, log_q)
    values, errors = _columns(own, other, parts)
    return GapReport(**values, log_q_best=best, error=SimpleNamespace(**errors))


def _best(log_joint: FloatArray, log_q: FloatArray, guide: Any, x: Any, restarts: int, rng: np.random.Generator) -> FloatArray:
    factors = guide.factors
    if factors.is_free:
        return np.asarray(log_posterior(log_joint))
    if factors.is_product:
        searches = [
            mean_field(row, guide.space, restarts=restarts, rng=rng, start=start)
            for row, start in zip(log_joint, log_q, strict=True)
        ]
        return np.stack([search.best.log_q for search in searches])
    own = guide.logits(x)
    return np.stack(
        [
            _climbed(row, factors, [start, *rng.standard_normal((restarts, start.size))])
            for row, start in zip(log_joint, own, strict=True)
        ]
    )


def _climbed(log_joint: FloatArray, factors: Any, starts: Sequence[FloatArray]) -> FloatArray:
    """The best of the tables that L-BFGS-B reaches from each start, and of the first start itself."""
    tables = []
    for start in starts:
        free = start > -np.inf

        def loss(params: FloatArray, start: FloatArray = start, free: Any = free) -> tuple[float, FloatArray]:
            logits = start.copy()
            logits[free] = params
            table, back = factors.log_table(logits[None])
            return -float(elbo(log_joint, table[0])), -back(np.asarray(elbo_gradient(log_joint, table[0]))[None])[0, free]

        tables.append(factors.log_table(start[None])[0][0])
        if loss(start[free])[0] < np.inf:
            found = start.copy()
            found[free] = minimize(loss, start[free], jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
            tables.append(factors.log_table(found[None])[0][0])
    return max(tables, key=lambda table: float(elbo(log_joint, table)))


def _columns(own: Audit, other: Audit, parts: GapAnatomy) -> tuple[dict[str, Any], dict[str, Any]]:
    places: dict[str, tuple[Any, str]] = {
        "log_evidence": (own, "log_evidence"),
        "elbo": (own, "elbo"),
        "best_elbo": (other, "elbo"),
        "gap": (parts, "gap"),
        "approximation": (parts, "approximation"),
        "amortization": (parts, "amortization"),
        "forward_kl": (own, "forward_kl"),
    }
    values = {name: getattr(result, field) for name, (result, field) in places.items()}
    return values, {name: getattr(result.error, field) for name, (result, field) in places.items()}
