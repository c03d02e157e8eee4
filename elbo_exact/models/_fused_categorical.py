"""Categorical columns for the fused E-step: sums over tables of joint values of groups of columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LogSimplex, U
from elbo_exact.kernels.mixture import responsibilities, row_posteriors
from elbo_exact.kernels.patterns import pattern_sums, pattern_totals
from elbo_exact.kernels.tiles import ROWS, SHORT
from elbo_exact.models._mixture_statistics import MixtureStatistics
from elbo_exact.models._patterns import Patterns
from elbo_exact.models._scratch import scratch

__all__ = ["BLOCK", "parts", "posterior_blocks"]

BLOCK = 2048  # rows whose posteriors are kept at a time


def parts(shares: LogSimplex, components: tuple[Any, ...], coded: Patterns, task_rows: int) -> tuple[Any, ...]:
    """What ``_fused.Plan`` holds.

    Error of a log joint: that of the share, the largest of each column, and D additions, whose partial sums do not exceed the total
    because all terms have one sign (up to their own errors). A count is a sum over the rows of a task, then over the joint values.
    """
    simplexes = [family._simplex for family in components]
    n_states, n_columns = shares.given.size, coded.sizes.size
    fixed = shares.error + sum(simplex.worst.reshape(n_states, -1).sum(axis=1) for simplex in simplexes)
    errors = np.stack([1.01 * fixed, np.full(n_states, 1.01 * (n_columns + 1) * U)])
    lines = coded.lines([simplex.normalized for simplex in simplexes])

    def finish(sums: list[FloatArray], relative: float) -> tuple[Any, float]:
        weights = sums[0][: coded.n_lines[0]].sum(axis=0)  # every row has one joint value of the first group
        return MixtureStatistics(weights, coded.counts(sums[0])), relative

    additions = min(task_rows, len(coded.codes)) + max(coded.n_lines)
    return coded.codes, _task, errors, (lines, shares.normalized), additions, finish


def posterior_blocks(errors: FloatArray, constants: Any, codes: npt.NDArray[np.int32], counts: FloatArray) -> Any:
    """(slice, posteriors times counts, (n, K), known (4, n)) of one block of rows after another, as in ``kernels.mixture.responsibilities``."""
    lines, start = constants
    for first in range(0, len(codes), BLOCK):
        rows = slice(first, min(first + BLOCK, len(codes)))
        table, known = scratch("table", (rows.stop - first, start.size)), np.empty((4, rows.stop - first))
        pattern_totals(codes[rows], lines, start, table)
        if start.size <= SHORT:
            row_posteriors(errors, counts[rows], table, known)
        else:
            _column_posteriors(errors, counts[rows], table, known)
        yield rows, table, known


def _column_posteriors(errors: FloatArray, counts: FloatArray, table: FloatArray, known: FloatArray) -> None:
    """``row_posteriors`` of many states, state by state."""
    n_rows, n_states = table.shape
    width = -(-n_rows // ROWS) * ROWS
    columns, weights, own = np.zeros((n_states, width)), np.zeros(width), np.empty((4, width))
    columns[:, :n_rows], weights[:n_rows] = table.T, counts
    responsibilities(errors, weights, columns, own)
    table[:], known[:] = columns[:, :n_rows].T, own[:, :n_rows]


@np.errstate(all="ignore")
def _task(errors: FloatArray, constants: Any, codes: npt.NDArray[np.int32], counts: FloatArray) -> Any:
    """Known columns of every row, and the sums."""
    blocks, sums = [], np.zeros_like(constants[0])
    for rows, table, known in posterior_blocks(errors, constants, codes, counts):
        pattern_sums(codes[rows], table, sums)
        blocks.append(known)
    return np.concatenate(blocks, axis=1), [sums]
