"""log p(x | z) of a decoder's outputs, and its derivatives in them, written by hand.

Outputs have one row per sample and observation, (K B, O) with the observation running fastest. Each function returns the log likelihood
(K, B) and a pullback, which maps weights (K, B) to the cotangent of the outputs and the gradient of the variance parameters, where
there are any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact.kernels.normal import pixel_rows_double, pixel_rows_single

__all__ = ["Array", "bernoulli", "floored", "gaussian"]

Array = npt.NDArray[Any]
Pullback = Callable[[Array], tuple[Array, Array | None]]
LOG_2PI = math.log(2.0 * math.pi)


def floored(raw: Array, floor: float) -> tuple[Array, Array | None]:
    """max(raw, floor), and where the derivative lives on: None for everywhere."""
    if raw.min(initial=np.inf) >= floor:
        return raw, None
    return np.maximum(raw, np.asarray(floor, raw.dtype)), raw >= floor


def gaussian(outputs: Array, own: Array, x: Array, floor: float) -> tuple[Array, Pullback]:
    """-1/2 sum_d [log 2 pi + s_d + (x_d - m_d)^2 exp(-s_d)], s the floored log variance.

    ``own`` holds s of each feature, or one for all; where it is empty, the second half of the outputs is s.
    """
    if own.size == 0:
        return _gaussian_of_pixels(outputs, x, floor)
    n_features = x.shape[1]
    residual = x - outputs.reshape(-1, *x.shape)
    s, alive = floored(own, floor)
    slope = residual * np.exp(-s)  # derivative in the mean
    squares = np.multiply(residual, slope, out=residual)
    total = float(s[0]) * n_features if s.size == 1 else float(s.sum())
    value = squares.sum(axis=-1)
    value += total + n_features * LOG_2PI
    value *= -0.5

    def pullback(weights: Array) -> tuple[Array, Array | None]:
        flat = weights.ravel()
        change = 0.5 * (flat @ squares.reshape(-1, n_features) - flat.sum())
        change = change.sum(keepdims=True) if s.size == 1 else change
        cotangent = slope
        cotangent *= weights[..., None]
        return cotangent.reshape(-1, n_features), change if alive is None else change * alive

    return value, pullback


def _gaussian_of_pixels(outputs: Array, x: Array, floor: float) -> tuple[Array, Pullback]:
    slopes, value = np.empty_like(outputs), np.empty(len(outputs), outputs.dtype)
    rows: Any = pixel_rows_single if outputs.dtype == np.float32 else pixel_rows_double
    rows(outputs, np.ascontiguousarray(x), floor, slopes, value)

    def pullback(weights: Array) -> tuple[Array, Array | None]:
        return np.multiply(slopes, weights.reshape(-1, 1), out=slopes), None

    return value.reshape(-1, len(x)), pullback


def bernoulli(outputs: Array, own: Array, x: Array, floor: float) -> tuple[Array, Pullback]:
    """sum_d [x_d a_d - log(1 + exp(a_d))] of logits a: each term is -log(1 + exp(-a)) or -log(1 + exp(a)), without cancellation."""
    logits = outputs.reshape(-1, *x.shape)
    signed = np.where(x > 0.5, logits, -logits)
    tail = np.exp(-np.abs(signed))
    value = (np.minimum(signed, 0.0) - np.log1p(tail)).sum(axis=-1)

    def pullback(weights: Array) -> tuple[Array, Array | None]:
        wrong = np.where(signed > 0.0, tail, 1.0) / (1.0 + tail)  # probability of the other value
        slope = np.where(x > 0.5, wrong, -wrong) * weights[..., None]
        return slope.reshape(-1, x.shape[1]), None

    return value, pullback
