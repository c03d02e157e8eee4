"""Gaussian densities with a lower triangular factor L of the covariance: z solves L z = x - mean. One state at a time.

Stored means and factors are the model. Substitution solves (L + E) z = r with |E| <= (D + 2) u |L| in whatever order it adds (Higham 2002,
Accuracy and Stability, Theorem 8.5; two roundings to spare for a stored reciprocal of the diagonal), so z is off by at most
(D + 3) u C |z| with C = |inv L| |L|, rounding of r = L z included, and in norm by (D + 3) u c ||z|| with c = ||C|| (Frobenius).
c is also all that an inverse is computed for. From mean, L to mean', L', with g = (mean' - mean) + (L' - L) z and h = inv(L') g, the new z
is z - h: the density changes by h . (2 z - h) / 2 - sum log1p((L' - L)_ii / L_ii), terms of the size of the change. Errors in norm:
of h: (D + 2) u c' ||h|| + 2 u || |inv L'| |mean' - mean| || + || |inv L'| |L' - L| || ((D + 3) u ||z|| + error of z).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import solve_triangular

from elbo_exact._validate import FloatArray
from elbo_exact.families._diagonal import ETA, HALF_LOG_2PI, log_ratios
from elbo_exact.families._simplex import LIBM, U

__all__ = ["absolute_inverse", "condition", "density", "density_change", "pullback", "standardized"]

TRUSTED = 1e-3  # (D + 3) u c above this: no bound


def standardized(x: FloatArray, mean: FloatArray, factor: FloatArray) -> FloatArray:
    """inv(L) (x - mean) of every row, as columns: (D, N)."""
    return np.asarray(solve_triangular(factor, (x - mean).T, lower=True, check_finite=False))


def absolute_inverse(factor: FloatArray) -> FloatArray:
    """|inv L|, for error bounds only."""
    return np.asarray(np.abs(solve_triangular(factor, np.eye(len(factor)), lower=True, check_finite=False)))


def condition(factor: FloatArray) -> float:
    """Frobenius norm of |inv L| |L|, rounded up."""
    return 1.01 * float(np.linalg.norm(absolute_inverse(factor) @ np.abs(factor)))


def density(x: FloatArray, mean: FloatArray, factor: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log density of each row and its error bound, (N,)."""
    n_columns, spread = len(mean), condition(factor)
    with np.errstate(over="ignore", invalid="ignore"):
        z = standardized(x, mean, factor)
        square = (z * z).sum(axis=0)
    square = np.where(np.isnan(square), np.inf, square)  # infinities of either sign that met in a sum
    logs = np.log(np.diagonal(factor))
    norm = math.fsum(logs.tolist()) + n_columns * HALF_LOG_2PI
    size = float(np.abs(logs).sum()) + n_columns * HALF_LOG_2PI
    relative = (2.0 * (n_columns + 3) * spread + n_columns + 3) * U
    bound = 0.5 * relative * square + (LIBM + 4.0 * U) * size + n_columns * ETA
    trusted = (n_columns + 3) * U * spread < TRUSTED
    value = -norm - 0.5 * square
    return value, np.where(value > -np.inf, 1.01 * bound if trusted else np.inf, 0.0)


def density_change(
    x: FloatArray, old: tuple[FloatArray, FloatArray], new: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Log density under ``new`` (mean, factor) minus that under ``old``, and its error bound, (N,)."""
    (mean, factor), (new_mean, new_factor) = old, new
    n_columns, inverse = len(mean), absolute_inverse(new_factor)
    spread, new_spread = condition(factor), condition(new_factor)
    shift, growth = new_mean - mean, new_factor - factor
    with np.errstate(over="ignore", invalid="ignore"):
        z = standardized(x, mean, factor)
        h = solve_triangular(new_factor, shift[:, None] + growth @ z, lower=True, check_finite=False)
        logs, log_error = log_ratios(np.diagonal(growth), np.diagonal(factor))
        log_change = math.fsum(logs.tolist())
        half = 0.5 * (h * (2.0 * z - h)).sum(axis=0)
        z_size, h_size = np.sqrt((z * z).sum(axis=0)), np.sqrt((h * h).sum(axis=0))
        z_error = (n_columns + 3) * U * spread * z_size
        reach = float(np.linalg.norm(inverse @ np.abs(growth)))
        h_error = (n_columns + 2) * U * new_spread * h_size + 2.0 * U * float(np.linalg.norm(inverse @ np.abs(shift)))
        h_error = h_error + reach * ((n_columns + 3) * U * z_size + z_error)
        error = h_error * (z_size + h_size) + h_size * z_error
        error = error + 0.5 * (n_columns + 3) * U * h_size * (2.0 * z_size + h_size)
        change = half - log_change
        error = 1.02 * (error + float(log_error.sum()) + 2.0 * U * (np.abs(half) + abs(log_change))) + 8 * n_columns * ETA
    trusted = (n_columns + 3) * U * max(spread, new_spread) < TRUSTED
    change, unknown = np.where(np.isnan(change), 0.0, change), np.isnan(change)
    return change, np.where(unknown | (not trusted), np.inf, np.where(np.isfinite(change), error, 0.0))


def pullback(x: FloatArray, mean: FloatArray, factor: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gradient of sum weights * density in mean (D,) and factor (D, D, lower triangle)."""
    z = standardized(x, mean, factor)
    back = np.asarray(solve_triangular(factor, z * weights, lower=True, trans="T", check_finite=False))
    return back.sum(axis=1), np.tril(back @ z.T) - np.diag(weights.sum() / np.diagonal(factor))
