"""Every bound as (gap to log evidence, value, rigorous error bounds): what the public functions and the ladder are views of.

A gap is never negative: log p(x) - value of a lower bound, value - log p(x) of an upper one. Values come from gaps, so lower bounds
never lie above ``log_evidence`` and upper ones never below, as doubles. Where q misses possible states, lower bounds are those of
the restricted problem, whose evidence is (1 - miss) p(x), so that -log(1 - miss) joins their gap.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._bound_rows import Options, per_point, per_row, rows_of, sum_columns
from elbo_exact._engine import NAN_POLICIES, evidence_results, pair_results, pivoted_results
from elbo_exact._validate import (
    NORMALIZER_TOLERANCE,
    FloatArray,
    broadcast_rows,
    integer,
    log_table,
    one_of,
    same_states,
)
from elbo_exact.kernels.divergences import RENYI, divergence_rows
from elbo_exact.kernels.moment import M_BOUND, M_EVIDENCE, M_NORMALIZER, N_MOMENT, moment_rows
from elbo_exact.kernels.path import path_rows
from elbo_exact.kernels.perturbative import (
    N_PERTURBATIVE,
    P_EVIDENCE,
    P_GAP,
    P_NORMALIZER,
    P_SINGLE,
    perturbative_rows,
)
from elbo_exact.kernels.points import (
    N_POINT,
    POINT_EVIDENCE,
    POINT_MEAN,
    POINT_NORMALIZER,
    POINT_VARIANCE,
    point_rows,
    tight_rows,
)
from elbo_exact.kernels.rows import OUT_ELBO, OUT_EUBO, OUT_EVIDENCE, OUT_FORWARD, OUT_GAP

__all__ = [
    "BoundResults",
    "Options",
    "elbo_results",
    "eubo_results",
    "from_gap",
    "perturbative_results",
    "renyi_bound_results",
    "thermodynamic_results",
    "tvo_results",
]

MOST_ORDERS = 2**53  # of a Taylor polynomial: doubles count them
U = 2.0**-53
GOOD = 2.0**-38  # relative bound on a thermodynamic gap up to which means of log w will do
HOPELESS = 16.0  # how many times that bound, for steps as large as each other, the first mean may be off before the others are left out


class BoundResults(NamedTuple):
    """One entry per row of the flattened batch."""

    side: str
    gap: FloatArray
    gap_error: FloatArray
    value: FloatArray
    value_error: FloatArray
    evidence: FloatArray
    evidence_error: FloatArray
    batch: tuple[int, ...]


def elbo_results(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, options: Options) -> BoundResults:
    """The core's ELBO."""
    return _core_results("lower", log_joint, log_q, options, OUT_GAP, OUT_ELBO)


def eubo_results(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, options: Options) -> BoundResults:
    """The core's EUBO."""
    return _core_results("upper", log_joint, log_q, options, OUT_FORWARD, OUT_EUBO)


def renyi_bound_results(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, alpha: float, options: Options) -> BoundResults:
    """VR_alpha = log p(x) - D_alpha(q || p); lower for alpha >= 0, upper below."""
    if alpha == 1.0:
        return elbo_results(log_joint, log_q, options)
    divergence, evidence, evidence_error, batch = _renyi_divergence(log_joint, log_q, alpha, options)
    side = "lower" if alpha >= 0.0 else "upper"
    gap = divergence[:, 0] if side == "lower" else 0.0 - divergence[:, 0]
    if side == "upper":  # E_q w**(1 - alpha) = 0 is no question of a posterior
        gap = np.where(evidence == -np.inf, np.nan, gap)
    return from_gap(side, gap, divergence[:, 1], evidence, evidence_error, batch, impossible=-np.inf)


