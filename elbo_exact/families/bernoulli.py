"""Bernoulli: independent columns of zeros and ones, with probabilities that depend on the latent state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, categories, categories_or_missing, integer, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families._columns import columns, weight_table, weighted_sums
from elbo_exact.families._rounding import log_prior, log_prior_change, rounding_loss, summed_change
from elbo_exact.families._simplex import (
    LogSimplex,
    U,
    draw,
    gathered,
    log_simplex,
    maximized,
    pseudo_count_table,
    simplex_change,
    simplex_pullback,
    uniform_simplex,
)

__all__ = ["Bernoulli"]


@dataclass(frozen=True, eq=False, repr=False)
class Bernoulli(AsCode):
    """p(x_d = c | z = k) = exp(log_probabilities[k, d, c]) for c = 0, 1, independently over the D columns.

    Parameters
    ----------
    log_probabilities : array_like, shape (K, D, 2)
        log(1 - p) and log p of every state and column, so that neither is lost where p is near 0 or 1. Each pair sums to 1 within
        1e-6 in log mass and is renormalized exactly where it is used. -inf is a structural zero: `maximize` keeps it.

    Raises
    ------
    LogTableError
        Not three axes, a last axis other than 2, NaN, +inf, or a pair that does not sum to 1.

    Examples
    --------
    >>> family = Bernoulli.from_probabilities([[0.5, 0.25], [0.25, 0.75]])
    >>> family.log_density([[1, 0], [0, 1]]).round(4)
    array([[-0.9808, -2.7726],
           [-2.0794, -0.5754]])

    A missing value, NaN, contributes nothing:

    >>> family.log_density([[1, float("nan")]]).round(4)
    array([[-0.6931, -1.3863]])
    """

    log_probabilities: FloatArray
    _simplex: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        simplex = log_simplex(self.log_probabilities, "log_probabilities", 3)
        if simplex.given.shape[2] != 2:
            shape = simplex.given.shape
            raise LogTableError(f"log_probabilities must have shape (K, D, 2); got {shape}.", "log_probabilities", shape)
        object.__setattr__(self, "log_probabilities", simplex.given)
        object.__setattr__(self, "_simplex", simplex)

    @classmethod
    def from_probabilities(cls, probabilities: npt.ArrayLike) -> Bernoulli:
        """The family with p(x_d = 1 | z = k) = probabilities[k, d]; shape (K, D).

        Examples
        --------
        >>> Bernoulli.from_probabilities([[0.0, 1.0]]).log_probabilities.tolist()
        [[[0.0, -inf], [-inf, 0.0]]]
        """
        return cls(log_pairs(probabilities))

    @classmethod
    def random(cls, n_states: int, n_columns: int, *, rng: np.random.Generator | int | None = None) -> Bernoulli:
        """Probabilities drawn uniformly from [0, 1].

        Examples
        --------
        >>> Bernoulli.random(2, 3, rng=0).log_probabilities.shape
        (2, 3, 2)
        """
        shape = integer(n_states, "n_states", 1), integer(n_columns, "n_columns", 1), 2
        return cls(uniform_simplex(np.zeros(shape), np.random.default_rng(rng)))

    @property
    def n_states(self) -> int:
        """Number of latent states K."""
        return int(self.log_probabilities.shape[0])

    @property
    def n_columns(self) -> int:
        """Number of columns D."""
        return int(self.log_probabilities.shape[1])

    def log_density(self, x: npt.ArrayLike) -> FloatArray:
        """log p(x_n | z = k), in nats.

        Parameters
        ----------
        x : array_like, shape (N, D), or (N,) where D = 1
            0, 1, or NaN for a missing value.

        Returns
        -------
        ndarray, shape (N, K)

        Raises
        ------
        TypeError, LogTableError
            Other values, or the wrong number of columns.
        """
        return self.log_density_and_error(x)[0]

    def log_density_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_density` and a bound on its rounding error, both (N, K).

        The bounds of the D terms, and D additions, each rounding by u: the terms have one sign (up to their own bounds), so no partial
        sum exceeds the total.
        """
        index = self._checked(x)
        table, error = np.zeros((2, len(index), self.n_states))
        for d, column in enumerate(index.T):
            table += gathered(self._simplex.normalized[:, d], column)
            error += gathered(self._simplex.error[:, d], column)
        bound = 1.01 * (error + self.n_columns * U * np.abs(table))
        return table, np.where(table > -np.inf, bound, 0.0)

    def log_density_change(self, other: Bernoulli, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """log p_other(x_n | k) - log p_self(x_n | k) from parameter differences, and its error bound; both (N, K).

        +inf where only ``other`` can produce x_n, -inf where only self can, 0 where neither can.
        """
        index = self._checked(x)
        change, error = simplex_change(self.log_probabilities, other.log_probabilities)
        terms = ((gathered(change[:, d], column), gathered(error[:, d], column)) for d, column in enumerate(index.T))
        return summed_change(terms)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
        """Expected numbers of zeros and ones, additive over batches of observations.

        Parameters
        ----------
        x : array_like, shape (N, D)
        weights : array_like, shape (N, K)
            Weight of observation n in state k, for example its posterior times its count.

        Returns
        -------
        ndarray, shape (K, D, 2)
            ``sum over n with x_nd = c of weights[n, k]``; missing values are counted nowhere.

        Examples
        --------
        >>> Bernoulli.random(1, 1, rng=0).statistics([1, 0, 1], [[1.0], [1.0], [0.5]])
        array([[[1. , 1.5]]])
        """
        index = self._checked(x)
        table = weight_table(weights, len(index), self.n_states)
        return np.stack([weighted_sums(table, (index == c).astype(np.float64)) for c in (0, 1)], axis=2)

    def maximize(self, statistics: npt.ArrayLike, pseudo_counts: npt.ArrayLike | None = None) -> Bernoulli:
        """The family that maximizes sum (statistics + pseudo_counts) * log p, in closed form.

        Parameters
        ----------
        statistics : array_like, shape (K, D, 2)
        pseudo_counts : float or array_like broadcastable to (K, D, 2)
            Imaginary zeros and ones: the mode under Beta priors with parameters 1 + pseudo_counts.

        Returns
        -------
        Bernoulli
            Structural zeros stay zero, a value never seen becomes one, columns without any count stay as they are.

        Examples
        --------
        >>> import numpy as np
        >>> family = Bernoulli.from_probabilities([[0.5]])
        >>> np.exp(family.maximize([[[1.0, 3.0]]]).log_probabilities)
        array([[[0.25, 0.75]]])
        """
        shape = self.log_probabilities.shape
        counts = pseudo_count_table(statistics, shape, "statistics")
        return Bernoulli(maximized(self.log_probabilities, counts + pseudo_count_table(pseudo_counts, shape, "pseudo_counts")))

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_density(x)) in ``log_probabilities.ravel()``; renormalization included, zeros fixed.

        Examples
        --------
        >>> Bernoulli.from_probabilities([[0.25]]).pullback([1], [[1.0]])
        array([-0.75,  0.75])
        """
        return simplex_pullback(self._simplex, self.statistics(x, cotangent))

    def log_prior(self, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """Sum of pseudo-counts times log probabilities (the Beta log prior up to a constant), and its error bound."""
        return log_prior([(self._simplex, self._pseudo_counts(prior))])

    def log_prior_change(self, other: Bernoulli, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        return log_prior_change([(self._simplex, self._pseudo_counts(prior))], [other._simplex])

    def rounding_loss(self, statistics: FloatArray, prior: npt.ArrayLike | None, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        return rounding_loss([statistics + self._pseudo_counts(prior)], relative_error)

    def randomize(self, rng: np.random.Generator) -> Bernoulli:
        """Probabilities drawn uniformly, structural zeros kept."""
        return Bernoulli(uniform_simplex(self.log_probabilities, rng))

    def sample(self, states: npt.ArrayLike, *, rng: np.random.Generator | int | None = None) -> npt.NDArray[np.int64]:
        """One row of zeros and ones for each latent state.

        Parameters
        ----------
        states : array_like of int, shape (N,)
        rng : numpy.random.Generator or seed, optional

        Returns
        -------
        ndarray of int64, shape (N, D)

        Examples
        --------
        >>> Bernoulli.from_probabilities([[0.0, 1.0]]).sample([0], rng=1)
        array([[0, 1]])
        """
        index, generator = categories(states, "states", self.n_states), np.random.default_rng(rng)
        drawn = [draw(self.log_probabilities[:, d], index, generator) for d in range(self.n_columns)]
        return np.stack(drawn, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        return {"family": "bernoulli", "log_probabilities": self.log_probabilities.tolist()}

    def _pseudo_counts(self, prior: npt.ArrayLike | None) -> FloatArray:
        return pseudo_count_table(prior, self.log_probabilities.shape, "prior")

    def _checked(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return categories_or_missing(columns(x, self.n_columns), "x", 2)


def log_pairs(probabilities: npt.ArrayLike) -> FloatArray:
    """log(1 - p) and log p, one last axis more."""
    table = np.atleast_1d(real_array(probabilities, "probabilities"))
    table = table[:, None] if table.ndim == 1 else table
    if not ((table >= 0.0) & (table <= 1.0)).all():
        bad = ~((table >= 0.0) & (table <= 1.0))
        raise LogTableError(f"probabilities must be in 0 ... 1; got {table[bad][0]:g}.", "probabilities")
    with np.errstate(divide="ignore"):
        return np.stack([np.log1p(-table) + 0.0, np.log(table)], axis=-1)  # + 0.0: no negative zeros
