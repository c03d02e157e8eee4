"""Multinomial: counts of C categories that sum to a known total, with probabilities that depend on the latent state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import LARGEST_EXACT_INTEGER, FloatArray, categories, counts_or_missing, integer
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

__all__ = ["Multinomial"]


@dataclass(frozen=True, eq=False, repr=False)
class Multinomial(AsCode):
    """p(x | z = k, n) = n! / prod x_c! * prod p_kc^x_c with n = sum x, the total of the observation, given.

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
    >>> family = Multinomial(np.log([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]))
    >>> family.log_density([[2, 1, 0]]).round(4)
    array([[-1.674 , -3.0603]])
    """

    log_probabilities: FloatArray
    _simplex: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        simplex = log_simplex(self.log_probabilities, "log_probabilities", 2)
        object.__setattr__(self, "log_probabilities", simplex.given)
        object.__setattr__(self, "_simplex", simplex)

    @classmethod
    def random(cls, n_states: int, n_categories: int, *, rng: np.random.Generator | int | None = None) -> Multinomial:
        """Rows drawn uniformly from the simplex.

        Examples
        --------
        >>> Multinomial.random(2, 3, rng=0).log_probabilities.shape
        (2, 3)
        """
        shape = integer(n_states, "n_states", 1), integer(n_categories, "n_categories", 1)
        return cls(uniform_simplex(np.zeros(shape), np.random.default_rng(rng)))

    @property
    def n_states(self) -> int:
        """Number of latent states K."""
        return int(self.log_probabilities.shape[0])

    @property
    def n_columns(self) -> int:
        """Columns of x that the family takes: its C categories."""
        return int(self.log_probabilities.shape[1])

    def log_density(self, x: npt.ArrayLike) -> FloatArray:
        """log p(x_n | z = k), in nats.

        Parameters
        ----------
        x : array_like, shape (N, C)
            Counts; a row of NaN is a missing observation.

        Returns
        -------
        ndarray, shape (N, K)

        Raises
        ------
        TypeError, LogTableError
            Other values, a row that is NaN in part, or the wrong number of columns.
        """
        return self.log_density_and_error(x)[0]

    def log_density_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_density` and a bound on its rounding error, both (N, K); derived in ``_counted.py`` and ``_factorials.py``."""
        return counted_density(self._counts(x), LogSimplex(*(part[:, None] for part in self._simplex)))

    def log_density_change(self, other: Multinomial, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """log p_other(x_n | k) - log p_self(x_n | k) from parameter differences, and its error bound; both (N, K).

        +inf where only ``other`` can produce x_n, -inf where only self can, 0 where neither can.
        """
        change, error = simplex_change(self.log_probabilities, other.log_probabilities)
        return counted_change(self._counts(x), change[:, None], error[:, None])

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
        """Expected counts, additive over batches of observations.

        Parameters
        ----------
        x : array_like, shape (N, C)
        weights : array_like, shape (N, K)
            Weight of observation n in state k, for example its posterior times its count.

        Returns
        -------
        ndarray, shape (K, C)
            Missing observations are counted nowhere.

        Examples
        --------
        >>> Multinomial.random(1, 3, rng=0).statistics([[1, 0, 2], [0, 0, 4]], [[1.0], [0.5]])
        array([[1., 0., 4.]])
        """
        return counted_sums(self._counts(x), np.asarray(weights), self.n_states)[:, 0]

    def maximize(self, statistics: npt.ArrayLike, pseudo_counts: npt.ArrayLike | None = None) -> Multinomial:
        """The family that maximizes sum (statistics + pseudo_counts) * log p, in closed form.

        Parameters
        ----------
        statistics : array_like, shape (K, C)
        pseudo_counts : float or array_like broadcastable to (K, C)
            Imaginary counts: the mode under a Dirichlet prior with parameters 1 + pseudo_counts.

        Returns
        -------
        Multinomial
            Structural zeros stay zero, a category never seen becomes one, rows without any count stay as they are.

        Examples
        --------
        >>> import numpy as np
        >>> family = Multinomial(np.log([[0.5, 0.5]]))
        >>> np.exp(family.maximize([[1.0, 3.0]]).log_probabilities)
        array([[0.25, 0.75]])
        """
        shape = self.log_probabilities.shape
        counts = pseudo_count_table(statistics, shape, "statistics")
        return Multinomial(
            maximized(self.log_probabilities, counts + pseudo_count_table(pseudo_counts, shape, "pseudo_counts"))
        )

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_density(x)) in ``log_probabilities.ravel()``; renormalization included, zeros fixed.

        Examples
        --------
        >>> import numpy as np
        >>> Multinomial(np.log([[0.75, 0.25]])).pullback([[1, 1]], [[1.0]]).round(12)
        array([-0.5,  0.5])
        """
        return simplex_pullback(self._simplex, self.statistics(x, cotangent))

    def log_prior(self, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """Sum of pseudo-counts times log probabilities (the Dirichlet log prior up to a constant), and its error bound."""
        return log_prior([(self._simplex, self._pseudo_counts(prior))])

    def log_prior_change(self, other: Multinomial, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        return log_prior_change([(self._simplex, self._pseudo_counts(prior))], [other._simplex])

    def rounding_loss(self, statistics: FloatArray, prior: npt.ArrayLike | None, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        return rounding_loss([statistics + self._pseudo_counts(prior)], relative_error)

    def randomize(self, rng: np.random.Generator) -> Multinomial:
        """Rows drawn uniformly from the simplex, structural zeros kept."""
        return Multinomial(uniform_simplex(self.log_probabilities, rng))

    def sample(
        self, states: npt.ArrayLike, totals: npt.ArrayLike = 1, *, rng: np.random.Generator | int | None = None
    ) -> npt.NDArray[np.int64]:
        """One row of counts for each latent state.

        Parameters
        ----------
        states : array_like of int, shape (N,)
        totals : int or array_like of int, shape (N,)
            Sums of the rows: the density is conditional on them.
        rng : numpy.random.Generator or seed, optional

        Returns
        -------
        ndarray of int64, shape (N, C)

        Examples
        --------
        >>> Multinomial([[0.0, float("-inf")]]).sample([0, 0], [2, 3], rng=1)
        array([[2, 0],
               [3, 0]])
        """
        index = categories(states, "states", self.n_states)
        chances = np.exp(self._simplex.normalized)
        chances /= chances.sum(axis=1, keepdims=True)
        sums = categories(totals, "totals", LARGEST_EXACT_INTEGER)
        return np.random.default_rng(rng).multinomial(np.broadcast_to(sums, index.shape), chances[index])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        return {"family": "multinomial", "log_probabilities": self.log_probabilities.tolist()}

    def _pseudo_counts(self, prior: npt.ArrayLike | None) -> FloatArray:
        return pseudo_count_table(prior, self.log_probabilities.shape, "prior")

    def _counts(self, x: npt.ArrayLike) -> FloatArray:
        """Counts as (N, 1, C); none where the observation is missing."""
        table = counts_or_missing(columns(x, self.n_columns), "x")
        missing = np.isnan(table)
        partly = missing.any(axis=1) & ~missing.all(axis=1)
        if partly.any():
            row = int(partly.argmax())
            raise LogTableError(f"x has missing counts at index ({row},); make the whole row NaN, or none of it.", "x", row)
        return np.where(missing, 0.0, table)[:, None, :]
