"""What the information of a model is made of: its coordinates, and sums over observations and hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray

__all__ = ["InformationSums", "JointDerivatives", "Posteriors", "block_diagonal", "outer_sum", "sums_by_states"]

Index = npt.NDArray[np.int64]
BLOCK = 2**20  # entries of a block of scores


class InformationSums(NamedTuple):
    """Sums over observations, weighted with their counts; scores s = d log p(x, z)."""

    gradient: FloatArray  # (P,), sum of E[s]
    complete: FloatArray  # (P, P), minus the sum of E[d^2 log p(x, z)]
    missing: FloatArray  # (P, P), sum of Cov[s]


Posteriors = Callable[[FloatArray], FloatArray]
Sums = Callable[[Any, FloatArray, Posteriors], InformationSums]


class JointDerivatives(NamedTuple):
    """Of log p(x, z) in P coordinates, of which the ``free`` ones are parameters.

    Attributes
    ----------
    names, values, jacobian, free
        As of a family.
    sums : callable
        Observations, their counts, all positive, and what makes posteriors of log tables, to `InformationSums`.
    """

    names: tuple[str, ...]
    values: FloatArray
    jacobian: Callable[[], FloatArray]
    free: npt.NDArray[np.bool_]
    sums: Sums


def sums_by_states(
    model: Any,
    places: Sequence[Index],
    scores: Callable[[Any], list[FloatArray]],
    curvature: Callable[[Any], FloatArray],
) -> Sums:
    """The sums of a model whose states are the columns of its log joint.

    ``places`` are the coordinates that each state depends on, ``scores(x)`` its gradients in them, (N, p) for every state, and
    ``curvature`` makes the complete information of expected statistics.
    """

    def sums(x: npt.NDArray[Any], counts: FloatArray, posterior: Posteriors) -> InformationSums:
        weighted = counts[:, None] * posterior(model.log_joint(x))
        complete = curvature(model.statistics(x, weighted))
        size = len(complete)
        gradient, missing = np.zeros(size), np.zeros((size, size))
        step = max(1, BLOCK // size)
        for first in range(0, len(x), step):
            block = slice(first, first + step)
            expected = np.zeros((len(x[block]), size))  # count times mean score
            for place, of_state, weight in zip(places, scores(x[block]), weighted[block].T, strict=True):
                expected[:, place] += weight[:, None] * of_state
                missing[np.ix_(place, place)] += outer_sum(weight, of_state)
            missing -= outer_sum(1.0 / counts[block], expected)
            gradient += expected.sum(axis=0)
        return InformationSums(gradient, complete, missing)

    return sums


def outer_sum(weights: FloatArray, vectors: FloatArray) -> FloatArray:
    """sum_n weight_n v_n v_n^T by NumPy's own loop: the same bits whatever the threads of BLAS."""
    return np.asarray(np.einsum("ni,nj->ij", weights[:, None] * vectors, vectors, optimize=False))


def block_diagonal(blocks: Sequence[FloatArray]) -> FloatArray:
    """One matrix of square blocks."""
    size, first = sum(len(block) for block in blocks), 0
    out = np.zeros((size, size))
    for block in blocks:
        stop = first + len(block)
        out[first:stop, first:stop] = block
        first = stop
    return out
