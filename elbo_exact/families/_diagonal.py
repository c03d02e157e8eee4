"""Gaussian densities with a scale for every column: z = (x - mean) / scale, missing columns skipped. One state at a time.

Stored means and scales are the model. Errors: z has 3 roundings counted generously (subtraction, division, and one to spare), z^2 has 7, and
the sum over D columns D - 1; log scale has LIBM. From mean, scale to mean', scale', with g = (mean' - mean) + (scale' - scale) z and
h = g / scale', the new z is z - h: the density changes by h (2 z - h) / 2 - log1p((scale' - scale) / scale), terms of the size of the change.
Errors of h: (3 u |mean' - mean| + 7 u |(scale' - scale) z|) / scale'.
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LIBM, U

__all__ = ["HALF_LOG_2PI", "density", "density_change", "log_ratios", "pullback", "standardized"]

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
ETA = 2.0**-1074


def standardized(x: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    """(x - mean) / scale, 0 where x is missing; (N, D)."""
    z = (x - mean) / scale
    return np.where(np.isnan(x), 0.0, z)


def density(x: FloatArray, mean: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log density of each row and its error bound, (N,)."""
    z, seen = standardized(x, mean, scale), ~np.isnan(x)
    logs = np.log(scale)
    with np.errstate(over="ignore"):
        square = (z * z).sum(axis=1)
    norm = np.where(seen, logs + HALF_LOG_2PI, 0.0).sum(axis=1)
    size = np.where(seen, np.abs(logs) + HALF_LOG_2PI, 0.0).sum(axis=1)
    n_columns = x.shape[1]
    bound = 0.5 * (n_columns + 9) * U * square + (LIBM + (n_columns + 4) * U) * size + n_columns * ETA
    value = -norm - 0.5 * square
    return value, np.where(value > -np.inf, 1.01 * bound, 0.0)


def density_change(
    x: FloatArray, old: tuple[FloatArray, FloatArray], new: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Log density under ``new`` (mean, scale) minus that under ``old``, and its error bound, (N,)."""
    (mean, scale), (new_mean, new_scale) = old, new
    seen, n_columns = ~np.isnan(x), x.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        z = standardized(x, mean, scale)
        shift, growth = new_mean - mean, new_scale - scale
        moved = growth * z
        h = np.where(seen, (shift + moved) / new_scale, 0.0)
        h_error = np.where(seen, (3.0 * U * np.abs(shift) + 7.0 * U * np.abs(moved)) / new_scale, 0.0)
        logs, log_error = log_ratios(growth, scale)
        terms = 0.5 * h * (2.0 * z - h)
        reach = np.abs(z) + np.abs(h)
        spread = h_error * reach + 5.0 * U * np.abs(h) * reach + np.where(seen, log_error, 0.0)
        logs = np.where(seen, logs, 0.0)
        change = (terms - logs).sum(axis=1)
        sizes = (np.abs(terms) + np.abs(logs)).sum(axis=1)
        error = 1.01 * (spread.sum(axis=1) + (n_columns + 1) * U * sizes) + 4 * n_columns * ETA
    unknown = np.isnan(change)  # infinities of either sign that met in a sum
    return np.where(unknown, 0.0, change), np.where(unknown, np.inf, np.where(np.isfinite(change), error, 0.0))


def pullback(x: FloatArray, mean: FloatArray, scale: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gradient of sum weights * density in mean and scale, (D,) each."""
    z, weighted = standardized(x, mean, scale), weights[:, None] * ~np.isnan(x)
    return (weighted * z / scale).sum(axis=0), (weighted * (z * z - 1.0) / scale).sum(axis=0)


def log_ratios(growth: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log(scale' / scale) = log1p(growth / scale) and its error: LIBM, and 2 u of the ratio t, times t / (1 + t)."""
    ratio = growth / scale
    logs = np.log1p(ratio)
    return logs, 1.01 * (LIBM * np.abs(logs) + 2.0 * U * np.abs(ratio) / np.exp(logs))
