"""A Gaussian family for the fused E-step: substitution or scaling, and scatter about the old means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dsyrk, dtrsm

from elbo_exact._validate import FloatArray
from elbo_exact.families import Gaussian
from elbo_exact.families._diagonal import ETA, HALF_LOG_2PI
from elbo_exact.families._gaussian_statistics import GaussianStatistics
from elbo_exact.families._simplex import LIBM, LogSimplex, U
from elbo_exact.families._triangular import condition
from elbo_exact.kernels.mixture import (
    diagonal_densities,
    diagonal_sums,
    moments,
    responsibilities,
    triangular_densities,
    triangular_sums,
)
from elbo_exact.kernels.tiles import ROWS
from elbo_exact.models import _mixture_statistics
from elbo_exact.models._scratch import scratch

__all__ = ["BLOCK", "parts"]

BLOCK = 1024  # rows
WIDE = 24  # columns
CANCELLED = 2.0**10  # scatter about old means over that about new ones: more costs more than three digits


class _Block(NamedTuple):
    """Log joints of a block of rows, and what adds its sums."""

    densities: Callable[..., None]
    sums: Callable[..., None]


def parts(shares: LogSimplex, family: Gaussian, x: npt.NDArray[Any]) -> tuple[Any, ...] | None:
    """What ``_fused.Plan`` holds; None with missing values.

    Errors as derived in ``families._diagonal`` and ``families._triangular``, whose spare roundings are those of the reciprocals here. With
    c = log share - norm, the half square is at most |c| + |log joint|.
    """
    if np.isnan(x).any():
        return None
    n_states, n_columns = family.means.shape
    factored = family.covariance in ("tied", "full")
    scales = [family._scale(k) for k in range(n_states)]
    logs = np.log([np.diagonal(scale) if factored else scale for scale in scales])
    norm = np.array([math.fsum(row) for row in logs.tolist()]) + n_columns * HALF_LOG_2PI
    size = np.abs(logs).sum(axis=1) + n_columns * HALF_LOG_2PI
    constant = shares.normalized - norm
    relative = np.full(n_states, (n_columns + 9.0) * U)
    if factored:
        spread = np.array([condition(scale) for scale in scales])
        relative = (2.0 * (n_columns + 3) * spread + n_columns + 3) * U
    rest = (LIBM + 5.0 * U) * size + shares.error + 3.0 * U * np.abs(shares.normalized) + n_columns * ETA
    possible = shares.normalized > -np.inf
    fixed = np.where(
        possible, 1.01 * (relative * np.abs(np.where(possible, constant, 0.0)) + np.where(possible, rest, 0.0)), 0.0
    )
    errors = np.stack([fixed, 1.01 * (relative + 2.0 * U)])
    means = np.array(family.means)

    shapes: tuple[Any, ...] = ((n_states,), means.shape, (n_states, n_columns**2) if factored else means.shape)
    center = np.exp(shares.normalized) @ means

    def finish(sums: list[FloatArray], error: float) -> tuple[Any, float] | None:
        if len(sums) == 1:
            return _statistics(family, np.broadcast_to(center, means.shape), _apart(sums[0], shapes), error)
        return _statistics(family, means, sums, error)

    shapes_of_sums: tuple[Any, ...] = shapes
    add: Any = _triangular_sums if factored else _diagonal_sums
    if _close(family, means - center, possible) and not (factored and n_columns >= WIDE):
        n_products = n_columns * (n_columns + 1) // 2 if factored else n_columns
        add, shapes_of_sums = (_pooled_products if factored else _pooled_squares), ((n_states, 1 + n_columns + n_products),)
    additions = BLOCK + len(x) // BLOCK + 1

    def made(block: _Block, shapes: tuple[Any, ...], constants: tuple[Any, ...]) -> tuple[Any, ...]:
        return x, _task, errors, (block, shapes, constants), additions, finish

    if not factored:
        return made(_Block(_diagonal_densities, add), shapes_of_sums, (means, 1.0 / np.array(scales), constant, center))
    factors = np.array(scales)
    if n_columns >= WIDE:
        transposed = np.array([np.asfortranarray(factor) for factor in factors])
        return made(_Block(_wide_densities, _wide_sums), shapes, (means, transposed, constant, center))
    diagonal = np.arange(n_columns)
    factors[:, diagonal, diagonal] = 1.0 / factors[:, diagonal, diagonal]
    constants = means, factors.reshape(-1, n_columns), constant, center
    return made(_Block(_triangular_densities, add), shapes_of_sums, constants)


@np.errstate(all="ignore")
def _task(errors: FloatArray, constants: Any, x: npt.NDArray[Any], counts: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    """Known columns of every row, and the sums."""
    block, shapes, of_block = constants
    known = np.empty((4, len(x)))
    sums = [np.zeros(shape) for shape in shapes]
    for first in range(0, len(x), BLOCK):
        last = min(first + BLOCK, len(x))
        columns, weights = _padded(x, counts, first, last)
        width = len(weights)
        table, own = scratch("table", (errors.shape[1], width)), scratch("own", (4, width))
        block.densities(columns, of_block, table)
        responsibilities(errors, weights, table, own)
        block.sums(columns, of_block, table, sums)
        known[:, first:last] = own[:, : last - first]
    return known, sums


def _padded(x: npt.NDArray[Any], counts: FloatArray, first: int, last: int) -> tuple[FloatArray, FloatArray]:
    """Columns of a block, side by side, and its counts; rows that fill the last tile weigh nothing."""
    width = -(last - first) % ROWS + last - first
    columns, weights = scratch("columns", (x.shape[1], width)), np.zeros(width)
    columns[:, : last - first], weights[: last - first] = x[first:last].T, counts[first:last]
    columns[:, last - first :] = x[last - 1][:, None]
    return columns, weights


@np.errstate(over="ignore", invalid="ignore")  # where squares overflow, states are not close
def _close(family: Gaussian, apart: FloatArray, possible: npt.NDArray[np.bool_]) -> bool:
    """Whether sums about one center for all states lose no more than three digits, as far as the old parameters tell."""
    variances = family.covariances
    if family._factored:
        variances = np.diagonal(variances, axis1=-2, axis2=-1)
    elif family.covariance == "spherical":
        variances = variances[:, None]
    return bool(((apart * apart)[possible] < 0.25 * CANCELLED * np.broadcast_to(variances, apart.shape)[possible]).all())


def _apart(sums: FloatArray, shapes: tuple[Any, ...]) -> list[FloatArray]:
    """Weights, first and second sums from the rows of `moments`; of products the lower triangle."""
    n_states, n_columns = shapes[1]
    second = sums[:, 1 + n_columns :]
    if second.shape != shapes[2]:
        square = np.zeros((n_states, n_columns, n_columns))
        square[:, *np.tril_indices(n_columns)] = second
        second = square.reshape(shapes[2])
    return [sums[:, 0], sums[:, 1 : 1 + n_columns], second]


@np.errstate(over="ignore", invalid="ignore")  # sums that overflow are left to tables
def _statistics(family: Gaussian, start: FloatArray, sums: list[FloatArray], error: float) -> tuple[Any, float] | None:
    """About the new means m + e: scatter = that about m, less weight e e^T. The relative error grows by what cancels."""
    weights, first, second = sums
    n_states, n_columns = start.shape
    safe = np.where(weights > 0.0, weights, 1.0)[:, None]
    moved = first / safe
    squares = second if not family._factored else np.diagonal(second.reshape(n_states, n_columns, -1), axis1=1, axis2=2)
    left = squares - weights[:, None] * moved * moved
    used = np.broadcast_to(weights[:, None] > 0.0, left.shape)
    if not (left[used] * CANCELLED > squares[used]).all():
        return None
    growth = float(np.max(squares[used] / left[used], initial=1.0))
    if not family._factored:
        scatter = left
    else:
        lower = second.reshape(n_states, n_columns, n_columns)
        whole = lower + np.swapaxes(np.tril(lower, -1), 1, 2)
        scatter = whole - (weights[:, None] * moved)[:, :, None] * moved[:, None, :]
    table = np.array(np.broadcast_to(weights[:, None], start.shape))
    seen = GaussianStatistics(table, start + moved, scatter)
    return _mixture_statistics.MixtureStatistics(weights, (seen,)), 3.0 * error * growth


def _diagonal_densities(columns: FloatArray, constants: Any, table: FloatArray) -> None:
    means, inverse, constant, _ = constants
    diagonal_densities(columns, means, inverse, constant, table)


def _diagonal_sums(columns: FloatArray, constants: Any, table: FloatArray, sums: list[FloatArray]) -> None:
    diagonal_sums(columns, constants[0], table, *sums)


def _triangular_densities(columns: FloatArray, constants: Any, table: FloatArray) -> None:
    means, factors, constant, _ = constants
    triangular_densities(columns, means, factors, constant, np.empty((len(columns), ROWS)), table)


def _triangular_sums(columns: FloatArray, constants: Any, table: FloatArray, sums: list[FloatArray]) -> None:
    triangular_sums(columns, constants[0], table, np.zeros((len(columns) + 4, columns.shape[1])), *sums)


def _pooled_products(columns: FloatArray, constants: Any, table: FloatArray, sums: list[FloatArray]) -> None:
    """All states at once: one matrix product with the moments about a common center."""
    _pooled(columns, constants[3], True, table, sums[0])


def _pooled_squares(columns: FloatArray, constants: Any, table: FloatArray, sums: list[FloatArray]) -> None:
    _pooled(columns, constants[3], False, table, sums[0])


def _pooled(columns: FloatArray, center: FloatArray, products: bool, table: FloatArray, sums: FloatArray) -> None:
    rows = scratch("moments", (sums.shape[1], columns.shape[1]))
    moments(columns, center, products, rows)
    sums += table @ rows.T


def _wide_densities(columns: FloatArray, constants: Any, table: FloatArray) -> None:
    """The same by BLAS, which is faster from about WIDE columns."""
    for row, mean, factor, constant in zip(table, *constants[:3], strict=True):
        # rows of z^T times L^T: in Fortran's order what is in C's order columns of L z = columns - mean
        z = dtrsm(
            1.0,
            factor,
            np.subtract(columns, mean[:, None], out=scratch("deviations", columns.shape)).T,
            side=1,
            lower=1,
            trans_a=1,
            overwrite_b=1,
        )
        row[:] = constant - 0.5 * np.einsum("nd,nd->n", z, z)


def _wide_sums(columns: FloatArray, constants: Any, table: FloatArray, sums: list[FloatArray]) -> None:
    for k, (weights, mean) in enumerate(zip(table, constants[0], strict=True)):
        deviations = np.subtract(columns, mean[:, None], out=scratch("deviations", columns.shape))
        sums[0][k] += weights.sum()
        sums[1][k] += np.einsum("dn,n->d", deviations, weights)
        deviations *= np.sqrt(weights)
        # the upper triangle in Fortran's order is the lower one in C's
        sums[2][k] += dsyrk(1.0, deviations.T, trans=1, lower=0).T.ravel()
