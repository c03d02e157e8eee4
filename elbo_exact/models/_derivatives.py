"""Derivatives of the log joint of whole models, state by state, assembled from those of their families."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray
from elbo_exact.families._derivatives import derivatives, simplex_coordinates, simplex_curvature
from elbo_exact.models.mixture import Mixture
from elbo_exact.models.monomial import Monomial

__all__ = ["JointDerivatives", "joint_derivatives"]


class JointDerivatives(NamedTuple):
    """Of log p(x, z) in P coordinates, of which the ``free`` ones are parameters.

    Attributes
    ----------
    names, values, jacobian, free
        As of a family.
    places : list of ndarray of int, one per state
        The coordinates that the state depends on.
    scores : callable
        x to a list of (N, p), one per state: gradients of log p(x_n, z) in these coordinates.
    curvature : callable
        Statistics to (P, P): minus the second derivatives of the expected log joint.
    """

    names: tuple[str, ...]
    values: FloatArray
    jacobian: Callable[[], FloatArray]
    free: npt.NDArray[np.bool_]
    places: list[npt.NDArray[np.int64]]
    scores: Callable[[Any], list[FloatArray]]
    curvature: Callable[[Any], FloatArray]


@singledispatch
def joint_derivatives(model: Any) -> JointDerivatives:
    """Derivatives of a model."""
    raise TypeError(f"model must be a Mixture or a Monomial for its information; got {type(model).__name__}.")


@joint_derivatives.register
def _(model: Mixture) -> JointDerivatives:
    n_states = model.n_components
    shares, share_jacobian, share_free = simplex_coordinates(model._shares)
    parts = [derivatives(family) for family in model.components]
    firsts = np.cumsum([n_states, *(part.values.size for part in parts)])
    names = [f"weights[{k}]" for k in range(n_states)]
    names += [f"components[{i}].{name}" for i, part in enumerate(parts) for name in part.names]
    own = np.arange(n_states)
    places = [
        np.concatenate([own, *(first + part.places[k] for first, part in zip(firsts, parts, strict=False))])
        for k in range(n_states)
    ]

    def scores(x: Any) -> list[FloatArray]:
        tables = [part.scores(column) for part, (column, _) in zip(parts, model._pairs(x), strict=True)]
        shift = np.eye(n_states) - shares
        rows = np.ones((len(x), 1))
        return [np.concatenate([rows * shift[k], *(table[:, k] for table in tables)], axis=1) for k in range(n_states)]

    def curvature(statistics: Any) -> FloatArray:
        blocks = [simplex_curvature(model._shares, statistics.weights)]
        blocks += [part.curvature(seen) for part, seen in zip(parts, statistics.components, strict=True)]
        return _block_diagonal(blocks)

    return JointDerivatives(
        tuple(names),
        np.concatenate([shares, *(part.values for part in parts)]),
        lambda: _block_diagonal([share_jacobian(), *(part.jacobian() for part in parts)]),
        np.concatenate([share_free, *(part.free for part in parts)]),
        places,
        scores,
        curvature,
    )


@joint_derivatives.register
def _(model: Monomial) -> JointDerivatives:
    values, jacobian, free = simplex_coordinates(model._simplex)
    p = values.reshape(model.log_probabilities.shape)
    gradients = model.exponents - model.exponents.sum(axis=-1, keepdims=True) * p
    flat = gradients.reshape(*gradients.shape[:2], p.size)
    n_states = flat.shape[1]
    return JointDerivatives(
        tuple(f"probabilities[{g},{c}]" for g, c in np.ndindex(p.shape)),
        values,
        jacobian,
        free,
        [np.arange(p.size)] * n_states,
        lambda x: [np.asarray(flat[model._checked(x), z]) for z in range(n_states)],
        lambda statistics: simplex_curvature(model._simplex, np.asarray(statistics)),
    )


def _block_diagonal(blocks: list[FloatArray]) -> FloatArray:
    size, first = sum(len(block) for block in blocks), 0
    out = np.zeros((size, size))
    for block in blocks:
        stop = first + len(block)
        out[first:stop, first:stop] = block
        first = stop
    return out