def tvo_results(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, betas: FloatArray, side: str, restricted: bool, options: Options
) -> BoundResults:
    """A Riemann sum of the thermodynamic integrand; its gap is a sum of divergences between neighbors of the path."""
    batch = same_states(log_table(log_joint, "log_joint"), "log_joint", log_table(log_q, "log_q"), "log_q")
    a, b = rows_of(log_joint, log_q, batch)
    walked = betas if side == "lower" else np.ascontiguousarray(betas[::-1])
    gap, error, evidence, evidence_error = _mean_gaps(a, b, walked, math.prod(batch), options)
    if np.isfinite(evidence).all():
        _fill_gaps(gap, error, a, b, walked, options)
        return from_gap(side, gap, error, evidence, evidence_error, batch)
    checked, _ = pair_results(log_joint, log_q, True, options.unnormalized, options.nan_policy, options.executor)
    charged, missed = checked[:, OUT_GAP] == np.inf, checked[:, OUT_FORWARD] == np.inf
    charged &= (checked[:, OUT_GAP + 1] == 0.0) & (checked[:, OUT_EVIDENCE] > -np.inf) & (not restricted)
    infinite = charged if side == "lower" else missed & (checked[:, OUT_FORWARD + 1] == 0.0)
    _set(gap, error, infinite, np.inf)
    _fill_gaps(gap, error, a, b, walked, options)
    if side == "lower":
        _add_missed(gap, error, missed, log_joint, log_q, options)
    else:
        _add_wasted(gap, error, charged, a, b, options)
    _set(gap, error, infinite, np.inf)
    return _from_checked(side, gap, error, checked, batch)


def thermodynamic_results(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, betas: FloatArray, options: Options
) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
    """(points, checked results, batch); columns (integrand, bound, variance, bound)."""
    checked, batch = pair_results(log_joint, log_q, True, options.unnormalized, options.nan_policy, options.executor)
    a, b = rows_of(log_joint, log_q, batch)
    points = per_point(point_rows, a, b, betas, (True, 0.0), N_POINT, 0, options, np.arange(len(checked)))
    with np.errstate(invalid="ignore"):
        mean, mean_error = points[:, :, POINT_MEAN], points[:, :, POINT_MEAN + 1]
        integrand = checked[:, OUT_EVIDENCE, None] + mean
        integrand_error = 1.01 * (checked[:, OUT_EVIDENCE + 1, None] + mean_error + U * np.abs(integrand))
    charged = (checked[:, OUT_GAP] == np.inf) & (checked[:, OUT_GAP + 1] == 0.0)
    at_zero = charged[:, None] & (betas == 0.0)[None, :]
    impossible = checked[:, OUT_EVIDENCE] == -np.inf
    integrand[at_zero], integrand_error[at_zero] = -np.inf, 0.0
    integrand[impossible], integrand_error[impossible] = np.nan, np.inf
    variance = np.where(at_zero, np.nan, points[:, :, POINT_VARIANCE])
    variance_error = np.where(at_zero, np.inf, points[:, :, POINT_VARIANCE + 1])
    return np.stack([integrand, integrand_error, variance, variance_error], axis=-1), checked, batch


def perturbative_results(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, order: int, options: Options) -> BoundResults:
    """The perturbative bound of an odd order at its best reference; order 1 is the ELBO."""
    order = integer(order, "order", 1, MOST_ORDERS)
    if order % 2 == 0:
        raise ValueError(f"order must be odd, because even Taylor polynomials are no lower bounds of exp; got {order}.")
    if order == 1:
        return elbo_results(log_joint, log_q, options)
    one_of(options.nan_policy, "nan_policy", NAN_POLICIES)
    batch = same_states(log_table(log_joint, "log_joint"), "log_joint", log_table(log_q, "log_q"), "log_q")
    a, b = rows_of(log_joint, log_q, batch)
    found = per_row(perturbative_rows, a, b, math.prod(batch), (order,), N_PERTURBATIVE, options)
    gap, error = found[:, P_GAP].copy(), found[:, P_GAP + 1].copy()
    limit = np.inf if options.unnormalized else NORMALIZER_TOLERANCE
    plain = (error < np.inf) & (found[:, P_SINGLE] == 0.0)
    if (plain & np.isfinite(found[:, P_EVIDENCE]) & (np.abs(found[:, P_NORMALIZER]) <= limit)).all():
        return from_gap("lower", gap, error, found[:, P_EVIDENCE], found[:, P_EVIDENCE + 1], batch)
    checked, _ = pair_results(log_joint, log_q, True, options.unnormalized, options.nan_policy, options.executor)
    missed = checked[:, OUT_FORWARD] == np.inf
    rows = np.flatnonzero(missed)
    if rows.size:
        a_rows, b_rows = (table[rows] if len(table) > 1 else table for table in (a, b))
        a_rows = np.where(b_rows == -np.inf, -np.inf, a_rows)
        again = per_row(perturbative_rows, a_rows, b_rows, rows.size, (order,), N_PERTURBATIVE, options)
        gap[rows], error[rows] = again[:, P_GAP], again[:, P_GAP + 1]
    _add_missed(gap, error, missed, log_joint, log_q, options)
    _set(gap, error, (checked[:, OUT_GAP] == np.inf) & (checked[:, OUT_GAP + 1] == 0.0), np.inf)
    return _from_checked("lower", gap, error, checked, batch)


