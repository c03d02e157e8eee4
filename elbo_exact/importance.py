"""Importance weighting with K samples from q, in closed form for any K: bounds, their noise, resampling, gradients.

Nothing is sampled. Every expectation over K draws is one integral over a line (see the page on importance weighting), whose nodes
serve all K. The errors returned are rounding bounds of first order plus the theoretical error of the quadrature.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import NAN_POLICIES, check_arithmetic, pair_results, refuse_rows, shaped
from elbo_exact._importance import GradientMoments, ImportanceCurve, ResamplingLaw
from elbo_exact._parallel import row_ranges, run
from elbo_exact._validate import FloatArray, broadcast_rows, integer, log_table, one_of, real_array, same_states
from elbo_exact.errors import LogTableError
from elbo_exact.kernels.laplace import N_HEAD, N_VALUES, importance_rows
from elbo_exact.kernels.laplace_gradient import DOUBLY, SCORE, SELF_NORMALIZED, gradient_moment_rows
from elbo_exact.kernels.laplace_law import law_rows
from elbo_exact.kernels.laplace_walk import STEP
from elbo_exact.kernels.laplace_weights import EVIDENCE, EVIDENCE_BOUND, N_FACTS, NORMALIZER, STATUS, weight_rows
from elbo_exact.kernels.reduce import BAD_TARGET, ZERO_EVIDENCE
from elbo_exact.kernels.rows import OUT_FORWARD, OUT_GAP

__all__ = ["GradientMoments", "ImportanceCurve", "ResamplingLaw", "curve", "gradient_moments", "resampling_law"]

ESTIMATORS = {"self_normalized": SELF_NORMALIZED, "doubly_reparameterized": DOUBLY, "score": SCORE}
LARGEST_COUNT = 2**53  # beyond, a double does not hold every K
PASSES = 64  # what a row costs, in passes of the gap engine: tasks get fewer rows
U = 2.0**-53


def curve(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    num_samples: int | Sequence[int] | npt.NDArray[Any],
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> ImportanceCurve:
    """Exact importance-weighted bounds on log p(x), in nats, for any number of samples, with the noise of their estimators.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    num_samples : int or sequence of int
        K, from 1 to 2**53; a sequence adds a last axis to the results.
    unnormalized : bool
        Accept logits: q = exp(log_q) / sum exp(log_q).
    nan_policy : {"raise", "propagate"}
        What a NaN does: raise, or make its row NaN.
    executor : concurrent.futures.Executor, optional
        Where the work runs; by default threads.

    Returns
    -------
    ImportanceCurve
        The returned doubles satisfy lower <= log_evidence <= upper and gaps >= 0. Where q charges an impossible state, lower is
        -inf and variance NaN, for every K; where q misses a possible state, upper is +inf. NaN where p(x) = 0 (lower: -inf).

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized.
    ValueError
        num_samples is not made of integers from 1 to 2**53.

    Notes
    -----
    With K draws z_k ~ q and w = p(x, z)/q(z): lower = E log mean w (Burda, Grosse & Salakhutdinov 2016, ICLR) and upper is the same
    with z_1 from the posterior. variance is Var log mean w, mean_inverse_ess is E sum w_k**2 / (sum w)**2. For large K both gaps
    approach chi2/(2 K) (Nowozin 2018, ICLR). K = 1 is the ELBO and the EUBO. O(S) per node, where the nodes depend on K logarithmically.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> bounds = ee.importance.curve(np.log([0.3, 0.1]), np.log([0.5, 0.5]), [1, 10, 1000])
    >>> bounds.lower.round(6)
    array([-1.060132, -0.929264, -0.916416])
    >>> bounds.upper.round(6)
    array([-0.785479, -0.903638, -0.916166])
    """
    counts, scalar = _counts(num_samples)
    target, q, batch = _pair(log_joint, log_q, nan_policy)
    a, b = broadcast_rows(target, batch), broadcast_rows(q, batch)
    calls = [(_rows(a, part), _rows(b, part), counts, part[1] - part[0]) for part in _parts(batch, a.shape[1])]
    parts = run(_curve_task, calls, executor)
    values, heads, facts = (np.concatenate([part[i] for part in parts]) for i in range(3))
    refuse_rows(facts[:, STATUS], facts[:, NORMALIZER], target, "log_joint", q, batch, unnormalized, nan_policy)
    columns = {
        name: (values[:, :, 2 * i], values[:, :, 2 * i + 1])
        for i, name in enumerate(("lower_gap", "upper_gap", "variance", "mean_inverse_ess"))
    }
    evidence, evidence_error = _evidence(facts)
    if (counts == 1.0).any():  # the divergences themselves, which keep digits that the integrals do not
        known, _ = pair_results(a, b, True, True, "propagate", executor)
        for name, column in (("lower_gap", OUT_GAP), ("upper_gap", OUT_FORWARD)):
            for part, values_of_one in zip(columns[name], (known[:, column], known[:, column + 1]), strict=True):
                part[:, counts == 1.0] = values_of_one[:, None]
    columns["lower"] = _combined(evidence, evidence_error, columns["lower_gap"], -1.0)
    columns["upper"] = _combined(evidence, evidence_error, columns["upper_gap"], 1.0)
    impossible = facts[:, STATUS] == ZERO_EVIDENCE
    columns["lower"][0][impossible], columns["lower"][1][impossible] = -np.inf, 0.0
    shape = batch if scalar else (*batch, counts.size)
    fields = {name: shaped(column[0], shape) for name, column in columns.items()}
    errors = {name: shaped(column[1], shape) for name, column in columns.items()}
    errors |= {"log_evidence": shaped(evidence_error, batch), "ess_fraction": shaped(heads[:, 1], batch)}
    return ImportanceCurve(
        num_samples=_asked(counts, scalar),
        log_evidence=shaped(evidence, batch),
        ess_fraction=shaped(heads[:, 0], batch),
        error=SimpleNamespace(**errors),
        **fields,
    )


def resampling_law(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    num_samples: int | Sequence[int] | npt.NDArray[Any],
    *,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> ResamplingLaw:
    """Exact law of a state resampled from K weighted draws of q: also the expected self-normalized weight of each state.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    num_samples : int or sequence of int
        K, from 1 to 2**53; a sequence adds an axis before the states.
    unnormalized, nan_policy, executor
        As in `curve`.

    Returns
    -------
    ResamplingLaw
        ``law`` sums to 1 - ``all_zero``; it is q for K = 1 and the posterior in the limit, where q covers it.

    Raises
    ------
    LogTableError, ValueError
        As in `curve`.

    Notes
    -----
    SIR_K(i) = E sum_k w_k 1[z_k = i] / sum w (Rubin 1988, Bayesian Statistics 3:395). Its divergences from the posterior are at most
    the gaps of `curve`. O(S) per node and K.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> ee.importance.resampling_law(np.log([0.3, 0.1]), np.log([0.5, 0.5]), [1, 10, 1000]).law.round(4)
    array([[0.5   , 0.5   ],
           [0.7298, 0.2702],
           [0.7498, 0.2502]])
    """
    counts, scalar = _counts(num_samples)
    target, q, batch = _pair(log_joint, log_q, nan_policy)
    a, b = broadcast_rows(target, batch), broadcast_rows(q, batch)
    calls = [(_rows(a, part), _rows(b, part), counts, part[1] - part[0]) for part in _parts(batch, a.shape[1])]
    parts = run(_law_task, calls, executor)
    law, bound, zero, facts = (np.concatenate([part[i] for part in parts]) for i in range(4))
    refuse_rows(facts[:, STATUS], facts[:, NORMALIZER], target, "log_joint", q, batch, unnormalized, nan_policy)
    bad = facts[:, STATUS] >= BAD_TARGET
    law[bad], bound[bad], zero[bad] = np.nan, np.inf, (np.nan, np.inf)
    shape, n_states = batch if scalar else (*batch, counts.size), a.shape[1]
    errors = SimpleNamespace(law=shaped(bound, (*shape, n_states)), all_zero=shaped(zero[:, :, 1], shape))
    return ResamplingLaw(_asked(counts, scalar), shaped(law, (*shape, n_states)), shaped(zero[:, :, 0], shape), errors)


def gradient_moments(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    gradient: npt.ArrayLike,
    num_samples: int | Sequence[int] | npt.NDArray[Any],
    *,
    estimator: str = "self_normalized",
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> GradientMoments:
    """Exact mean, variance and signal-to-noise ratio of a K-sample gradient estimator.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    gradient : array_like, shape (..., S)
        Derivative of one parameter in each state, finite; leading axes broadcast with the tables'.
    num_samples : int or sequence of int
        K, from 1 to 2**53; a sequence adds a last axis to the results.
    estimator : {"self_normalized", "doubly_reparameterized", "score"}
        sum what_k g_k, sum what_k**2 g_k, or log(mean w) sum g_k - sum what_k g_k, where g is a score of q, whose mean
        under q, 0 but for rounding, is subtracted.
    unnormalized, nan_policy, executor
        As in `curve`.

    Returns
    -------
    GradientMoments
        K draws whose weights are all zero count as 0; NaN for "score" there, and where p(x) = 0.

    Raises
    ------
    LogTableError, ValueError
        As in `curve`; gradient of another shape or not finite; no such estimator.

    Notes
    -----
    With what_k = w_k / sum w. g = d log_joint gives the gradient of the model, g = d log w along the path that of q
    (self_normalized, or, without the score, doubly_reparameterized: Tucker, Lawson, Gu & Maddison 2019, ICLR). The ratio rises or
    falls with K depending on the estimator (Rainforth et al. 2018, ICML). O(S) per node.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> moments = ee.importance.gradient_moments(np.log([0.3, 0.1]), np.log([0.5, 0.5]), [1.0, 0.0], [1, 10])
    >>> moments.mean.round(4), moments.variance.round(4)
    (array([0.5   , 0.7298]), array([0.25  , 0.0173]))
    """
    one_of(estimator, "estimator", tuple(ESTIMATORS))
    counts, scalar = _counts(num_samples)
    target, q, pair_batch = _pair(log_joint, log_q, nan_policy)
    table = real_array(gradient, "gradient")
    if table.ndim == 0 or not np.isfinite(table).all():
        raise LogTableError("gradient must be a finite array with the states on its last axis.", "gradient", table.shape)
    batch = same_states(np.broadcast_to(target, (*pair_batch, target.shape[-1])), "log_joint", table, "gradient")
    a, b, g = (broadcast_rows(array, batch) for array in (target, q, table))
    calls = [
        (_rows(a, part), _rows(b, part), _rows(g, part), counts, ESTIMATORS[estimator], part[1] - part[0])
        for part in _parts(batch, a.shape[1])
    ]
    parts = run(_moment_task, calls, executor)
    values, facts = (np.concatenate([part[i] for part in parts]) for i in range(2))
    refuse_rows(facts[:, STATUS], facts[:, NORMALIZER], target, "log_joint", q, batch, unnormalized, nan_policy)
    mean, mean_error, variance, variance_error = (values[:, :, i] for i in range(4))
    with np.errstate(all="ignore"):
        snr = np.abs(mean) / np.sqrt(variance)
        largest = (np.abs(mean) + mean_error) / np.sqrt(variance - variance_error)  # farther from snr than the smallest
        snr_error = 1.01 * (largest - snr) + 4.0 * U * largest
        snr_error = np.where(np.isfinite(snr_error), snr_error, np.inf)
    shape = batch if scalar else (*batch, counts.size)
    errors = SimpleNamespace(
        mean=shaped(mean_error, shape), variance=shaped(variance_error, shape), snr=shaped(snr_error, shape)
    )
    return GradientMoments(_asked(counts, scalar), shaped(mean, shape), shaped(variance, shape), shaped(snr, shape), errors)


def _counts(num_samples: Any) -> tuple[FloatArray, bool]:
    """The K as floats, and whether a single one was asked for."""
    scalar = np.ndim(num_samples) == 0
    asked = [num_samples] if scalar else list(num_samples)
    if np.ndim(num_samples) > 1 or not asked:
        raise ValueError(f"num_samples must be an integer or a flat sequence of at least one; got {num_samples!r}.")
    counts = [integer(count, "num_samples", 1) for count in asked]
    if max(counts) > LARGEST_COUNT:
        raise ValueError(f"num_samples must be at most 2**53, the last integer that float64 counts to; got {max(counts)}.")
    return np.array(counts, np.float64), scalar


def _asked(counts: FloatArray, scalar: bool) -> Any:
    return int(counts[0]) if scalar else counts.astype(np.int64)


def _pair(log_joint: npt.ArrayLike, log_q: npt.ArrayLike, nan_policy: str) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
    """Both tables, and the shape of the batch."""
    one_of(nan_policy, "nan_policy", NAN_POLICIES)
    target, q = log_table(log_joint, "log_joint"), log_table(log_q, "log_q")
    return target, q, same_states(target, "log_joint", q, "log_q")


def _parts(batch: tuple[int, ...], n_states: int) -> list[tuple[int, int]]:
    """Ranges of rows, a task each; an empty one if there are no rows."""
    return row_ranges(int(np.prod(batch, dtype=np.int64)), PASSES * n_states) or [(0, 0)]


def _rows(table: FloatArray, part: tuple[int, int]) -> FloatArray:
    """Rows of a range; a table of one row serves all."""
    return table if len(table) == 1 else table[part[0] : part[1]]


def _evidence(facts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log p(x) and its bound as columns."""
    bad = facts[:, STATUS] >= BAD_TARGET
    columns = np.where(bad, np.nan, facts[:, EVIDENCE]), np.where(bad, np.inf, facts[:, EVIDENCE_BOUND])
    return columns[0][:, None], columns[1][:, None]


