"""Binomial: independent columns of successes out of known numbers of trials, with probabilities that depend on the latent state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, categories, counts_or_missing, integer, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families._columns import columns
from elbo_exact.families._counted import counted_change, counted_density, counted_sums
from elbo_exact.families._rounding import log_prior, log_prior_change, rounding_loss
from elbo_exact.families._simplex import (
    LogSimplex,
    log_simplex,
    maximized,
    pseudo_count_table,
    simplex_change,
    simplex_pullback,
    uniform_simplex,
)
from elbo_exact.families.bernoulli import log_pairs

__all__ = ["Binomial"]


@dataclass(frozen=True, eq=False, repr=False)
class Binomial(AsCode):
    """p(x_d = c | z = k) = binom(trials_d, c) p^c (1 - p)^(trials_d - c), independently over the D columns.

    Parameters
    ----------
    log_probabilities : array_like, shape (K, D, 2)
        log(1 - p) and log p of every state and column; each pair sums to 1 within 1e-6 in log mass and is renormalized exactly
        where it is used. -inf is a structural zero: `maximize` keeps it.
    trials : int or array_like of int, shape (D,)
        Number of trials of each column, 0 ... 2**53.

    Raises
    ------
    TypeError, LogTableError
        Not three axes, a last axis other than 2, NaN, +inf, a pair that does not sum to 1, or trials that are not whole numbers.

    Examples
    --------
    >>> family = Binomial.from_probabilities([[0.5], [0.25]], 2)
    >>> family.log_density([1, float("nan")]).round(4)
    array([[-0.6931, -0.9808],
           [ 0.    ,  0.    ]])
    """

    log_probabilities: FloatArray
    trials: FloatArray
    _simplex: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        simplex = log_simplex(self.log_probabilities, "log_probabilities", 3)
        shape = simplex.given.shape
        if shape[2] != 2:
            raise LogTableError(f"log_probabilities must have shape (K, D, 2); got {shape}.", "log_probabilities", shape)
        trials = counts_or_missing(self.trials, "trials")
        if trials.shape not in ((), (shape[1],)) or np.isnan(trials).any():
            raise LogTableError(f"trials must be one whole number or {shape[1]}; got shape {trials.shape}.", "trials")
        trials = np.array(np.broadcast_to(trials, shape[1]))
        trials.flags.writeable = False
        object.__setattr__(self, "log_probabilities", simplex.given)
        object.__setattr__(self, "trials", trials)
        object.__setattr__(self, "_simplex", simplex)

    @classmethod
    def from_probabilities(cls, probabilities: npt.ArrayLike, trials: npt.ArrayLike) -> Binomial:
        """The family with success probabilities (K, D) or (K,).

        Examples
        --------
        >>> Binomial.from_probabilities([[0.0, 1.0]], [2, 3]).trials.tolist()
        [2.0, 3.0]
        """
        return cls(log_pairs(probabilities), real_array(trials, "trials"))

    @classmethod
    def random(cls, n_states: int, trials: npt.ArrayLike, *, rng: np.random.Generator | int | None = None) -> Binomial:
        """Probabilities drawn uniformly from [0, 1], one column for each entry of ``trials``.

        Examples
        --------
        >>> Binomial.random(2, [3, 5, 5], rng=0).log_probabilities.shape
        (2, 3, 2)
        """
        table = np.atleast_1d(real_array(trials, "trials"))
        shape = integer(n_states, "n_states", 1), len(table), 2
        return cls(uniform_simplex(np.zeros(shape), np.random.default_rng(rng)), table)

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
            Successes 0 ... trials, or NaN for a missing value.

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
        """`log_density` and a bound on its rounding error, both (N, K); derived in ``_counted.py`` and ``_factorials.py``."""
        return counted_density(self._counts(x), self._simplex)

    def log_density_change(self, other: Binomial, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """log p_other(x_n | k) - log p_self(x_n | k) from parameter differences, and its error bound; both (N, K).

        +inf where only ``other`` can produce x_n, -inf where only self can, 0 where neither can.
        """
        change, error = simplex_change(self.log_probabilities, other.log_probabilities)
        return counted_change(self._counts(x), change, error)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
        """Expected numbers of failures and successes, additive over batches of observations.

        Parameters
        ----------
        x : array_like, shape (N, D)
        weights : array_like, shape (N, K)
            Weight of observation n in state k, for example its posterior times its count.

        Returns
        -------
        ndarray, shape (K, D, 2)
            Missing values are counted nowhere.

        Examples
        --------
        >>> Binomial.random(1, 3, rng=0).statistics([1, 3], [[1.0], [0.5]])
        array([[[2. , 2.5]]])
        """
        return counted_sums(self._counts(x), np.asarray(weights), self.n_states)

    def maximize(self, statistics: npt.ArrayLike, pseudo_counts: npt.ArrayLike | None = None) -> Binomial:
        """The family that maximizes sum (statistics + pseudo_counts) * log p, in closed form.

        Parameters
        ----------
        statistics : array_like, shape (K, D, 2)
        pseudo_counts : float or array_like broadcastable to (K, D, 2)
            Imaginary failures and successes: the mode under Beta priors with parameters 1 + pseudo_counts.

        Returns
        -------
        Binomial
            Structural zeros stay zero, an outcome never seen becomes one, columns without any count stay as they are.

        Examples
        --------
        >>> import numpy as np
        >>> family = Binomial.from_probabilities([[0.5]], 4)
        >>> np.exp(family.maximize([[[1.0, 3.0]]]).log_probabilities)
        array([[[0.25, 0.75]]])
        """
        shape = self.log_probabilities.shape
        counts = pseudo_count_table(statistics, shape, "statistics")
        counts = counts + pseudo_count_table(pseudo_counts, shape, "pseudo_counts")
        return Binomial(maximized(self.log_probabilities, counts), self.trials)

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_density(x)) in ``log_probabilities.ravel()``; renormalization included, zeros fixed.

        Examples
        --------
        >>> Binomial.from_probabilities([[0.25]], 2).pullback([1], [[1.0]])
        array([-0.5,  0.5])
        """
        return simplex_pullback(self._simplex, self.statistics(x, cotangent))

    def log_prior(self, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """Sum of pseudo-counts times log probabilities (the Beta log prior up to a constant), and its error bound."""
        return log_prior([(self._simplex, self._pseudo_counts(prior))])

    def log_prior_change(self, other: Binomial, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        return log_prior_change([(self._simplex, self._pseudo_counts(prior))], [other._simplex])

    def rounding_loss(self, statistics: FloatArray, prior: npt.ArrayLike | None, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        return rounding_loss([statistics + self._pseudo_counts(prior)], relative_error)

    def randomize(self, rng: np.random.Generator) -> Binomial:
        """Probabilities drawn uniformly, structural zeros kept."""
        return Binomial(uniform_simplex(self.log_probabilities, rng), self.trials)

    def sample(self, states: npt.ArrayLike, *, rng: np.random.Generator | int | None = None) -> npt.NDArray[np.int64]:
        """One row of successes for each latent state.

        Parameters
        ----------
        states : array_like of int, shape (N,)
        rng : numpy.random.Generator or seed, optional

        Returns
        -------
        ndarray of int64, shape (N, D)

        Examples
        --------
        >>> Binomial.from_probabilities([[0.0, 1.0]], [2, 3]).sample([0], rng=1)
        array([[0, 3]])
        """
        index = categories(states, "states", self.n_states)
        chances = np.exp(self._simplex.normalized[:, :, 1])
        return np.random.default_rng(rng).binomial(self.trials.astype(np.int64), np.minimum(chances, 1.0)[index])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        return {
            "family": "binomial",
            "log_probabilities": self.log_probabilities.tolist(),
            "trials": self.trials.tolist(),
        }

    def _pseudo_counts(self, prior: npt.ArrayLike | None) -> FloatArray:
        return pseudo_count_table(prior, self.log_probabilities.shape, "prior")

    def _counts(self, x: npt.ArrayLike) -> FloatArray:
        """Failures and successes, (N, D, 2); none where the value is missing."""
        table = counts_or_missing(columns(x, self.n_columns), "x", self.trials.astype(np.int64))
        seen = ~np.isnan(table)
        successes = np.where(seen, table, 0.0)
        return np.stack([np.where(seen, self.trials - successes, 0.0), successes], axis=2)
