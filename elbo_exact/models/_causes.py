"""What layers of binary causes share: states as bits, their prior, and E-steps by rows that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._evidence_rows import evidence_of_rows
from elbo_exact._validate import FloatArray, categories_or_missing, integer, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families._simplex import LIBM, LogSimplex, U, draw, log_simplex
from elbo_exact.models._expected import Expected, Posterior
from elbo_exact.space import MAX_BYTES, LatentSpace, count_text, refuse_above

__all__ = [
    "CauseMarginals",
    "FindingLogs",
    "cause_bits",
    "cause_counts",
    "cause_tables",
    "checked_findings",
    "checked_layer",
    "checked_weights",
    "distinct_findings",
    "draw_causes",
    "expected_by_rows",
    "findings",
    "layer_posterior",
    "marginals_by_rows",
    "refuse_large",
]

FindingLogs = tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]

CHUNK_BYTES = 2**25  # of one table; an E-step holds about ten of them
TABLES = 10
TINY = 2.0**-1000  # above exp(-700) = 2**-1009.9
SMALL = 1e-3  # first-order error terms are trusted below this; the factor 1.01 covers their squares


class CauseMarginals(NamedTuple):
    """Exact posteriors of N observations over n causes."""

    log_evidence: FloatArray  # (N,), nats
    error: FloatArray  # (N,), bound on its rounding
    present: FloatArray  # (N, n), p(cause | observation)
    present_error: FloatArray  # (N, n), bound on its rounding


def checked_findings(x: npt.ArrayLike, n_findings: int) -> npt.NDArray[np.int64]:
    """0, 1, or 2 for a missing value, (N, D)."""
    index = categories_or_missing(x, "x", 2)
    if index.ndim != 2 or index.shape[1] != n_findings:
        raise LogTableError(
            f"x must have shape (N, {n_findings}), one column per finding; got {index.shape}.", "x", index.shape
        )
    return index


def findings(x: npt.ArrayLike, n_findings: int) -> FloatArray:
    """The same with NaN for a missing value, as the models' methods take it."""
    index = checked_findings(x, n_findings)
    return np.where(index == 2, np.nan, index)


