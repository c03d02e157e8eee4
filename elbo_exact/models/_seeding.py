"""Starts of mixtures and chains spread over the data: seeds far from each other (k-means++; Arthur & Vassilvitskii 2007, SODA), then one M-step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any, TypeVar

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.errors import CollapsedComponent
from elbo_exact.families import Bernoulli, Categorical, Gaussian
from elbo_exact.models._chain_statistics import HiddenMarkovStatistics
from elbo_exact.models.hidden_markov import HiddenMarkov
from elbo_exact.models.mixture import Mixture

__all__ = ["seeded"]

Model = TypeVar("Model", Mixture, HiddenMarkov)

SHARE = 0.9  # of an observation that goes to its nearest seed; the rest goes everywhere, so that no category is lost


@singledispatch
def seeded(model: Any, x: Any, counts: FloatArray, rng: np.random.Generator, prior: Any = None) -> Any:
    """A model of the same shape and structural zeros whose states start around rows of the data.

    The first seed is a row drawn by its count; each further one is drawn with probability proportional to its count times the squared
    distance from the nearest seed. Every observation gives 9/10 of itself to its nearest seed and shares the rest evenly, and
    one M-step follows; a chain's counts of steps are those of the shares of neighbours. Distances add up over columns: 1 between
    two categories, the squared difference in units of the standard deviation between two real numbers, of the square roots, doubled,
    between two counts; a missing value is at the distance 0 of the column's mean. Where even that M-step would collapse, as on
    data in a plane, the start is a random one, whose fit then tells.
    """
    raise TypeError(f"starts must be 'random' for a {type(model).__name__}; only states with densities start around rows.")


@seeded.register
def _(model: Mixture, x: Any, counts: FloatArray, rng: np.random.Generator, prior: Any = None) -> Mixture:
    table = np.asarray(x)
    shares = _shares(model._pairs(table), counts, model.n_components, rng)
    return _maximized(model, model.statistics(table, counts[:, None] * shares), rng, prior)


@seeded.register
def _(model: HiddenMarkov, x: Any, counts: FloatArray, rng: np.random.Generator, prior: Any = None) -> HiddenMarkov:
    rows, lengths = np.concatenate(x), [len(sequence) for sequence in x]
    weights = np.repeat(counts, lengths)
    shares = _shares(model._pairs(rows), weights, model.n_states, rng)
    firsts = np.cumsum([0, *lengths[:-1]])
    moves = np.delete(np.arange(1, len(rows)), firsts[1:] - 1)  # steps within a sequence
    statistics = HiddenMarkovStatistics(
        (weights[:, None] * shares)[firsts].sum(axis=0),
        np.einsum("ni,nj->ij", weights[moves, None] * shares[moves - 1], shares[moves], optimize=False),
        tuple(family.statistics(column, weights[:, None] * shares) for column, family in model._pairs(rows)),
    )
    return _maximized(model, statistics, rng, prior)


def _maximized(model: Model, statistics: Any, rng: np.random.Generator, prior: Any) -> Model:
    try:
        return model.maximize(statistics, prior)
    except CollapsedComponent:
        return model.randomize(rng)


def _shares(pairs: Sequence[tuple[Any, Any]], counts: FloatArray, n_states: int, rng: np.random.Generator) -> FloatArray:
    """What each row gives to each seed, (N, K)."""
    points = np.concatenate([_features(family, column, counts) for column, family in pairs], axis=1)
    nearest = np.full(len(points), np.inf)
    closest = np.zeros(len(points), np.int64)
    for k in range(n_states):
        chances = counts * (nearest if k else 1.0)
        chances = chances if chances.sum() > 0.0 else counts  # fewer distinct rows than classes
        ends = np.cumsum(chances)
        seed = min(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")), len(points) - 1)
        distance = ((points - points[seed]) ** 2).sum(axis=1)
        closest = np.where(distance < nearest, k, closest)
        nearest = np.minimum(nearest, distance)
    shares = np.full((len(points), n_states), (1.0 - SHARE) / n_states)
    shares[np.arange(len(points)), closest] += SHARE
    return shares


@singledispatch
def _features(family: Any, x: Any, counts: FloatArray) -> FloatArray:
    """Columns whose squared differences add up to the distance; those of counts unless the family says otherwise."""
    return _filled(2.0 * np.sqrt(_real(x)), counts)


@_features.register
def _(family: Gaussian, x: Any, counts: FloatArray) -> FloatArray:
    table = _real(x)
    weights = counts[:, None] * ~np.isnan(table)
    total = np.maximum(weights.sum(axis=0), np.finfo(float).tiny)
    mean = np.where(weights > 0.0, weights * table, 0.0).sum(axis=0) / total
    spread = np.sqrt(np.where(weights > 0.0, weights * (table - mean) ** 2, 0.0).sum(axis=0) / total)
    return _filled((table - mean) / np.where(spread > 0.0, spread, 1.0), counts)


@_features.register(Bernoulli)
@_features.register(Categorical)
def _(family: Any, x: Any, counts: FloatArray) -> FloatArray:
    table = _real(x)
    n_categories = 2 if isinstance(family, Bernoulli) else family.n_categories
    marks = np.equal.outer(table, np.arange(n_categories)) * np.sqrt(0.5)
    marks = np.where(np.isnan(table)[:, :, None], np.nan, marks)
    return _filled(marks.reshape(len(table), -1), counts)


def _filled(columns: FloatArray, counts: FloatArray) -> FloatArray:
    """Missing values replaced by the mean of their column."""
    missing = np.isnan(columns)
    weights = counts[:, None] * ~missing
    sums = np.where(missing, 0.0, weights * np.where(missing, 0.0, columns)).sum(axis=0)
    return np.where(missing, sums / np.maximum(weights.sum(axis=0), np.finfo(float).tiny), columns)


def _real(x: Any) -> FloatArray:
    table = np.asarray(x, np.float64)
    return table[:, None] if table.ndim == 1 else table
