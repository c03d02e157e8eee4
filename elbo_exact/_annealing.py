"""Annealed importance sampling and its reverse as exact expectations; `bounds` publishes ``ais`` and ``ais_moments``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._bound_results import Options
from elbo_exact._engine import check_arithmetic, pair_results, shaped
from elbo_exact._parallel import row_ranges, run
from elbo_exact._validate import FloatArray, broadcast_rows, integer, log_table, one_of, real_array, same_states, temperatures
from elbo_exact.errors import LogTableError
from elbo_exact.kernels.annealing import GAP, GAP_BOUND, N_ANNEALED, VARIANCE, VARIANCE_BOUND, annealing_rows
from elbo_exact.kernels.rows import OUT_EVIDENCE
from elbo_exact.space import LatentSpace

__all__ = ["AisMoments", "ais", "ais_moments", "ais_results"]

U = 2.0**-53
R_VALUE, R_BOUND, R_GAP, R_GAP_BOUND, R_VARIANCE, R_VARIANCE_BOUND = range(6)  # columns of ``ais_results``
SIDES = ("lower", "upper")
PRODUCT = 256.0  # a kernel may be the product of some hundred matrices, each rounded


class AisMoments(NamedTuple):
    """Mean and variance of the log-weight of one annealed particle, each with its error bound."""

    mean: Any
    variance: Any
    mean_error: Any
    variance_error: Any


def ais(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    betas: npt.ArrayLike | int,
    kernels: Sequence[npt.ArrayLike] | None = None,
    *,
    space: LatentSpace | None = None,
    sweeps: int = 1,
    side: str = "lower",
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Any:
    """Expected log-weight of annealed importance sampling, a lower bound on log p(x), or of its reverse, an upper bound.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    betas : int or array_like, shape (T + 1,)
        Inverse temperatures 0 = b_0 < ... < b_T = 1 of the path pi_b proportional to q**(1 - b) p**b; T means T equal steps.
    kernels : sequence of array_like, shapes (..., S, S), optional
        T - 1 row-stochastic matrices, the t-th of which leaves pi_{b_t} invariant.
    space : LatentSpace, optional
        Instead of kernels: heat-bath (Gibbs) sweeps over its variables, first to last.
    sweeps : int
        Sweeps at each temperature.
    side : {"lower", "upper"}
        The upper bound starts from the posterior and uses the time-reversed kernels; a reversed sweep runs last to first.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    float or ndarray, shape (...)
        Lower: -inf where q has mass on an impossible state. Upper: +inf where q misses a possible state, NaN where p(x) = 0.

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized, betas that do not rise from 0 to 1, kernels that are not
        stochastic or not invariant.
    ValueError
        Neither kernels nor space for T > 1, both of them, or another side.

    Notes
    -----
    With l = log p(x, z) - log q(z) and mu_0 = q, mu_t = mu_{t-1} T_t, the value is sum_t (b_t - b_{t-1}) mu_{t-1} . l: laws are
    propagated, not samples. T = 1 is the ELBO (EUBO); kernels that forget everything give the Riemann sums of thermodynamic
    integration. With a space, lower <= log_evidence <= upper holds for the returned doubles. O(T S n) for sweeps over n
    variables, O(T S**2) for matrices. Neal (2001), Stat. Comput. 11:125; Grosse, Ghahramani & Adams (2015), arXiv:1511.02543.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> log_joint, log_q = np.log([0.3, 0.1, 0.05, 0.15]), np.log([0.25] * 4)
    >>> space = ee.LatentSpace((2, 2))
    >>> for side in ("lower", "upper"):
    ...     print(f"{ee.bounds.ais(log_joint, log_q, 10, space=space, side=side):.6f}")
    -0.532067
    -0.489610
    >>> print(f"{ee.log_evidence(log_joint):.6f}")
    -0.510826
    """
    options = Options(unnormalized, nan_policy, executor)
    results, batch = ais_results(log_joint, log_q, betas, kernels, space, sweeps, side, False, options)
    return shaped(results[:, R_VALUE], batch)


def ais_moments(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    betas: npt.ArrayLike | int,
    kernels: Sequence[npt.ArrayLike] | None = None,
    *,
    space: LatentSpace | None = None,
    sweeps: int = 1,
    side: str = "lower",
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> AisMoments:
    """Mean and variance of the log-weight of one annealed particle, exactly.

    Parameters
    ----------
    log_joint, log_q, betas, kernels, space, sweeps, side, unnormalized, nan_policy, executor
        As in `ais`; the upper side is the log-weight of the reverse chain.

    Returns
    -------
    AisMoments
        ``mean`` (the value of `ais`), ``variance`` (NaN where the mean is infinite), ``mean_error`` and ``variance_error``.

    Raises
    ------
    LogTableError, ValueError
        As in `ais`.

    Notes
    -----
    Mass, first and second moment of the running log-weight are carried through the kernels together. Twice the cost of
    `ais`.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> moments = ee.bounds.ais_moments(np.log([0.3, 0.1, 0.05, 0.15]), np.log([0.25] * 4), 10, space=ee.LatentSpace((2, 2)))
    >>> print(f"{moments.mean:.6f} {moments.variance:.6f}")
    -0.532067 0.042511
    """
    options = Options(unnormalized, nan_policy, executor)
    results, batch = ais_results(log_joint, log_q, betas, kernels, space, sweeps, side, True, options)
    columns = (R_VALUE, R_VARIANCE, R_BOUND, R_VARIANCE_BOUND)
    return AisMoments(*(shaped(results[:, column], batch) for column in columns))


@np.errstate(all="ignore")
def ais_results(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    betas: npt.ArrayLike | int,
    kernels: Sequence[npt.ArrayLike] | None,
    space: LatentSpace | None,
    sweeps: int,
    side: str,
    moments: bool,
    options: Options,
) -> tuple[FloatArray, tuple[int, ...]]:
    """Columns (value, bound, distance to log p(x), bound, variance, bound) of every row, and the batch's shape.

    For matrices the bounds also cover by how much kernels that are invariant only up to their own rounding can break the order
    lower <= log p(x) <= upper: with sum W = p(x)(1 + eps) and total mass 1 + rho, Jensen's inequality loses at most eps + rho.
    The log-weight of a path spans no more than the log ratios of the states, so a law that is off by so much moves its variance by
    at most 2 (eps + rho) times their range squared.
    """
    path, upper = temperatures(betas), one_of(side, "side", SIDES) == "upper"
    repeats = integer(sweeps, "sweeps", 1)
    checked, batch = pair_results(log_joint, log_q, False, options.unnormalized, options.nan_policy, options.executor)
    target, q = log_table(log_joint, "log_joint"), log_table(log_q, "log_q")
    a, b = broadcast_rows(target, same_states(target, "log_joint", q, "log_q")), broadcast_rows(q, batch)
    layout, matrices, slack = _transitions(kernels, space, path, a, b, batch)
    work = a.shape[1] * (path.size - 1) * max(1, len(layout) * repeats)
    repeats = repeats if len(layout) else 0
    calls = []
    for first, last in row_ranges(len(checked), work):
        parts = tuple(table[first:last] if len(table) > 1 else table for table in (a, b, matrices))
        calls.append((*parts[:2], parts[2].reshape(-1, a.shape[1]), path, layout, repeats, upper, moments, last - first))
    found = np.concatenate(run(_annealing_task, calls, options.executor) or [np.empty((0, N_ANNEALED))])
    found[:, VARIANCE_BOUND] += 2.02 * slack * _range_of_ratios(a, b) ** 2 if slack.any() else 0.0
    return _assembled(found, checked, upper, matrices.shape[1] > 0, slack), batch


def _range_of_ratios(a: FloatArray, b: FloatArray) -> FloatArray:
    """Largest minus smallest log ratio of the states that both allow, for every row; 0 without such states."""
    common, ratio = (a > -np.inf) & (b > -np.inf), a - b
    top, bottom = np.max(ratio, axis=1, initial=-np.inf, where=common), np.min(ratio, axis=1, initial=np.inf, where=common)
    return np.where(top > bottom, top - bottom, 0.0)


@np.errstate(all="ignore")
def _annealing_task(
    a: FloatArray,
    b: FloatArray,
    matrices: FloatArray,
    path: FloatArray,
    layout: FloatArray,
    sweeps: int,
    upper: bool,
    moments: bool,
    n_rows: int,
) -> FloatArray:
    check_arithmetic()
    out = np.empty((n_rows, N_ANNEALED))
    annealing_rows(a, b, path, layout, matrices, sweeps, upper, moments, out)
    return out


def _assembled(found: FloatArray, checked: FloatArray, upper: bool, dense: bool, slack: FloatArray) -> FloatArray:
    """log p(x) plus or minus the distance; never negative where the kernels are exactly invariant."""
    evidence, evidence_bound = checked[:, OUT_EVIDENCE], checked[:, OUT_EVIDENCE + 1]
    distance = found[:, GAP] if dense else np.where(found[:, GAP] < 0.0, 0.0, found[:, GAP])
    distance_bound = found[:, GAP_BOUND] + slack
    impossible = evidence == -np.inf
    value = evidence + distance if upper else evidence - distance
    value = np.where(impossible, np.nan if upper else -np.inf, value)
    exact = (impossible & (not upper)) | ((distance == np.inf) & (found[:, GAP_BOUND] == 0.0))
    bound = np.where(exact, 0.0, 1.01 * (distance_bound + evidence_bound + U * np.abs(value)))
    bound = np.where(np.isnan(bound), np.inf, bound)
    distance_bound = np.where((distance == np.inf) & exact, 0.0, distance_bound)
    assembled = np.stack([value, bound, distance, distance_bound, found[:, VARIANCE], found[:, VARIANCE_BOUND]], axis=1)
    assembled[np.isnan(evidence)] = np.nan  # rows that nan_policy="propagate" let through
    return assembled


def _transitions(
    kernels: Sequence[npt.ArrayLike] | None,
    space: LatentSpace | None,
    path: FloatArray,
    a: FloatArray,
    b: FloatArray,
    batch: tuple[int, ...],
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(size and stride of each variable, matrices of each row, loss of the inequality by each row's matrices)."""
    n_states, n_rows = a.shape[1], math.prod(batch)
    no_layout, no_matrices, no_slack = np.empty((0, 2)), np.empty((1, 0, 0, 0)), np.zeros(n_rows)
    if kernels is not None and space is not None:
        raise ValueError("kernels and space were both given; pass one of them.")
    if space is not None:
        if not isinstance(space, LatentSpace):
            raise TypeError(f"space must be a LatentSpace; got {space!r}; pass LatentSpace(sizes).")
        if space.size != n_states:
            message = f"log_joint must have the {space.size} states of space along axis=-1; got {n_states}."
            raise LogTableError(message, "log_joint", a.shape)
        strides = [math.prod(space.sizes[j + 1 :]) for j in range(space.n_variables)]
        return np.array([*zip(space.sizes, strides, strict=True)], np.float64).reshape(-1, 2), no_matrices, no_slack
    if kernels is not None and not hasattr(kernels, "__iter__"):
        raise TypeError(f"kernels must be a sequence of matrices; got {kernels!r}.")
    given = list(kernels) if kernels is not None else []
    if kernels is None and path.size > 2:
        raise ValueError(f"{path.size - 1} steps need kernels or a space; got neither; pass space=LatentSpace(...).")
    if len(given) != path.size - 2:
        raise ValueError(f"kernels must be {path.size - 2} matrices, one for each inner temperature; got {len(given)}.")
    if not given:
        return no_layout, no_matrices, no_slack
    tables = [_matrix(kernel, t, n_states, batch) for t, kernel in enumerate(given)]
    shared = all(len(table) == 1 for table in tables)
    stacked = np.stack([np.broadcast_to(table, (1 if shared else n_rows, n_states, n_states)) for table in tables], axis=1)
    slack = np.zeros(n_rows)
    for row in range(n_rows):
        pair = a[row if len(a) > 1 else 0], b[row if len(b) > 1 else 0]
        slack[row] = 1.01 * sum(
            _defect(stacked[0 if shared else row, t], *pair, float(path[t + 1]), t) for t in range(len(tables))
        )
    return no_layout, np.ascontiguousarray(stacked), slack


