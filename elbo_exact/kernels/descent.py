"""One step of Adam over a flat vector, in one pass over memory (Kingma & Ba 2015, ICLR, algorithm 1)."""

from __future__ import annotations

import math

from numba import types

from elbo_exact.kernels._jit import FLOAT, OUT, ROW, kernel, void

__all__ = ["adam_double", "adam_single"]

SINGLE_OUT = types.Array(types.float32, 1, "C")
SINGLE_ROW = types.Array(types.float32, 1, "C", readonly=True)
SETTINGS = (FLOAT,) * 6


@kernel
def adam_entry(p, g, m, v, rate, beta1, beta2, root, epsilon, keep):
    """New (p, m, v) of one parameter.

    ``rate`` is the learning rate over 1 - beta1**t, ``root`` the square root of 1 - beta2**t, ``keep`` the factor of decoupled decay.
    """
    m = m + (1.0 - beta1) * (g - m)
    v = beta2 * v + (1.0 - beta2) * (g * g)
    return p * keep - (rate * root) * m / (math.sqrt(v) + root * epsilon), m, v


@kernel(void(OUT, ROW, OUT, OUT, *SETTINGS))
def adam_double(params, gradient, first, second, rate, beta1, beta2, root, epsilon, keep):
    """Adam on float64; params and both moments are updated in place."""
    for i in range(params.shape[0]):
        params[i], first[i], second[i] = adam_entry(
            params[i], gradient[i], first[i], second[i], rate, beta1, beta2, root, epsilon, keep
        )


@kernel(void(SINGLE_OUT, SINGLE_ROW, SINGLE_OUT, SINGLE_OUT, *SETTINGS))
def adam_single(params, gradient, first, second, rate, beta1, beta2, root, epsilon, keep):
    """The same on float32 stores; each entry is computed in float64 and rounded once."""
    for i in range(params.shape[0]):
        params[i], first[i], second[i] = adam_entry(
            params[i], gradient[i], first[i], second[i], rate, beta1, beta2, root, epsilon, keep
        )
