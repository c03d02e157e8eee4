"""From validated tables to kernel results: the plan of tasks, and what a flagged row means to the caller."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._evidence_rows import evidence_of_rows
from elbo_exact._parallel import TASK_ENTRIES, chunk_ranges, row_ranges, run
from elbo_exact._validate import (
    NORMALIZER_TOLERANCE,
    FloatArray,
    at_index,
    broadcast_rows,
    log_table,
    one_of,
    raise_bad_entry,
    same_states,
)
from elbo_exact.errors import LogTableError
from elbo_exact.kernels.direct_rows import D_NORMALIZER, D_STATUS, D_VALUE, N_DIRECT, UNORDERED, lower_rows, upper_rows
from elbo_exact.kernels.gap import N_RECORD
from elbo_exact.kernels.reduce import (
    BAD_Q,
    BAD_TARGET,
    NO_SUPPORT,
    OK,
    OVERFLOW,
    UNDECIDED,
    log_evidence_chunks,
    log_evidence_from_chunks,
)
from elbo_exact.kernels.rows import (
    N_OUTPUTS,
    OUT_ELBO,
    OUT_ENTROPY,
    OUT_EUBO,
    OUT_EVIDENCE,
    OUT_FORWARD,
    OUT_GAP,
    OUT_NORMALIZER,
    OUT_STATUS,
    audit_rows,
    gap_rows,
    row_chunks,
    row_from_chunks,
)
from elbo_exact.kernels.short import short_audit_rows, short_gap_rows
from elbo_exact.kernels.tiles import SHORT, SHORT_DIRECT
from elbo_exact.kernels.tree import CHUNK, U

__all__ = [
    "check_arithmetic",
    "direct_results",
    "evidence_results",
    "pair_results",
    "pivoted_results",
    "refuse_rows",
    "shaped",
]

_SMALLEST, _NORMAL, _HALF, _ONE = 2.0**-1074, 2.0**-1022, 0.5, 1.0  # variables: literals would be folded at compile time
NAN_POLICIES = ("raise", "propagate")


def check_arithmetic() -> None:
    """Refuse a floating-point unit that flushes subnormals to zero or does not round to nearest."""
    if _SMALLEST * _ONE == 0.0 or _NORMAL * _HALF == 0.0:
        raise FloatingPointError(
            "subnormal numbers are flushed to zero in this thread, so no error bound holds: another extension has set FTZ/DAZ "
            "(often a library built with -ffast-math); import elbo_exact in a process without it, or reset the flag."
        )
    if _ONE + _HALF * 2.0**-53 != 1.0 or _ONE + 1.5 * 2.0**-53 == 1.0 or _ONE - 2.0**-60 * _HALF != 1.0:
        raise FloatingPointError(
            "the processor does not round to nearest in this thread, so no error bound holds; reset the rounding mode."
        )


def shaped(column: FloatArray, batch: tuple[int, ...]) -> Any:
    """One number per row in the batch's shape; a single number without axes as ``np.float64``."""
    return np.ascontiguousarray(column).reshape(batch)[()]


def evidence_results(
    log_joint: npt.ArrayLike, nan_policy: str, executor: Any, name: str = "log_joint"
) -> tuple[FloatArray, tuple[int, ...]]:
    """Columns (log evidence, bound, status) of every row, and the batch's shape."""
    check_arithmetic()
    one_of(nan_policy, "nan_policy", NAN_POLICIES)
    table = log_table(log_joint, name)
    batch, n_states = table.shape[:-1], table.shape[-1]
    rows = table.reshape(-1, n_states)
    if n_states > TASK_ENTRIES:
        results = np.concatenate([_long_evidence(row, executor) for row in rows] or [np.empty((0, 3))])
    else:
        calls = [(rows[first:last],) for first, last in row_ranges(len(rows), n_states)]
        results = np.concatenate(run(_evidence_task, calls, executor) or [np.empty((0, 3))])
    if (results[:, 2] == BAD_TARGET).any():
        _refuse_entries(table, name, nan_policy)
    return results, batch


