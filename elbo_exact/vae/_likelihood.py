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
    n_features = x.shape[1]
    if own.size == 0:
        return _gaussian_of_pixels(outputs.reshape(-1, *x.shape[:1], 2 * n_features), x, floor)
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
    n_features = x.shape[1]
    s, alive = floored(outputs[..., n_features:], floor)
    slopes = np.empty_like(outputs)
    slope, change = slopes[..., :n_features], slopes[..., n_features:]
    residual = x - outputs[..., :n_features]
    precision = np.negative(s)
    np.exp(precision, out=precision)
    np.multiply(residual, precision, out=slope)
    np.multiply(residual, slope, out=change)  # squared, in units of the variance
    value = change.sum(axis=-1)
    value += s.sum(axis=-1)
    value += n_features * LOG_2PI
    value *= -0.5

    def pullback(weights: Array) -> tuple[Array, Array | None]:
        np.subtract(change, 1.0, out=change)
        np.multiply(change, 0.5, out=change)
        if alive is not None:
            np.multiply(change, alive, out=change)
        np.multiply(slopes, weights[..., None], out=slopes)
        return slopes.reshape(-1, 2 * n_features), None

    return value, pullback


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
