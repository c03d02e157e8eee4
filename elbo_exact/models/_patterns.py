"""The rows of `Bernoulli` and `Categorical` columns, coded by groups of columns, and parameters as sums and tables over the groups."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, categories_or_missing
from elbo_exact.families import Bernoulli, Categorical
from elbo_exact.kernels.patterns import collapsed, expanded, pattern_sums

__all__ = ["MOST", "Patterns", "patterns"]

MOST = 64  # joint values of a group; 128 and 256 are as fast
SHARE = 4  # rows for each joint value of a group: below that its tables cost more than the columns


@dataclass(frozen=True, eq=False)
class Patterns:
    """Categorical data in which a group of neighbouring columns is one number.

    Parameters
    ----------
    components : tuple of families
        Their shapes; parameters are not read.
    sizes : ndarray of int64, shape (D,)
        Values of each column; one more than its categories where a value is missing.
    ends : ndarray of int64
        The column after each group.
    codes : ndarray of int32, shape (N, groups)
        The line of each row and group in `lines`.
    places : ndarray of int64
        Where the categories are among the values of all columns, in the order of the families' parameters.
    n_entries : int
        Values of all columns.
    n_lines : tuple of int
        Joint values of each group.
    """

    components: tuple[Any, ...]
    sizes: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    places: npt.NDArray[np.int64] = field(init=False)
    n_entries: int = field(init=False)
    n_lines: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        at, places, first = 0, [], 0
        for family in self.components:
            for size in self.sizes[first : first + family.n_columns].tolist():
                places.append(at + np.arange(family.log_probabilities.shape[-1]))
                at += size
            first += family.n_columns
        groups = itertools.pairwise([0, *self.ends.tolist()])
        object.__setattr__(self, "places", np.concatenate(places))
        object.__setattr__(self, "n_entries", int(self.sizes.sum()))
        object.__setattr__(self, "n_lines", tuple(math.prod(self.sizes[first:last].tolist()) for first, last in groups))

    def rows(self, batch: Any) -> npt.NDArray[np.int32]:
        """The codes of some rows; None is all."""
        return self.codes if batch is None else self.codes.take(batch, axis=0)

    def expand(self, entries: FloatArray) -> FloatArray:
        """Lines of all joint values, (lines, K), from those of single columns, (entries, K)."""
        out = np.empty((sum(self.n_lines), entries.shape[1]))
        expanded(self.sizes, self.ends, entries, out)
        return out

    def collapse(self, lines: FloatArray) -> FloatArray:
        """The transpose of `expand`; lines are overwritten, the first by the sum of all of its group."""
        entries = np.empty((self.n_entries, lines.shape[1]))
        collapsed(self.sizes, self.ends, lines, entries)
        return entries

    def sums(self, codes: npt.NDArray[np.int32], weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What every entry gets of the rows' weights, (entries, K), and what all rows have together, (K,)."""
        lines = np.zeros((sum(self.n_lines), weights.shape[1]))
        pattern_sums(codes, np.ascontiguousarray(weights), lines)
        return self.collapse(lines), lines[0]

    def lines(self, tables: list[FloatArray]) -> FloatArray:
        """The sum over each group for every joint value and state, (lines, K); tables are (K, D, C) or (K, C), one for each family."""
        n_states = tables[0].shape[0]
        entries = np.zeros((self.n_entries, n_states))  # a missing value adds nothing
        entries[self.places] = np.concatenate([table.reshape(n_states, -1) for table in tables], axis=1).T
        return self.expand(entries)

    def counts(self, lines: FloatArray) -> tuple[FloatArray, ...]:
        """The transpose of `lines`, which are overwritten: what every category has, in the shapes of the families' parameters."""
        flat, parts, first = self.collapse(lines)[self.places].T, [], 0
        for family in self.components:
            shape = family.log_probabilities.shape
            last = first + math.prod(shape[1:])
            parts.append(np.ascontiguousarray(flat[:, first:last]).reshape(shape))
            first = last
        return tuple(parts)


def patterns(components: tuple[Any, ...], x: npt.NDArray[Any], batch_size: int | None = None) -> Patterns | None:
    """Rows that `Mixture.observations` has checked, coded for sums over so many of them (default all); None for other families."""
    if not all(isinstance(family, Bernoulli | Categorical) for family in components):
        return None
    columns, sizes = _numbered(components, x)
    ends = _ends(sizes, min(MOST, min(len(x), batch_size or len(x)) // SHARE))
    codes, base = np.empty((len(x), len(ends)), np.int32), 0
    for g, (first, last) in enumerate(itertools.pairwise([0, *ends])):
        steps = np.cumprod([1, *sizes[last - 1 : first : -1]])[::-1]  # the last column counts fastest
        codes[:, g] = columns[:, first:last] @ steps + base
        base += math.prod(sizes[first:last])
    return Patterns(components, np.array(sizes, np.int64), np.array(ends, np.int64), codes)


def _numbered(components: tuple[Any, ...], x: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Every column as numbers from 0, and how many there are: with one for missing values if there are any."""
    parts: list[npt.NDArray[np.int64]] = []
    sizes: list[int] = []
    for family in components:
        n_categories, first = family.log_probabilities.shape[-1], len(sizes)
        parts.append(categories_or_missing(x[:, first : first + family.n_columns], "x", n_categories))
        sizes += (n_categories + (parts[-1] == n_categories).any(axis=0)).tolist()
    return np.concatenate(parts, axis=1), sizes


def _ends(sizes: list[int], most: int) -> list[int]:
    """The column after each group: as many columns together as have at most so many joint values."""
    ends, product = [], 1
    for d, size in enumerate(sizes):
        if d > 0 and product * size > most:
            ends.append(d)
            product = 1
        product *= size
    return [*ends, len(sizes)]