def _matrix(kernel: npt.ArrayLike, t: int, n_states: int, batch: tuple[int, ...]) -> FloatArray:
    """One kernel as (1, S, S) or (rows, S, S), rows summing to one."""
    table = real_array(kernel, f"kernels[{t}]")
    try:
        fits = table.shape[-2:] == (n_states, n_states) and np.broadcast_shapes(table.shape[:-2], batch) == batch
    except ValueError:
        fits = False
    if not fits:
        message = f"kernels[{t}] must have shape {(n_states, n_states)}; got {table.shape}."
        raise LogTableError(message, f"kernels[{t}]", table.shape)
    if not (table >= 0.0).all():
        raise LogTableError(f"kernels[{t}] must hold probabilities; got a negative entry or NaN.", f"kernels[{t}]")
    off = float(np.max(np.abs(table.sum(axis=-1) - 1.0)))
    if not off <= PRODUCT * (n_states + 4.0) * U:
        message = f"kernels[{t}] must have rows that sum to 1; a row is off by {off:.3g}; divide every row by its sum."
        raise LogTableError(message, f"kernels[{t}]", off)
    if table.ndim == 2:
        return table[np.newaxis]
    return np.broadcast_to(table, (*batch, n_states, n_states)).reshape(-1, n_states, n_states)


