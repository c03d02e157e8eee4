"""First and second derivatives of the families' log densities, in coordinates without redundancy.

Distributions are differentiated by the logarithms of their probabilities against that of the most probable category, rates by their
logarithms, means and scales as stored; zeros are no parameters. `values` are what a reader asks for: probabilities, rates, means
and scales, with the Jacobian that turns covariances of coordinates into theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray
from elbo_exact.families._derivatives_gaussian import curvature, parameters, scores
from elbo_exact.families._simplex import LogSimplex
from elbo_exact.families.bernoulli import Bernoulli
from elbo_exact.families.binomial import Binomial
from elbo_exact.families.categorical import Categorical
from elbo_exact.families.gaussian import Gaussian
from elbo_exact.families.multinomial import Multinomial
from elbo_exact.families.poisson import Poisson

__all__ = ["Derivatives", "derivatives", "n_free", "simplex_coordinates"]

Index = npt.NDArray[np.int64]


class Derivatives(NamedTuple):
    """Of one family, with P coordinates of which the ``free`` ones are parameters.

    Attributes
    ----------
    names : tuple of str, P of them
    values : ndarray, shape (P,)
    jacobian : callable
        () to (P, P): that of the values in the coordinates; not made for those who only count parameters.
    free : ndarray of bool, shape (P,)
    places : ndarray of int, shape (K, p)
        The coordinates that the log density of each state depends on.
    scores : callable
        x to (N, K, p): gradient of every log density in the coordinates of its state.
    curvature : callable
        Statistics to (P, P): minus the second derivatives of the expected log density.
    """

    names: tuple[str, ...]
    values: FloatArray
    jacobian: Callable[[], FloatArray]
    free: npt.NDArray[np.bool_]
    places: Index
    scores: Callable[[Any], FloatArray]
    curvature: Callable[[Any], FloatArray]


@singledispatch
def derivatives(family: Any) -> Derivatives:
    """Derivatives of a family."""
    raise TypeError(f"model must be made of families with known derivatives; got {type(family).__name__}.")


def simplex_coordinates(simplex: LogSimplex) -> tuple[FloatArray, Callable[[], FloatArray], npt.NDArray[np.bool_]]:
    """Probabilities, their Jacobian diag(p) - p p^T row by row, and which coordinates are free; flat."""
    p = np.exp(simplex.normalized)
    rows = p.reshape(-1, p.shape[-1])
    free = np.isfinite(simplex.given.reshape(rows.shape))
    free[np.arange(len(rows)), rows.argmax(axis=1)] = False
    return rows.ravel(), lambda: _blocks(rows, np.ones(len(rows))), free.ravel()


def n_free(simplex: LogSimplex) -> int:
    """How many: the possible categories of each row but one."""
    return int(simplex_coordinates(simplex)[2].sum())


def simplex_curvature(simplex: LogSimplex, counts: FloatArray) -> FloatArray:
    """Total count of each row times diag(p) - p p^T."""
    p = np.exp(simplex.normalized)
    return _blocks(p.reshape(-1, p.shape[-1]), counts.sum(axis=-1).ravel())


def _blocks(p: FloatArray, totals: FloatArray) -> FloatArray:
    n_rows, size = p.shape
    out = np.zeros((n_rows, size, n_rows, size))
    each = np.arange(n_rows)
    out[each, :, each, :] = totals[:, None, None] * (p[:, :, None] * (np.eye(size) - p[:, None, :]))
    return out.reshape(p.size, p.size)


def _of_tables(family: Any, counts: Callable[[Any], FloatArray]) -> Derivatives:
    """A family made of log probabilities (K, ..., C), whose observations are counts (N, ..., C) that all states share."""
    simplex = family._simplex
    p = np.exp(simplex.normalized)
    values, jacobian, free = simplex_coordinates(simplex)

    def gradients(x: Any) -> FloatArray:
        seen = counts(x)[:, None]
        return np.asarray((seen - seen.sum(axis=-1, keepdims=True) * p).reshape(len(seen), len(p), -1))

    return Derivatives(
        tuple(f"probabilities[{','.join(map(str, place))}]" for place in np.ndindex(p.shape)),
        values,
        jacobian,
        free,
        np.arange(p.size).reshape(len(p), -1),
        gradients,
        lambda statistics: simplex_curvature(simplex, statistics),
    )


@derivatives.register
def _(family: Bernoulli) -> Derivatives:
    return _of_tables(family, lambda x: np.equal.outer(family._checked(x), np.arange(2)).astype(np.float64))


@derivatives.register
def _(family: Categorical) -> Derivatives:
    return _of_tables(family, lambda x: np.equal.outer(family._checked(x), np.arange(family.n_categories)).astype(np.float64))


@derivatives.register
def _(family: Binomial) -> Derivatives:
    return _of_tables(family, family._counts)


@derivatives.register
def _(family: Multinomial) -> Derivatives:
    return _of_tables(family, lambda x: family._counts(x)[:, 0])


@derivatives.register
def _(family: Poisson) -> Derivatives:
    rates = np.exp(family.log_rates)

    def gradients(x: Any) -> FloatArray:
        events = family._checked(x)[:, None, :]
        return np.where(np.isnan(events), 0.0, np.where(rates > 0.0, events - rates, 0.0))

    return Derivatives(
        tuple(f"rates[{k},{d}]" for k, d in np.ndindex(rates.shape)),
        rates.ravel(),
        lambda: np.diag(rates.ravel()),
        rates.ravel() > 0.0,
        np.arange(rates.size).reshape(rates.shape),
        gradients,
        lambda statistics: np.diag((rates * statistics[..., 0]).ravel()),
    )


@derivatives.register
def _(family: Gaussian) -> Derivatives:
    names, values, places = parameters(family)
    return Derivatives(
        names,
        values,
        lambda: np.eye(len(names)),
        np.ones(len(names), np.bool_),
        places,
        lambda x: scores(family, family._checked(x)),
        lambda statistics: curvature(family, statistics, places),
    )
