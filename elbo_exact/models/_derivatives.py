"""Derivatives of the log joint of every model, assembled from those of families and tables."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._derivatives import derivatives, simplex_coordinates, simplex_curvature
from elbo_exact.models._derivatives_causes import belief_derivatives, noisy_or_derivatives
from elbo_exact.models._derivatives_chain import chain_derivatives
from elbo_exact.models._derivatives_network import network_derivatives
from elbo_exact.models._information import InformationSums, JointDerivatives, Posteriors, block_diagonal, sums_by_states
from elbo_exact.models.bayesian_network import BayesianNetwork
from elbo_exact.models.dawid_skene import DawidSkene
from elbo_exact.models.hidden_markov import HiddenMarkov
from elbo_exact.models.mixture import Mixture
from elbo_exact.models.monomial import Monomial
from elbo_exact.models.noisy_or import NoisyOr
from elbo_exact.models.sigmoid_belief import SigmoidBelief

__all__ = ["joint_derivatives"]


@singledispatch
def joint_derivatives(model: Any) -> JointDerivatives:
    """Derivatives of a model."""
    raise TypeError(f"model must be one of elbo_exact.models for its information; got {type(model).__name__}.")


joint_derivatives.register(HiddenMarkov, chain_derivatives)
joint_derivatives.register(BayesianNetwork, network_derivatives)
joint_derivatives.register(NoisyOr, noisy_or_derivatives)
joint_derivatives.register(SigmoidBelief, belief_derivatives)


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
        return block_diagonal(blocks)

    return JointDerivatives(
        tuple(names),
        np.concatenate([shares, *(part.values for part in parts)]),
        lambda: block_diagonal([share_jacobian(), *(part.jacobian() for part in parts)]),
        np.concatenate([share_free, *(part.free for part in parts)]),
        sums_by_states(model, places, scores, curvature),
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
        sums_by_states(
            model,
            [np.arange(p.size)] * n_states,
            lambda x: [np.asarray(flat[model._checked(x), z]) for z in range(n_states)],
            lambda statistics: simplex_curvature(model._simplex, np.asarray(statistics)),
        ),
    )


@joint_derivatives.register
def _(model: DawidSkene) -> JointDerivatives:
    """A mixture whose columns of one rater share their tables: its coordinates of a column are added to those of the rater."""
    mixture, n_states = joint_derivatives(model._mixture), model.n_components
    shares, confusion = simplex_coordinates(model._shares), simplex_coordinates(model._confusion)
    table = np.arange(model.log_confusion.size).reshape(model.log_confusion.shape)
    rater = np.concatenate([np.arange(n_states), *(n_states + table[column].ravel() for column in model._columns)])

    def tied(matrix: FloatArray) -> FloatArray:
        rows = np.zeros((n_states + table.size, *matrix.shape[1:]))
        np.add.at(rows, rater, matrix)
        return rows

    def sums(x: Any, counts: FloatArray, posterior: Posteriors) -> InformationSums:
        found = mixture.sums(x, counts, posterior)
        return InformationSums(tied(found.gradient), tied(tied(found.complete).T), tied(tied(found.missing).T))

    names = [f"weights[{k}]" for k in range(n_states)]
    names += [f"confusion[{','.join(map(str, place))}]" for place in np.ndindex(table.shape)]
    return JointDerivatives(
        tuple(names),
        np.concatenate([shares[0], confusion[0]]),
        lambda: block_diagonal([shares[1](), confusion[1]()]),
        np.concatenate([shares[2], confusion[2]]),
        sums,
    )
