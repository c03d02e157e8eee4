"""What all guides share: logits of independent factors to the log table over all states, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._layers import log_softmax
from elbo_exact._validate import FloatArray, raise_bad_entry, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.space import LatentSpace

__all__ = ["Pullback", "checked_cotangent", "flat_params", "log_product"]

Pullback = Callable[[FloatArray], FloatArray]


def log_product(logits: FloatArray, space: LatentSpace, states: slice | None = None) -> tuple[FloatArray, Pullback]:
    """log q(z) = sum_i log softmax(logits of variable i)[z_i] for logits (N, sum of sizes), and its pullback.

    The pullback takes the cotangent of the whole table (N, S). With c_iv the sum of it over all states where variable i has the value v,
    the gradient is c_iv - q_iv sum_v c_iv, and 0 where the logit is -inf, which stays.
    """
    ends = np.cumsum(space.sizes)
    factors = [log_softmax(logits[:, end - size : end]) for end, size in zip(ends, space.sizes, strict=True)]
    values = space.states(states)
    table = factors[0][0][:, values[:, 0]]
    for i in range(1, len(factors)):
        table = table + factors[i][0][:, values[:, i]]

    def pullback(cotangent: FloatArray) -> FloatArray:
        cube = np.where(table > -np.inf, cotangent, 0.0).reshape(len(logits), *space.sizes)
        axes = range(1, cube.ndim)
        sums = [cube.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
        parts = [back(part) for (_, back), part in zip(factors, sums, strict=True)]
        return np.where(logits > -np.inf, np.concatenate(parts, axis=1), 0.0)

    return np.ascontiguousarray(table), pullback


def flat_params(values: npt.ArrayLike) -> FloatArray:
    """A read-only copy of a flat vector without NaN or +inf."""
    params = real_array(values, "params").copy()
    if params.ndim != 1 or params.size == 0:
        raise LogTableError(f"params must be one flat vector; got shape {params.shape}.", "params", params.shape)
    if not (params < np.inf).all():
        raise_bad_entry(params, "params")
    params.flags.writeable = False
    return params


def checked_cotangent(cotangent: npt.ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """The derivative of some number in every entry of log q."""
    table: Any = real_array(cotangent, "cotangent")
    if table.shape != shape:
        raise LogTableError(f"cotangent must have shape {shape}, that of log_q; got {table.shape}.", "cotangent", table.shape)
    return np.asarray(table)