def _weights(a: FloatArray, b: FloatArray, n_rows: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """q, e and facts of every row."""
    check_arithmetic()
    q, e, facts = np.empty((n_rows, a.shape[1])), np.empty((n_rows, a.shape[1])), np.empty((n_rows, N_FACTS))
    weight_rows(a, b, q, e, facts)
    return q, e, facts


@np.errstate(all="ignore")
def _curve_task(a: FloatArray, b: FloatArray, counts: FloatArray, n_rows: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    q, e, facts = _weights(a, b, n_rows)
    out, heads = np.empty((n_rows * counts.size, N_VALUES)), np.empty((n_rows, N_HEAD))
    importance_rows(q, e, facts, counts, STEP, out, heads)
    return out.reshape(n_rows, counts.size, N_VALUES), heads, facts


@np.errstate(all="ignore")
def _law_task(a: FloatArray, b: FloatArray, counts: FloatArray, n_rows: int) -> tuple[FloatArray, ...]:
    q, e, facts = _weights(a, b, n_rows)
    laws, bounds, zeros = (np.empty((counts.size, n_rows, width)) for width in (a.shape[1], a.shape[1], 2))
    for k, count in enumerate(counts):
        law_rows(q, e, facts, count, STEP, laws[k], bounds[k], zeros[k])
    return laws.swapaxes(0, 1), bounds.swapaxes(0, 1), zeros.swapaxes(0, 1), facts


@np.errstate(all="ignore")
def _moment_task(
    a: FloatArray, b: FloatArray, g: FloatArray, counts: FloatArray, kind: int, n_rows: int
) -> tuple[FloatArray, FloatArray]:
    q, e, facts = _weights(a, b, n_rows)
    out = np.empty((n_rows * counts.size, 4))
    gradient_moment_rows(q, e, facts, g, counts, kind, STEP, out)
    return out.reshape(n_rows, counts.size, 4), facts


def _combined(
    evidence: FloatArray, evidence_error: FloatArray, gap: tuple[FloatArray, FloatArray], sign: float
) -> tuple[FloatArray, FloatArray]:
    """log evidence plus or minus a gap, and its bound; an exact infinity stays one."""
    with np.errstate(all="ignore"):
        value = evidence + sign * gap[0]
        bound = 1.01 * (evidence_error + gap[1] + U * np.abs(value))
    return value, np.where(np.isinf(gap[0]), gap[1], np.where(np.isnan(value), np.inf, bound))