def pair_results(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    both_ways: bool,
    unnormalized: bool,
    nan_policy: str,
    executor: Any,
    target_name: str = "log_joint",
) -> tuple[FloatArray, tuple[int, ...]]:
    """Columns of ``kernels.rows`` for every row of the broadcast pair, and the batch's shape."""
    check_arithmetic()
    one_of(nan_policy, "nan_policy", NAN_POLICIES)
    target, q = log_table(log_joint, target_name), log_table(log_q, "log_q")
    batch = same_states(target, target_name, q, "log_q")
    a, b = broadcast_rows(target, batch), broadcast_rows(q, batch)
    n_rows, n_states = int(np.prod(batch, dtype=np.int64)), a.shape[1]
    if n_states > TASK_ENTRIES:
        parts = [_long_row(_row(a, i), _row(b, i), both_ways, executor) for i in range(n_rows)]
    else:
        calls = [
            (_rows(a, first, last), _rows(b, first, last), last - first, both_ways)
            for first, last in row_ranges(n_rows, n_states)
        ]
        parts = run(_pair_task, calls, executor)
    results = np.concatenate(parts or [np.empty((0, N_OUTPUTS))])
    columns = results[:, OUT_STATUS], results[:, OUT_NORMALIZER]
    refuse_rows(*columns, target, target_name, q, batch, unnormalized, nan_policy)
    return results, batch


def direct_results(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, upper: bool, unnormalized: bool, nan_policy: str, executor: Any
) -> tuple[FloatArray, tuple[int, ...]]:
    """The ELBO or the EUBO of every row alone: the bits of ``pair_results`` at a third of its cost, for rows of one chunk."""
    target, q = log_table(log_joint, "log_joint"), log_table(log_q, "log_q")
    batch = same_states(target, "log_joint", q, "log_q")
    if not SHORT_DIRECT < target.shape[-1] <= CHUNK:
        results, batch = pair_results(target, q, upper, unnormalized, nan_policy, executor)
        column = OUT_EUBO if upper else OUT_ELBO
        return results[:, column], batch
    check_arithmetic()
    one_of(nan_policy, "nan_policy", NAN_POLICIES)
    a, b = broadcast_rows(target, batch), broadcast_rows(q, batch)
    ranges = row_ranges(int(np.prod(batch, dtype=np.int64)), a.shape[1])
    calls = [(_rows(a, first, last), _rows(b, first, last), last - first, upper) for first, last in ranges]
    results = np.concatenate(run(_direct_task, calls, executor) or [np.empty((0, N_DIRECT))])
    refuse_rows(results[:, D_STATUS], results[:, D_NORMALIZER], target, "log_joint", q, batch, unnormalized, nan_policy)
    return results[:, D_VALUE], batch


def pivoted_results(
    kernel: Any,
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    unnormalized: bool,
    nan_policy: str,
    executor: Any,
    arguments: tuple[Any, ...] = (),
    target_name: str = "log_p",
) -> tuple[FloatArray, tuple[int, ...]]:
    """(value, bound) columns of a kernel of ``kernels.pivoted`` or ``kernels.divergences``, after the checks of ``pair_results``."""
    checked, batch = pair_results(log_p, log_q, False, unnormalized, nan_policy, executor, target_name)
    a = broadcast_rows(log_table(log_p, target_name), batch)
    b = broadcast_rows(log_table(log_q, "log_q"), batch)
    calls = [
        (kernel, _rows(a, first, last), _rows(b, first, last), last - first, arguments)
        for first, last in row_ranges(len(checked), a.shape[1])
    ]
    results = np.concatenate(run(_pivoted_task, calls, executor) or [np.empty((0, 2))])
    results[checked[:, -1] >= BAD_TARGET] = np.nan, np.inf
    return results, batch


@np.errstate(all="ignore")
def _pivoted_task(kernel: Any, a: FloatArray, b: FloatArray, n_rows: int, arguments: tuple[Any, ...]) -> FloatArray:
    check_arithmetic()
    out = np.empty((n_rows, 2))
    kernel(a, b, *arguments, out)
    return out


