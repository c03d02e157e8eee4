"""Rows of log probabilities, the parameters of everything discrete: check, normalize, compare, re-estimate.

The model behind a stored row is exp(row) renormalized exactly: a row of rounded logarithms sums to 1 only up to a few units of
rounding, and N observations would turn that into N times as many nats of fictitious gain or loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from elbo_exact._evidence_rows import evidence_of_rows
from elbo_exact._validate import NORMALIZER_TOLERANCE, FloatArray, raise_bad_entry, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.kernels.simplex import maximized_rows, normalized_rows

__all__ = [
    "LIBM",
    "LogSimplex",
    "U",
    "draw",
    "gathered",
    "log_simplex",
    "maximized",
    "pseudo_count_table",
    "renormalized",
    "simplex_change",
    "simplex_pullback",
    "uniform_simplex",
]

U = 2.0**-53
LIBM = 8.0 * U  # assumed of NumPy's exp, expm1, log and log1p: 4 ulp, the largest error NumPy accepts in its own tests


class LogSimplex(NamedTuple):
    """Read-only log probabilities as given, renormalized, the rounding error of the latter, axes alike, and its largest in each row."""

    given: FloatArray
    normalized: FloatArray
    error: FloatArray
    worst: FloatArray


def log_simplex(values: npt.ArrayLike, name: str, n_axes: int) -> LogSimplex:
    """Log probabilities whose last axis sums to 1 within 1e-6 in log mass."""
    table = real_array(values, name).copy()
    if table.ndim != n_axes or 0 in table.shape:
        raise LogTableError(
            f"{name} must have {n_axes} axes without a length of 0; got shape {table.shape}.", name, table.shape
        )
    rows = table.reshape(-1, table.shape[-1])
    known = evidence_of_rows(rows)
    if not (np.abs(known[:, 0]) <= NORMALIZER_TOLERANCE).all():  # NaN is not
        _refuse(table, known[:, 0].reshape(table.shape[:-1]), name)
    value, error, worst = np.empty_like(table), np.empty_like(table), np.empty(table.shape[:-1])
    normalized_rows(rows, known, value.reshape(rows.shape), error.reshape(rows.shape), worst.ravel())
    for part in (table, value, error, worst):
        part.flags.writeable = False
    return LogSimplex(table, value, error, worst)


def _refuse(table: FloatArray, log_sums: FloatArray, name: str) -> NoReturn:
    """Say which entry is no logarithm of a probability, or else which row does not sum to 1."""
    if not (table < np.inf).all():
        raise_bad_entry(table, name)
    index = tuple(map(int, np.argwhere(np.abs(log_sums) > NORMALIZER_TOLERANCE)[0]))
    place = f" at index {index}" if index else ""
    raise LogTableError(
        f"{name} sums to {float(np.exp(log_sums[index])):.3g}{place}; expected 1 (within 1e-6); "
        "pass logarithms of normalized probabilities.",
        name,
        float(log_sums[index]),
    )


def renormalized(table: FloatArray) -> FloatArray:
    """Logarithms minus their log sum exp over the last axis: log probabilities of any finite total."""
    return np.asarray(table - _log_sums(table))


def simplex_change(old: FloatArray, new: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log(p_new/p_old) of the renormalized rows, to full relative precision for small changes, and its error bound.

    With D = new - old and p = softmax(old), log(p_new/p_old) = D - log1p(M) with M = sum p expm1(D): no logarithms of numbers
    near each other are subtracted. D is one subtraction of stored doubles. Where D > 1 (or old = -inf) the term is
    exp(new)/W - p, which cannot overflow. Impossible in both is NaN, with error 0.
    """
    n_categories = old.shape[-1]
    with np.errstate(invalid="ignore", over="ignore"):
        difference = new - old
        p = np.exp(old)
        total = p.sum(axis=-1, keepdims=True)
        p, moved = p / total, np.exp(new) / total
        large = difference > 1.0
        terms = np.where(large, moved - p, p * np.expm1(np.where(difference <= 1.0, difference, 0.0)))
        shift = np.log1p(terms.sum(axis=-1, keepdims=True))
        change = difference - shift
        # p: exp twice (LIBM each), the sum and the division (C + 1) u; expm1 one LIBM and u |D| e^D from rounding D, where
        # |D e^D| <= 3 |expm1(D)| for D <= 1; the product and the sum of terms (C + 1) u. Large terms: moved and p apart.
        relative = 3.0 * LIBM + (2 * n_categories + 6) * U
        size = np.where(large, moved + p, np.abs(terms)).sum(axis=-1, keepdims=True)
        shift_error = relative * size / np.exp(shift) + LIBM * np.abs(shift)
        error = np.where(np.isfinite(change), U * np.abs(difference) + shift_error + U * np.abs(change), 0.0)
    return change, 1.01 * error  # 1.01: second order, and the rounding of the bound itself