def _core_results(
    side: str, log_joint: npt.ArrayLike, log_q: npt.ArrayLike, options: Options, gap: int, value: int
) -> BoundResults:
    results, batch = pair_results(log_joint, log_q, side == "upper", options.unnormalized, options.nan_policy, options.executor)
    g, g_error, v, v_error, e, e_error = (
        results[:, k] for k in (gap, gap + 1, value, value + 1, OUT_EVIDENCE, OUT_EVIDENCE + 1)
    )
    return BoundResults(side, g, g_error, v, v_error, e, e_error, batch)


@np.errstate(all="ignore")
def from_gap(
    side: str,
    gap: FloatArray,
    error: FloatArray,
    evidence: FloatArray,
    evidence_error: FloatArray,
    batch: tuple[int, ...],
    impossible: float | None = None,
) -> BoundResults:
    """Values from gaps; a gap that the kernel could not find is the safe infinity, with no bound."""
    possible = evidence > -np.inf
    lost = possible & np.isnan(gap)
    gap, error = np.where(lost, np.inf, np.where(possible, gap, np.nan)), np.where(lost | ~possible, np.inf, error)
    value = evidence - gap if side == "lower" else evidence + gap
    value_error = 1.01 * (evidence_error + error + U * np.abs(value))
    exact = (np.abs(value) == np.inf) & (error == 0.0)
    value_error = np.where(exact, 0.0, np.where(np.isfinite(value), value_error, np.inf))
    nothing = evidence == -np.inf
    replacement = impossible if impossible is not None else (-np.inf if side == "lower" else np.nan)
    value = np.where(nothing, replacement, value)
    value_error = np.where(nothing, np.inf if np.isnan(replacement) else 0.0, value_error)
    return BoundResults(side, gap, error, value, value_error, evidence, evidence_error, batch)


def _from_checked(side: str, gap: FloatArray, error: FloatArray, checked: FloatArray, batch: tuple[int, ...]) -> BoundResults:
    return from_gap(side, gap, error, checked[:, OUT_EVIDENCE], checked[:, OUT_EVIDENCE + 1], batch)


def _renyi_divergence(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, alpha: float, options: Options
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[int, ...]]:
    """(value, bound) of D_alpha(q || p), the log evidence and its bound, the batch; order 0 is -log p(q > 0)."""
    fast = _fast_renyi(log_joint, log_q, alpha, options)
    return fast if fast is not None else _careful_renyi(log_joint, log_q, alpha, options)


def _careful_renyi(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, alpha: float, options: Options
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[int, ...]]:
    """(value, bound) of D_alpha(q || p) by the Renyi kernel, with the evidence."""
    results, batch = pivoted_results(
        divergence_rows,
        log_joint,
        log_q,
        options.unnormalized,
        options.nan_policy,
        options.executor,
        (RENYI, alpha),
        "log_joint",
    )
    evidence, own = evidence_results(log_joint, options.nan_policy, options.executor)
    wide = np.broadcast_to(evidence.reshape(*own, 3), (*batch, 3)).reshape(-1, 3)
    return results, wide[:, 0], wide[:, 1], batch


def _fast_renyi(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, alpha: float, options: Options
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[int, ...]] | None:
    """The same by the kernel of ``moment``, row by row; None leaves everything, errors too, to the careful kernel."""
    if not abs(alpha) < 1e6:
        return None
    one_of(options.nan_policy, "nan_policy", NAN_POLICIES)
    target, q = log_table(log_joint, "log_joint"), log_table(log_q, "log_q")
    batch = same_states(target, "log_joint", q, "log_q")
    a, b = broadcast_rows(target, batch), broadcast_rows(q, batch)
    found = per_row(moment_rows, a, b, math.prod(batch), (alpha,), N_MOMENT, options)
    normalizer, limit = found[:, M_NORMALIZER], np.inf if options.unnormalized else NORMALIZER_TOLERANCE
    usable = np.isfinite(found[:, M_EVIDENCE]) & (np.abs(normalizer) <= limit)
    results, rest = found[:, : M_BOUND + 1].copy(), np.flatnonzero(usable & (found[:, M_BOUND] == np.inf))
    if rest.size:
        careful = Options(True, options.nan_policy, options.executor)
        a_rest, b_rest = (table[rest] if len(table) > 1 else table[0] for table in (a, b))
        results[rest] = _careful_renyi(a_rest, b_rest, alpha, careful)[0]
    evidence, evidence_error = found[:, M_EVIDENCE].copy(), found[:, M_EVIDENCE + 1].copy()
    if not usable.all():  # it raises what is to be raised; other rows keep their bits
        columns = _careful_renyi(log_joint, log_q, alpha, options)[:3]
        results[~usable], evidence[~usable], evidence_error[~usable] = (column[~usable] for column in columns)
    return results, evidence, evidence_error, batch


