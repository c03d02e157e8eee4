"""Forward-backward sums of one hidden Markov chain in scaled arithmetic (Rabiner 1989, Proc. IEEE 77:257, section V.A).

With e_t(j) = p(x_t | j) / exp(m_t), m_t the largest log density of the step, the forward variables are divided by their sum c_t:

    a_t(j) = e_t(j) sum_i a_{t-1}(i) A_ij / c_t,      log p(x) = sum_t (m_t + log c_t)
    b_t(i) = sum_j A_ij e_{t+1}(j) b_{t+1}(j) / c_{t+1},   p(z_t = i | x) = a_t(i) b_t(i)

Nothing may underflow: where all A are at least 2**-150, e at least 2**-350, a, b and c at least 2**-400 (or exactly 0, which then is
a structural zero), every product is a normal double. Where one is not, the kernel says so, and `chain_log` takes the sequence.

Rounding. A step adds to the relative error of a: two products, K - 1 additions of non-negative terms, a division, hence (K + 2) u. c_t
is whatever double was used. log p(x) is the sum of logarithms of products of c, one u per product, compensated sums; so in total
T (K + 3) u, besides the errors of A, e and the logarithms, which the caller adds: they know where the tables come from.
"""

from __future__ import annotations

import math

from elbo_exact.kernels._jit import INT, OUT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.scalar import two_sum
from elbo_exact.kernels.tree import U

__all__ = ["chain_backward", "chain_emission", "chain_forward", "chain_viterbi"]

SMALL = 2.0**-400


@kernel(void(TABLE, TABLE, INT, INT, OUT2, OUT))
def chain_emission(table, error, first, stop, emission, out):
    """e_t(j) of steps first ... stop; out: sum of m_t, of its sizes, of the largest errors of log e_t(j), and the smallest log e.

    The sum of m_t is compensated: off by at most u of itself and (T u)**2 of its sizes. The difference of two logs rounds by u.
    """
    total, carry, size, errors, least = 0.0, 0.0, 0.0, 0.0, 0.0
    for t in range(first, stop):
        top = -math.inf
        for j in range(table.shape[1]):
            top = max(top, table[t, j])
        if top == -math.inf:
            top = 0.0
        worst = 0.0
        for j in range(table.shape[1]):
            below = table[t, j] - top
            if below == -math.inf:
                emission[t, j] = 0.0
            else:
                emission[t, j] = math.exp(below)
                worst = max(worst, error[t, j] - U * below)
                least = min(least, below)
        total, low = two_sum(total, top)
        carry += low
        size += abs(top)
        errors += worst
    out[0] = total + carry
    out[1] = size
    out[2] = errors
    out[3] = least


@kernel(void(ROW, TABLE, TABLE, INT, INT, OUT2, OUT, OUT))
def chain_forward(initial, transition, emission, first, stop, forward, scale, out):
    """Forward variables of steps first ... stop; out: sum of log c, its size, 0 or 1 (something too small), and 2 if p(x) = 0."""
    n_states = len(initial)
    total, carry, size, product, flag = 0.0, 0.0, 0.0, 1.0, 0.0
    for t in range(first, stop):
        c = 0.0
        for j in range(n_states):
            value = initial[j]
            if t > first:
                value = 0.0
                for i in range(n_states):
                    value += forward[t - 1, i] * transition[i, j]
            value *= emission[t, j]
            forward[t, j] = value
            c += value
        scale[t] = c
        if c == 0.0:
            flag = 2.0 if flag == 0.0 else flag
            break
        if c < SMALL:
            flag = 1.0
            break
        for j in range(n_states):
            value = forward[t, j] / c
            forward[t, j] = value
            if value != 0.0 and value < SMALL:
                flag = 1.0
        product *= c
        if product < SMALL or t == stop - 1:
            log = math.log(product)
            total, low = two_sum(total, log)
            carry += low
            size += abs(log)
            product = 1.0
    out[0] = total + carry
    out[1] = size
    out[2] = flag


@kernel(void(TABLE, TABLE, INT, INT, TABLE, ROW, OUT2, OUT2, OUT))
def chain_backward(transition, emission, first, stop, forward, scale, posterior, counts, out):
    """Posteriors of steps first ... stop, and expected transitions added to ``counts``; out[2] = 1 if something was too small.

    ``out`` needs 3 + 2 K places: the backward variables of two steps lie behind the results.
    """
    n_states = len(transition)
    for j in range(n_states):
        out[3 + j] = 1.0
        posterior[stop - 1, j] = forward[stop - 1, j]
    for t in range(stop - 2, first - 1, -1):
        for j in range(n_states):
            out[3 + n_states + j] = emission[t + 1, j] * out[3 + j] / scale[t + 1]
        for i in range(n_states):
            value, a = 0.0, forward[t, i]
            for j in range(n_states):
                term = transition[i, j] * out[3 + n_states + j]
                value += term
                counts[i, j] += a * term
            out[3 + i] = value
            posterior[t, i] = a * value
            if value != 0.0 and value < SMALL:
                out[2] = 1.0


@kernel(void(ROW, TABLE, TABLE, INT, INT, OUT2, OUT))
def chain_viterbi(log_initial, log_transition, log_emission, first, stop, best, out):
    """Most probable path in logarithms (Viterbi 1967); ties go to the smallest state.

    ``best[t, j]`` is the best predecessor, ``out`` the path; behind it 2 K places for the log scores of two steps.
    """
    n_states, n_steps = len(log_initial), stop - first
    for j in range(n_states):
        out[n_steps + j] = log_initial[j] + log_emission[first, j]
    for t in range(first + 1, stop):
        for j in range(n_states):
            top, at = -math.inf, 0
            for i in range(n_states):
                value = out[n_steps + i] + log_transition[i, j]
                if value > top:
                    top, at = value, i
            best[t, j] = at
            out[n_steps + n_states + j] = top + log_emission[t, j]
        for j in range(n_states):
            out[n_steps + j] = out[n_steps + n_states + j]
    at = 0
    for j in range(n_states):
        if out[n_steps + j] > out[n_steps + at]:
            at = j
    for t in range(stop - 1, first - 1, -1):
        out[t - first] = at
        if t > first:
            at = int(best[t, at])