def maximized(old: FloatArray, counts: FloatArray) -> FloatArray:
    """log of counts normalized over the last axis: the maximum of sum counts * log p.

    Structural zeros of ``old`` stay; a category never seen becomes one; a row without any count keeps its old parameters.
    """
    shape = -1, old.shape[-1]
    rows, out = np.ascontiguousarray(counts, np.float64).reshape(shape), np.empty(old.shape)
    with np.errstate(all="ignore"):
        maximized_rows(np.ascontiguousarray(old).reshape(shape), rows, out.reshape(shape))
    return out


def simplex_pullback(simplex: LogSimplex, counts: FloatArray) -> FloatArray:
    """Gradient of sum counts * log p in the stored logarithms: counts - total * p, flat; 0 at structural zeros."""
    gradient = counts - counts.sum(axis=-1, keepdims=True) * np.exp(simplex.normalized)
    return np.where(simplex.given > -np.inf, gradient, 0.0).ravel()


def uniform_simplex(pattern: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Log probabilities uniform on the simplex of the categories that ``pattern`` allows: normalized exponential variables."""
    with np.errstate(divide="ignore"):
        draws = np.where(pattern > -np.inf, np.log(rng.standard_exponential(pattern.shape)), -np.inf)
    return draws - _log_sums(draws)


def gathered(table: FloatArray, index: npt.NDArray[np.int64]) -> FloatArray:
    """table[k, index[n]] as (N, K); the index one past the last category is a missing value, which gives 0."""
    padded = np.zeros((table.shape[-1] + 1, table.shape[0]))
    padded[:-1] = table.T
    return padded[index]


def pseudo_count_table(pseudo_counts: npt.ArrayLike | None, shape: tuple[int, ...], name: str) -> FloatArray:
    """Counts of imaginary observations, broadcast to the shape of the parameters they belong to; None is 0."""
    if pseudo_counts is None:
        return np.zeros(shape)
    counts: Any = real_array(pseudo_counts, name)
    if counts.shape != shape:
        try:
            counts = np.broadcast_to(counts, shape)
        except ValueError:
            raise LogTableError(f"{name} must broadcast to shape {shape}; got {counts.shape}.", name, counts.shape) from None
    if not ((counts >= 0.0) & (counts < np.inf)).all():
        raise LogTableError(f"{name} must be finite and >= 0; smallest is {float(np.min(counts)):g}.", name)
    return np.asarray(counts)


def draw(log_probabilities: FloatArray, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """One column for each entry of ``rows``, drawn from that row of log probabilities."""
    cumulative = np.cumsum(np.exp(log_probabilities), axis=-1)
    last = log_probabilities.shape[-1] - 1 - np.argmax(log_probabilities[:, ::-1] > -np.inf, axis=-1)
    level = rng.random(len(rows)) * cumulative[rows, -1]
    found = np.asarray((cumulative[rows] <= level[:, None]).sum(axis=-1), dtype=np.int64)
    return np.asarray(np.minimum(found, last[rows]))  # rounding must not reach a category beyond the last possible one


def _log_sums(table: FloatArray) -> FloatArray:
    """log sum exp over the last axis, kept with length 1."""
    rows = np.ascontiguousarray(table).reshape(-1, table.shape[-1])
    return evidence_of_rows(rows)[:, 0].reshape(*table.shape[:-1], 1)
