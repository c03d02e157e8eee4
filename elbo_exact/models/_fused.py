"""E-steps of mixtures without a posterior table: block by block from densities to sufficient statistics.

For mixtures of `Bernoulli` and `Categorical` columns, and of one `Gaussian`, on data that `Mixture.observations` has checked. Everything
else, and rows that are impossible or beyond the range of doubles, are left to tables. Blocks have a fixed size and are added in
order, so the bits do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._parallel import run
from elbo_exact._validate import FloatArray
from elbo_exact.families import Bernoulli, Categorical, Gaussian
from elbo_exact.families._simplex import LogSimplex, U
from elbo_exact.kernels.mixture import responsibilities
from elbo_exact.kernels.tiles import ROWS
from elbo_exact.models import _fused_categorical, _fused_gaussian
from elbo_exact.models._expected import Expected
from elbo_exact.models._scratch import scratch

__all__ = ["BLOCK", "LOWEST", "SMALL", "TASK", "Plan", "fused_expectation", "padded", "plan_of"]

BLOCK = 1024  # rows
TASK = 16  # blocks of a task
LOWEST = -1e7  # below it rows may be impossible
SMALL = 1e-3  # as in fit.table: where first-order errors are trusted


class Plan(NamedTuple):
    """Compiled densities and sums of one model: what they need, and what becomes of the sums."""

    block: Callable[..., tuple[Any, Any]]  # (columns, constants) -> log joints of the block, and what adds its sums
    constants: tuple[Any, ...]
    errors: FloatArray  # (2, K): a log joint is off by at most errors[0] + errors[1] * |log joint|
    shapes: tuple[tuple[int, ...], ...]  # of the sums
    finish: Callable[..., tuple[Any, float] | None] | None  # sums -> statistics, relative error; None if they cancel


def fused_expectation(
    shares: LogSimplex, components: tuple[Any, ...], x: npt.NDArray[Any], counts: FloatArray, executor: Any
) -> Expected | None:
    """The E-step of a mixture, or None if its tables have to be made."""
    plan = plan_of(shares, components, x)
    if plan is None:
        return None
    step = BLOCK * TASK
    task = plan._replace(finish=None)  # a closure does not travel
    calls = [(task, x[first : first + step], counts[first : first + step]) for first in range(0, len(x), step)]
    parts = run(_task, calls, executor)
    known = np.concatenate([part[0] for part in parts], axis=1)
    log_evidence, error, worst = known[0], known[2], float(known[3].max())
    if not ((log_evidence > LOWEST) & (log_evidence < np.inf)).all() or not worst < SMALL:
        return None
    sums = [np.zeros(shape) for shape in plan.shapes]
    for part in parts:
        for total, more in zip(sums, part[1], strict=True):
            total += more
    # a sum over blocks of sums over rows: one addition for each row of a block, each block of a task, and each task
    relative = 1.01 * (worst + (BLOCK + TASK + len(parts) + 4) * U)
    finished = None if plan.finish is None else plan.finish(sums, relative)
    return None if finished is None else Expected(log_evidence, error, *finished)


def plan_of(shares: LogSimplex, components: tuple[Any, ...], x: npt.NDArray[Any]) -> Plan | None:
    """What the blocks of a model need; None if its tables have to be made."""
    if all(isinstance(family, Bernoulli | Categorical) for family in components):
        made = _fused_categorical.parts(shares, components)
    elif len(components) == 1 and isinstance(components[0], Gaussian):
        made = _fused_gaussian.parts(shares, components[0], x)
    else:
        return None
    plan = None if made is None else Plan(*made)
    return None if plan is None or not (plan.errors < SMALL).all() else plan


@np.errstate(all="ignore")
def _task(plan: Plan, x: npt.NDArray[Any], counts: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    """Known columns of every row, and the sums."""
    known = np.empty((4, len(x)))
    sums = [np.zeros(shape) for shape in plan.shapes]
    for first in range(0, len(x), BLOCK):
        last = min(first + BLOCK, len(x))
        columns, weights = padded(x, counts, first, last)
        width = len(weights)
        table, own = scratch("table", (plan.errors.shape[1], width)), scratch("own", (4, width))
        densities, add = plan.block(columns, plan.constants)
        densities(table)
        responsibilities(plan.errors, weights, table, own)
        add(table, sums)
        known[:, first:last] = own[:, : last - first]
    return known, sums


def padded(x: npt.NDArray[Any], counts: FloatArray, first: int, last: int) -> tuple[FloatArray, FloatArray]:
    """Columns of a block, side by side, and its counts; rows that fill the last tile weigh nothing."""
    width = -(last - first) % ROWS + last - first
    columns, weights = scratch("columns", (x.shape[1], width)), np.zeros(width)
    columns[:, : last - first], weights[: last - first] = x[first:last].T, counts[first:last]
    columns[:, last - first :] = x[last - 1][:, None]
    return columns, weights
