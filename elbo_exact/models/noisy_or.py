"""Noisy-OR: a finding appears if any present cause, or the leak, produces it (Pearl 1988; Shwe et al. 1991)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, real_array
from elbo_exact.families._derivatives import n_free
from elbo_exact.families._rounding import rounding_loss
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
)
from elbo_exact.models._expected import Expected
from elbo_exact.space import LatentSpace

__all__ = ["NoisyOr", "NoisyOrStatistics", "total_strength"]


class NoisyOrStatistics(NamedTuple):
    """Expected counts."""

    causes: FloatArray  # (n, 2), absent and present
    links: FloatArray  # (D, n + 1, 2), how often the leak, then each present cause, did not and did produce a finding


@dataclass(frozen=True, eq=False, repr=False)
class NoisyOr(AsCode):
    """p(x_d = 0 | z) = exp(-leak_d - sum_j strength_dj z_j), with independent binary causes z.

    Parameters
    ----------
    log_causes : array_like, shape (n, 2)
        Log probabilities that a cause is absent and present.
    strengths : array_like, shape (D, n)
        -log of the probability that cause j fails to produce finding d; in [0, inf]. 0 is a structural zero, no link.
    leak : array_like, shape (D,)
        The same for a finding without any cause.

    Raises
    ------
    LogTableError
        Shapes that do not fit, rows that do not sum to 1, a negative strength or NaN.

    Examples
    --------
    >>> import numpy as np
    >>> model = NoisyOr.from_probabilities([0.1, 0.2], [[0.8, 0.5]], [0.01])
    >>> found = model.marginals([[1], [0]])
    >>> np.exp(found.log_evidence).round(6).tolist(), found.present.round(4).tolist()
    ([0.18028, 0.81972], [[0.4558, 0.6042], [0.0217, 0.1111]])
    """

    log_causes: FloatArray
    strengths: FloatArray
    leak: FloatArray
    _causes: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        links = {"strengths": self.strengths, "leak": self.leak}
        for name, value in checked_layer(self.log_causes, links, lambda values: values >= 0.0, "in [0, inf]").items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_probabilities(cls, causes: npt.ArrayLike, links: npt.ArrayLike, leak: npt.ArrayLike) -> NoisyOr:
        """From p(z_j = 1) (n,), the probabilities that a present cause produces a finding (D, n), and those of the leak (D,)."""
        p = real_array(causes, "causes")
        with np.errstate(divide="ignore", invalid="ignore"):
            table = np.stack([np.log1p(-p), np.log(p)], axis=-1)
            strengths, leaks = -np.log1p(-real_array(links, "links")), -np.log1p(-real_array(leak, "leak"))
        return cls(table, np.abs(strengths), np.abs(leaks)) if (strengths >= 0.0).all() else cls(table, strengths, leaks)

    @property
    def n_findings(self) -> int:
        """Number of findings D."""
        return len(self.leak)

    @property
    def n_parameters(self) -> int:
        """Free parameters; structural zeros, absent links and certain ones are none."""
        theta = np.column_stack([self.leak, self.strengths])
        return n_free(self._causes) + int(((theta > 0.0) & (theta < np.inf)).sum())

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
        """The E-step. Firing adds the errors of a sum of n + 1 positive terms, of expm1 twice, and of two divisions."""
        own = (2 * len(self.log_causes) + 8) * U + 4.0 * LIBM + (self.space.size + 2) * U
        return expected_by_rows(self, x, counts, own)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> NoisyOrStatistics:
        """Expected counts under a weight table (N, 2**n).

        Given a finding, link j fired with probability s_j / p(x_d = 1 | z), and did not with f_j (1 - F_j) / p(x_d = 1 | z), where
        f_j = 1 - s_j and F_j is the probability that all other present causes and the leak fail: no subtraction of near numbers.
        """
        index = checked_findings(x, self.n_findings)
        table = checked_weights(weights, len(index), self.space)
        bits = np.vstack([np.ones((1, self.space.size), bool), cause_bits(self.space, 0, self.space.size)])
        links = np.empty((self.n_findings, len(bits), 2))
        for d in range(self.n_findings):
            absent, present = (np.add.reduce(table[index[:, d] == value], axis=0) for value in (0, 1))
            links[d] = _fired(bits, np.append(self.leak[d], self.strengths[d]), absent, present)
        return NoisyOrStatistics(cause_counts(table, bits[1:]), links)

    def maximize(self, statistics: NoisyOrStatistics, prior: Any = None) -> NoisyOr:
        """Shares of the counts, in closed form; structural zeros stay, what was never possible keeps its parameter."""
        causes, links = self._counts(statistics, prior)
        not_fired, fired = links[..., 0], links[..., 1]
        old = np.column_stack([self.leak, self.strengths])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            odds = fired / not_fired
            new = np.where(odds < np.inf, np.log1p(odds), np.log(fired) - np.log(not_fired))
            new = np.where(not_fired > 0.0, new, np.where(fired > 0.0, np.inf, old))
        new = np.where(old > 0.0, new, 0.0)
        return NoisyOr(maximized(self.log_causes, causes), new[:, 1:], new[:, 0])

    def log_prior(self, prior: Any = None) -> tuple[float, float]:
        """Pseudo-count times the sum of the logarithms of all probabilities and their complements, and its error bound."""
        count = _pseudo_count(prior)
        theta = np.column_stack([self.leak, self.strengths])
        theta = theta[theta > 0.0]
        with np.errstate(divide="ignore"):
            fired = np.log(-np.expm1(-theta))
        cause = self._causes.normalized[self._causes.given > -np.inf]
        terms = count * np.concatenate([cause, -theta, fired]) if count else np.zeros(1)
        spread = count * (self._causes.error.sum() + LIBM * (np.abs(fired) + 2.0).sum()) if count else 0.0
        value = float(terms.sum())
        return value, 1.01 * float(spread + (len(terms) + 2) * U * np.abs(terms).sum())

    def rounding_loss(self, statistics: NoisyOrStatistics, prior: Any, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats: that of shares of counts, whose logarithms log1p moves by LIBM."""
        return rounding_loss(self._counts(statistics, prior), relative_error + LIBM)

    def randomize(self, rng: np.random.Generator) -> NoisyOr:
        """Uniform probabilities; links of strength 0 stay."""
        strengths, leak = rng.standard_exponential(self.strengths.shape), rng.standard_exponential(self.leak.shape)
        return NoisyOr(
            uniform_simplex(self.log_causes, rng),
            np.where(self.strengths > 0.0, strengths, 0.0),
            np.where(self.leak > 0.0, leak, 0.0),
        )

    def sample(
        self, n: int, *, rng: np.random.Generator | int | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Draw findings (n, D) and causes (n, causes)."""
        generator = np.random.default_rng(rng)
        z = draw_causes(self.log_causes, n, generator)
        y = self.leak + np.where(z[:, None, :] == 1, self.strengths, 0.0).sum(axis=-1)
        return (generator.standard_exponential(y.shape) < y).astype(np.int64), z

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {name: getattr(self, name).tolist() for name in ("log_causes", "strengths", "leak")}

    def _tables(self, x: npt.ArrayLike, states: slice | None) -> tuple[FloatArray, FloatArray]:
        return cause_tables(self, x, states, self._finding)

    def _finding(self, bits: npt.NDArray[np.bool_], d: int) -> FindingLogs:
        y = total_strength(bits, self.leak[d], self.strengths[d])
        with np.errstate(divide="ignore"):
            fired = np.log(-np.expm1(-y))
        # y: n additions of positive numbers. 1 - e^-y keeps the relative error of y; the logarithm's own is relative
        relative = len(bits) * U
        return (-y, fired), (relative * np.abs(y), relative + LIBM + LIBM * np.abs(fired))

    def _counts(self, statistics: NoisyOrStatistics, prior: Any) -> tuple[FloatArray, FloatArray]:
        count, shape = _pseudo_count(prior), (*self.strengths.shape, 2)
        shape = (shape[0], shape[1] + 1, 2)
        causes = pseudo_count_table(statistics.causes, self.log_causes.shape, "statistics.causes") + count
        return causes, pseudo_count_table(statistics.links, shape, "statistics.links") + count


def _pseudo_count(prior: Any) -> float:
    return float(pseudo_count_table(prior, (), "prior"))


def total_strength(bits: npt.NDArray[np.bool_], leak: float, strengths: FloatArray) -> FloatArray:
    """leak + sum of the strengths of the present causes, cause by cause: the same bits in every block."""
    y = np.full(bits.shape[1], float(leak))
    for bit, strength in zip(bits, strengths, strict=True):
        y += np.where(bit, strength, 0.0)
    return y


def _fired(bits: npt.NDArray[np.bool_], theta: FloatArray, absent: FloatArray, present: FloatArray) -> FloatArray:
    """Counts (n + 1, 2) of one finding: links that did not fire and that did, from weights (S,) of its absence and presence."""
    terms = np.where(bits, theta[:, None], 0.0)
    before, after = np.zeros_like(terms), np.zeros_like(terms)
    for j in range(1, len(terms)):
        before[j] = before[j - 1] + terms[j - 1]
        after[-1 - j] = after[-j] + terms[-j]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(present > 0.0, present / -np.expm1(-(before[-1] + terms[-1])), 0.0)
    counts = np.empty((len(theta), 2))
    for j, bit in enumerate(bits):
        rest = -np.expm1(-(before[j, bit] + after[j, bit]))
        counts[j, 0] = absent[bit].sum() + np.exp(-theta[j]) * (share[bit] * rest).sum()
        counts[j, 1] = -np.expm1(-theta[j]) * share[bit].sum()
    return counts
