"""Categorical: one of C categories, with probabilities that depend on the latent state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, categories, categories_or_missing, integer
from elbo_exact.errors import LogTableError
from elbo_exact.families._columns import weight_table
from elbo_exact.families._rounding import log_prior, log_prior_change, rounding_loss
from elbo_exact.families._simplex import (
    LogSimplex,
    draw,
    gathered,
    log_simplex,
    maximized,
    pseudo_count_table,
    simplex_change,
    simplex_pullback,
    uniform_simplex,
)

__all__ = ["Categorical"]


@dataclass(frozen=True, eq=False, repr=False)
class Categorical(AsCode):
    """p(x = c | z = k) = exp(log_probabilities[k, c]), one row per latent state.

    Parameters
    ----------
    log_probabilities : array_like, shape (K, C)
        Rows sum to 1 within 1e-6 in log mass and are renormalized exactly where they are used. -inf is a structural zero:
        `maximize` keeps it.

    Raises
    ------
    LogTableError
        Not two axes, NaN, +inf, or a row that does not sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> family = Categorical(np.log([[0.5, 0.5], [0.25, 0.75]]))
    >>> family.log_density([1, 0]).round(4)
    array([[-0.6931, -0.2877],
           [-0.6931, -1.3863]])
    """

    log_probabilities: FloatArray
    _simplex: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        simplex = log_simplex(self.log_probabilities, "log_probabilities", 2)
        object.__setattr__(self, "log_probabilities", simplex.given)
        object.__setattr__(self, "_simplex", simplex)

    @classmethod
    def random(cls, n_states: int, n_categories: int, *, rng: np.random.Generator | int | None = None) -> Categorical:
        """Rows drawn uniformly from the simplex.

        Examples
        --------
        >>> Categorical.random(2, 3, rng=0).log_probabilities.shape
        (2, 3)
        """
        shape = integer(n_states, "n_states", 1), integer(n_categories, "n_categories", 1)
        return cls(uniform_simplex(np.zeros(shape), np.random.default_rng(rng)))

    @property
    def n_states(self) -> int:
        """Number of latent states K."""
        return int(self.log_probabilities.shape[0])

    @property
    def n_categories(self) -> int:
        """Number of categories C."""
        return int(self.log_probabilities.shape[1])

    @property
    def n_columns(self) -> int:
        """Columns of x that the family takes: 1."""
        return 1

    def log_density(self, x: npt.ArrayLike) -> FloatArray:
        """log p(x_n | z = k), in nats.

        Parameters
        ----------
        x : array_like of int, shape (N,)
            Categories in 0 ... C - 1; NaN is a missing value and contributes nothing.

        Returns
        -------
        ndarray, shape (N, K)

        Raises
        ------
        TypeError, LogTableError
            Not whole numbers, or a category outside 0 ... C - 1.
        """
        return self.log_density_and_error(x)[0]

    def log_density_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_density` and a bound on its rounding error, both (N, K)."""
        index = self._checked(x)
        return gathered(self._simplex.normalized, index), gathered(self._simplex.error, index)

    def log_density_change(self, other: Categorical, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """log p_other(x_n | k) - log p_self(x_n | k) from parameter differences, and its error bound; both (N, K).

        +inf where only ``other`` can produce x_n, -inf where only self can, NaN where neither can.
        """
        change, error = simplex_change(self.log_probabilities, other.log_probabilities)
        index = self._checked(x)
        return gathered(change, index), gathered(error, index)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
        """Expected counts, additive over batches of observations.

        Parameters
        ----------
        x : array_like of int, shape (N,)
        weights : array_like, shape (N, K)
            Weight of observation n in state k, for example its posterior times its count.

        Returns
        -------
        ndarray, shape (K, C)
            ``sum over n with x_n = c of weights[n, k]``.

        Examples
        --------
        >>> family = Categorical.random(1, 3, rng=0)
        >>> family.statistics([2, 0, 2], [[1.0], [1.0], [0.5]])
        array([[1. , 0. , 1.5]])
        """
        index = self._checked(x)
        table = weight_table(weights, len(index), self.n_states)
        # bincount adds in the order of the observations: the same bits whatever the threads
        counts = [np.bincount(index, weights=column, minlength=self.n_categories + 1) for column in table.T]
        return np.array(counts, np.float64)[:, :-1].copy()  # without the missing values

    def maximize(self, statistics: npt.ArrayLike, pseudo_counts: npt.ArrayLike | None = None) -> Categorical:
        """The family that maximizes sum (statistics + pseudo_counts) * log p, in closed form.

        Parameters
        ----------
        statistics : array_like, shape (K, C)
        pseudo_counts : float or array_like broadcastable to (K, C)
            Counts of imaginary observations: the mode under a Dirichlet prior with parameters 1 + pseudo_counts.

        Returns
        -------
        Categorical
            Structural zeros stay zero, categories without a count become zero, rows without a count stay as they are.

        Examples
        --------
        >>> import numpy as np
        >>> family = Categorical(np.log([[0.5, 0.5]]))
        >>> np.exp(family.maximize([[3.0, 0.0]]).log_probabilities)
        array([[1., 0.]])
        >>> np.exp(family.maximize([[3.0, 0.0]], pseudo_counts=1.0).log_probabilities).round(12)
        array([[0.8, 0.2]])
        """
        shape = self.log_probabilities.shape
        counts = pseudo_count_table(statistics, shape, "statistics")
        return Categorical(
            maximized(self.log_probabilities, counts + pseudo_count_table(pseudo_counts, shape, "pseudo_counts"))
        )

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_density(x)) in ``log_probabilities.ravel()``; renormalization included, zeros fixed.

        Examples
        --------
        >>> import numpy as np
        >>> Categorical(np.log([[0.25, 0.75]])).pullback([1], [[1.0]]).round(12)
        array([-0.25,  0.25])
        """
        return simplex_pullback(self._simplex, self.statistics(x, cotangent))

    def log_prior(self, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """Sum of pseudo-counts times log probabilities (the Dirichlet log prior up to a constant), and its error bound."""
        return log_prior([(self._simplex, self._pseudo_counts(prior))])

    def log_prior_change(self, other: Categorical, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        return log_prior_change([(self._simplex, self._pseudo_counts(prior))], [other._simplex])

    def rounding_loss(self, statistics: FloatArray, prior: npt.ArrayLike | None, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        return rounding_loss([statistics + self._pseudo_counts(prior)], relative_error)

    def randomize(self, rng: np.random.Generator) -> Categorical:
        """New rows drawn uniformly from the simplex of the same shape, structural zeros kept."""
        return Categorical(uniform_simplex(self.log_probabilities, rng))

    def sample(self, states: npt.ArrayLike, *, rng: np.random.Generator | int | None = None) -> npt.NDArray[np.int64]:
        """One category for each latent state, by inversion.

        Parameters
        ----------
        states : array_like of int, shape (N,)
            Latent states in 0 ... K - 1.
        rng : numpy.random.Generator or seed, optional

        Returns
        -------
        ndarray of int64, shape (N,)
            Categories of probability zero are never drawn.

        Examples
        --------
        >>> Categorical([[0.0, -float("inf")]]).sample([0, 0], rng=1)
        array([0, 0])
        """
        index = categories(states, "states", self.n_states)
        return draw(self.log_probabilities, index, np.random.default_rng(rng))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        return {"family": "categorical", "log_probabilities": self.log_probabilities.tolist()}

    def _pseudo_counts(self, prior: npt.ArrayLike | None) -> FloatArray:
        return pseudo_count_table(prior, self.log_probabilities.shape, "prior")

    def _checked(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        index = categories_or_missing(x, "x", self.n_categories)
        if index.ndim != 1:
            raise LogTableError(f"x must have one axis, the observations; got shape {index.shape}.", "x", index.shape)
        return index