@np.errstate(all="ignore")
def _defect(matrix: FloatArray, a: FloatArray, b: FloatArray, beta: float, t: int) -> float:
    """Largest relative defect of pi K = pi, plus that of the row sums; refused beyond what rounding of K can do.

    pi is known to about 10 u (1 + |log pi|), and a sum of S terms that are not negative rounds by S u; so much of the defect may
    be due to measuring it.
    """
    common = (a > -np.inf) & (b > -np.inf)
    if not common.any():
        return 0.0
    log_pi = np.where(common, (1.0 - beta) * (b - b.max()) + beta * (a - a.max()), -np.inf)
    size = float(np.max(np.abs(log_pi[common & (log_pi > log_pi.max() - 745.0)])))
    pi = np.exp(log_pi - log_pi.max())
    pi /= pi.sum()
    moved = pi @ matrix
    measured = (2.0 * a.size + 16.0 + 10.0 * (1.0 + size)) * U
    off, allowed = float(np.abs(moved - pi).sum()), PRODUCT * measured
    if not off <= allowed:
        raise LogTableError(
            f"kernels[{t}] must leave pi_b at b = {beta:.6g} invariant; it moves {off:.3g} of its mass (rounding explains "
            f"{allowed:.1g}); kernels[t] belongs to betas[t + 1].",
            f"kernels[{t}]",
            off,
        )
    relative = np.abs(moved - pi)[pi > 0.0] / pi[pi > 0.0]
    return float(relative.max() + np.max(np.abs(matrix.sum(axis=-1) - 1.0))) + 2.0 * measured
