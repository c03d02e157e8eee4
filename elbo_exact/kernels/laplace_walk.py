"""The line that every K-sample integral is summed along: nodes at multiples of the step, and the stretches that are one node each.

A stretch of the line where phi is constant (see ``laplace_weights``) is one node in its middle: the integrands are linear there.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.laplace_weights import BREAKS, DEAD, DELTA, N_BREAKS, REACH
from elbo_exact.kernels.tree import INF, U

__all__ = ["GAMMA", "MARGIN", "QUADRATURE", "STEP", "first_and_last", "next_break", "node_at", "shift_ahead"]

STEP = 0.2
QUADRATURE = 2.0**-56
MARGIN = 42.0  # exp(-42) = 2**-60.6
GAMMA = 0.5772156649015329


@kernel
def first_and_last(top, bottom, log_k, step):
    """The indices between which nodes lie, for the largest log K, the largest log ratio and 4 - the smallest."""
    return np.floor((-top - log_k - MARGIN) / step), np.ceil((bottom + 8.0) / step)


@kernel
def next_break(i, facts, step):
    """(where stretch i begins, its length); nodes lie half a step to its left and right, so that the rule stays exact."""
    if i >= facts[N_BREAKS]:
        return INF, 0.0
    return (np.floor((DEAD - facts[BREAKS + 2 * i]) / step) + 0.5) * step, facts[BREAKS + 2 * i + 1]


@kernel
def shift_ahead(first, facts):
    """The length of all stretches from one on."""
    total = 0.0
    for i in range(first, int(facts[N_BREAKS])):
        total += facts[BREAKS + 2 * i + 1]
    return total


@kernel
def node_at(j, edge, shift, facts, step):
    """(x, width in steps, its relative error, from x to the middle) of node j; of the stretch before it if there is one, with an error > 0."""
    if not j * step > edge:
        return j * step, 1.0, 0.0, 0.0
    return edge, shift / step, 8.0 * U + 2.0 * (facts[DELTA] + max(REACH, edge) * U) / shift, 0.5 * shift
