"""One layer of a sigmoid belief network: logistic findings of independent binary causes (Neal 1992, Artif. Intell. 56:71)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray
from elbo_exact.families._derivatives import n_free
from elbo_exact.families._rounding import log_prior, rounding_loss
from elbo_exact.families._simplex import LIBM, LogSimplex, U, maximized, pseudo_count_table, uniform_simplex
from elbo_exact.models._causes import (
    CauseMarginals,
    FindingLogs,
    cause_bits,
    cause_counts,
    cause_tables,
    checked_findings,
    checked_layer,
    checked_weights,
    draw_causes,
    expected_by_rows,
    findings,
    marginals_by_rows,
    refuse_large,
)
from elbo_exact.models._expected import Expected
from elbo_exact.space import LatentSpace

__all__ = ["BeliefStatistics", "SigmoidBelief", "log_odds"]

STATISTICS = 2.0**-40  # relative error of expected counts that a step must outweigh to be taken


class BeliefStatistics(NamedTuple):
    """Expected counts; a logistic layer has no smaller ones than a number for every state."""

    causes: FloatArray  # (n, 2), absent and present
    findings: FloatArray  # (D, 2, 2**n), weight of every state where a finding was absent and where it was present


@dataclass(frozen=True, eq=False, repr=False)
class SigmoidBelief(AsCode):
    """p(x_d = 1 | z) = 1 / (1 + exp(-bias_d - sum_j weights_dj z_j)), with independent binary causes z.

    Parameters
    ----------
    log_causes : array_like, shape (n, 2)
        Log probabilities that a cause is absent and present.
    weights : array_like, shape (D, n)
        Log odds that a present cause adds; finite.
    bias : array_like, shape (D,)
        Log odds of a finding without any cause.

    Raises
    ------
    LogTableError
        Shapes that do not fit, rows that do not sum to 1, or a number that is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> model = SigmoidBelief(np.log([[0.5, 0.5]]), [[2.0]], [-1.0])
    >>> found = model.marginals([[1], [0]])
    >>> np.exp(found.log_evidence).round(6).tolist(), found.present.round(4).ravel().tolist()
    ([0.5, 0.5], [0.7311, 0.2689])
    """

    log_causes: FloatArray
    weights: FloatArray
    bias: FloatArray
    _causes: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        links = {"weights": self.weights, "bias": self.bias}
        for name, value in checked_layer(self.log_causes, links, np.isfinite, "finite").items():
            object.__setattr__(self, name, value)

    @property
    def n_findings(self) -> int:
        """Number of findings D."""
        return len(self.bias)

    @property
    def n_parameters(self) -> int:
        """Free parameters; structural zeros are none."""
        return n_free(self._causes) + self.weights.size + self.bias.size

    @property
    def space(self) -> LatentSpace:
        """n binary causes."""
        return LatentSpace((2,) * len(self.log_causes))

    def observations(self, x: npt.ArrayLike) -> FloatArray:
        """Findings (N, D), checked; a fit takes them without a table of all rows and states."""
        return findings(x, self.n_findings)

    def log_joint(self, x: npt.ArrayLike, states: slice | None = None) -> FloatArray:
        """log p(x_n, z), in nats, of a block of the 2**n states.

        Parameters
        ----------
        x : array_like, shape (N, D)
            Findings 0 and 1; NaN is one that nobody looked for.
        states : slice, optional
            Only these states.

        Raises
        ------
        EnumerationTooLarge
            Tables above 2 GiB, before they are allocated.
        """
        return self._tables(x, states)[0]

    def log_joint_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_joint` and a bound on its rounding error, both (N, 2**n)."""
        return self._tables(x, None)

    def marginals(self, x: npt.ArrayLike) -> CauseMarginals:
        """Exact log evidence and p(z_j = 1 | x_n), with error bounds; O(N D n 2**n), memory for a few rows at a time."""
        return marginals_by_rows(self, x)

    def expectation(self, x: Any, counts: FloatArray, executor: Any) -> Expected:
        """The E-step."""
        refuse_large(self.space, 1, 2 * self.n_findings)
        return expected_by_rows(self, x, counts, (self.space.size + 2) * U)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> BeliefStatistics:
        """Expected counts under a weight table (N, 2**n)."""
        index = checked_findings(x, self.n_findings)
        table = checked_weights(weights, len(index), self.space)
        findings = np.empty((self.n_findings, 2, self.space.size))
        for d in range(self.n_findings):
            for value in (0, 1):
                findings[d, value] = np.add.reduce(table[index[:, d] == value], axis=0)
        return BeliefStatistics(cause_counts(table, cause_bits(self.space, 0, self.space.size)), findings)

    def maximize(self, statistics: BeliefStatistics, prior: Any = None) -> SigmoidBelief:
        """Generalized M-step (Dempster, Laird & Rubin 1977): the causes in closed form, each finding by a concave ascent.

        A finding's new weights are taken only if they gain more than rounding of the counts can have faked, otherwise the old ones
        stay: no step loses. ``prior`` is a number of pseudo-counts of each cause's absence and presence.
        """
        counts = self._cause_counts(statistics, prior)
        bits = cause_bits(self.space, 0, self.space.size)
        rows = [
            _ascent(bits, part, np.append(b, w))
            for part, b, w in zip(statistics.findings, self.bias, self.weights, strict=True)
        ]
        found = np.array(rows)
        return SigmoidBelief(maximized(self.log_causes, counts), found[:, 1:], found[:, 0])

    def log_prior(self, prior: Any = None) -> tuple[float, float]:
        """Pseudo-counts times log probabilities of the causes, in nats, and its error bound."""
        return log_prior([(self._causes, pseudo_count_table(prior, self.log_causes.shape, "prior"))])

    def rounding_loss(self, statistics: BeliefStatistics, prior: Any, relative_error: float) -> float:
        """Largest loss of a step, in nats, by rounding: that of the causes; a finding that could lose was not moved."""
        if relative_error > STATISTICS:
            return float("inf")
        return rounding_loss([self._cause_counts(statistics, prior)], relative_error)

    def randomize(self, rng: np.random.Generator) -> SigmoidBelief:
        """Causes uniform on their simplices, normal weights and biases."""
        return SigmoidBelief(
            uniform_simplex(self.log_causes, rng), rng.standard_normal(self.weights.shape), rng.standard_normal(self.bias.shape)
        )

    def sample(
        self, n: int, *, rng: np.random.Generator | int | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Draw findings (n, D) and causes (n, causes)."""
        generator = np.random.default_rng(rng)
        z = draw_causes(self.log_causes, n, generator)
        odds = self.bias + np.where(z[:, None, :] == 1, self.weights, 0.0).sum(axis=-1)
        return (generator.logistic(size=odds.shape) < odds).astype(np.int64), z

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {name: getattr(self, name).tolist() for name in ("log_causes", "weights", "bias")}

    def _cause_counts(self, statistics: BeliefStatistics, prior: Any) -> FloatArray:
        counts = pseudo_count_table(statistics.causes, self.log_causes.shape, "statistics.causes")
        return counts + pseudo_count_table(prior, self.log_causes.shape, "prior")

    def _tables(self, x: npt.ArrayLike, states: slice | None) -> tuple[FloatArray, FloatArray]:
        return cause_tables(self, x, states, self._finding)

    def _finding(self, bits: npt.NDArray[np.bool_], d: int) -> FindingLogs:
        odds, size = log_odds(bits, np.append(self.bias[d], self.weights[d]))
        soft = np.log1p(np.exp(-np.abs(odds)))
        # n additions; a sigmoid's logarithm moves by at most as much as the odds; exp and log1p move `soft` by LIBM each
        bound = len(bits) * U * size + 2.0 * LIBM * soft + U * (np.abs(odds) + soft)
        return (-(np.maximum(odds, 0.0) + soft), -(np.maximum(-odds, 0.0) + soft)), (bound, bound)


def log_odds(bits: npt.NDArray[np.bool_], theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """theta_0 + sum of theta_j over present causes, cause by cause, and the sum of their sizes."""
    odds, size = np.full(bits.shape[1], theta[0]), np.full(bits.shape[1], abs(theta[0]))
    for bit, weight in zip(bits, theta[1:], strict=True):
        odds += np.where(bit, weight, 0.0)
        size += np.where(bit, abs(weight), 0.0)
    return odds, size


def _ascent(bits: npt.NDArray[np.bool_], counts: FloatArray, start: FloatArray) -> FloatArray:
    """Weights that raise sum of counts * log p(finding | z) for sure, or the start."""

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        odds, _ = log_odds(bits, theta)
        soft = np.log1p(np.exp(-np.abs(odds)))
        value = (counts[0] * (np.maximum(odds, 0.0) + soft) + counts[1] * (np.maximum(-odds, 0.0) + soft)).sum()
        slope = counts[0] * np.exp(np.minimum(odds, 0.0) - soft) - counts[1] * np.exp(np.minimum(-odds, 0.0) - soft)
        return float(value), np.array([slope.sum(), *(slope[bit].sum() for bit in bits)])

    precision = {"maxiter": 100, "ftol": 0.0, "gtol": 2.0**-44 * float(counts.sum())}
    found = np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options=precision).x)
    if not np.isfinite(found).all():
        return start
    gain, doubt = _gain(bits, counts, start, found)
    return found if gain > doubt else start


def _gain(bits: npt.NDArray[np.bool_], counts: FloatArray, start: FloatArray, found: FloatArray) -> tuple[float, float]:
    """What new weights add to sum of counts * log p(finding | z), from the changes of every state, and how far that may be off.

    log p(1 | z) changes by -log1p(p(0 | z) expm1(-change of the odds)). A term is known to the error of its count, 6 LIBM of itself,
    and the odds' rounding times itself; adding S of them costs S u of their sizes.
    """
    odds, size = log_odds(bits, start)
    change, _ = log_odds(bits, found - start)
    with np.errstate(over="ignore"):
        absent, present = -np.log1p(expit(odds) * np.expm1(change)), -np.log1p(expit(-odds) * np.expm1(-change))
    used = counts > 0.0
    terms = np.where(used, counts, 0.0) * np.where(used, np.stack([absent, present]), 0.0)
    relative = STATISTICS + (counts.shape[1] + 8) * U + 6.0 * LIBM + 2.0 * len(start) * U * (1.0 + float(size.max()))
    return float(terms.sum()), 2.0 * relative * float(np.abs(terms).sum())
