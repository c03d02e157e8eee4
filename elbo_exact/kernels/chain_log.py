"""Forward-backward sums of one hidden Markov chain in logarithms, for sequences whose scaled form would underflow.

The recursions of ``chain`` with log-sum-exp in place of sums; each step is normalized, so values stay near the size of one step.

Rounding. With sizes s of the finite logarithms that meet in a sum of K terms, an addition rounds by u s, exp and log by LIBM = 8 u of
their values, the sum by K u, subtraction of the top by u s: a step adds at most (4 s + K + 17 + 8 log K) u to the absolute error of a
log variable, s the largest size seen in the step. ``out[1]`` returns the sum of those s over the steps, and the normalizers' part.
"""

from __future__ import annotations

import math

from elbo_exact.kernels._jit import INT, OUT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.scalar import two_sum

__all__ = ["chain_backward_log", "chain_forward_log"]


@kernel
def push(top, rest, value):
    """Add exp(value) to rest * exp(top)."""
    if value == -math.inf:
        return top, rest
    if value <= top:
        return top, rest + math.exp(value - top)
    if top == -math.inf:
        return value, 1.0
    return value, rest * math.exp(top - value) + 1.0


@kernel
def closed(top, rest):
    """The logarithm of what was pushed."""
    return top + math.log(rest) if rest > 0.0 else -math.inf


@kernel
def larger(size, value):
    """Largest absolute value of the finite ones."""
    return max(size, abs(value)) if value > -math.inf else size


@kernel(void(ROW, TABLE, TABLE, INT, INT, OUT2, OUT, OUT))
def chain_forward_log(log_initial, log_transition, log_emission, first, stop, forward, scale, out):
    """Log forward variables; out: log evidence, sum of sizes, and 2 if the evidence is 0."""
    n_states = len(log_initial)
    total, carry, size, flag = 0.0, 0.0, 0.0, 0.0
    for t in range(first, stop):
        all_top, all_rest, largest = -math.inf, 0.0, 0.0
        for j in range(n_states):
            value = log_initial[j]
            if t > first:
                top, rest = -math.inf, 0.0
                for i in range(n_states):
                    term = forward[t - 1, i] + log_transition[i, j]
                    largest = larger(largest, term)
                    top, rest = push(top, rest, term)
                value = closed(top, rest)
            value += log_emission[t, j]
            largest = larger(largest, value)
            forward[t, j] = value
            all_top, all_rest = push(all_top, all_rest, value)
        norm = closed(all_top, all_rest)
        scale[t] = norm
        size += largest
        if norm == -math.inf:
            flag = 2.0
            break
        for j in range(n_states):
            forward[t, j] -= norm
        total, low = two_sum(total, norm)
        carry += low
    out[0] = total + carry
    out[1] = size
    out[2] = flag


@kernel(void(TABLE, TABLE, INT, INT, TABLE, ROW, OUT2, OUT2, OUT))
def chain_backward_log(log_transition, log_emission, first, stop, forward, scale, posterior, counts, out):
    """Posteriors and expected transitions; ``out`` as in ``chain_backward``, sizes added to out[1]."""
    n_states = len(log_transition)
    for j in range(n_states):
        out[3 + j] = 0.0
        posterior[stop - 1, j] = math.exp(forward[stop - 1, j])
    for t in range(stop - 2, first - 1, -1):
        largest = 0.0
        for j in range(n_states):
            value = log_emission[t + 1, j] + out[3 + j]
            largest = larger(largest, value)
            out[3 + n_states + j] = value - scale[t + 1]
        for i in range(n_states):
            top, rest, a = -math.inf, 0.0, forward[t, i]
            for j in range(n_states):
                term = log_transition[i, j] + out[3 + n_states + j]
                largest = larger(largest, term)
                top, rest = push(top, rest, term)
                counts[i, j] += math.exp(a + term)
            out[3 + i] = closed(top, rest)
            posterior[t, i] = math.exp(a + out[3 + i])
        out[1] += largest