def _row(table: FloatArray, i: int) -> FloatArray:
    row: FloatArray = table[i if len(table) > 1 else 0]
    return row


def _rows(table: FloatArray, first: int, last: int) -> FloatArray:
    return table[first:last] if len(table) > 1 else table


def _some(a: FloatArray, b: FloatArray, rows: Any) -> tuple[FloatArray, FloatArray]:
    """Some rows of both tables; a table of one row serves all."""
    return (a[rows] if len(a) > 1 else a), (b[rows] if len(b) > 1 else b)


def _evidence_task(rows: FloatArray) -> FloatArray:
    check_arithmetic()
    return evidence_of_rows(rows)


@np.errstate(all="ignore")
def _evidence_chunk_task(row: FloatArray, first: int, last: int) -> FloatArray:
    check_arithmetic()
    partials = np.empty((last - first, 5))
    log_evidence_chunks(row, first, last, partials)
    return partials


@np.errstate(all="ignore")
def _long_evidence(row: FloatArray, executor: Any) -> FloatArray:
    calls = [(row, first, last) for first, last in chunk_ranges(row.size)]
    out = np.empty((1, 3))
    log_evidence_from_chunks(np.concatenate(run(_evidence_chunk_task, calls, executor)), row.size, out)
    return out


@np.errstate(all="ignore")
def _pair_task(a: FloatArray, b: FloatArray, n_rows: int, both_ways: bool) -> FloatArray:
    check_arithmetic()
    out = np.zeros((n_rows, N_OUTPUTS))
    any_rows: Any = audit_rows if both_ways else gap_rows
    short_rows: Any = short_audit_rows if both_ways else short_gap_rows
    if a.shape[1] > SHORT:
        any_rows(a, b, 0, n_rows, out)
        return _within_range(out, a, b)
    short_rows(a, b, 0, n_rows, out)
    rest = np.flatnonzero(out[:, OUT_STATUS] == UNDECIDED)
    if rest.size:
        again = np.zeros((rest.size, N_OUTPUTS))
        any_rows(*_some(a, b, rest), 0, rest.size, again)
        out[rest] = again
    return _within_range(out, a, b)


