"""Derivatives of Gaussian log densities in means and scales: standard deviations, or the lower triangle of the factor L.

With y = L^-1 (x - m): log p = -sum log L_ii - ||y||^2 / 2 + const. A change (b, A) = (L^-1 dm, L^-1 dL) of the parameters moves
y by -(A y + b) and that by A (A y + b) more, twice, so that minus the second derivative is

    ||A y + b||^2 + 2 y^T A (A y + b) - sum A_ii^2 .

Summed with weights it needs only the statistics: their total, sum of y and sum of y y^T. A diagonal covariance is the same with one
column at a time, which is how missing values enter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from elbo_exact._validate import FloatArray

__all__ = ["curvature", "parameters", "scores"]


def parameters(family: Any) -> tuple[tuple[str, ...], FloatArray, npt.NDArray[np.int64]]:
    """Names and values of the parameters, and those of each state, in the order of the family's `pullback`."""
    n_states, n_columns = family.means.shape
    mean_index = np.arange(n_states * n_columns).reshape(n_states, n_columns)
    names = [f"means[{k},{d}]" for k, d in np.ndindex(family.means.shape)]
    if family.covariance in ("spherical", "diagonal"):
        scales = family.scales
        names += [f"scales[{','.join(map(str, place))}]" for place in np.ndindex(scales.shape)]
        index = np.arange(scales.size).reshape(n_states, -1)
    else:
        rows, columns = np.tril_indices(n_columns)
        scales = family.scales[..., rows, columns]
        owners = [""] if family.covariance == "tied" else [f"{k}," for k in range(n_states)]
        names += [f"scales[{owner}{i},{j}]" for owner in owners for i, j in zip(rows, columns, strict=True)]
        index = np.broadcast_to(np.arange(scales.size).reshape(len(owners), -1), (n_states, len(rows)))
    return (
        tuple(names),
        np.concatenate([family.means.ravel(), scales.ravel()]),
        np.concatenate([mean_index, mean_index.size + index], axis=1),
    )


def scores(family: Any, x: FloatArray) -> FloatArray:
    """Gradient of log p(x_n | k) in the parameters of state k, (N, K, p)."""
    one = _triangular_scores if family.covariance in ("tied", "full") else _diagonal_scores
    parts = [one(x, *family._state(k)) for k in range(family.n_states)]
    if family.covariance == "spherical":
        d = family.n_columns
        parts = [np.column_stack([part[:, :d], part[:, d:].sum(axis=1)]) for part in parts]
    return np.stack(parts, axis=1)


def curvature(family: Any, statistics: Any, places: npt.NDArray[np.int64]) -> FloatArray:
    """Minus the second derivatives of the expected log density at these statistics, (P, P)."""
    out = np.zeros((int(places.max()) + 1,) * 2)
    factored = family.covariance in ("tied", "full")
    for k, place in enumerate(places):
        mean, scale = family._state(k)
        apart = statistics.means[k] - mean
        if factored:
            block = _triangular_curvature(statistics.weights[k, 0], apart, statistics.scatter[k], scale)
        else:
            block = _diagonal_curvature(statistics.weights[k], apart, statistics.scatter[k], scale)
        if family.covariance == "spherical":
            d = family.n_columns
            merge = np.zeros((2 * d, d + 1))
            merge[:d, :d], merge[d:, d] = np.eye(d), 1.0
            block = merge.T @ block @ merge
        out[np.ix_(place, place)] += block
    return out


def _diagonal_scores(x: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    y = (x - mean) / scale
    return np.nan_to_num(np.column_stack([y / scale, (y * y - 1.0) / scale]), nan=0.0)


def _diagonal_curvature(weight: FloatArray, apart: FloatArray, scatter: FloatArray, scale: FloatArray) -> FloatArray:
    first = weight * apart / scale  # sum of y
    second = (scatter + weight * apart * apart) / scale**2  # sum of y^2
    cross = np.diag(2.0 * first / scale**2)
    return np.block([[np.diag(weight / scale**2), cross], [cross, np.diag((3.0 * second - weight) / scale**2)]])


def _triangular_scores(x: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    rows, columns = np.tril_indices(len(mean))
    y = solve_triangular(scale, (x - mean).T, lower=True)
    u = solve_triangular(scale, y, lower=True, trans="T")
    slopes = u[rows] * y[columns] - np.where(rows == columns, 1.0 / scale[rows, columns], 0.0)[:, None]
    return np.concatenate([u, slopes]).T


def _triangular_curvature(weight: float, apart: FloatArray, scatter: FloatArray, scale: FloatArray) -> FloatArray:
    n = len(apart)
    rows, columns = np.tril_indices(n)
    inverse = solve_triangular(scale, np.eye(n), lower=True)  # every direction of the parameters is asked for, so all of it is
    shift = np.zeros((n + len(rows), n))  # b of every direction
    shift[:n] = inverse.T
    turn = np.zeros((n + len(rows), n, n))  # A of every direction
    turn[np.arange(len(rows)) + n, :, columns] = inverse[:, rows].T
    first = weight * (inverse @ apart)
    second = inverse @ (scatter + weight * np.outer(apart, apart)) @ inverse.T
    diagonal = np.diagonal(turn, axis1=1, axis2=2)
    spread = turn @ second  # A E y y^T
    moved = turn @ first
    square = np.tensordot(spread, turn, axes=([1, 2], [1, 2])) + moved @ shift.T + shift @ moved.T + weight * shift @ shift.T
    # y^T A A' y and y^T A b', both directions
    twice = np.tensordot(np.swapaxes(turn, 1, 2) @ second, turn, axes=([1, 2], [1, 2]))
    turned = np.einsum("j,ajk->ak", first, turn) @ shift.T
    twice = twice + twice.T + turned + turned.T
    return np.asarray(square + twice - weight * diagonal @ diagonal.T)
