"""What the families ask of observations and weights: one row per observation, one column per variable."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, real_array, unmasked
from elbo_exact.errors import LogTableError

__all__ = ["columns", "parameter_table", "scaled", "weight_table", "weighted_sums"]


def columns(x: npt.ArrayLike, n_columns: int) -> npt.NDArray[Any]:
    """Observations as (N, D); one axis will do where D = 1."""
    array = unmasked(x, "x")
    if array.ndim == 1 and n_columns == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape[1] != n_columns:
        wanted = "(N,) or (N, 1)" if n_columns == 1 else f"(N, {n_columns})"
        raise LogTableError(f"x must have shape {wanted}; got {array.shape}.", "x", array.shape)
    return array


def parameter_table(values: npt.ArrayLike, name: str) -> FloatArray:
    """A copy of parameters as (K, D), read-only; one axis (K,) is one column."""
    table = real_array(values, name).copy()
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or 0 in table.shape:
        raise LogTableError(f"{name} must have shape (K, D) without a length of 0; got {table.shape}.", name, table.shape)
    table.flags.writeable = False
    return table


def weight_table(weights: npt.ArrayLike, n_rows: int, n_states: int, name: str = "weights") -> FloatArray:
    """Weights of N observations in K states."""
    table = real_array(weights, name)
    if table.shape != (n_rows, n_states):
        raise LogTableError(f"{name} must have shape {(n_rows, n_states)}; got {table.shape}.", name, table.shape)
    return table


def weighted_sums(weights: FloatArray, values: FloatArray) -> FloatArray:
    """sum over n of weights[n, k] * values[n, d], shape (K, D).

    NumPy's own loops add in the order of the observations, on one thread: the same bits whatever the threads of BLAS.
    """
    return np.asarray(np.einsum("nk,nd->kd", weights, values, optimize=False))


def scaled(statistics: Any, factor: float) -> Any:
    """Statistics of the same observations, each seen ``factor`` times as often: arrays of counts, or what scales itself."""
    return statistics * factor if isinstance(statistics, np.ndarray) else statistics.scaled(factor)
