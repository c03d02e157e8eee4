"""What EM needs to know of the hidden paths of a Markov chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elbo_exact._validate import FloatArray
from elbo_exact.families._columns import scaled

__all__ = ["HiddenMarkovStatistics"]


@dataclass(frozen=True, eq=False)
class HiddenMarkovStatistics:
    """Expected counts of a hidden Markov model; those of two batches add up. Also the form of a prior: imaginary observations.

    Parameters
    ----------
    initial : ndarray, shape (K,)
        Expected number of sequences that begin in each state.
    transitions : ndarray, shape (K, K)
        Expected number of steps from each state to each.
    components : tuple
        The statistics of each family; in a prior what the family's ``maximize`` takes, or None.
    """

    initial: FloatArray
    transitions: FloatArray
    components: tuple[Any, ...]

    def __add__(self, other: HiddenMarkovStatistics) -> HiddenMarkovStatistics:
        """The statistics of both batches together."""
        parts = tuple(mine + theirs for mine, theirs in zip(self.components, other.components, strict=True))
        return HiddenMarkovStatistics(self.initial + other.initial, self.transitions + other.transitions, parts)

    def scaled(self, factor: float) -> HiddenMarkovStatistics:
        """The statistics of the same sequences, each seen ``factor`` times as often."""
        parts = tuple(scaled(part, factor) for part in self.components)
        return HiddenMarkovStatistics(self.initial * factor, self.transitions * factor, parts)
