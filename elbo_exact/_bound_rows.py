"""Kernels over the rows of a pair of tables, whole or by points of a path, as tasks; sums of their columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import check_arithmetic
from elbo_exact._parallel import TASK_ENTRIES, row_ranges, run
from elbo_exact._validate import FloatArray, broadcast_rows, log_table

__all__ = ["Options", "part_of", "per_point", "per_row", "rows_of", "sum_columns"]

POINTS = 64  # of a long row, in a task
U = 2.0**-53


@dataclass(frozen=True)
class Options:
    """What every bound takes besides its tables."""

    unnormalized: bool = False
    nan_policy: str = "raise"
    executor: Any = None


def rows_of(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, batch: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Both tables as rows; a table of one row stays one."""
    return broadcast_rows(log_table(log_joint, "log_joint"), batch), broadcast_rows(log_table(log_q, "log_q"), batch)


def part_of(table: FloatArray, first: int, last: int) -> FloatArray:
    """Rows first .. last - 1; a table of one row serves all."""
    return table[first:last] if len(table) > 1 else table


@np.errstate(all="ignore")
def kernel_task(kernel: Any, a: FloatArray, b: FloatArray, arguments: tuple[Any, ...], shape: tuple[int, int]) -> FloatArray:
    """A kernel's output of this shape."""
    check_arithmetic()
    out = np.empty(shape)
    kernel(a, b, *arguments, out)
    return out


def per_point(
    kernel: Any,
    a: FloatArray,
    b: FloatArray,
    betas: FloatArray,
    arguments: tuple[Any, ...],
    columns: int,
    successors: int,
    options: Options,
    rows: Any,
) -> FloatArray:
    """Columns of a kernel at every point of some rows; long rows are shared out by points, each with its ``successors``."""
    if len(rows) < max(len(a), len(b)):
        a, b = (table[rows] if len(table) > 1 else table for table in (a, b))
    count = len(betas) - successors
    if a.shape[1] <= TASK_ENTRIES:
        ranges = [(first, last, 0, count) for first, last in row_ranges(len(rows), a.shape[1] * count)]
    else:
        starts = range(0, count, POINTS)
        ranges = [(i, i + 1, first, min(first + POINTS, count)) for i in range(len(rows)) for first in starts]
    calls = [
        (
            kernel,
            part_of(a, first, last),
            part_of(b, first, last),
            (betas[start : stop + successors], *arguments),
            ((last - first) * (stop - start), columns),
        )
        for first, last, start, stop in ranges
    ]
    parts = run(kernel_task, calls, options.executor)
    return np.concatenate(parts or [np.empty((0, columns))]).reshape(len(rows), count, columns)


@np.errstate(all="ignore")
def sum_columns(values: FloatArray, bounds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sums with their bounds, in the order of the columns."""
    total, size, error = np.zeros((3, len(values)))
    for k in range(values.shape[1]):
        total = total + values[:, k]
        size = size + np.abs(values[:, k])
        error = error + bounds[:, k]
    return total, 1.01 * (error + values.shape[1] * U * size)


def per_row(
    kernel: Any, a: FloatArray, b: FloatArray, n_rows: int, arguments: tuple[Any, ...], columns: int, options: Options
) -> FloatArray:
    """Columns of a kernel for every row."""
    calls = [
        (kernel, part_of(a, first, last), part_of(b, first, last), arguments, (last - first, columns))
        for first, last in row_ranges(n_rows, a.shape[1])
    ]
    return np.concatenate(run(kernel_task, calls, options.executor) or [np.empty((0, columns))])
