"""E-steps of mixtures without a posterior table: task by task from densities to sufficient statistics.

For mixtures of `Bernoulli` and `Categorical` columns, and of one `Gaussian`, on data that `Mixture.observations` has checked. Everything
else, and rows that are impossible or beyond the range of doubles, are left to tables. Tasks have a fixed size and are added in
order, so the bits do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._parallel import run
from elbo_exact._validate import FloatArray
from elbo_exact.families import Gaussian
from elbo_exact.families._simplex import LogSimplex, U
from elbo_exact.models import _fused_categorical, _fused_gaussian
from elbo_exact.models._expected import Expected
from elbo_exact.models._patterns import Patterns, patterns

__all__ = ["LOWEST", "SMALL", "TASK_ROWS", "Plan", "fused_expectation", "plan_of"]

TASK_ROWS = 16_384  # a multiple of the blocks of both kinds
LOWEST = -1e7  # below it rows may be impossible
SMALL = 1e-3  # as in fit.table: where first-order errors are trusted


class Plan(NamedTuple):
    """The E-step of one model on some rows, in tasks."""

    rows: npt.NDArray[Any]  # of which each task gets a slice
    task: Callable[..., Any]  # (errors, constants, rows, counts) -> known columns of every row (4, n), list of sums
    errors: FloatArray  # (2, K): a log joint is off by at most errors[0] + errors[1] * |log joint|
    constants: tuple[Any, ...]
    additions: int  # most in any sum of a task
    finish: Callable[..., tuple[Any, float] | None]  # sums, relative error -> statistics, relative error; None if they cancel


def fused_expectation(
    shares: LogSimplex,
    components: tuple[Any, ...],
    x: npt.NDArray[Any],
    counts: FloatArray,
    executor: Any,
    coded: Patterns | None = None,
) -> Expected | None:
    """The E-step of a mixture, or None if its tables have to be made."""
    plan = plan_of(shares, components, x, coded)
    if plan is None:
        return None
    tasks = [slice(first, first + TASK_ROWS) for first in range(0, len(x), TASK_ROWS)]
    parts = run(plan.task, [(plan.errors, plan.constants, plan.rows[rows], counts[rows]) for rows in tasks], executor)
    log_evidence, _, error, rounding = np.concatenate([known for known, _ in parts], axis=1)
    worst = float(rounding.max())
    if not (log_evidence.min() > LOWEST and log_evidence.max() < np.inf and worst < SMALL):  # NaN is neither
        return None
    sums = parts[0][1]
    for _, others in parts[1:]:
        for total, more in zip(sums, others, strict=True):
            total += more
    finished = plan.finish(sums, 1.01 * (worst + (plan.additions + len(parts) + 4) * U))
    return None if finished is None else Expected(log_evidence, error, *finished)


def plan_of(shares: LogSimplex, components: tuple[Any, ...], x: npt.NDArray[Any], coded: Patterns | None = None) -> Plan | None:
    """How the rows are summed; None if tables have to be made."""
    made: tuple[Any, ...] | None = None
    if len(components) == 1 and isinstance(components[0], Gaussian):
        made = _fused_gaussian.parts(shares, components[0], x)
    elif (coded := patterns(components, x) if coded is None else coded) is not None:
        made = _fused_categorical.parts(shares, components, coded, TASK_ROWS)
    plan = None if made is None else Plan(*made)
    return None if plan is None or not (plan.errors < SMALL).all() else plan
