"""Layers of small networks: each returns its value and a pullback, and all parameters live in one flat vector.

A pullback takes the cotangent of the value (the derivative of some number in every entry of it) and returns the cotangent of the input;
an affine map also writes the derivatives of its own parameters. Everything works in the dtype of the parameters, float64 or float32;
products are BLAS calls. The derivative of each activation is a function of its value alone, so nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import integer, one_of
from elbo_exact.kernels.softmax import log_softmax_pullback, log_softmax_rows, tanh_pullback, tanh_values
from elbo_exact.kernels.tiles import SHORT

__all__ = ["ACTIVATIONS", "Perceptron", "activate", "affine", "hidden_sizes", "log_softmax"]

Array = npt.NDArray[Any]
Pullback = Callable[[Array], Array]
MLPPullback = Callable[..., Array | None]


def affine(x: Array, weight: Array, bias: Array) -> tuple[Array, MLPPullback]:
    """x W + b for x (N, I), W (I, O), b (O,).

    ``pullback(cotangent, d_weight, d_bias, needed)`` writes x'c and the column sums of c, and returns c W' (None if not needed).
    """
    value = x @ weight
    value += bias

    def pullback(cotangent: Array, d_weight: Array, d_bias: Array, needed: bool = True) -> Array | None:
        np.dot(x.T, cotangent, out=d_weight)
        np.add.reduce(cotangent, axis=0, out=d_bias)
        return np.asarray(cotangent @ weight.T) if needed else None

    return value, pullback


def _tanh(x: Array) -> Array:
    if x.dtype != np.float64 or not x.flags.c_contiguous:
        return np.tanh(x, out=x)
    tanh_values(x.reshape(-1))  # five times as fast as NumPy without AVX-512
    return x


def _tanh_pullback(y: Array, cotangent: Array) -> Array:
    if y.dtype != np.float64 or not (y.flags.c_contiguous and cotangent.flags.c_contiguous):
        return np.asarray(cotangent * (1.0 - y * y))
    out = np.empty_like(y)
    tanh_pullback(y.reshape(-1), cotangent.reshape(-1), out.reshape(-1))
    return out


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0, out=x)


def _relu_pullback(y: Array, cotangent: Array) -> Array:
    return np.asarray((y > 0.0) * cotangent)


def _softplus(x: Array) -> Array:
    rest = np.abs(x)
    np.negative(rest, out=rest)
    np.exp(rest, out=rest)
    np.log1p(rest, out=rest)
    np.maximum(x, 0.0, out=x)
    return np.add(x, rest, out=x)


def _softplus_pullback(y: Array, cotangent: Array) -> Array:
    slope = np.expm1(-y)  # the logistic function of x is 1 - exp(-softplus(x))
    np.negative(slope, out=slope)
    return np.multiply(slope, cotangent, out=slope)


# name: value (overwrites its argument), and pullback of a cotangent at a value
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    "tanh": (_tanh, _tanh_pullback),
    "relu": (_relu, _relu_pullback),
    "softplus": (_softplus, _softplus_pullback),
}


def activate(name: str, x: Array) -> tuple[Array, Pullback]:
    """An activation of ``ACTIVATIONS`` and its pullback; ``x`` is overwritten. The derivative of relu at 0 is 0.

    Examples
    --------
    >>> value, pullback = activate("softplus", np.array([-800.0, 0.0, 800.0]))
    >>> value.round(4).tolist(), pullback(np.ones(3)).tolist()
    ([0.0, 0.6931, 800.0], [0.0, 0.5, 1.0])
    """
    function, back = ACTIVATIONS[name]
    value = function(x)
    return value, partial(back, value)


def log_softmax(logits: Array) -> tuple[Array, Pullback]:
    """logits - log sum exp(logits) along the last axis, and its pullback c - softmax sum(c).

    Examples
    --------
    >>> value, pullback = log_softmax(np.log([[1.0, 3.0]]))
    >>> np.exp(value).round(4).tolist(), pullback(np.array([[1.0, 0.0]])).round(4).tolist()
    ([[0.25, 0.75]], [[0.75, -0.75]])
    """
    width = logits.shape[-1]
    if width <= SHORT and logits.dtype == np.float64:  # a third of NumPy's time without AVX-512
        rows = np.ascontiguousarray(logits).reshape(-1, width)
        table = np.empty_like(rows)
        log_softmax_rows(rows, table)

        def short_pullback(cotangent: Array) -> Array:
            out = np.empty_like(table)
            log_softmax_pullback(table, np.ascontiguousarray(cotangent, np.float64).reshape(-1, width), out)
            return out.reshape(logits.shape)

        return table.reshape(logits.shape), short_pullback
    shifted = logits - logits.max(axis=-1, keepdims=True)
    value = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    def pullback(cotangent: Array) -> Array:
        return np.asarray(cotangent - np.exp(value) * cotangent.sum(axis=-1, keepdims=True))

    return value, pullback


def hidden_sizes(hidden: Any) -> tuple[int, ...]:
    """Sizes of the hidden layers, whatever sequence they came in."""
    if not isinstance(hidden, Iterable):
        raise TypeError(f"hidden must be a sequence of layer sizes, as (64,); got {type(hidden).__name__}.")
    return tuple(integer(size, "hidden", 1) for size in hidden)


@dataclass(frozen=True)
class Perceptron:
    """Affine maps with an activation between them: sizes (inputs, hidden ..., outputs); two sizes are one affine map.

    The flat vector holds W (inputs, outputs; C order) and b of each map in turn. `views` shows them as arrays without a copy.

    Examples
    --------
    >>> network = Perceptron((3, 4, 2), "tanh")
    >>> params = network.initial(np.random.default_rng(0))
    >>> params.shape, network.forward(params, np.zeros((5, 3)))[0].shape
    ((26,), (5, 2))
    """

    sizes: tuple[int, ...]
    activation: str = "tanh"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(integer(size, "sizes", 1) for size in self.sizes))
        if len(self.sizes) < 2:
            raise ValueError(f"sizes must name at least inputs and outputs; got {self.sizes}.")
        one_of(self.activation, "activation", tuple(ACTIVATIONS))

    @property
    def n_params(self) -> int:
        """Length of the flat vector."""
        return sum((inputs + 1) * outputs for inputs, outputs in zip(self.sizes, self.sizes[1:], strict=False))

    def views(self, params: Array) -> list[tuple[Array, Array]]:
        """W and b of each affine map, sharing memory with the flat vector."""
        parts, start = [], 0
        for inputs, outputs in zip(self.sizes, self.sizes[1:], strict=False):
            middle, stop = start + inputs * outputs, start + (inputs + 1) * outputs
            parts.append((params[start:middle].reshape(inputs, outputs), params[middle:stop]))
            start = stop
        return parts

    def initial(self, rng: np.random.Generator, dtype: npt.DTypeLike = np.float64) -> Array:
        """Weights from N(0, 1 / inputs), for relu N(0, 2 / inputs) (He et al. 2015); biases 0."""
        params = np.zeros(self.n_params, dtype)
        gain = 2.0 if self.activation == "relu" else 1.0
        for weight, _ in self.views(params):
            weight[...] = rng.standard_normal(weight.shape) * np.sqrt(gain / len(weight))
        return params

    def forward(self, params: Array, x: Array) -> tuple[Array, MLPPullback]:
        """The outputs (N, O), and ``pullback(cotangent, gradient, needed)``, which fills the flat ``gradient``."""
        tape: list[Any] = []
        layers = self.views(params)
        for i, (weight, bias) in enumerate(layers):
            x, pull = affine(x, weight, bias)
            tape.append(pull)
            if i + 1 < len(layers):
                x, pull = activate(self.activation, x)
                tape.append(pull)

        def pullback(cotangent: Array, gradient: Array, needed: bool = True) -> Array | None:
            slots, back = self.views(gradient), list(tape)
            while slots:
                d_weight, d_bias = slots.pop()
                cotangent = back.pop()(cotangent, d_weight, d_bias, needed or bool(slots))
                if slots:
                    cotangent = back.pop()(cotangent)
            return cotangent

        return x, pullback
