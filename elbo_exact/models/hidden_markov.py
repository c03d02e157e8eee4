"""Hidden Markov model: a chain of latent states seen through any families (Baum, Petrie, Soules & Weiss 1970)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, integer, unmasked
from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.families._derivatives import derivatives, n_free
from elbo_exact.families._rounding import log_prior, rounding_loss
from elbo_exact.families._simplex import (
    LogSimplex,
    U,
    draw,
    log_simplex,
    maximized,
    pseudo_count_table,
    uniform_simplex,
)
from elbo_exact.kernels.chain import chain_viterbi
from elbo_exact.models._chain import ChainSums, chain_evidence, chain_sums, log_filter, path_entropy
from elbo_exact.models._chain_statistics import HiddenMarkovStatistics
from elbo_exact.models._expected import Expected

__all__ = ["HiddenMarkov", "HiddenMarkovStatistics"]


@dataclass(frozen=True, eq=False, repr=False)
class HiddenMarkov(AsCode):
    """p(x, z) = p(z_1) prod_t p(z_t | z_{t-1}) prod_t p(x_t | z_t).

    Everywhere ``x`` is one array, which is one sequence of shape (T,) or (T, D), or a list of such arrays, one per sequence. NaN is a
    missing value where the family takes one.

    Parameters
    ----------
    log_initial : array_like, shape (K,)
    log_transition : array_like, shape (K, K)
        Row i: from state i. -inf is a structural zero, which `maximize` keeps.
    emission : family, or sequence of families
        Each with K states; several take the columns of x from left to right.

    Raises
    ------
    LogTableError, ValueError
        Rows that do not sum to 1 within 1e-6 in log mass, shapes or families that do not fit together.

    Examples
    --------
    Rain and umbrellas (Russell & Norvig, Artificial Intelligence, chapter 14):

    >>> import numpy as np
    >>> from elbo_exact.families import Categorical
    >>> umbrella = Categorical(np.log([[0.9, 0.1], [0.2, 0.8]]))
    >>> model = HiddenMarkov(np.log([0.5, 0.5]), np.log([[0.7, 0.3], [0.3, 0.7]]), umbrella)
    >>> model.posterior([np.array([0, 0])])[0].round(3)
    array([[0.883, 0.117],
           [0.883, 0.117]])
    >>> model.viterbi([np.array([0, 0, 1, 1])])[0]
    array([0, 0, 1, 1])
    """

    log_initial: FloatArray
    log_transition: FloatArray
    emission: tuple[Any, ...]
    _initial: LogSimplex = field(init=False, repr=False)
    _transition: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        initial, transition = (
            log_simplex(self.log_initial, "log_initial", 1),
            log_simplex(self.log_transition, "log_transition", 2),
        )
        given: Any = self.emission  # one family will do
        families = tuple(given) if isinstance(given, list | tuple) else (given,)
        n_states = initial.given.size
        if transition.given.shape != (n_states, n_states):
            shape = transition.given.shape
            raise LogTableError(f"log_transition must have shape {(n_states, n_states)}; got {shape}.", "log_transition", shape)
        if not families:
            raise ValueError("emission must be a family or hold at least one; got none.")
        for index, family in enumerate(families):
            if family.n_states != n_states:
                raise ValueError(f"emission[{index}] must have {n_states} states, as log_initial has; got {family.n_states}.")
        values = {"log_initial": initial.given, "log_transition": transition.given, "emission": families}
        for name, value in {**values, "_initial": initial, "_transition": transition}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def random(cls, emission: Any, *, rng: np.random.Generator | int | None = None) -> HiddenMarkov:
        """Uniformly random start and transitions around the given emission family, or families, which are taken as they are.

        Examples
        --------
        >>> from elbo_exact.families import Categorical
        >>> HiddenMarkov.random(Categorical.random(2, 3, rng=0), rng=0).log_transition.shape
        (2, 2)
        """
        families = tuple(emission) if isinstance(emission, list | tuple) else (emission,)
        k, generator = families[0].n_states, np.random.default_rng(rng)
        flat = np.zeros((k + 1, k)) - np.log(k)
        tables = uniform_simplex(flat, generator)
        return cls(tables[0], tables[1:], families)

    @property
    def n_states(self) -> int:
        """Number of states K."""
        return int(self.log_initial.size)

    @property
    def n_parameters(self) -> int:
        """Free parameters; structural zeros are none."""
        own = sum(int(derivatives(family).free.sum()) for family in self.emission)
        return n_free(self._initial) + n_free(self._transition) + own

    def observations(self, x: Any) -> list[npt.NDArray[Any]]:
        """The sequences as a list of (T, D) arrays, checked."""
        if not isinstance(x, np.ndarray | Sequence) or isinstance(x, str):
            raise TypeError(f"x must be one array, or a list of arrays, one per sequence; got {type(x).__name__}.")
        given = [x] if isinstance(x, np.ndarray) else list(x)
        wanted = sum(family.n_columns for family in self.emission)
        sequences = []
        for index, sequence in enumerate(given):
            array = unmasked(sequence, f"x[{index}]")
            array = array[:, None] if array.ndim == 1 else array
            if array.ndim != 2 or array.shape[1] != wanted or len(array) == 0:
                shape = np.shape(sequence)
                raise LogTableError(f"x[{index}] must have shape (T, {wanted}) with T >= 1; got {shape}.", "x", shape)
            sequences.append(array)
        if not sequences:
            raise LogTableError("x must hold at least one sequence; got 0.", "x", (0,))
        return sequences

    def log_evidence(self, x: Any) -> FloatArray:
        """log p(x_n) of every sequence, in nats, shape (N,); -inf where the model cannot produce it. O(T K^2)."""
        return self.log_evidence_and_error(x)[0]

    def log_evidence_and_error(self, x: Any) -> tuple[FloatArray, FloatArray]:
        """`log_evidence` and a rigorous bound on its rounding error, which grows with T; both (N,)."""
        return self._evidence(self.observations(x))

    def posterior(self, x: Any) -> list[FloatArray]:
        """p(z_t = k | x_n) of every step: a (T, K) array for each sequence.

        Raises
        ------
        ZeroEvidence
            A sequence that the model cannot produce, by its index.
        """
        sequences = self.observations(x)
        sums = self._sums(sequences)
        _possible(sums.log_evidence)
        return np.split(sums.posterior, _bounds(sequences)[1:-1])

    def posterior_entropy(self, x: Any) -> FloatArray:
        """Entropy of the path z given x_n, in nats, shape (N,). O(T K^2).

        Raises
        ------
        ZeroEvidence
            A sequence that the model cannot produce, by its index.
        """
        pairs = zip(self.observations(x), self.posterior(x), strict=True)
        return np.array([path_entropy(self._log_filter(rows), self._transition.normalized, table) for rows, table in pairs])

    def viterbi(self, x: Any) -> list[npt.NDArray[np.int64]]:
        """The most probable path of every sequence, in logarithms; ties go to the smallest state, from the last step backwards.

        Raises
        ------
        ZeroEvidence
            A sequence that the model cannot produce, by its index.
        """
        sequences = self.observations(x)
        table, bounds, paths = self._emissions(np.concatenate(sequences))[0], _bounds(sequences), []
        _possible(self._evidence(sequences)[0])
        best = np.empty(table.shape)
        for first, stop in itertools.pairwise(bounds):
            out = np.empty(stop - first + 2 * self.n_states)
            chain_viterbi(self._initial.normalized, self._transition.normalized, table, first, stop, best, out)
            paths.append(out[: stop - first].astype(np.int64))
        return paths

    def expectation(self, x: Any, counts: FloatArray, executor: Any = None) -> Expected:
        """The E-step (Baum & Welch): log evidence of each sequence and expected statistics, weighted with ``counts``."""
        sequences = self.observations(x)
        lengths = [len(sequence) for sequence in sequences]
        sums = self._sums(sequences, counts)
        statistics = self._statistics(np.concatenate(sequences), sums, np.repeat(counts, lengths))
        return Expected(sums.log_evidence, sums.error, statistics, sums.relative_error + (sum(lengths) + len(lengths) + 4) * U)

    def statistics(self, x: Any, counts: npt.ArrayLike | None = None) -> HiddenMarkovStatistics:
        """Expected counts under this model's own posteriors; ``counts`` (N,) says how often each sequence was seen."""
        sequences = self.observations(x)
        weights = np.ones(len(sequences)) if counts is None else pseudo_count_table(counts, (len(sequences),), "counts")
        result: HiddenMarkovStatistics = self.expectation(sequences, weights).statistics
        return result

    def maximize(self, statistics: HiddenMarkovStatistics, prior: Any = None) -> HiddenMarkov:
        """The model that maximizes the expected log joint plus the prior's pseudo-counts times log parameters.

        Parameters
        ----------
        statistics : HiddenMarkovStatistics
        prior : float or HiddenMarkovStatistics, optional
            Counts of imaginary observations: one number for everything, or pseudo-counts with what each family's ``maximize`` takes.

        Returns
        -------
        HiddenMarkov
            Structural zeros stay zero; a state never visited keeps its row.
        """
        extra = self._prior(prior)
        parts = zip(self.emission, statistics.components, extra.components, strict=True)
        return HiddenMarkov(
            maximized(self.log_initial, statistics.initial + extra.initial),
            maximized(self.log_transition, statistics.transitions + extra.transitions),
            tuple(family.maximize(part, imaginary) for family, part, imaginary in parts),
        )

    def log_prior(self, prior: Any = None) -> tuple[float, float]:
        """Log prior up to a constant, in nats (pseudo-counts times log parameters where they are counts), and its error bound."""
        extra = self._prior(prior)
        parts = [log_prior([(self._initial, extra.initial), (self._transition, extra.transitions)])]
        parts += [family.log_prior(part) for family, part in zip(self.emission, extra.components, strict=True)]
        value = math.fsum(part[0] for part in parts)
        return value, 1.01 * (math.fsum(part[1] for part in parts) + U * abs(value))

    def rounding_loss(self, statistics: HiddenMarkovStatistics, prior: Any, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        extra = self._prior(prior)
        parts = zip(self.emission, statistics.components, extra.components, strict=True)
        losses = [family.rounding_loss(part, imaginary, relative_error) for family, part, imaginary in parts]
        tables = [statistics.initial + extra.initial, statistics.transitions + extra.transitions]
        return math.fsum([rounding_loss(tables, relative_error), *losses])

    def randomize(self, rng: np.random.Generator) -> HiddenMarkov:
        """A random model of the same shape and with the same structural zeros."""
        tables = uniform_simplex(self.log_initial, rng), uniform_simplex(self.log_transition, rng)
        return HiddenMarkov(*tables, tuple(family.randomize(rng) for family in self.emission))

    def sample(
        self, length: int, *, rng: np.random.Generator | int | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Draw one sequence (x, z): observations (length, D) and states (length,)."""
        generator = np.random.default_rng(rng)
        z = np.empty(integer(length, "length", 1), np.int64)
        z[0] = draw(self.log_initial[None, :], np.zeros(1, np.int64), generator)[0]
        for t in range(1, len(z)):
            z[t] = draw(self.log_transition, z[t - 1 : t], generator)[0]
        return np.column_stack([family.sample(z, rng=generator) for family in self.emission]), z

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        return {
            "log_initial": self.log_initial.tolist(),
            "log_transition": self.log_transition.tolist(),
            "emission": [family.to_dict() for family in self.emission],
        }

    def _sums(self, sequences: list[npt.NDArray[Any]], counts: FloatArray | None = None) -> ChainSums:
        weights = np.ones(len(sequences)) if counts is None else counts
        table, error = self._emissions(np.concatenate(sequences))
        return chain_sums(self._initial, self._transition, table, error, _bounds(sequences), weights)

    def _evidence(self, sequences: list[npt.NDArray[Any]]) -> tuple[FloatArray, FloatArray]:
        return chain_evidence(self._initial, self._transition, *self._emissions(np.concatenate(sequences)), _bounds(sequences))

    def _log_filter(self, sequence: npt.NDArray[Any]) -> FloatArray:
        return log_filter(self._initial, self._transition, self._emissions(sequence)[0])

    def _emissions(self, rows: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Log emission table (T, K) and its error: that of every term, and an addition for each family beyond the first."""
        terms = [family.log_density_and_error(column) for column, family in self._pairs(rows)]
        table, error = terms[0]
        for term, term_error in terms[1:]:
            size = np.where(np.isfinite(table + term), np.abs(table + term), 0.0)
            table, error = table + term, error + term_error + 1.01 * U * size
        return table, error

    def _pairs(self, rows: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], Any]]:
        """The columns of each family: (T,) for one column, else (T, n_columns)."""
        first, pairs = 0, []
        for family in self.emission:
            stop = first + family.n_columns
            pairs.append((rows[:, first] if family.n_columns == 1 else rows[:, first:stop], family))
            first = stop
        return pairs

    def _statistics(self, rows: npt.NDArray[Any], sums: ChainSums, weights: FloatArray) -> HiddenMarkovStatistics:
        table = sums.posterior * weights[:, None]
        parts = tuple(family.statistics(column, table) for column, family in self._pairs(rows))
        return HiddenMarkovStatistics(sums.initial, sums.transitions, parts)

    def _prior(self, prior: Any) -> HiddenMarkovStatistics:
        given = prior if isinstance(prior, HiddenMarkovStatistics) else None
        initial, transitions = (prior, prior) if given is None else (given.initial, given.transitions)
        parts = (prior,) * len(self.emission) if given is None else given.components
        return HiddenMarkovStatistics(
            pseudo_count_table(initial, self.log_initial.shape, "prior"),
            pseudo_count_table(transitions, self.log_transition.shape, "prior"),
            parts,
        )


def _bounds(sequences: list[npt.NDArray[Any]]) -> list[int]:
    """Where the sequences begin in their concatenation, and where the last ends."""
    return [0, *np.cumsum([len(sequence) for sequence in sequences]).tolist()]


def _possible(log_evidence: FloatArray) -> None:
    impossible = log_evidence == -np.inf
    if impossible.any():
        index = int(impossible.argmax())
        raise ZeroEvidence(f"x[{index}] is impossible under the model: p(x) = 0; drop the sequence.", (index,))
