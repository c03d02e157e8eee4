"""Change of the log evidence of every row between two mixtures of `Bernoulli` and `Categorical` columns, block by block without tables.

Two further sums over the joint values of the fused E-step: changes of log parameters, and their error bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._parallel import run
from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LogSimplex, U, simplex_change
from elbo_exact.kernels.patterns import pattern_totals
from elbo_exact.models._fused import LOWEST, TASK_ROWS, plan_of
from elbo_exact.models._fused_categorical import posterior_blocks
from elbo_exact.models._moved import evidence_change
from elbo_exact.models._patterns import Patterns, patterns
from elbo_exact.models._scratch import scratch

__all__ = ["fused_change"]

DROPPED = 2.0**-950  # `responsibilities` takes those below 2**-952 as 0
Parameters = tuple[LogSimplex, tuple[Any, ...]]


def fused_change(
    old: Parameters, new: Parameters, x: npt.NDArray[Any], executor: Any, coded: Patterns | None = None
) -> tuple[FloatArray, FloatArray] | None:
    """log p_new(x_n) - log p_old(x_n) and its error bound, (N,) each; None where tables have to be made."""
    coded = patterns(old[1], x) if coded is None else coded
    change = None if coded is None else _change(coded, old, new)
    plan = None if change is None else plan_of(*old, x, coded)
    if plan is None:
        return None
    tasks = [plan.rows[first : first + TASK_ROWS] for first in range(0, len(x), TASK_ROWS)]
    parts = run(_task, [(plan.errors, plan.constants, change, codes) for codes in tasks], executor)
    gains, errors, log_evidence = np.concatenate(parts, axis=1)
    return (gains, errors) if (log_evidence > LOWEST).all() else None


def _change(coded: Patterns, old: Parameters, new: Parameters) -> tuple[Any, ...] | None:
    """Lines and shares of the changes, then of their error bounds; None if a category is won.

    One lost makes expm1 exactly -1; one impossible in both does not change, its posterior is 0. D + 1 additions round partial sums that do
    not exceed the sum of the sizes.
    """
    pairs = zip(old[1], new[1], strict=True)
    changes = [simplex_change(old[0].given, new[0].given)]
    changes += [simplex_change(mine._simplex.given, theirs._simplex.given) for mine, theirs in pairs]
    if any((change == np.inf).any() for change, _ in changes):
        return None
    roundings = (coded.sizes.size + 1) * U
    bounds = [np.where(np.isfinite(change), error + roundings * np.abs(change), 0.0) for change, error in changes]
    moved = [np.where(np.isnan(change), 0.0, change) for change, _ in changes]
    return coded.lines(moved[1:]), moved[0], coded.lines(bounds[1:]), bounds[0]


@np.errstate(all="ignore")
def _task(errors: FloatArray, constants: Any, change: tuple[Any, ...], codes: npt.NDArray[np.int32]) -> FloatArray:
    """Gains, error bounds and log evidence of every row, (3, N)."""
    out, counts = np.empty((3, len(codes))), np.ones(len(codes))
    for rows, table, known in posterior_blocks(errors, constants, codes, counts):
        moved, moved_error = scratch("moved", table.shape), scratch("moved_error", table.shape)
        pattern_totals(codes[rows], change[0], change[1], moved)
        pattern_totals(codes[rows], change[2], change[3], moved_error)
        gains, bounds = evidence_change(table, known[3][:, None], moved, 1.01 * moved_error, DROPPED, 1)
        out[:, rows] = gains, bounds, known[0]
    return out
