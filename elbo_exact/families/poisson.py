"""Poisson: independent columns of counts, with rates that depend on the latent state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, categories, counts_or_missing, integer, raise_bad_entry, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families._columns import columns, parameter_table, weight_table, weighted_sums
from elbo_exact.families._factorials import log_factorial
from elbo_exact.families._rounding import summed_change
from elbo_exact.families._simplex import LIBM, U, pseudo_count_table

__all__ = ["Poisson"]

LARGEST_LOG_RATE = 37.0  # the logarithm of 2**53 is 36.7: larger counts are not exact doubles


@dataclass(frozen=True, eq=False, repr=False)
class Poisson(AsCode):
    """p(x_d | z = k) = rate^x e^-rate / x! with rate = exp(log_rates[k, d]), independently over the D columns.

    Parameters
    ----------
    log_rates : array_like, shape (K, D) or (K,)
        At most 37. -inf is a structural zero, a rate of 0 that produces only zeros: `maximize` keeps it.

    Raises
    ------
    LogTableError
        Not two axes, NaN, or a log rate above 37.

    Notes
    -----
    With t = log rate, log p = x t - e^t - log x!. The change from t to t' is x (t' - t) - e^t expm1(t' - t): two terms of the size
    of the change.

    Examples
    --------
    >>> import numpy as np
    >>> family = Poisson(np.log([[1.0], [2.0]]))
    >>> family.log_density([0, 2, float("nan")]).round(4)
    array([[-1.    , -2.    ],
           [-1.6931, -1.3069],
           [ 0.    ,  0.    ]])
    """

    log_rates: FloatArray

    def __post_init__(self) -> None:
        table = parameter_table(self.log_rates, "log_rates")
        if np.isnan(table).any() or (table == np.inf).any():
            raise_bad_entry(table, "log_rates")
        if (table > LARGEST_LOG_RATE).any():
            raise LogTableError(
                f"log_rates must be at most {LARGEST_LOG_RATE:g}; largest is {table.max():g}; pass logarithms of the rates.",
                "log_rates",
                float(table.max()),
            )
        object.__setattr__(self, "log_rates", table)

    @classmethod
    def from_rates(cls, rates: npt.ArrayLike) -> Poisson:
        """The family with the given rates, shape (K, D) or (K,).

        Examples
        --------
        >>> Poisson.from_rates([1.0, 0.0]).log_rates.tolist()
        [[0.0], [-inf]]
        """
        table = parameter_table(rates, "rates")
        if not (table >= 0.0).all():
            raise LogTableError(f"rates must be >= 0; got {table[~(table >= 0.0)][0]:g}.", "rates")
        with np.errstate(divide="ignore"):
            return cls(np.log(table))

    @classmethod
    def random(cls, x: npt.ArrayLike, n_states: int, *, rng: np.random.Generator | int | None = None) -> Poisson:
        """Rates around the means of the columns of ``x``: each mean times an exponential variable.

        Examples
        --------
        >>> Poisson.random([[1, 2], [3, 0]], 3, rng=0).log_rates.shape
        (3, 2)
        """
        table = np.atleast_2d(np.asarray(x, dtype=np.float64).T).T
        start = cls.from_rates(np.broadcast_to(np.nanmean(table, axis=0), (integer(n_states, "n_states", 1), table.shape[1])))
        return start.randomize(np.random.default_rng(rng))

    @property
    def n_states(self) -> int:
        """Number of latent states K."""
        return int(self.log_rates.shape[0])

    @property
    def n_columns(self) -> int:
        """Number of columns D."""
        return int(self.log_rates.shape[1])

    def log_density(self, x: npt.ArrayLike) -> FloatArray:
        """log p(x_n | z = k), in nats.

        Parameters
        ----------
        x : array_like, shape (N, D), or (N,) where D = 1
            Whole numbers >= 0, or NaN for a missing value.

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

        Each column adds x t (one rounding), e^t (LIBM) and log x! (its own bound); of the 3 D - 1 additions each rounds by at most u
        times the sum of the sizes.
        """
        counts = self._checked(x)
        table, error, size = np.zeros((3, len(counts), self.n_states))
        for column, logs in zip(counts.T, self.log_rates.T, strict=True):
            seen = ~np.isnan(column)
            n = np.where(seen, column, 0.0)
            factorial, factorial_error = (part[:, None] for part in log_factorial(n))
            rates = seen[:, None] * np.exp(logs)
            products = _products(n, logs)
            table += products - rates - factorial
            error += U * _finite_size(products) + LIBM * rates + factorial_error
            size += _finite_size(products) + rates + factorial
        bound = 1.01 * (error + 3 * self.n_columns * U * size)
        return table, np.where(table > -np.inf, bound, 0.0)

    def log_density_change(self, other: Poisson, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """log p_other(x_n | k) - log p_self(x_n | k) from parameter differences, and its error bound; both (N, K).

        x D - e^t expm1(D) with D = t' - t (one rounding): (2 u) x abs(D), and e^t (2 LIBM + 2 u) abs(expm1(D)) + u abs(D) e^t' from
        the rounding of D. Where a rate was or becomes 0 the second term is the difference of the rates. +inf where only ``other``
        can produce x_n, -inf where only self can, 0 where neither can.
        """
        counts = self._checked(x)
        return summed_change(
            _column_change(column, old, new)
            for column, old, new in zip(counts.T, self.log_rates.T, other.log_rates.T, strict=True)
        )

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
        """Expected exposure and events, additive over batches of observations.

        Parameters
        ----------
        x : array_like, shape (N, D)
        weights : array_like, shape (N, K)
            Weight of observation n in state k, for example its posterior times its count.

        Returns
        -------
        ndarray, shape (K, D, 2)
            ``sum over n of weights[n, k]`` and ``sum over n of weights[n, k] * x[n, d]``, without the missing values.

        Examples
        --------
        >>> Poisson([[0.0]]).statistics([3, 1], [[1.0], [0.5]])
        array([[[1.5, 3.5]]])
        """
        counts = self._checked(x)
        table, seen = weight_table(weights, len(counts), self.n_states), ~np.isnan(counts)
        sums = weighted_sums(table, seen.astype(np.float64)), weighted_sums(table, np.where(seen, counts, 0.0))
        return np.stack(sums, axis=2)

    def maximize(self, statistics: npt.ArrayLike, pseudo_counts: npt.ArrayLike | None = None) -> Poisson:
        """The family that maximizes the expected log density plus the log prior: rate = events / exposure.

        Parameters
        ----------
        statistics : array_like, shape (K, D, 2)
        pseudo_counts : array_like broadcastable to (K, D, 2)
            Imaginary exposure b and events a, that is Gamma priors with shape 1 + a and rate b.

        Returns
        -------
        Poisson
            Rates of 0 stay 0, a state that has seen only zeros gets rate 0, one without any exposure keeps its rates.

        Examples
        --------
        >>> import numpy as np
        >>> np.exp(Poisson([[0.0]]).maximize([[[2.0, 8.0]]]).log_rates).round(12)
        array([[4.]])
        >>> np.exp(Poisson([[0.0]]).maximize([[[2.0, 8.0]]], pseudo_counts=[3.0, 2.0]).log_rates).round(12)
        array([[2.]])
        """
        total = pseudo_count_table(statistics, self._shape, "statistics") + self._pseudo_counts(pseudo_counts, "pseudo_counts")
        exposure, events = total[..., 0], total[..., 1]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            logs = np.log(events) - np.log(exposure)
            ratio = events / exposure
            logs = np.where((ratio >= 2.0**-1022) & (ratio < np.inf), np.log(ratio), logs)
        keep = (exposure == 0.0) | (self.log_rates == -np.inf)
        return Poisson(np.where(keep, self.log_rates, logs))

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_density(x)) in ``log_rates.ravel()``: events - rate * exposure; 0 at rates of 0.

        Examples
        --------
        >>> Poisson([[0.0]]).pullback([3], [[1.0]])
        array([2.])
        """
        total = self.statistics(x, cotangent)
        return np.asarray(
            np.where(self.log_rates > -np.inf, total[..., 1] - np.exp(self.log_rates) * total[..., 0], 0.0).ravel()
        )

    def log_prior(self, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """Sum of events * log rate - exposure * rate (the Gamma log prior up to a constant), and its error bound.

        Rates of 0 have no prior.
        """
        imaginary, used = self._pseudo_counts(prior, "prior"), self.log_rates > -np.inf
        logs = self.log_rates[used]
        first, second = imaginary[..., 1][used] * logs, imaginary[..., 0][used] * np.exp(logs)
        value = math.fsum([*first.tolist(), *(-second).tolist()])
        bound = U * math.fsum(np.abs(first).tolist()) + (LIBM + U) * math.fsum(second.tolist())
        return value, 1.01 * (bound + U * abs(value))

    def log_prior_change(self, other: Poisson, prior: npt.ArrayLike | None = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        imaginary, used = self._pseudo_counts(prior, "prior"), self.log_rates > -np.inf
        values, bounds = [0.0], [0.0]
        for state in range(self.n_states):
            for d in np.flatnonzero(used[state]):
                exposure, events = imaginary[state, d]
                terms = _change_terms(events, exposure, self.log_rates[state, d], other.log_rates[state, d])
                values += [float(part) for part in terms[:2]]
                bounds.append(float(terms[2]))
        value = math.fsum(values)
        return value, 1.01 * (math.fsum(bounds) + U * abs(value))

    def rounding_loss(self, statistics: FloatArray, prior: npt.ArrayLike | None, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`.

        A stored log rate off by e loses exposure * rate * (expm1(e) - e) <= 0.51 events e^2 for e <= 0.01. e: exposure and events
        (``relative_error`` and one product each), their prior (u each), the division u, and LIBM of one or two logarithms.
        """
        total = statistics + self._pseudo_counts(prior, "prior")
        exposure, events = total[..., 0], total[..., 1]
        used = (events > 0.0) & (exposure > 0.0) & (self.log_rates > -np.inf)
        size = np.abs(np.log(events[used])) + np.abs(np.log(exposure[used]))
        error = 2.0 * relative_error + 5.0 * U + LIBM * size
        return 0.52 * float(np.sum(events[used] * error**2))

    def randomize(self, rng: np.random.Generator) -> Poisson:
        """Each column's mean rate over the states times exponential variables; rates of 0 stay 0."""
        with np.errstate(divide="ignore"):
            level = np.log(np.exp(self.log_rates).mean(axis=0)) + np.log(rng.standard_exponential(self.log_rates.shape))
        return Poisson(np.where(self.log_rates > -np.inf, np.minimum(level, LARGEST_LOG_RATE), -np.inf))

    def sample(self, states: npt.ArrayLike, *, rng: np.random.Generator | int | None = None) -> npt.NDArray[np.int64]:
        """One row of counts for each latent state.

        Parameters
        ----------
        states : array_like of int, shape (N,)
        rng : numpy.random.Generator or seed, optional

        Returns
        -------
        ndarray of int64, shape (N, D)

        Examples
        --------
        >>> Poisson([[float("-inf"), 1.0]]).sample([0, 0], rng=1)
        array([[0, 4],
               [0, 4]])
        """
        index = categories(states, "states", self.n_states)
        return np.random.default_rng(rng).poisson(np.exp(self.log_rates)[index])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; a rate of 0 is -inf."""
        return {"family": "poisson", "log_rates": self.log_rates.tolist()}

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.n_states, self.n_columns, 2)

    def _pseudo_counts(self, prior: npt.ArrayLike | None, name: str) -> FloatArray:
        if prior is not None and np.ndim(prior) == 0 and real_array(prior, name) != 0.0:
            raise LogTableError(
                f"{name} must hold imaginary exposure and events, shape {self._shape}, for a Poisson family; got one number.",
                name,
            )
        return pseudo_count_table(prior, self._shape, name)

    def _checked(self, x: npt.ArrayLike) -> FloatArray:
        return counts_or_missing(columns(x, self.n_columns), "x")


def _products(n: FloatArray, logs: FloatArray) -> FloatArray:
    """n * log as (N, K), where 0 times -inf is 0."""
    with np.errstate(invalid="ignore"):
        return np.where(n[:, None] > 0.0, n[:, None] * logs, 0.0)


def _finite_size(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), np.abs(values), 0.0)


def _column_change(column: FloatArray, old: FloatArray, new: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Change and bound of one column, (N, K); 0 where the value is missing."""
    seen = ~np.isnan(column)
    n = np.where(seen, column, 0.0)
    first, second, error = _change_terms(n[:, None], seen[:, None].astype(np.float64), old, new)
    change = first + second
    return change, np.where(np.isfinite(change), error + U * np.abs(change), 0.0)


def _change_terms(events: Any, exposure: Any, old: Any, new: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    """events * D, -exposure * (rate' - rate), and a bound on the error of both; NaN where events are impossible in both."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = new - old
        rate, moved = np.exp(old), np.exp(new)
        first = np.where(np.asarray(events) > 0.0, events * difference, 0.0)
        near = np.abs(difference) <= 1.0
        growth = np.where(near, rate * np.expm1(np.where(near, difference, 0.0)), moved - rate)
        growth_error = np.where(
            near, (2.0 * LIBM + 2.0 * U) * np.abs(growth) + 3.0 * U * np.abs(growth), LIBM * (rate + moved) + U * np.abs(growth)
        )
        second = -exposure * growth
        error = 2.0 * U * _finite_size(first) + exposure * growth_error + U * np.abs(second)
    return first, second, 1.01 * error
