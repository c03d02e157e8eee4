"""Bounds of K samples, their jackknife combinations, and annealed ones, as results like those of ``_bound_results``."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from elbo_exact._annealing import R_GAP, R_GAP_BOUND, ais_results
from elbo_exact._bound_results import BoundResults, Options, elbo_results, from_gap, renyi_bound_results
from elbo_exact._engine import evidence_results
from elbo_exact._validate import FloatArray, log_table
from elbo_exact.importance import curve
from elbo_exact.space import LatentSpace

__all__ = ["annealed_results", "jackknife_results", "k_sample_results", "renyi_sample_results"]

U = 2.0**-53


def _gaps(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, counts: list[int], side: str, options: Options
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[int, ...]]:
    """(gaps, bounds) of shape (rows, counts), the evidence with its bound, and the batch."""
    found = curve(
        log_joint,
        log_q,
        counts,
        unnormalized=options.unnormalized,
        nan_policy=options.nan_policy,
        executor=options.executor,
    )
    name = f"{side}_gap"
    gaps, bounds = np.asarray(getattr(found, name)), np.asarray(getattr(found.error, name))
    batch = gaps.shape[:-1]
    evidence, own = evidence_results(log_joint, options.nan_policy, options.executor)
    wide = np.broadcast_to(evidence.reshape(*own, 3), (*batch, 3)).reshape(-1, 3)
    return gaps.reshape(-1, len(counts)), bounds.reshape(-1, len(counts)), wide, batch


def k_sample_results(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, count: int, side: str, options: Options) -> BoundResults:
    """L_K or U_K."""
    gaps, bounds, evidence, batch = _gaps(log_joint, log_q, [count], side, options)
    return from_gap(side, gaps[:, 0], bounds[:, 0], evidence[:, 0], evidence[:, 1], batch)


def jackknife_results(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, count: int, order: int, options: Options) -> BoundResults:
    """The combination of order m; its gap may have either sign."""
    if order >= count:
        raise ValueError(f"order must be below num_samples {count}; got {order}.")
    if order * math.log2(count) > 1000.0:
        raise ValueError(f"order must keep num_samples**order within the doubles; got {count}**{order}.")
    gaps, bounds, evidence, batch = _gaps(log_joint, log_q, [count - j for j in range(order + 1)], "lower", options)
    factors = [(-1) ** j * (count - j) ** order / (math.factorial(order - j) * math.factorial(j)) for j in range(order + 1)]
    with np.errstate(all="ignore"):
        gap, size, error = np.zeros((3, len(gaps)))
        for column, bound, factor in zip(
            gaps.T, bounds.T, factors, strict=True
        ):  # in this order: the bits of a row are its own
            gap, size, error = gap + factor * column, size + abs(factor * column), error + abs(factor) * bound
        gap = np.where((gaps == np.inf).any(axis=1), np.inf, gap)
        error = error + (order + 3) * U * size
    exact = ((gaps == np.inf) & (bounds == 0.0)).any(axis=1)
    return from_gap("lower", gap, np.where(exact, 0.0, 1.01 * error), evidence[:, 0], evidence[:, 1], batch)._replace(
        side="estimate"
    )


def annealed_results(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    betas: FloatArray,
    side: str,
    space: LatentSpace,
    sweeps: int,
    options: Options,
) -> BoundResults:
    """Annealed importance sampling by heat-bath sweeps, forward or reversed."""
    found, batch = ais_results(log_joint, log_q, betas, None, space, sweeps, side, False, options)
    evidence, own = evidence_results(log_joint, options.nan_policy, options.executor)
    wide = np.broadcast_to(evidence.reshape(*own, 3), (*batch, 3)).reshape(-1, 3)
    gap, error = found[:, R_GAP].copy(), found[:, R_GAP_BOUND].copy()
    return from_gap(side, gap, error, wide[:, 0], wide[:, 1], batch)


def renyi_sample_results(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, alpha: float, count: int, options: Options
) -> BoundResults:
    """VR_{alpha, K} = E log mean_k w_k**(1 - alpha) / (1 - alpha); below alpha = 0 an estimate, which is no bound.

    With c = 1 - alpha it is VR_alpha - g/c, g the gap of L_K for the target q w**c, since log E_q w**c = c VR_alpha. It lies between
    the ELBO, which it is at K = 1, and VR_alpha, to which it tends.
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be finite where num_samples is given; got {alpha!r}.")
    bottom = elbo_results(log_joint, log_q, options)
    if alpha == 1.0 or count == 1:
        return bottom
    if alpha == 0.0:
        return k_sample_results(log_joint, log_q, count, "lower", options)
    a, b = np.broadcast_arrays(log_table(log_joint, "log_joint"), log_table(log_q, "log_q"))
    a = np.where(b == -np.inf, -np.inf, a)  # never drawn
    limit = renyi_bound_results(a if alpha < 0.0 else log_joint, log_q, alpha, options)
    powered, q, moved = _powered(a, b, 1.0 - alpha)
    gaps, bounds, _, _ = _gaps(powered, q, [count], "lower", Options(True, options.nan_policy, options.executor))
    with np.errstate(all="ignore"):
        lost = gaps[:, 0] / abs(1.0 - alpha)
        lost_error = 1.01 * (bounds[:, 0] + 2.0 * moved) / abs(1.0 - alpha) + 4.0 * U * np.abs(lost)
    if alpha > 0.0:
        return _shifted(limit, bottom, lost if alpha < 1.0 else -lost, lost_error)
    return _estimated(limit, bottom, lost, lost_error)


