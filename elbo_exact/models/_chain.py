"""Sums over the paths of several hidden Markov chains, with bounds on their rounding."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import entr

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LIBM, LogSimplex, U
from elbo_exact.kernels.chain import chain_backward, chain_emission, chain_forward
from elbo_exact.kernels.chain_log import chain_backward_log, chain_forward_log

__all__ = ["ChainSums", "backward_chain", "chain_evidence", "chain_sums", "log_filter", "path_entropy"]

SMALLEST_PROBABILITY, SMALLEST_DENSITY = -150.0 * math.log(2.0), -350.0 * math.log(2.0)  # what the scaled kernel may take
BLOCK = 2**18  # entries of a block of steps
TRUSTED = 1e-3  # relative errors are first-order below this


class ChainSums(NamedTuple):
    """What forward-backward leaves; N sequences with T steps in all, K states."""

    log_evidence: FloatArray  # (N,)
    error: FloatArray  # (N,)
    posterior: FloatArray  # (T, K)
    initial: FloatArray  # (K,), expected counts, weighted
    transitions: FloatArray  # (K, K), expected counts, weighted
    relative_error: float  # of every posterior


class _Tables(NamedTuple):
    """What all sequences share, and room for what they do not."""

    logs: tuple[FloatArray, FloatArray, FloatArray]  # initial, transition, emission
    plain: tuple[FloatArray, FloatArray, FloatArray]  # their exponentials, the emission divided by its largest
    error: FloatArray  # (T, K), of the log emission
    fits: bool  # whether the scaled kernel may take these transitions
    model_error: float  # of log initial and log transition


def chain_sums(
    initial: LogSimplex, transition: LogSimplex, table: FloatArray, error: FloatArray, bounds: list[int], weights: FloatArray
) -> ChainSums:
    """Forward-backward over rows ``bounds[n]`` ... ``bounds[n + 1]`` of a log emission table, O(T K^2) time, O(T K) memory.

    The error of log evidence is, with T steps, at most sum_t max_j (error of log e_t(j)) + T (error of log A + rounding of a step, see
    ``chain`` and ``chain_log``) + rounding of the sum of normalizers: every path is a product of these factors. A posterior divides
    two such sums by a third, so its relative error is at most three times that.
    """
    n_states, n_sequences = table.shape[1], len(bounds) - 1
    tables = _tables(initial, transition, table, error)
    forward, posterior, scale = np.empty(table.shape), np.zeros(table.shape), np.empty(len(table))
    values, errors, transitions = np.empty(n_sequences), np.empty(n_sequences), np.zeros((n_states, n_states))
    starts = np.zeros(n_states)
    for n in range(n_sequences):
        first, stop = bounds[n], bounds[n + 1]
        counts = np.zeros((n_states, n_states))
        values[n], errors[n] = _one(tables, first, stop, forward, scale, posterior, counts)
        if values[n] > -np.inf:
            transitions += weights[n] * counts
            starts += weights[n] * posterior[first]
        else:
            posterior[first:stop] = 0.0
    worst = float(errors.max())
    return ChainSums(values, errors, posterior, starts, transitions, 3.1 * worst if worst < TRUSTED else math.inf)


def chain_evidence(
    initial: LogSimplex, transition: LogSimplex, table: FloatArray, error: FloatArray, bounds: list[int]
) -> tuple[FloatArray, FloatArray]:
    """Log evidence of every sequence and its bound by the forward pass alone, both (N,)."""
    tables = _tables(initial, transition, table, error)
    forward, scale = np.empty(table.shape), np.empty(len(table))
    pairs = [_one(tables, first, stop, forward, scale) for first, stop in itertools.pairwise(bounds)]
    return np.array([value for value, _ in pairs]), np.array([bound for _, bound in pairs])


def log_filter(initial: LogSimplex, transition: LogSimplex, table: FloatArray) -> FloatArray:
    """log p(z_t | x_1 ... x_t) of one sequence, (T, K), from its log emission table."""
    forward, out = np.empty(table.shape), np.empty(3)
    emission = np.ascontiguousarray(table)
    chain_forward_log(initial.normalized, transition.normalized, emission, 0, len(table), forward, np.empty(len(table)), out)
    return forward


def backward_chain(log_filtered: FloatArray, log_transition: FloatArray) -> FloatArray:
    """p(z_t-1 = i | z_t = j, x) of T - 1 steps (T - 1, K, K), from the filter before each; 0 where j is impossible.

    Given x the states run backwards as a Markov chain, which needs nothing of the future: a_t-1(i) A_ij / sum_i' a_t-1(i') A_i'j.
    """
    logs = log_filtered[:, :, None] + log_transition
    with np.errstate(invalid="ignore"):
        shares = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
    return np.where(np.isnan(shares), 0.0, shares)


def path_entropy(log_filtered: FloatArray, log_transition: FloatArray, posterior: FloatArray) -> float:
    """Entropy of the states of one sequence given x, in nats: that of the last, and of each given the next. O(T K^2)."""
    total, step = [entr(posterior[-1]).sum()], max(1, BLOCK // log_transition.size)
    for first in range(1, len(posterior), step):
        back = backward_chain(log_filtered[first - 1 : -1][:step], log_transition)
        total.append((posterior[first : first + step] * entr(back).sum(axis=1)).sum())
    return math.fsum(total)


def _tables(initial: LogSimplex, transition: LogSimplex, table: FloatArray, error: FloatArray) -> _Tables:
    logs = initial.normalized, transition.normalized, np.ascontiguousarray(table)
    fits = all(bool((part[part > -np.inf] >= SMALLEST_PROBABILITY).all()) for part in logs[:2])
    plain = np.exp(logs[0]), np.exp(logs[1]), np.empty(table.shape)
    model_error = max(float(initial.error.max()), float(transition.error.max()))
    return _Tables(logs, plain, np.ascontiguousarray(error), fits, model_error)


def _one(
    tables: _Tables, first: int, stop: int, forward: Any, scale: Any, posterior: Any = None, counts: Any = None
) -> tuple[float, float]:
    """Log evidence and its bound; rows of ``posterior`` and ``counts`` are filled where they are given."""
    n_states, n_steps = forward.shape[1], stop - first
    shift, out = np.empty(4), np.empty(3 + 2 * n_states)
    chain_emission(tables.logs[2], tables.error, first, stop, tables.plain[2], shift)
    largest, largest_size, given, least = shift.tolist()
    given += n_steps * tables.model_error
    if tables.fits and least >= SMALLEST_DENSITY:
        initial, transition, emission = tables.plain
        chain_forward(initial, transition, emission, first, stop, forward, scale, out)
        if out[2] == 2.0:
            return -math.inf, 0.0
        if out[2] == 0.0 and posterior is not None:
            chain_backward(transition, emission, first, stop, forward, scale, posterior, counts, out)
        if out[2] == 0.0:
            value = largest + float(out[0])
            # the exponentials of A and e, the step; logarithms of normalizers; both sums, compensated, and their sum
            rounding = n_steps * (2.0 * LIBM + (n_states + 3) * U) + LIBM * out[1]
            rounding += (n_steps * U) ** 2 * (largest_size + out[1]) + U * (abs(largest) + abs(out[0]) + abs(value))
            return value, float(1.01 * (given + n_steps * U * given + rounding))
        if counts is not None:
            counts[:] = 0.0
    initial, transition, emission = tables.logs
    chain_forward_log(initial, transition, emission, first, stop, forward, scale, out)
    value = float(out[0])
    if out[2] == 2.0:
        return -math.inf, 0.0
    if posterior is not None:
        chain_backward_log(transition, emission, first, stop, forward, scale, posterior, counts, out)
    rounding = 4.0 * U * out[1] + n_steps * (n_states + 17 + 8.0 * math.log(n_states)) * U + U * abs(value)
    return value, float(1.01 * (given + rounding))
