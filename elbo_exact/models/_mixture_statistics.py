"""What a mixture has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elbo_exact._validate import FloatArray
from elbo_exact.families._columns import scaled

__all__ = ["MixtureStatistics"]


@dataclass(frozen=True, eq=False)
class MixtureStatistics:
    """Expected counts of a mixture; those of two batches add up. Also the form of a prior: imaginary observations.

    Parameters
    ----------
    weights : ndarray, shape (K,)
        Expected number of observations of each class.
    components : tuple
        The statistics of each family: (K, C) counts of a ``Categorical``; in a prior what the family's ``maximize`` takes, or None.
    """

    weights: FloatArray
    components: tuple[Any, ...]

    def __add__(self, other: MixtureStatistics) -> MixtureStatistics:
        """The statistics of both batches together."""
        pairs = zip(self.components, other.components, strict=True)
        return MixtureStatistics(self.weights + other.weights, tuple(mine + theirs for mine, theirs in pairs))

    def scaled(self, factor: float) -> MixtureStatistics:
        """The statistics of the same observations, each seen ``factor`` times as often."""
        return MixtureStatistics(self.weights * factor, tuple(scaled(part, factor) for part in self.components))
