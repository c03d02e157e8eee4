"""Finite mixture of independent observed variables: latent class analysis (Lazarsfeld & Henry 1968; Goodman 1974)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, categories_or_missing, integer, real_array, unmasked
from elbo_exact.errors import LogTableError
from elbo_exact.families import Categorical
from elbo_exact.families._rounding import log_prior, log_prior_change, rounding_loss, summed_change
from elbo_exact.families._simplex import (
    LogSimplex,
    U,
    draw,
    log_simplex,
    maximized,
    pseudo_count_table,
    simplex_change,
    simplex_pullback,
    uniform_simplex,
)
from elbo_exact.models._expected import Expected
from elbo_exact.models._fused import fused_expectation
from elbo_exact.models._fused_change import fused_change
from elbo_exact.models._mixture_statistics import MixtureStatistics
from elbo_exact.models._patterns import Patterns, patterns
from elbo_exact.space import LatentSpace

__all__ = ["Mixture", "MixtureStatistics"]


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(AsCode):
    """p(x, z = k) = weight_k * product over families of p(their columns of x | k).

    Parameters
    ----------
    log_weights : array_like, shape (K,)
        Log class shares; sum to 1 within 1e-6 in log mass, renormalized exactly where they are used.
    components : sequence of families
        Each with K states; they take the columns of x from left to right, ``n_columns`` each: 1 for ``Categorical``.

    Raises
    ------
    LogTableError, ValueError
        Shares that do not sum to 1, no column, or a family without K rows.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> answers = Categorical(np.log([[0.9, 0.1], [0.2, 0.8]]))
    >>> model = Mixture(np.log([0.5, 0.5]), [answers, answers])
    >>> ee.posterior(model.log_joint([[0, 0], [0, 1]])).round(4)
    array([[0.9529, 0.0471],
           [0.36  , 0.64  ]])

    A yes-or-no column beside two real ones:

    >>> from elbo_exact.families import Bernoulli, Gaussian
    >>> size = Gaussian([[0.0, 0.0], [3.0, 1.0]], [1.0, 2.0], "spherical")
    >>> model = Mixture(np.log([0.5, 0.5]), [Bernoulli.from_probabilities([0.1, 0.6]), size])
    >>> ee.posterior(model.log_joint([[1, 2.0, 0.5]])).round(4)
    array([[0.0852, 0.9148]])
    """

    log_weights: FloatArray
    components: tuple[Any, ...]
    _shares: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shares = log_simplex(self.log_weights, "log_weights", 1)
        object.__setattr__(self, "log_weights", shares.given)
        object.__setattr__(self, "_shares", shares)
        object.__setattr__(self, "components", tuple(self.components))
        if not self.components:
            raise ValueError("components must hold at least one family, one per observed column; got none.")
        for column, family in enumerate(self.components):
            if family.n_states != self.n_components:
                raise ValueError(
                    f"components[{column}] must have {self.n_components} rows, one per log weight; got {family.n_states}."
                )

    @classmethod
    def random(cls, n_components: int, n_categories: Sequence[int], *, rng: np.random.Generator | int | None = None) -> Mixture:
        """Shares and category probabilities drawn uniformly from their simplices.

        Parameters
        ----------
        n_components : int
            Number of classes K.
        n_categories : sequence of int
            Number of categories of each column.
        rng : numpy.random.Generator or seed, optional

        Examples
        --------
        >>> Mixture.random(3, [2, 2, 4], rng=0).space.sizes
        (3,)
        """
        generator, n_states = np.random.default_rng(rng), integer(n_components, "n_components", 1)
        log_weights = uniform_simplex(np.zeros(n_states), generator)
        return cls(log_weights, tuple(Categorical.random(n_states, size, rng=generator) for size in n_categories))

    @classmethod
    def initialize(cls, x: npt.ArrayLike, n_components: int, *, rng: np.random.Generator | int | None = None) -> Mixture:
        """A random mixture with as many categories in each column as the data show: 1 + the largest (NaN is missing).

        Examples
        --------
        >>> Mixture.initialize([[0, 2], [1, 0]], 2, rng=0).components[1].n_categories
        3
        """
        columns = categories_or_missing(x, "x", 2**31)
        if columns.ndim != 2 or columns.shape[0] == 0:
            raise LogTableError(f"x must have shape (N, D) with N >= 1; got {columns.shape}.", "x", columns.shape)
        sizes = [int(column.max(initial=0, where=column < 2**31)) + 1 for column in columns.T]
        return cls.random(n_components, sizes, rng=rng)

    @property
    def n_components(self) -> int:
        """Number of classes K."""
        return int(self.log_weights.size)

    @property
    def space(self) -> LatentSpace:
        """The latent class: one variable with K values."""
        return LatentSpace((self.n_components,))

    def log_joint(self, x: npt.ArrayLike, states: slice | None = None) -> FloatArray:
        """log p(x_n, z = k), in nats.

        Parameters
        ----------
        x : array_like, shape (N, D)
            The columns of all families, side by side; categories numbered from 0, NaN where a family allows missing values.
        states : slice, optional
            Only these classes.

        Returns
        -------
        ndarray, shape (N, K) or (N, stop - start)

        Raises
        ------
        TypeError, LogTableError
            Values that a family refuses, or the wrong number of columns.
        """
        first, last = self.space.span(states)
        return np.ascontiguousarray(self.log_joint_and_error(x)[0][:, first:last])

    def log_joint_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_joint` and a bound on its rounding error, both (N, K): that of every term, and an addition for each family."""
        rows = np.zeros((len(self._checked(x)), 1))
        table, error = self._shares.normalized + rows, self._shares.error + rows
        size = np.abs(table)
        for column, family in self._pairs(x):
            term, term_error = family.log_density_and_error(column)
            table, error, size = table + term, error + term_error, size + np.abs(term)
        bound = 1.01 * (error + len(self.components) * U * size)
        return table, np.where(table > -np.inf, bound, 0.0)

    def log_joint_change(self, other: Mixture, x: npt.ArrayLike) -> FloatArray:
        """log p_other(x_n, k) - log p_self(x_n, k), from parameter differences, shape (N, K).

        Small changes keep their relative precision, which a difference of two log tables loses. A state lost is -inf, a state won
        +inf, impossible in both 0.

        Examples
        --------
        >>> import numpy as np
        >>> answers = Categorical(np.log([[0.5, 0.5]]))
        >>> moved = Categorical(np.log([[0.5 + 2.0**-40, 0.5 - 2.0**-40]]))
        >>> change = Mixture([0.0], [answers]).log_joint_change(Mixture([0.0], [moved]), [[0]])
        >>> (change * 2.0**39).round(4)
        array([[1.]])
        """
        return self.log_joint_change_and_error(other, x)[0]

    def log_joint_change_and_error(self, other: Mixture, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_joint_change` and a bound on its rounding error, both (N, K)."""
        rows = np.zeros((len(self._checked(x)), 1))
        change, error = simplex_change(self.log_weights, other.log_weights)
        terms = [(change + rows, error + rows)]
        for (column, family), theirs in zip(self._pairs(x), other.components, strict=True):
            terms.append(family.log_density_change(theirs, column))
        return summed_change(terms)

    def log_evidence_change_and_error(
        self, other: Mixture, x: npt.NDArray[Any], executor: Any = None, coded: Patterns | None = None
    ) -> tuple[FloatArray, FloatArray] | None:
        """log p_other(x_n) - log p_self(x_n) from parameter differences and its error bound, both (N,).

        None where tables have to be made. Arguments as for `expectation`.
        """
        return fused_change((self._shares, self.components), (other._shares, other.components), x, executor, coded)

    def observations(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """The rows of x, checked; what `expectation` and all that takes rows accept."""
        rows = self._checked(x)
        for column, family in self._pairs(rows):
            getattr(family, "_checked", family.log_density)(column)
        return rows

    def coded(self, x: npt.NDArray[Any]) -> Patterns | None:
        """What passes over the same rows, as `observations` returned them, share."""
        return patterns(self.components, x)

    def expectation(
        self, x: npt.NDArray[Any], counts: FloatArray, executor: Any = None, coded: Patterns | None = None
    ) -> Expected | None:
        """Log evidence of every row and expected statistics in one compiled pass; None where tables have to be made instead.

        ``x`` as `observations` returned it; ``coded``, if at hand, of the same rows.
        """
        return fused_expectation(self._shares, self.components, x, counts, executor, coded)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> MixtureStatistics:
        """Expected counts under a weight table, additive over batches.

        Parameters
        ----------
        x : array_like of int, shape (N, D)
        weights : array_like, shape (N, K)
            Posterior of each observation times how often it was seen.
        """
        table = real_array(weights, "weights")
        expected = (len(self._checked(x)), self.n_components)
        if table.shape != expected:
            raise LogTableError(f"weights must have shape {expected}; got {table.shape}.", "weights", table.shape)
        components = tuple(family.statistics(column, table) for column, family in self._pairs(x))
        return MixtureStatistics(table.sum(axis=0), components)

    def maximize(self, statistics: MixtureStatistics, prior: Any = None) -> Mixture:
        """The mixture that maximizes the expected log joint plus the prior's pseudo-counts times log parameters.

        Parameters
        ----------
        statistics : MixtureStatistics
        prior : float or MixtureStatistics, optional
            Counts of imaginary observations: one number for every share and every category, or pseudo-counts of the classes together
            with what each family's ``maximize`` takes (None for no prior): a ``NormalInverseWishart`` for a Gaussian.

        Returns
        -------
        Mixture
            Structural zeros stay zero. A class without any observation gets weight 0 and keeps its parameters.

        Raises
        ------
        CollapsedComponent
            A Gaussian without a prior that would shrink to a point or a flat.
        """
        imaginary = self._prior(prior)
        counts = pseudo_count_table(statistics.weights, self.log_weights.shape, "statistics.weights") + imaginary.weights
        parts = zip(self.components, statistics.components, imaginary.components, strict=True)
        families = tuple(family.maximize(part, extra) for family, part, extra in parts)
        return Mixture(maximized(self.log_weights, counts), families)

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_joint(x)): in ``log_weights``, then that of each family's ``pullback``; zeros fixed.

        Examples
        --------
        >>> import numpy as np
        >>> model = Mixture(np.log([0.25, 0.75]), [Categorical(np.log([[0.5, 0.5], [0.5, 0.5]]))])
        >>> model.pullback([[0]], [[1.0, 0.0]]).round(12)
        array([ 0.75, -0.75,  0.5 , -0.5 ,  0.  ,  0.  ])
        """
        table = real_array(cotangent, "cotangent")
        shares = simplex_pullback(self._shares, table.sum(axis=0))
        return np.concatenate([shares, *(family.pullback(column, table) for column, family in self._pairs(self._checked(x)))])

    def log_prior(self, prior: Any = None) -> tuple[float, float]:
        """Log prior up to a constant, in nats (pseudo-counts times log parameters where they are counts), and its error bound."""
        imaginary = self._prior(prior)
        parts = [log_prior([(self._shares, imaginary.weights)])]
        parts += [family.log_prior(extra) for family, extra in zip(self.components, imaginary.components, strict=True)]
        return _total(parts)

    def log_prior_change(self, other: Mixture, prior: Any = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        imaginary = self._prior(prior)
        parts = [log_prior_change([(self._shares, imaginary.weights)], [other._shares])]
        families = zip(self.components, other.components, imaginary.components, strict=True)
        return _total([*parts, *(family.log_prior_change(moved, extra) for family, moved, extra in families)])

    def rounding_loss(self, statistics: MixtureStatistics, prior: Any, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        imaginary = self._prior(prior)
        parts = zip(self.components, statistics.components, imaginary.components, strict=True)
        losses = [family.rounding_loss(part, extra, relative_error) for family, part, extra in parts]
        return math.fsum([rounding_loss([statistics.weights + imaginary.weights], relative_error), *losses])

    def randomize(self, rng: np.random.Generator) -> Mixture:
        """A random mixture of the same shape and with the same structural zeros."""
        return Mixture(uniform_simplex(self.log_weights, rng), tuple(family.randomize(rng) for family in self.components))

    def sample(self, n: int, *, rng: np.random.Generator | int | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Draw (x, z): observations (n, D) and their classes (n,); x is int64 if every family counts.

        Examples
        --------
        >>> x, z = Mixture.random(2, [3, 3], rng=0).sample(5, rng=1)
        >>> x.shape, z.shape
        ((5, 2), (5,))
        """
        generator = np.random.default_rng(rng)
        z = draw(self.log_weights[None, :], np.zeros(integer(n, "n", 0), np.int64), generator)
        return np.column_stack([family.sample(z, rng=generator) for family in self.components]), z

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        parts = [
            family.log_probabilities.tolist() if isinstance(family, Categorical) else family.to_dict()
            for family in self.components
        ]
        return {"log_weights": self.log_weights.tolist(), "components": parts}

    def _prior(self, prior: Any) -> MixtureStatistics:
        """A prior with pseudo-counts of the classes and one entry for each family."""
        given = prior if isinstance(prior, MixtureStatistics) else MixtureStatistics(prior, (prior,) * len(self.components))
        return MixtureStatistics(pseudo_count_table(given.weights, self.log_weights.shape, "prior"), given.components)

    def _pairs(self, x: npt.ArrayLike) -> list[tuple[npt.NDArray[Any], Any]]:
        """The columns of each family: (N,) for one column, else (N, n_columns)."""
        table, stop, pairs = unmasked(x, "x"), 0, []
        for family in self.components:
            first, stop = stop, stop + family.n_columns
            pairs.append((table[:, first] if family.n_columns == 1 else table[:, first:stop], family))
        return pairs

    def _checked(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        array, wanted = unmasked(x, "x"), sum(family.n_columns for family in self.components)
        if array.ndim != 2 or array.shape[1] != wanted:
            what = "one column per family" if wanted == len(self.components) else "the columns of all families side by side"
            raise LogTableError(f"x must have shape (N, {wanted}), {what}; got {array.shape}.", "x", array.shape)
        return array


def _total(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Sum of values with error bounds."""
    value = math.fsum(part[0] for part in parts)
    return value, 1.01 * (math.fsum(part[1] for part in parts) + U * abs(value))
