"""Element-wise passes of Gaussian autoencoders, each in one loop over memory: KL to the prior, and the density of a decoder."""

from __future__ import annotations

import math

from numba import types

from elbo_exact.kernels._jit import FLOAT, OUT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.scalar import exp, phi

__all__ = ["kl_to_prior_rows", "pixel_rows_double", "pixel_rows_single"]

SINGLE_TABLE = types.Array(types.float32, 2, "C", readonly=True)
SINGLE_OUT, SINGLE_OUT2 = (types.Array(types.float32, axes, "C") for axes in (1, 2))
LOG_2PI = math.log(2.0 * math.pi)


@kernel(void(TABLE, OUT))
def kl_to_prior_rows(code, out):
    """KL(N(m, exp s) || N(0, I)) = 1/2 sum_j [m_j**2 + phi(s_j)] of each row (m, s); phi(s) = expm1(s) - s loses no digit."""
    n_latent = code.shape[1] // 2
    for row in range(code.shape[0]):
        total = 0.0
        for j in range(n_latent):
            total += code[row, j] * code[row, j] + phi(code[row, n_latent + j])
        out[row] = 0.5 * total


@kernel
def pixel_row(outputs, x, floor, slopes):
    """log N(x; m, exp s) of one row (m, s), s floored, and its derivatives in m and s: r = x - m, p = exp(-s); r p and (r r p - 1) / 2.

    The derivative in a log variance below the floor is 0.
    """
    n_features = x.shape[0]
    for d in range(n_features):
        raw = outputs[n_features + d]
        s = floor if raw < floor else raw  # NaN stays NaN
        residual = x[d] - outputs[d]
        slope = residual * exp(-s)
        slopes[d] = slope
        slopes[n_features + d] = 0.0 if raw < floor else 0.5 * (residual * slope - 1.0)
    squares = 0.0
    logs = 0.0
    for d in range(n_features):
        raw = outputs[n_features + d]
        logs += floor if raw < floor else raw
        squares += (x[d] - outputs[d]) * slopes[d]
    return -0.5 * (squares + logs + n_features * LOG_2PI)


@kernel(void(TABLE, TABLE, FLOAT, OUT2, OUT))
def pixel_rows_double(outputs, x, floor, slopes, out):
    """`pixel_row` for outputs (K B, 2 F) and x (B, F), the observation running fastest."""
    for row in range(outputs.shape[0]):
        out[row] = pixel_row(outputs[row], x[row % x.shape[0]], floor, slopes[row])


@kernel(void(SINGLE_TABLE, SINGLE_TABLE, FLOAT, SINGLE_OUT2, SINGLE_OUT))
def pixel_rows_single(outputs, x, floor, slopes, out):
    """The same on float32 stores."""
    for row in range(outputs.shape[0]):
        out[row] = pixel_row(outputs[row], x[row % x.shape[0]], floor, slopes[row])