def distinct_findings(x: npt.ArrayLike, n_findings: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Every row of findings once, and which of them each given row is."""
    rows, which = np.unique(checked_findings(x, n_findings), axis=0, return_inverse=True)
    return np.where(rows == 2, np.nan, rows), which.ravel()


def cause_bits(space: LatentSpace, first: int, last: int) -> npt.NDArray[np.bool_]:
    """Whether cause j is present in the states first ... last - 1, (n, last - first)."""
    number = np.arange(first, last, dtype=np.int64)
    return np.stack([(number >> shift) & 1 for shift in range(space.n_variables - 1, -1, -1)]).astype(bool)


def checked_layer(log_causes: Any, links: dict[str, Any], valid: Callable[[FloatArray], Any], rule: str) -> dict[str, Any]:
    """The fields of a layer: causes (n, 2), a table of links (D, n) and a base (D,), read-only copies, whose values are ``valid``."""
    causes = log_simplex(log_causes, "log_causes", 2)
    if causes.given.shape[1] != 2:
        raise LogTableError(f"log_causes must have shape (n, 2); got {causes.given.shape}.", "log_causes")
    arrays = {name: real_array(values, name).copy() for name, values in links.items()}
    (first, table), (second, base) = arrays.items()
    if table.ndim != 2 or table.shape[1] != len(causes.given) or base.shape != table.shape[:1] or not base.size:
        expected = f"(D, {len(causes.given)}) and (D,)"
        raise LogTableError(f"{first} and {second} must have shapes {expected}; got {table.shape}, {base.shape}.", first)
    for name, values in arrays.items():
        wrong = ~np.asarray(valid(values))
        if wrong.any():
            raise LogTableError(f"{name} must be {rule}; got {values[wrong][0]:g}.", name)
        values.flags.writeable = False
    return {"log_causes": causes.given, "_causes": causes, **arrays}


def cause_tables(
    model: Any, x: npt.ArrayLike, states: slice | None, finding: Callable[[npt.NDArray[np.bool_], int], FindingLogs]
) -> tuple[FloatArray, FloatArray]:
    """log p(x_n, state) and its error bound; ``finding(bits, d)`` gives log p(x_d = 0), log p(x_d = 1), and a bound for each."""
    index, (first, last) = checked_findings(x, model.n_findings), model.space.span(states)
    refuse_large(LatentSpace((max(last - first, 1),)), len(index), 2)
    bits = cause_bits(model.space, first, last)
    prior, prior_error = _prior(model._causes, bits)
    table, error = np.tile(prior, (len(index), 1)), np.tile(prior_error, (len(index), 1))
    for d in range(model.n_findings):
        for value, (logs, bound) in enumerate(zip(*finding(bits, d), strict=True)):
            rows = index[:, d] == value
            table[rows] += logs
            error[rows] += np.where(np.isfinite(logs), bound, 0.0)
    bound = 1.01 * (error + model.n_findings * U * np.abs(table))
    return table, np.where(table > -np.inf, bound, 0.0)


def _prior(causes: LogSimplex, bits: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """log p(state) and its error bound: terms are negative, so partial sums never exceed the last."""
    table, error = np.zeros(bits.shape[1]), np.zeros(bits.shape[1])
    for j, bit in enumerate(bits):
        table += np.where(bit, causes.normalized[j, 1], causes.normalized[j, 0])
        error += np.where(bit, causes.error[j, 1], causes.error[j, 0])
    return table, error + len(bits) * U * np.abs(table)


def checked_weights(weights: npt.ArrayLike, n_rows: int, space: LatentSpace) -> FloatArray:
    """A weight table (N, 2**n)."""
    table = real_array(weights, "weights")
    if table.shape != (n_rows, space.size):
        raise LogTableError(f"weights must have shape {(n_rows, space.size)}; got {table.shape}.", "weights")
    return table


def cause_counts(table: FloatArray, bits: npt.NDArray[np.bool_]) -> FloatArray:
    """Weight of the absence and of the presence of every cause (n, 2)."""
    total = np.add.reduce(table, axis=0)
    return np.array([[total[~bit].sum(), total[bit].sum()] for bit in bits])


def draw_causes(log_causes: FloatArray, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Independent causes (n, causes)."""
    rows = integer(n, "n", 0)
    return np.stack([draw(log_causes, np.full(rows, j), rng) for j in range(len(log_causes))], axis=1)


def refuse_large(space: LatentSpace, n_rows: int, n_tables: int) -> None:
    """Refuse before anything is allocated."""
    refuse_above(space.size, 8 * n_rows * n_tables, MAX_BYTES, count_text(space.sizes))


def _chunks(model: Any, n_rows: int) -> Iterator[slice]:
    refuse_large(model.space, 1, TABLES)
    rows = max(1, CHUNK_BYTES // (8 * model.space.size))
    for first in range(0, n_rows, rows):
        yield slice(first, min(first + rows, n_rows))


def layer_posterior(model: Any, x: npt.ArrayLike) -> Posterior:
    """Log evidence and posterior of a few rows; a table moved by t <= SMALL moves log sum exp by at most 1.01 sum p t."""
    table, table_error = model.log_joint_and_error(x)
    out = evidence_of_rows(table)
    evidence, bound = out[:, :1], out[:, 1:2]
    with np.errstate(invalid="ignore"):
        logs = np.where(table > -np.inf, table - evidence, -np.inf)
    p = np.exp(logs)
    moved = 1.02 * (p * table_error).sum(axis=1, keepdims=True)
    # a state below exp(-700) of the evidence, error included, has no digits left to speak of: its weight is 0
    negligible = logs + table_error < -700.0
    p = np.where(negligible, 0.0, p)
    relative = 1.01 * (table_error + moved + bound + U * np.where(p > 0.0, np.abs(logs), 0.0) + LIBM)
    relative = np.where(negligible, 0.0, relative)
    trusted = np.where(negligible, 0.0, table_error).max(axis=1, keepdims=True) < SMALL
    error = np.where(trusted, 1.01 * (bound + moved), np.inf)
    return Posterior(evidence[:, 0].copy(), error[:, 0], p, np.where(trusted | negligible, relative, np.inf))


def expected_by_rows(model: Any, x: Any, counts: FloatArray, own_error: float) -> Expected:
    """The E-step over distinct rows that fit into memory; the grouping depends on the number of states only."""
    rows, which = distinct_findings(x, model.n_findings)
    weights = np.bincount(which, weights=counts, minlength=len(rows))
    evidence, error, worst, total = np.empty(len(rows)), np.empty(len(rows)), 0.0, None
    for chunk in _chunks(model, len(rows)):
        p = layer_posterior(model, rows[chunk])
        evidence[chunk], error[chunk] = p.log_evidence, p.error
        worst = max(worst, float(p.table_error.max()))
        part = model.statistics(rows[chunk], weights[chunk, None] * p.table)
        total = part if total is None else type(part)(*(mine + theirs for mine, theirs in zip(total, part, strict=True)))
    return Expected(evidence[which], error[which], total, worst + own_error + (len(x) + 2) * U)


def marginals_by_rows(model: Any, x: npt.ArrayLike) -> CauseMarginals:
    """Log evidence and p(cause | x_n) of every row; a probability's error is that of its terms, those left out, and S u."""
    rows, which = distinct_findings(x, model.n_findings)
    n, space = len(rows), model.space
    evidence, error = np.empty(n), np.empty(n)
    present, spread = np.zeros((n, space.n_variables)), np.zeros((n, space.n_variables))
    for chunk in _chunks(model, n):
        p = layer_posterior(model, rows[chunk])
        evidence[chunk], error[chunk] = p.log_evidence, p.error
        for j, bit in enumerate(cause_bits(space, 0, space.size)):
            present[chunk, j] = p.table[:, bit].sum(axis=1)
            spread[chunk, j] = (p.table[:, bit] * p.table_error[:, bit]).sum(axis=1)
    bound = 1.01 * (spread + space.size * U * present) + space.size * TINY
    return CauseMarginals(evidence[which], error[which], present[which], bound[which])
