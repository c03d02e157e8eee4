"""Log tables of data rows with missing cells: the rows of one pattern of missing cells together, their missing nodes enumerated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, at_index, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families._rounding import summed_change
from elbo_exact.families._simplex import LogSimplex, U
from elbo_exact.space import LatentSpace, refuse_above

__all__ = ["MISSING", "Pattern", "add_counts", "checked_rows", "filled", "pattern_change", "pattern_table", "patterns"]

IntArray = npt.NDArray[np.int64]
MISSING = -1


@dataclass(frozen=True, eq=False)
class Pattern:
    """Rows that leave the same nodes open, and where their states point into the flat tables of the nodes.

    ``cells[j]`` has shape (n, S), (n, 1) or (1, S): entries of table j; ``possible`` is False where a state contradicts the row.
    """

    rows: IntArray
    n_states: int
    cells: list[IntArray]
    possible: npt.NDArray[np.bool_] | None


def checked_rows(x: npt.ArrayLike, sizes: Sequence[int], names: Sequence[str]) -> IntArray:
    """Category numbers, (N, D); NaN and -1 are missing and come back as -1."""
    table = real_array(x, "x")
    if table.ndim != 2 or table.shape[1] != len(sizes):
        raise LogTableError(f"x must have shape (N, {len(sizes)}), one column per node; got {table.shape}.", "x", table.shape)
    missing = np.isnan(table) | (table == MISSING)
    good = missing | ((table >= 0) & (table < np.array(sizes)) & (table == np.floor(table)))
    if not good.all():
        index = tuple(map(int, np.argwhere(~good)[0]))
        raise LogTableError(
            f"x must hold categories 0 ... {sizes[index[1]] - 1} of {names[index[1]]!r}, or NaN; "
            f"got {table[index]:g}{at_index(index)}.",
            "x",
            float(table[index]),
        )
    return np.where(missing, MISSING, table).astype(np.int64)


def patterns(
    x: IntArray, scopes: Sequence[tuple[int, ...]], sizes: Sequence[int], hidden: Sequence[int], max_bytes: int
) -> list[Pattern]:
    """One per set of open nodes, in order of first appearance; with hidden nodes given, those are open in every row."""
    missing = x == MISSING
    if hidden:
        missing = np.zeros_like(missing)
        missing[:, list(hidden)] = True
    kinds, first, kind = np.unique(missing, axis=0, return_index=True, return_inverse=True)
    found = []
    spaces = [LatentSpace(tuple(sizes[j] for j in np.flatnonzero(open_nodes).tolist())) for open_nodes in kinds]
    largest = max((space.size for space in spaces), default=1)
    bytes_per_entry = 8 * (len(scopes) + 2)  # where every table is read, the entry and its error
    refuse_above(len(x) * largest, bytes_per_entry, max_bytes, f"{len(x)} rows of {largest}", "leave fewer cells of a row open")
    for k in np.argsort(first):
        rows = np.flatnonzero(kind.reshape(-1) == k)
        found.append(_pattern(x[rows], rows, np.flatnonzero(kinds[k]), spaces[k], scopes, sizes, max_bytes))
    return found


def filled(patterns: Sequence[Pattern], n_rows: int, parts: Sequence[FloatArray], fill: float) -> FloatArray:
    """Parts (n, S) of the patterns as one table, as wide as the widest."""
    table = np.full((n_rows, max((pattern.n_states for pattern in patterns), default=1)), fill)
    for pattern, part in zip(patterns, parts, strict=True):
        table[pattern.rows, : pattern.n_states] = part if pattern.possible is None else np.where(pattern.possible, part, fill)
    return table


def pattern_table(pattern: Pattern, tables: Iterable[LogSimplex]) -> tuple[FloatArray, FloatArray]:
    """Log joint of the pattern's rows and states, and a bound on its rounding error."""
    value, error, size = np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1))
    for table, cell in zip(tables, pattern.cells, strict=True):
        term = table.normalized.reshape(-1)[cell]
        value, error, size = value + term, error + table.error.reshape(-1)[cell], size + np.abs(term)
    return value, np.where(value > -np.inf, 1.01 * (error + len(pattern.cells) * U * size), 0.0)


def pattern_change(pattern: Pattern, tables: Iterable[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Change of the log joint, and its error bound, from those of every table."""
    shape, terms = (len(pattern.rows), pattern.n_states), []
    for (change, error), cell in zip(tables, pattern.cells, strict=True):
        terms.append((np.broadcast_to(change.reshape(-1)[cell], shape), np.broadcast_to(error.reshape(-1)[cell], shape)))
    return summed_change(terms)


def add_counts(pattern: Pattern, weights: FloatArray, totals: Iterable[FloatArray]) -> None:
    """Add the weights of rows and states to the flat counts of every table, where they point."""
    for total, cell in zip(totals, pattern.cells, strict=True):
        # cells that do not depend on the state, or on the row, are summed first
        part = weights.sum(axis=1, keepdims=True) if cell.shape[1] == 1 else weights
        part = part.sum(axis=0, keepdims=True) if cell.shape[0] == 1 else part
        total += np.bincount(cell.reshape(-1), weights=part.reshape(-1), minlength=total.size)


def _pattern(
    x: IntArray,
    rows: IntArray,
    open_nodes: IntArray,
    space: LatentSpace,
    scopes: Sequence[tuple[int, ...]],
    sizes: Sequence[int],
    max_bytes: int,
) -> Pattern:
    states = space.states(max_bytes=max_bytes)
    column = {int(node): k for k, node in enumerate(open_nodes)}
    cells = []
    for scope in scopes:
        cell: IntArray = np.zeros((1, 1), dtype=np.int64)
        for node in scope:
            values = states[None, :, column[node]] if node in column else x[:, node, None]
            cell = cell * sizes[node] + values
        cells.append(cell)
    seen = [node for node in column if (x[:, node] != MISSING).any()]
    possible = np.ones((len(x), space.size), dtype=bool) if seen else None
    for node in seen:
        observed = x[:, node, None]
        possible &= (observed == MISSING) | (observed == states[None, :, column[node]])
    return Pattern(rows, space.size, cells, possible)
