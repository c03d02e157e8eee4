"""Tables of data out of a CSV file that somebody else wrote: every mistake is one sentence with the file and the line.

A row is decoded, counted and converted before the next one is read: besides the numbers no row is kept. The file, a cell, the
columns and the categories of a column are limited.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray

__all__ = ["MISSING", "Table", "read_table"]

MISSING = frozenset({"", "?", "NA", "NaN", "nan"})
MAX_BYTES = 2**28
MAX_LINE = 2**20  # characters
MAX_COLUMNS = 10_000
MAX_CATEGORIES = 1000  # of one column
FARTHEST = 1e150  # its square is a double


@dataclass(frozen=True, eq=False)
class Table:
    """Columns with names.

    Parameters
    ----------
    names : tuple of str
    values : ndarray, shape (N, D)
        Numbers, or numbers of categories; NaN is a missing cell.
    levels : tuple of tuple of str
        The categories of each column, in the order of their numbers; empty for a table of numbers.
    """

    names: tuple[str, ...]
    values: FloatArray
    levels: tuple[tuple[str, ...], ...] = ()


class _Refused(Exception):
    """What is wrong, without the name of the file."""


def read_table(
    path: str | os.PathLike[str],
    *,
    text: bool = False,
    like: Table | None = None,
    largest: int | None = None,
    whole: bool = False,
) -> Table:
    """The table of a CSV file with a header row.

    Parameters
    ----------
    path : path
        UTF-8, comma-separated, quoted by RFC 4180. Empty lines at the end are nothing. Missing cells are empty or one of ``?``, ``NA``, ``NaN``, ``nan``.
    text : bool
        Cells are categories and not numbers; they are numbered in alphabetical order.
    like : Table, optional
        The file must have the columns of this table, in any order, and no other categories; its names and levels are taken over.

    largest : int, optional
        Numbers must be whole numbers 0 ... largest.
    whole : bool
        No number may be missing.

    Raises
    ------
    ValueError
        Anything else than such a file, in one sentence with file and line.
    OSError
        A file that cannot be opened.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "data.csv")
    ...     _ = file.write_text("sex,answer\\nf,yes\\nm,NA\\n", encoding="utf-8")
    ...     table = read_table(file, text=True)
    >>> table.levels, table.values.tolist()
    ((('f', 'm'), ('yes',)), [[0.0, 0.0], [1.0, nan]])
    """
    line = 0
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise _Refused(f"the file has {size} bytes, at most {MAX_BYTES} are read")
            reader = csv.reader(_lines(file), strict=True)
            try:
                return _table(reader, text, like, largest, whole)
            finally:
                line = reader.line_num
    except (_Refused, csv.Error) as error:
        reason = str(error)
    except UnicodeDecodeError:
        reason, line = "it is not UTF-8 text after this line; save it as UTF-8", max(line, 1)
    raise ValueError(f"{os.fspath(path)}, line {max(line, 1)}: {reason.rstrip('.')}.")


def _lines(file: Any) -> Iterator[str]:
    """Lines of a file, none of them longer than the limit."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise _Refused(f"a line has at most {MAX_LINE} characters")
        if "\0" in line:
            raise _Refused("a zero byte; a CSV file is plain text")
        yield line


def _table(reader: Iterator[list[str]], text: bool, like: Table | None, largest: int | None, whole: bool) -> Table:
    names = _header(next(reader, []))
    order = list(range(len(names))) if like is None else _order(names, like.names)
    text = bool(like.levels) if like is not None else text
    numbers: list[dict[str, int]] = [{} for _ in names]
    if like is not None and text:
        numbers = [{level: i for i, level in enumerate(levels)} for levels in like.levels]
    values = array("d")
    empty = 0  # lines without a cell since the last row; those at the end of a file are nothing
    for cells in reader:
        if not cells:
            empty += 1
            continue
        if empty and (whole or len(names) > 1):
            raise _Refused("an empty line above this row")
        values.extend(itertools.repeat(math.nan, empty))  # a column's missing cells
        empty = 0
        if len(cells) != len(names):
            raise _Refused(f"{len(cells)} cells where the header has {len(names)}")
        for d, place in enumerate(order):
            cell, name = cells[place].strip(), names[place]
            if whole and cell in MISSING:
                raise _Refused(f"column {name[:40]!r} must hold a number for this model; the cell is missing")
            values.append(_category(cell, name, numbers[d], like is None) if text else _number(cell, name, largest))
    if not values:
        raise _Refused("no rows follow the header")
    table = np.frombuffer(values, np.float64).reshape(-1, len(names))
    if like is not None:
        return Table(like.names, table, like.levels)
    return _sorted(names, table, numbers) if text else Table(names, table)


def _header(cells: list[str]) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in cells)
    if not names or "" in names:
        raise _Refused("the first line must name every column")
    if len(names) > MAX_COLUMNS:
        raise _Refused(f"{len(names)} columns, at most {MAX_COLUMNS} are read")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise _Refused(f"two columns are named {twice[:40]!r}")
    return names


def _order(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The place in the file of every wanted column."""
    place = {name: i for i, name in enumerate(names)}
    for name in wanted:
        if name not in place:
            raise _Refused(f"no column is named {name[:40]!r}, which the model has")
    if len(names) > len(wanted):
        extra = next(name for name in names if name not in set(wanted))
        raise _Refused(f"the model has no column {extra[:40]!r}; leave it out")
    return [place[name] for name in wanted]


def _number(cell: str, name: str, largest: int | None) -> float:
    if cell in MISSING:
        return math.nan
    try:
        value = float(cell) if cell.isascii() and "_" not in cell else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _Refused(f"column {name[:40]!r} must hold finite numbers; got {cell[:40]!r}")
    if abs(value) > FARTHEST:
        raise _Refused(f"column {name[:40]!r} must hold numbers from {-FARTHEST:g} to {FARTHEST:g}; got {cell[:40]!r}")
    if largest is not None and not (0 <= value <= largest and value.is_integer()):
        raise _Refused(f"column {name[:40]!r} must hold whole numbers 0 ... {largest}; got {cell[:40]!r}")
    return value


def _category(cell: str, name: str, numbers: dict[str, int], grows: bool) -> float:
    if cell in MISSING:
        return math.nan
    if cell not in numbers:
        if not grows:
            raise _Refused(f"column {name[:40]!r} has no category {cell[:40]!r} in the model")
        if len(numbers) == MAX_CATEGORIES:
            raise _Refused(f"column {name[:40]!r} has more than {MAX_CATEGORIES} categories")
        numbers[cell] = len(numbers)
    return float(numbers[cell])


def _sorted(names: tuple[str, ...], table: FloatArray, numbers: list[dict[str, int]]) -> Table:
    """The same table with categories in alphabetical order instead of that of their first row."""
    values = table.copy()
    for d, found in enumerate(numbers):
        if not found:
            raise _Refused(f"column {names[d][:40]!r} holds missing cells only")
        rank = np.empty(len(found))
        rank[[found[level] for level in sorted(found)]] = np.arange(len(found))
        seen = ~np.isnan(table[:, d])
        values[seen, d] = rank[table[seen, d].astype(np.int64)]
    return Table(names, values, tuple(tuple(sorted(found)) for found in numbers))
