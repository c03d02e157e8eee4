"""Derivatives of hidden Markov models; the covariance of a chain's score from one pass over its steps.

Given x the hidden states run backwards as a Markov chain (`backward_chain`), B_t(i | j) = p(z_t-1 = i | z_t = j, x). With s_t(i, j) the part of the score that step t from i to j adds, minus its mean, and

    r_t(j) = E[s_1 + ... + s_t | z_t = j, x] = sum_i B_t(i | j) (r_t-1(i) + s_t(i, j)),

the score minus its mean is r_T(z_T) + sum_t (r_t-1(z_t-1) + s_t(z_t-1, z_t) - r_t(z_t)). What a step reveals has mean 0 given the
steps after it, so the terms are uncorrelated (a martingale), and the covariance is the sum of their second moments: nothing cancels,
however long the chain. (Oakes 1999, JRSS-B 61:479 differentiates the expected counts instead, one pass for every parameter.)
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._derivatives import Derivatives, derivatives, simplex_coordinates, simplex_curvature
from elbo_exact.models._chain import backward_chain
from elbo_exact.models._information import InformationSums, JointDerivatives, Posteriors, block_diagonal, outer_sum
from elbo_exact.models.hidden_markov import HiddenMarkov

__all__ = ["chain_derivatives"]

BLOCK = 2**18  # entries of a block of steps: 2 MiB


def chain_derivatives(model: HiddenMarkov) -> JointDerivatives:
    """Coordinates: the start, the transitions row by row, then those of each family."""
    n_states = model.n_states
    tables = [simplex_coordinates(model._initial), simplex_coordinates(model._transition)]
    parts = [derivatives(family) for family in model.emission]

    def sums(x: Any, counts: FloatArray, _: Posteriors) -> InformationSums:
        seen = model.statistics(x, counts)
        blocks = [simplex_curvature(model._initial, seen.initial), simplex_curvature(model._transition, seen.transitions)]
        blocks += [part.curvature(of_family) for part, of_family in zip(parts, seen.components, strict=True)]
        complete = block_diagonal(blocks)
        gradient, missing = np.zeros(len(complete)), np.zeros(complete.shape)
        for sequence, count in zip(x, counts, strict=True):
            mean, covariance = _Chain(model, parts, sequence).moments()
            gradient += count * mean
            missing += count * covariance
        return InformationSums(gradient, complete, missing)

    names = [f"initial[{k}]" for k in range(n_states)]
    names += [f"transition[{i},{j}]" for i, j in np.ndindex(n_states, n_states)]
    names += [f"emission[{e}].{name}" for e, part in enumerate(parts) for name in part.names]
    return JointDerivatives(
        tuple(names),
        np.concatenate([part[0] for part in tables] + [part.values for part in parts]),
        lambda: block_diagonal([part[1]() for part in tables] + [part.jacobian() for part in parts]),
        np.concatenate([part[2] for part in tables] + [part.free for part in parts]),
        sums,
    )


class _Chain:
    """The steps of one sequence: what each adds to the score, and the backward chain of its states."""

    def __init__(self, model: HiddenMarkov, parts: list[Derivatives], sequence: Any) -> None:
        self.parts, self.n_states, self.pairs = parts, model.n_states, model._pairs(sequence)
        self.posterior, self.filtered = model.posterior([sequence])[0], model._log_filter(sequence)
        self.log_transition = model._transition.normalized
        k = self.n_states
        self.size = k + k * k + sum(part.values.size for part in parts)
        self.start = np.zeros((k, self.size))
        self.start[:, :k] = np.eye(k) - np.exp(model._initial.normalized)
        move = np.zeros((k, k, k, k))
        move[np.arange(k), :, np.arange(k)] = np.eye(k) - np.exp(self.log_transition)[:, None, :]
        self.move = move.reshape(k, k, k * k)

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of the score."""
        mean, covariance = np.zeros(self.size), np.zeros((self.size, self.size))
        expected = np.zeros((self.n_states, self.size))  # r_t
        step = max(1, BLOCK // (self.n_states**2 * self.size))
        for first, stop in itertools.pairwise([*range(0, len(self.posterior), step), len(self.posterior)]):
            scores, joint, back = self._block(first, stop)
            means = np.einsum("tij,tijp->tp", joint, scores)
            scores -= means[:, None, None, :]
            for t in range(stop - first):
                scores[t] += expected[:, None, :]
                expected = np.einsum("ij,ijp->jp", back[t], scores[t])
                scores[t] -= expected
            mean += means.sum(axis=0)
            covariance += outer_sum(joint.ravel(), scores.reshape(-1, self.size))
        return mean, covariance + outer_sum(self.posterior[-1], expected)

    def _block(self, first: int, stop: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of some steps: what they add to the score (T, K, K, P), p(z_t-1 = i, z_t = j | x), and B_t(i | j)."""
        k = self.n_states
        scores = np.zeros((stop - first, k, k, self.size))
        back = np.empty((stop - first, k, k))
        at = k + k * k
        for part, (column, _) in zip(self.parts, self.pairs, strict=True):
            found = part.scores(column[first:stop])
            for j in range(k):
                scores[:, :, j, at + part.places[j]] += found[:, None, j]
            at += part.values.size
        scores[:, :, :, k : k + k * k] = self.move
        back[1 if first == 0 else 0 :] = backward_chain(self.filtered[max(first - 1, 0) : stop - 1], self.log_transition)
        if first == 0:  # before the first step there is one state, called 0
            scores[0, :, :, k : k + k * k] = 0.0
            scores[0, 0, :, :k] = self.start[:, :k]
            back[0] = np.eye(k)[0][:, None]
        return scores, back * self.posterior[first:stop, None, :], back
