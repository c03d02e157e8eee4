"""The rows of `Bernoulli` and `Categorical` columns, coded by groups of columns, and parameters as sums and tables over the groups."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, categories_or_missing
from elbo_exact.families import Bernoulli, Categorical
from elbo_exact.kernels.patterns import collapsed, expanded, pattern_sums

__all__ = ["MOST", "Patterns", "patterns"]

MOST = 64  # joint values of a group; from 48 to 200 it is the same (AVX2, 2026)
SHARE = 6  # rows for each joint value of a group: below that its tables cost more than the columns
WIDEST = 2**16  # joint values that a column may add before they are looked for in the data


@dataclass(frozen=True, eq=False)
class Patterns:
    """Categorical data in which a group of neighbouring columns is one number.

    Parameters
    ----------
    components : tuple of families
        Their shapes; parameters are not read.
    sizes : ndarray of int64, shape (D,)
        Values of each column; one more than its categories where a value is missing.
    steps, tree : ndarray of int64, shapes (D, 2) and (., 2)
        How joint values are made of single ones, as in ``kernels.patterns``.
    codes : ndarray of int32, shape (N, groups)
        The line of each row and group in `lines`.
    places : slice, or ndarray of int64
        Where the categories are among the values of all columns, in the order of the families' parameters.
    n_entries : int
        Values of all columns.
    n_lines : tuple of int
        Joint values of each group that occur.
    """

    components: tuple[Any, ...]
    sizes: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    tree: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    places: Any = field(init=False)
    n_entries: int = field(init=False)
    n_lines: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        at, places, first = 0, [], 0
        for family in self.components:
            for size in self.sizes[first : first + family.n_columns].tolist():
                places.append(at + np.arange(family.log_probabilities.shape[-1]))
                at += size
            first += family.n_columns
        order = np.concatenate(places)
        object.__setattr__(self, "n_entries", at)
        object.__setattr__(self, "places", order if order.size < at else slice(at))  # all, where no value is missing
        last = np.append(np.diff(self.steps[:, 1]) > 0, True)  # the columns that end a group
        object.__setattr__(self, "n_lines", tuple(self.steps[last, 0].tolist()))

    def rows(self, batch: Any) -> npt.NDArray[np.int32]:
        """The codes of some rows; None is all."""
        return self.codes if batch is None else self.codes.take(batch, axis=0)

    def expand(self, entries: FloatArray) -> FloatArray:
        """Lines of all joint values, (lines, K), from those of single columns, (entries, K)."""
        out = np.empty((sum(self.n_lines), entries.shape[1]))
        expanded(self.steps, self.tree, entries, out)
        return out

    def collapse(self, lines: FloatArray) -> FloatArray:
        """The transpose of `expand`; lines are overwritten, the first by the sum of all of its group."""
        entries = np.empty((self.n_entries, lines.shape[1]))
        collapsed(self.steps, self.tree, lines, entries)
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
    most = min(MOST, min(len(x), batch_size or len(x)) // SHARE)
    return Patterns(components, np.array(sizes, np.int64), *_grouped(columns, sizes, most))


def _numbered(components: tuple[Any, ...], x: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Every column as numbers from 0, and how many there are: with one for missing values if there are any."""
    parts: list[npt.NDArray[np.int64]] = []
    sizes: list[int] = []
    for family in components:
        n_categories, first = family.log_probabilities.shape[-1], len(sizes)
        parts.append(categories_or_missing(x[:, first : first + family.n_columns], "x", n_categories))
        sizes += (n_categories + (parts[-1] == n_categories).any(axis=0)).tolist()
    return np.concatenate(parts, axis=1), sizes


def _grouped(columns: npt.NDArray[np.int64], sizes: list[int], most: int) -> tuple[Any, ...]:
    """`Patterns.steps`, ``tree`` and ``codes``: as many columns together as have at most so many joint values."""
    nothing = np.zeros(len(columns), np.int64)
    steps, tree, groups = [], [], []
    codes, n_joint, base, entry = nothing, 1, 0, 0
    for d, size in enumerate(sizes):
        found, together = _joint(codes, n_joint, columns[:, d], size)
        if d > 0 and found.size > most:
            groups.append(codes + base)
            base += n_joint
            found, together = _joint(nothing, 1, columns[:, d], size)
        codes, n_joint = together, found.size
        steps.append((n_joint, base))
        tree.append(np.column_stack([found // size, entry + found % size]))
        entry += size
    groups.append(codes + base)
    return np.array(steps, np.int64), np.concatenate(tree), np.column_stack(groups).astype(np.int32)


def _joint(code: npt.NDArray[np.int64], n_codes: int, column: npt.NDArray[np.int64], size: int) -> tuple[Any, ...]:
    """The pairs of a code and a value that occur, ascending, and the number of each row's pair among them."""
    pairs = code * size + column
    if n_codes * size > WIDEST:
        return np.unique(pairs, return_inverse=True)
    found = np.flatnonzero(np.bincount(pairs, minlength=n_codes * size))  # without sorting the rows
    place = np.zeros(n_codes * size, np.int64)
    place[found] = np.arange(found.size)
    return found, place[pairs]