def _within_range(out: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Sums that overflow on the way although their value does not: E = c (E' - H) + H with E' the ELBO of a/c, H the entropy of q.

    The ELBO is linear in a but for that entropy. The gap is then L - E, as good as any at such a size.
    """
    lost = np.flatnonzero(out[:, OUT_STATUS] == OVERFLOW)
    lost = lost[np.isinf(out[lost, OUT_ELBO + 1]) & np.isfinite(out[lost, OUT_EVIDENCE])]
    if not lost.size:
        return out
    small_a, some_b = _some(a, b, lost)
    factor = 4.0 * 2.0 ** math.ceil(math.log2(a.shape[1]))
    scaled = np.zeros((lost.size, N_OUTPUTS))
    gap_rows(small_a / factor, some_b, 0, lost.size, scaled)
    entropy, off = scaled[:, OUT_ENTROPY], scaled[:, OUT_ELBO + 1] + scaled[:, OUT_ENTROPY + 1]
    mean = scaled[:, OUT_ELBO] - entropy
    evidence, evidence_error = out[lost, OUT_EVIDENCE], out[lost, OUT_EVIDENCE + 1]
    elbo = np.minimum(factor * mean + entropy, evidence)
    error = 1.01 * (factor * (off + U * np.abs(mean) + 2.0**-1074) + 2.0 * U * np.abs(elbo)) + evidence_error
    gap = evidence - elbo
    for column, value, bound in ((OUT_ELBO, elbo, error), (OUT_GAP, gap, evidence_error + 1.01 * (error + U * gap))):
        fits = np.isfinite(value) & (bound < np.inf) & (out[lost, column + 1] == np.inf)
        out[lost[fits], column], out[lost[fits], column + 1] = value[fits], bound[fits]
    bounds = out[lost][:, [OUT_ELBO + 1, OUT_GAP + 1, OUT_FORWARD + 1, OUT_EUBO + 1]]
    out[lost[(bounds < np.inf).all(axis=1)], OUT_STATUS] = OK
    return out


@np.errstate(all="ignore")
def _direct_task(a: FloatArray, b: FloatArray, n_rows: int, upper: bool) -> FloatArray:
    check_arithmetic()
    out = np.empty((n_rows, N_DIRECT))
    direct_rows: Any = upper_rows if upper else lower_rows
    direct_rows(a, b, 0, n_rows, out)
    rest = np.flatnonzero(out[:, D_STATUS] == UNDECIDED)
    if rest.size:
        value = OUT_EUBO if upper else OUT_ELBO
        out[rest] = _pair_task(*_some(a, b, rest), rest.size, upper)[:, [value, OUT_NORMALIZER, OUT_STATUS]]
    rest = np.flatnonzero(out[:, D_STATUS] == UNORDERED)
    if rest.size:
        evidence = evidence_of_rows(_some(a, b, rest)[0])
        out[rest, D_VALUE], out[rest, D_STATUS] = np.minimum(out[rest, D_VALUE], evidence[:, 0]), OK
    return out


@np.errstate(all="ignore")
def _pair_chunk_task(a: FloatArray, b: FloatArray, first: int, last: int) -> FloatArray:
    check_arithmetic()
    records = np.empty((last - first, N_RECORD))
    row_chunks(a, b, first, last, records)
    return records


@np.errstate(all="ignore")
def _long_row(a: FloatArray, b: FloatArray, both_ways: bool, executor: Any) -> FloatArray:
    calls = [(a, b, first, last) for first, last in chunk_ranges(a.size)]
    out = np.zeros((1, N_OUTPUTS))
    row_from_chunks(np.concatenate(run(_pair_chunk_task, calls, executor)), a.size, both_ways, out)
    return _within_range(out, a[None], b[None])


def _refuse_entries(table: FloatArray, name: str, nan_policy: str) -> None:
    """A flagged table: +inf is always an error, NaN unless the caller lets it through."""
    if nan_policy == "raise" or (table == np.inf).any():
        raise_bad_entry(np.where(np.isnan(table), 0.0, table) if nan_policy != "raise" else table, name)


def refuse_rows(
    status: FloatArray,
    normalizer: FloatArray,
    target: FloatArray,
    target_name: str,
    q: FloatArray,
    batch: tuple[int, ...],
    unnormalized: bool,
    nan_policy: str,
) -> None:
    """Raise for rows that a kernel flagged, or whose q is not normalized."""
    for code, table, name in ((BAD_TARGET, target, target_name), (BAD_Q, q, "log_q")):
        if (status == code).any():
            _refuse_entries(table, name, nan_policy)
    no_support = status == NO_SUPPORT
    if no_support.any():
        index = _own_index(int(no_support.argmax()), q, batch)
        raise LogTableError(f"log_q has no support{at_index(index)}.", "log_q", index)
    if not unnormalized and (np.abs(normalizer) > NORMALIZER_TOLERANCE).any():
        row = int((np.abs(normalizer) > NORMALIZER_TOLERANCE).argmax())
        with np.errstate(over="ignore"):
            total = float(np.exp(normalizer[row]))
        swapped = f"the target comes first: are {target_name} and log_q swapped? Pass" if target_name != "log_q" else "pass"
        raise LogTableError(
            f"log_q sums to {total:.3g}{at_index(_own_index(row, q, batch))} (log normalizer {normalizer[row]:.3g}); {swapped} "
            "unnormalized=True if this is intended.",
            "log_q",
            float(normalizer[row]),
        )


def _own_index(row: int, table: FloatArray, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Where row ``row`` of the batch lies in the leading axes of a table that was broadcast to it."""
    index = np.unravel_index(row, batch) if batch else ()
    leading = table.shape[:-1]
    own = tuple(int(i) for i in index)[len(batch) - len(leading) :]
    return tuple(i if size > 1 else 0 for i, size in zip(own, leading, strict=True))