@np.errstate(all="ignore")
def _powered(a: FloatArray, b: FloatArray, c: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(log q + c log w and log q, each up to a constant, how far their entries are off at most in each row); -inf where w = 0.

    The maxima leave first, so that offsets cost nothing and equal tables stay equal; every operation rounds once, 1 - alpha by u/2.
    A gap moves by at most twice the largest error of an exponent.
    """
    both = (a > -np.inf) & (b > -np.inf)
    x, y = (np.where(table > -np.inf, table - table.max(axis=-1, keepdims=True), -np.inf) for table in (a, b))
    ratio, inside = np.where(both, x - y, 0.0), np.where(both, y, 0.0)
    powered = np.where(both, inside + c * ratio, -np.inf)
    sizes = np.abs(c) * (np.where(both, np.abs(x), 0.0) + 3.0 * np.abs(ratio))
    sizes += (2.0 + np.abs(c)) * np.abs(inside) + np.where(both, np.abs(powered), 0.0)
    return powered, y, U * np.reshape(sizes.max(axis=-1), -1)


@np.errstate(all="ignore")
def _shifted(limit: BoundResults, bottom: BoundResults, lost: FloatArray, lost_error: FloatArray) -> BoundResults:
    """A lower bound that lies ``lost`` below (above, if negative) its limit, and on the ELBO's side of it."""
    wasted = (bottom.gap == np.inf) & (bottom.gap_error == 0.0)
    gap = np.maximum(limit.gap + lost, np.where(lost < 0.0, bottom.gap, 0.0))
    error = 1.01 * (limit.gap_error + lost_error + U * np.abs(gap))
    gap, error = np.where(wasted, np.inf, gap), np.where(wasted, 0.0, error)
    return from_gap("lower", gap, error, bottom.evidence, bottom.evidence_error, bottom.batch, impossible=-np.inf)


@np.errstate(all="ignore")
def _estimated(limit: BoundResults, bottom: BoundResults, lost: FloatArray, lost_error: FloatArray) -> BoundResults:
    """The same for alpha < 0, where the limit is an upper bound and nothing is one between it and the ELBO."""
    value = limit.value - lost
    error = 1.01 * (limit.value_error + lost_error + U * np.abs(value))
    wasted = ((bottom.gap == np.inf) & (bottom.gap_error == 0.0)) | (bottom.evidence == -np.inf)
    value, error = np.where(wasted, -np.inf, value), np.where(wasted, 0.0, error)
    gap = bottom.evidence - value
    gap_error = np.where(wasted, 0.0, 1.01 * (error + bottom.evidence_error + U * np.abs(gap)))
    return BoundResults("estimate", gap, gap_error, value, error, bottom.evidence, bottom.evidence_error, bottom.batch)