def _mean_gaps(
    a: FloatArray, b: FloatArray, walked: FloatArray, n_rows: int, options: Options
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(gap, bound, evidence, bound) of rows as -sum d m; a gap is NaN where that is not accurate, the evidence where a row needs attention.

    Without states that only one of p and q allows, sum (d m + KL of the step) = log 1.
    """
    one_of(options.nan_policy, "nan_policy", NAN_POLICIES)
    steps = np.diff(walked)
    good = HOPELESS * GOOD / len(steps)
    points = per_point(point_rows, a, b, walked[:-1], (False, good), N_POINT, 0, options, np.arange(n_rows))
    means, bounds = points[:, :, POINT_MEAN], points[:, :, POINT_MEAN + 1]
    gap, error = sum_columns(-means * steps, (bounds + U * np.abs(means)) * np.abs(steps))
    evidence, evidence_error, normalizer = (
        np.ascontiguousarray(points[:, 0, k]) for k in (POINT_EVIDENCE, POINT_EVIDENCE + 1, POINT_NORMALIZER)
    )
    limit = np.inf if options.unnormalized else NORMALIZER_TOLERANCE
    evidence = np.where(np.abs(normalizer) <= limit, evidence, np.nan)
    fine = (error <= GOOD * gap) & np.isfinite(evidence)
    return np.where(fine, gap, np.nan), np.where(fine, error, np.inf), evidence, evidence_error


def _fill_gaps(gap: FloatArray, error: FloatArray, a: FloatArray, b: FloatArray, walked: FloatArray, options: Options) -> None:
    """The other gaps as sums of divergences, by tight steps or by steps of any size."""
    for kernel in (tight_rows, path_rows):
        rows = np.flatnonzero(np.isnan(gap))
        if rows.size:
            points = per_point(kernel, a, b, walked, (), 2, 1, options, rows)
            gap[rows], error[rows] = sum_columns(points[:, :, 0], points[:, :, 1])


def _set(gap: FloatArray, error: FloatArray, rows: Any, value: float) -> None:
    gap[rows], error[rows] = value, 0.0


@np.errstate(all="ignore")
def _masses(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, options: Options) -> FloatArray:
    """(value, bound) of -log p(q > 0)."""
    return _renyi_divergence(log_joint, log_q, 0.0, Options(True, options.nan_policy, options.executor))[0]


@np.errstate(all="ignore")
def _add_missed(
    gap: FloatArray, error: FloatArray, missed: Any, log_joint: npt.ArrayLike, log_q: npt.ArrayLike, options: Options
) -> None:
    """-log(1 - miss) joins the gap of the restricted problem."""
    if missed.any():
        lost = _masses(log_joint, log_q, options)
        gap[missed] = gap[missed] + lost[missed, 0]
        error[missed] = 1.01 * (error[missed] + lost[missed, 1] + U * np.abs(gap[missed]))
        _set(gap, error, missed & (lost[:, 0] == np.inf) & (lost[:, 1] == 0.0), np.inf)


def _add_wasted(gap: FloatArray, error: FloatArray, charged: Any, a: FloatArray, b: FloatArray, options: Options) -> None:
    """-log(1 - q0), q0 the mass of q on impossible states, joins the gap of an upper bound: D_0(p || q)."""
    rows = np.flatnonzero(charged)
    if rows.size:
        a_rows, b_rows = (table[rows] if len(table) > 1 else table for table in (a, b))
        lost = _masses(b_rows, a_rows, options)
        gap[rows] += lost[:, 0]
        error[rows] = 1.01 * (error[rows] + lost[:, 1] + U * np.abs(gap[rows]))
