"""Change of the log evidence of every row between two mixtures of `Bernoulli` and `Categorical` columns, block by block without tables.

Two further matrix products with the zeros and ones of the fused E-step: changes of log parameters, and their error bounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._parallel import run
from elbo_exact._validate import FloatArray
from elbo_exact.families import Bernoulli, Categorical
from elbo_exact.families._simplex import LogSimplex, U, simplex_change
from elbo_exact.kernels.mixture import responsibilities
from elbo_exact.models._fused import BLOCK, LOWEST, TASK, Plan, padded, plan_of
from elbo_exact.models._fused_categorical import stacked
from elbo_exact.models._moved import evidence_change
from elbo_exact.models._scratch import scratch

__all__ = ["fused_change"]

LOST = -1e8  # in place of -inf, which times 0 is NaN
DROPPED = 2.0**-950  # `responsibilities` takes posteriors below 2**-952 as 0


class Change(NamedTuple):
    """Changes of log parameters, in the form of the products of the plan."""

    shares: FloatArray  # (2, K, 1): changes, error bounds
    logs: FloatArray  # (2 K, categories * columns), likewise one above the other


def fused_change(
    old: tuple[LogSimplex, tuple[Any, ...]], new: tuple[LogSimplex, tuple[Any, ...]], x: npt.NDArray[Any], executor: Any
) -> tuple[FloatArray, FloatArray] | None:
    """log p_new(x_n) - log p_old(x_n) and its error bound, (N,) each; None where tables have to be made."""
    plan = plan_of(*old, x)
    change = None if plan is None else _change(plan, old, new)
    if plan is None or change is None:
        return None
    step, task = BLOCK * TASK, plan._replace(finish=None)  # a closure does not travel
    parts = run(_task, [(task, change, x[first : first + step]) for first in range(0, len(x), step)], executor)
    gains, errors, log_evidence = np.concatenate(parts, axis=1)
    return (gains, errors) if (log_evidence > LOWEST).all() else None


def _change(plan: Plan, old: tuple[LogSimplex, tuple[Any, ...]], new: tuple[LogSimplex, tuple[Any, ...]]) -> Change | None:
    """None if a category is won. One lost makes expm1 exactly -1; one impossible in both does not change, its posterior is 0.

    D + 1 additions round partial sums that do not exceed the sum of the sizes.
    """
    if not all(isinstance(family, Bernoulli | Categorical) for family in old[1]):
        return None
    (shares, families), (new_shares, new_families) = old, new
    pairs = zip(families, new_families, strict=True)
    changes = [simplex_change(shares.given, new_shares.given)]
    changes += [simplex_change(mine._simplex.given, theirs._simplex.given) for mine, theirs in pairs]
    if any((change == np.inf).any() for change, _ in changes):
        return None
    n_columns = sum(family.n_columns for family in families)
    bounds = [np.where(np.isfinite(change), error + (n_columns + 1) * U * np.abs(change), 0.0) for change, error in changes]
    moved = [np.where(np.isnan(change), 0.0, np.maximum(change, LOST)) for change, _ in changes]
    logs = [stacked(families, moved[1:]), stacked(families, bounds[1:])]
    return Change(np.stack([moved[0], bounds[0]])[:, :, None], np.concatenate(logs))


@np.errstate(all="ignore")
def _task(plan: Plan, change: Change, x: npt.NDArray[Any]) -> FloatArray:
    """Gains, error bounds and log evidence of every row, (3, N)."""
    out, counts = np.empty((3, len(x))), np.ones(len(x))
    for first in range(0, len(x), BLOCK):
        last = min(first + BLOCK, len(x))
        columns, weights = padded(x, counts, first, last)
        n_states, width = plan.errors.shape[1], len(weights)
        table, own = scratch("table", (n_states, width)), scratch("own", (4, width))
        densities, _ = plan.block(columns, plan.constants)
        densities(table)
        responsibilities(plan.errors, weights, table, own)
        moved = scratch("moved", (2 * n_states, width))
        np.matmul(change.logs, scratch("seen", (change.logs.shape[1], width)), out=moved)
        pair = moved.reshape(2, n_states, width)
        pair += change.shares
        gains, errors = evidence_change(table, own[3], pair[0], 1.01 * pair[1], DROPPED, 0)
        out[:, first:last] = gains[: last - first], errors[: last - first], own[0, : last - first]
    return out
