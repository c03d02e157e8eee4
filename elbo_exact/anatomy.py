"""Where a gap comes from: approximation and amortization, ELBO surgery over a data set, and the mass that q misses."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._coverage import MissedMass, ModeCoverage, missed_mass, mode_coverage
from elbo_exact._engine import evidence_results, pair_results, pivoted_results, shaped
from elbo_exact._sums import observation_counts, rows_table, weighted_sum
from elbo_exact._validate import FloatArray, log_table, same_states
from elbo_exact.errors import LogTableError
from elbo_exact.evidence import log_posterior
from elbo_exact.kernels.pivoted import cross_entropy_rows
from elbo_exact.kernels.rows import OUT_GAP
from elbo_exact.variational import refuse_unnormalized_prior

__all__ = ["GapAnatomy", "MissedMass", "ModeCoverage", "Surgery", "gap_anatomy", "missed_mass", "mode_coverage", "surgery"]

U = 2.0**-53


@dataclass(frozen=True)
class GapAnatomy:
    """The gap of an amortized q, split at the best q of its family; every value has its bound under the same name in ``error``.

    Attributes
    ----------
    gap : float or ndarray, shape (...)
        KL(amortized q || posterior), in nats.
    approximation : float or ndarray, shape (...)
        KL(best q || posterior): what the family costs.
    amortization : float or ndarray, shape (...)
        gap - approximation: what sharing one map over all observations costs.
    error : namespace
        ``abs(value - exact) <= bound`` for each.
    """

    gap: Any
    approximation: Any
    amortization: Any
    error: SimpleNamespace

    NAMES = ("gap", "approximation", "amortization")

    @property
    def best_is_worse(self) -> Any:
        """Where "best" has certainly the larger gap: it is not the best of a family that contains the amortized q."""
        return self.amortization < -self.error.amortization

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
        """Plain lists and floats; infinities stay floats."""
        return _plain(self, self.NAMES) | {"best_is_worse": np.asarray(self.best_is_worse).tolist()}

    def __str__(self) -> str:
        """An aligned table: one line per quantity for one row, one line per row for several."""
        if np.ndim(self.gap) == 0:
            return _lines(self, self.NAMES)
        values = {name: (getattr(self, name), getattr(self.error, name)) for name in self.NAMES}
        return rows_table(values, np.where(np.asarray(self.best_is_worse), "best is worse", "ok"))


@np.errstate(all="ignore")
def gap_anatomy(
    log_joint: npt.ArrayLike, log_q_best: npt.ArrayLike, log_q_amortized: npt.ArrayLike, *, unnormalized: bool = False
) -> GapAnatomy:
    """Approximation gap plus amortization gap of every observation, in nats.

    Parameters
    ----------
    log_joint, log_q_best, log_q_amortized : array_like, shape (..., S)
        log p(x, z), the best q of the family for each observation, and the q that the shared map returns; leading axes broadcast.
    unnormalized : bool
        Accept logits for both q.

    Returns
    -------
    GapAnatomy
        If "best" is worse than the amortized q, the amortization gap is negative and ``best_is_worse`` says so; it is never
        clipped. Where the amortized gap alone is infinite the amortization gap is +inf, where both are it is NaN.

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized.

    Notes
    -----
    log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)]. The last term is a difference of two gaps, each known to
    full relative precision, so it is accurate to the returned bound, not to relative precision. If q* comes from a local search,
    the first term is an upper and the second a lower estimate. O(S). Cremer, Li & Duvenaud (2018), ICML.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> print(ee.anatomy.gap_anatomy(np.log([0.3, 0.1]), np.log([0.7, 0.3]), np.log([0.5, 0.5])))
    gap                      0.1438410362258904 ± 4.6e-16
    approximation         0.0064014569973203511 ± 2.0e-17
    amortization            0.13743957922857003 ± 5.0e-16
    """
    shared, batch = _own_gap(log_joint, log_q_amortized, unnormalized, "log_q_amortized")
    best, best_batch = _own_gap(log_joint, log_q_best, unnormalized, "log_q_best")
    shape = same_states(np.empty((*batch, 1)), "log_q_amortized", np.empty((*best_batch, 1)), "log_q_best")
    columns = [shaped(r[:, c], b) for r, b in ((shared, batch), (best, best_batch)) for c in (OUT_GAP, OUT_GAP + 1)]
    gap, gap_error, approximation, approximation_error = (np.broadcast_to(column, shape) for column in columns)
    amortization = gap - approximation
    error = 1.01 * (gap_error + approximation_error) + U * np.abs(amortization)
    error = np.where(
        np.isinf(amortization),
        np.where(gap == np.inf, gap_error, approximation_error),
        np.where(np.isnan(amortization), np.inf, error),
    )
    errors = {"gap": gap_error, "approximation": approximation_error, "amortization": error}
    return GapAnatomy(
        gap.copy()[()],
        approximation.copy()[()],
        amortization[()],
        SimpleNamespace(**{name: np.array(bound)[()] for name, bound in errors.items()}),
    )


def _own_gap(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, unnormalized: bool, name: str
) -> tuple[FloatArray, tuple[int, ...]]:
    """``pair_results`` of one of the two q, whose complaints name it."""
    try:
        return pair_results(log_joint, log_table(log_q, name), False, unnormalized, "raise", None)
    except LogTableError as error:
        if error.argument != "log_q":
            raise
        raise LogTableError(str(error).replace("log_q", name), name, error.value) from None


@dataclass(frozen=True)
class Surgery:
    """The mean ELBO of a data set in three parts; every value has its bound under the same name in ``error``.

    Attributes
    ----------
    elbo : float
        Mean ELBO per observation, from reconstruction and KL(q_n || prior) row by row.
    reconstruction : float
        Mean of E_{q_n} log p(x_n | z).
    mutual_information : float
        I_q(n; z), between the index of an observation and its code: 0 is posterior collapse, log N the maximum.
    kl_to_prior : float
        KL(aggregate posterior || prior).
    log_aggregate : ndarray, shape (S,)
        log of the aggregate posterior, the mean of all q_n.
    error : namespace
        ``abs(value - exact) <= bound``.
    """

    elbo: float
    reconstruction: float
    mutual_information: float
    kl_to_prior: float
    log_aggregate: FloatArray
    error: SimpleNamespace

    NAMES = ("elbo", "reconstruction", "mutual_information", "kl_to_prior")

    @property
    def residual(self) -> float:
        """elbo - (reconstruction - mutual_information - kl_to_prior); 0 where both sides are -inf."""
        if not np.isfinite(self.elbo):
            return 0.0
        return float(self.elbo - ((self.reconstruction - self.mutual_information) - self.kl_to_prior))

    @property
    def residual_bound(self) -> float:
        """What the residual can be at most: the four bounds, and three roundings of the difference itself."""
        sizes = [abs(getattr(self, name)) for name in self.NAMES]
        return float(1.01 * (sum(getattr(self.error, name) for name in self.NAMES) + 3.0 * U * sum(sizes)))

    def to_dict(self) -> dict[str, Any]:
        """Plain floats and lists; infinities stay floats."""
        plain = _plain(self, self.NAMES)
        return plain | {"residual": self.residual, "log_aggregate": self.log_aggregate.tolist()}

    def __str__(self) -> str:
        """One aligned line per quantity."""
        return _lines(self, self.NAMES) + f"\n{'residual':<18} {self.residual:>24.17g} ± {self.residual_bound:.1e}"


@np.errstate(all="ignore")
def surgery(
    log_likelihood: npt.ArrayLike,
    log_prior: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    unnormalized: bool = False,
) -> Surgery:
    """Mean ELBO = reconstruction - I_q(n; z) - KL(aggregate posterior || prior), over a data set.

    Parameters
    ----------
    log_likelihood : array_like, shape (N, S)
        log p(x_n | z).
    log_prior : array_like, shape (S,)
        log p(z), normalized to 1e-6 in log mass.
    log_q : array_like, shape (N, S)
        log q(z | x_n).
    weights : array_like, shape (N,), optional
        Observation counts; all means are weighted by them.
    unnormalized : bool
        Accept logits for q.

    Returns
    -------
    Surgery

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support, q or the prior not normalized, weights negative or all zero.

    Notes
    -----
    qbar = mean_n q_n and I_q = mean_n KL(q_n || qbar) <= log N. qbar is known up to factors exp(+-d): that moves I_q by at most
    d**2 (the mean of KL(q_n || r) is I_q + KL(qbar || r)) and KL(qbar || prior) = K by at most 1.01 d (2 K + sqrt(2 K)) + 2 d**2
    (sum qbar abs(log(qbar/p)) <= K + sqrt(2 K), by Pinsker's inequality). O(N S). Hoffman & Johnson (2016), NIPS workshop on
    advances in approximate Bayesian inference.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> log_likelihood, log_q = np.log([[0.9, 0.1], [0.2, 0.8]]), np.log([[0.75, 0.25], [0.25, 0.75]])
    >>> print(ee.anatomy.surgery(log_likelihood, np.log([0.5, 0.5]), log_q))
    elbo                   -0.74300393673416865 ± 1.9e-15
    reconstruction         -0.61219190079303165 ± 1.3e-15
    mutual_information      0.13081203594113697 ± 5.0e-16
    kl_to_prior                               0 ± 5.7e-29
    residual                                  0 ± 4.3e-15
    """
    likelihood, q, prior = (
        log_table(t, n) for t, n in ((log_likelihood, "log_likelihood"), (log_q, "log_q"), (log_prior, "log_prior"))
    )
    if q.ndim != 2 or prior.ndim != 1:
        message = f"log_q must have shape (N, S) and log_prior (S,); got {q.shape} and {prior.shape}."
        raise LogTableError(message, "log_q", q.shape)
    if prior.shape != q.shape[1:]:
        raise LogTableError(f"log_prior must have shape {q.shape[1:]}, the states of log_q; got {prior.shape}.", "log_prior")
    if len(q) == 0:
        raise LogTableError(f"log_q must hold at least one observation; got shape {q.shape}.", "log_q", q.shape)
    refuse_unnormalized_prior(prior)
    expected, batch = pivoted_results(
        cross_entropy_rows, likelihood, q, unnormalized, "raise", None, target_name="log_likelihood"
    )
    if batch != q.shape[:-1]:
        raise LogTableError(f"log_likelihood must have the shape {q.shape} of log_q; got {likelihood.shape}.", "log_likelihood")
    counts = observation_counts(weights, batch)
    if not (counts > 0.0).any():
        raise LogTableError("weights must not all be zero.", "weights")
    counts = np.ldexp(counts, -int(np.frexp(counts.max())[1]))  # only their ratios matter: no sum can leave the range
    log_aggregate, shift = _aggregate(q, counts)
    rows = {
        "reconstruction": (0.0 - expected[:, 0], expected[:, 1]),
        "to_prior": _divergence(prior, q, unnormalized),
        "mutual_information": _divergence(log_aggregate, q, unnormalized),
    }
    means = {name: _mean(counts, *pair) for name, pair in rows.items()}
    aggregate, aggregate_bound = (column[0] for column in _divergence(prior, log_aggregate, True))
    size = aggregate + aggregate_bound if aggregate < np.inf else 0.0
    aggregate_bound += 1.01 * shift * (2.0 * size + np.sqrt(2.0 * size)) + 2.0 * shift**2
    information, information_bound = means["mutual_information"]
    (reconstruction, reconstruction_bound), (to_prior, to_prior_bound) = means["reconstruction"], means["to_prior"]
    elbo = reconstruction - to_prior
    errors = SimpleNamespace(
        elbo=1.01 * (reconstruction_bound + to_prior_bound + U * abs(elbo)) if np.isfinite(elbo) else 0.0,
        reconstruction=reconstruction_bound,
        mutual_information=information_bound + shift**2,
        kl_to_prior=float(aggregate_bound) if aggregate < np.inf else 0.0,
    )
    return Surgery(elbo, reconstruction, information, float(aggregate), log_aggregate, errors)


def _divergence(log_p: FloatArray, log_q: FloatArray, unnormalized: bool) -> tuple[FloatArray, FloatArray]:
    """KL(q || p) of every row, and its bound."""
    results, _ = pair_results(log_p, log_q, False, unnormalized, "raise", None, "log_prior")
    return results[:, OUT_GAP], results[:, OUT_GAP + 1]


def _mean(counts: FloatArray, values: FloatArray, bounds: FloatArray) -> tuple[float, float]:
    """Weighted mean and bound."""
    total, bound = weighted_sum(counts, values, bounds)
    number, number_bound = weighted_sum(counts, np.ones_like(counts), np.zeros_like(counts))
    mean = total / number
    return mean, (1.01 * (bound / number + abs(mean) * (number_bound / number + U)) if np.isfinite(mean) else bound)


def _aggregate(q: FloatArray, counts: FloatArray) -> tuple[FloatArray, float]:
    """(log of the weighted mean of all q_n, how far each of its logarithms can be off).

    An entry log q_n + log w_n - log W is made of a normalized entry, known to 3u of its size and that of the normalizer (at most
    log S) with its error 8u, of two logarithms, and of two sums. Entries 745 nats below the largest do not count.
    """
    used = counts > 0.0
    log_counts = np.log(counts[used])[:, np.newaxis] - np.log(counts.sum())
    entries = (log_posterior(q[used]) + log_counts).T
    results, _ = evidence_results(entries, "raise", None, "log_q")
    felt = np.isfinite(entries) & (entries > entries.max(axis=1, keepdims=True) - 745.0)
    largest = float(np.max(np.abs(entries), where=felt, initial=0.0))
    size = largest + float(np.abs(np.log(counts[used])).max()) + abs(float(np.log(counts.sum())))
    own = (8.0 * (size + np.log(q.shape[1])) + 16.0 + len(counts)) * U
    shift = np.max(results[:, 1], where=np.isfinite(results[:, 0]), initial=0.0) + own
    return results[:, 0].copy(), float(shift)


def _plain(result: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Values and errors as plain floats and lists."""
    values = {name: np.asarray(getattr(result, name)).tolist() for name in names}
    return values | {"error": {name: np.asarray(getattr(result.error, name)).tolist() for name in names}}


def _lines(result: Any, names: tuple[str, ...]) -> str:
    """One aligned line for each quantity of a single row."""
    return "\n".join(f"{name:<18} {getattr(result, name):>24.17g} ± {getattr(result.error, name):.1e}" for name in names)
