"""Gaussian: real columns with means that depend on the latent state, and spherical, diagonal, tied or full covariances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, categories, integer, one_of, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families import _diagonal, _triangular
from elbo_exact.families._columns import columns, parameter_table, weight_table
from elbo_exact.families._gaussian_prior import PriorTerm, log_prior, log_prior_change, mean_weight, prior_terms
from elbo_exact.families._gaussian_statistics import GaussianStatistics, NormalInverseWishart, gathered_statistics
from elbo_exact.families._gaussian_step import maximized_scales, rounding_loss

__all__ = ["Gaussian"]

Kind = Literal["spherical", "diagonal", "tied", "full"]
KINDS = ("spherical", "diagonal", "tied", "full")


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(AsCode):
    """p(x | z = k) = N(x; means[k], covariance of k).

    Parameters
    ----------
    means : array_like, shape (K, D)
    scales : array_like
        Standard deviations (K,) for "spherical" and (K, D) for "diagonal"; lower triangular factors L of covariances L L^T, (D, D) for
        "tied" and (K, D, D) for "full". These stored numbers are the model: nothing is inverted, and small changes of them give
        small changes of densities to full relative precision. `from_covariances` takes variances and covariances.
    covariance : {"spherical", "diagonal", "tied", "full"}

    Raises
    ------
    LogTableError, ValueError
        Shapes that do not match, numbers that are not finite, scales that are not positive, an unknown covariance.

    Notes
    -----
    log p = -D log(2 pi)/2 - sum log L_ii - ||z||^2/2 with L z = x - mean by substitution. Error bounds are derived in ``_diagonal.py``
    (rigorous) and ``_triangular.py`` (rigorous for substitution and summation in any order; that LAPACK does no more than this is
    assumed).

    Examples
    --------
    >>> family = Gaussian([[0.0, 0.0], [1.0, 0.0]], [1.0, 2.0], "spherical")
    >>> family.log_density([[1.0, 0.0], [0.0, float("nan")]]).round(4)
    array([[-2.3379, -3.2242],
           [-0.9189, -1.7371]])
    """

    means: FloatArray
    scales: FloatArray
    covariance: Kind = "full"

    def __post_init__(self) -> None:
        one_of(self.covariance, "covariance", KINDS)
        means = parameter_table(self.means, "means")
        scales = real_array(self.scales, "scales").copy()
        n_states, n_columns = means.shape
        square = (n_columns, n_columns)
        shapes = {"spherical": (n_states,), "diagonal": means.shape, "tied": square, "full": (n_states, *square)}
        if scales.shape != shapes[self.covariance]:
            raise LogTableError(
                f"scales must have shape {shapes[self.covariance]} for {self.covariance!r}; got {scales.shape}.",
                "scales",
                scales.shape,
            )
        if not (np.isfinite(means).all() and np.isfinite(scales).all()):
            raise LogTableError("means and scales must be finite; got NaN or an infinity.", "means")
        positive = np.diagonal(scales, axis1=-2, axis2=-1) if self._factored else scales
        if not (positive > 0.0).all() or (self._factored and np.triu(scales, 1).any()):
            raise LogTableError(
                "scales must be positive (lower triangular with a positive diagonal for 'tied' and 'full').", "scales"
            )
        scales.flags.writeable = False
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "scales", scales)

    @classmethod
    def from_covariances(
        cls,
        means: npt.ArrayLike,
        covariances: npt.ArrayLike,
        covariance: Kind = "full",
    ) -> Gaussian:
        """The family with variances (K,) or (K, D), or covariance matrices (D, D) or (K, D, D), by square roots and Cholesky factors.

        Examples
        --------
        >>> Gaussian.from_covariances([[0.0, 0.0]], [[4.0, 2.0], [2.0, 5.0]], "tied").scales
        array([[2., 0.],
               [1., 2.]])
        """
        table = real_array(covariances, "covariances")
        if covariance in ("tied", "full"):
            try:
                return cls(parameter_table(means, "means"), np.asarray(np.linalg.cholesky(table), np.float64), covariance)
            except np.linalg.LinAlgError:
                raise LogTableError(
                    "covariances must be positive definite; a Cholesky factorization failed.", "covariances"
                ) from None
        if not (table > 0.0).all():
            raise LogTableError(f"covariances must be positive; smallest is {float(np.min(table)):g}.", "covariances")
        return cls(parameter_table(means, "means"), np.sqrt(table), covariance)

    @classmethod
    def random(
        cls,
        x: npt.ArrayLike,
        n_states: int,
        covariance: Kind = "full",
        *,
        rng: np.random.Generator | int | None = None,
    ) -> Gaussian:
        """Means at rows of ``x`` drawn without replacement, and the variances of all of ``x``.

        Examples
        --------
        >>> Gaussian.random([[0.0, 1.0], [2.0, 5.0], [4.0, 3.0]], 2, "diagonal", rng=0).means
        array([[2., 5.],
               [4., 3.]])
        """
        table = np.atleast_2d(real_array(x, "x").T).T
        number = integer(n_states, "n_states", 1)
        if len(table) < number:
            raise LogTableError(f"x must hold at least {number} rows; got {len(table)}.", "x", table.shape)
        rows = table[np.random.default_rng(rng).choice(len(table), number, replace=False)]
        return cls._with_variances(
            np.where(np.isnan(rows), np.nanmean(table, axis=0), rows), np.nanvar(table, axis=0), covariance
        )

    @property
    def n_states(self) -> int:
        """Number of latent states K."""
        return int(self.means.shape[0])

    @property
    def n_columns(self) -> int:
        """Number of columns D."""
        return int(self.means.shape[1])

    @property
    def covariances(self) -> FloatArray:
        """Variances (K,) or (K, D), or covariance matrices (D, D) or (K, D, D)."""
        return self.scales @ np.swapaxes(self.scales, -1, -2) if self._factored else self.scales**2

    def log_density(self, x: npt.ArrayLike) -> FloatArray:
        """log p(x_n | z = k), in nats.

        Parameters
        ----------
        x : array_like, shape (N, D), or (N,) where D = 1
            Finite; NaN is a missing value, for "spherical" and "diagonal" only.

        Returns
        -------
        ndarray, shape (N, K)
            -inf below the range of doubles.
        """
        return self.log_density_and_error(x)[0]

    def log_density_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_density` and a bound on its rounding error, both (N, K)."""
        rows, module = self._checked(x), _triangular if self._factored else _diagonal
        parts = [module.density(rows, mean, self._scale(k)) for k, mean in enumerate(self.means)]
        return np.stack([part[0] for part in parts], axis=1), np.stack([part[1] for part in parts], axis=1)

    def log_density_change(self, other: Gaussian, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """log p_other(x_n | k) - log p_self(x_n | k) from parameter differences, and its error bound; both (N, K)."""
        rows, module = self._checked(x), _triangular if self._factored else _diagonal
        parts = [module.density_change(rows, self._state(k), other._state(k)) for k in range(self.n_states)]
        return np.stack([part[0] for part in parts], axis=1), np.stack([part[1] for part in parts], axis=1)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> GaussianStatistics:
        """Weights, weighted means and scatter about them, additive over batches of observations.

        Parameters
        ----------
        x : array_like, shape (N, D)
        weights : array_like, shape (N, K)
            Weight of observation n in state k, for example its posterior times its count.

        Examples
        --------
        >>> seen = Gaussian([[0.0]], [1.0], "spherical").statistics([1.0, 3.0], [[1.0], [1.0]])
        >>> seen.weights.tolist(), seen.means.tolist(), seen.scatter.tolist()
        ([[2.0]], [[2.0]], [[2.0]])
        """
        rows = self._checked(x)
        return gathered_statistics(rows, weight_table(weights, len(rows), self.n_states), self.means, self._factored)

    @np.errstate(over="ignore", invalid="ignore")  # squares that overflow are refused as they arrive
    def maximize(self, statistics: GaussianStatistics, prior: NormalInverseWishart | None = None) -> Gaussian:
        """The family that maximizes the expected log density plus the log prior, in closed form.

        Parameters
        ----------
        statistics : GaussianStatistics
        prior : NormalInverseWishart, optional

        Returns
        -------
        Gaussian
            States without any weight stay as they are.

        Raises
        ------
        CollapsedComponent
            Without a prior, where the smallest eigenvalue of a covariance, columns in units of their total standard deviation,
            is at most 100 u D: the likelihood has no maximum there. Nothing is added to a covariance.

        Examples
        --------
        >>> family = Gaussian([[0.0]], [1.0], "spherical")
        >>> fitted = family.maximize(family.statistics([1.0, 3.0], [[1.0], [1.0]]))
        >>> fitted.means.tolist(), fitted.covariances.tolist()
        ([[2.0]], [1.0])
        """
        total, extra = self._with_prior(statistics, prior)
        variances = statistics.total_variances() if prior is None else None
        return Gaussian(total.means, maximized_scales(self.scales, self.covariance, total, extra, variances), self.covariance)

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_density(x)): means.ravel(), then scales.ravel() or, state by state, lower triangles by rows.

        Examples
        --------
        >>> Gaussian([[0.0]], [2.0], "spherical").pullback([4.0], [[1.0]])
        array([1. , 1.5])
        """
        rows, module = self._checked(x), _triangular if self._factored else _diagonal
        weights = weight_table(cotangent, len(rows), self.n_states, "cotangent")
        parts = [module.pullback(rows, *self._state(k), weights[:, k]) for k in range(self.n_states)]
        means, scales = (np.stack(part) for part in zip(*parts, strict=True))
        if self.covariance == "spherical":
            scales = scales.sum(axis=1)
        if self._factored:
            scales = scales.sum(axis=0) if self.covariance == "tied" else scales
            scales = scales[..., *np.tril_indices(self.n_columns)]
        return np.concatenate([means.ravel(), scales.ravel()])

    def log_prior(self, prior: NormalInverseWishart | None = None) -> tuple[float, float]:
        """Log density of the prior up to a constant, in nats, and its error bound."""
        return log_prior(self._prior_terms(prior), self._factored)

    def log_prior_change(self, other: Gaussian, prior: NormalInverseWishart | None = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        return log_prior_change(self._prior_terms(prior), other._prior_terms(prior), self._factored)

    def rounding_loss(self, statistics: GaussianStatistics, prior: NormalInverseWishart | None, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        total, extra = self._with_prior(statistics, prior)
        return rounding_loss(self.means, self.scales, self.covariance, total, extra, relative_error)

    def randomize(self, rng: np.random.Generator) -> Gaussian:
        """Means drawn around the common mean of all states with their common variances, which also become the covariances."""
        variances = self.covariances
        if self._factored:
            variances = np.diagonal(variances, axis1=-2, axis2=-1)
        spread = variances[:, None] if self.covariance == "spherical" else variances
        common = np.broadcast_to(spread, self.means.shape).mean(axis=0) + self.means.var(axis=0)
        means = self.means.mean(axis=0) + np.sqrt(common) * rng.standard_normal(self.means.shape)
        return self._with_variances(means, common, self.covariance)

    def sample(self, states: npt.ArrayLike, *, rng: np.random.Generator | int | None = None) -> FloatArray:
        """One row for each latent state, (N, D).

        Examples
        --------
        >>> Gaussian([[0.0, 5.0]], [0.5], "spherical").sample([0, 0], rng=1).shape
        (2, 2)
        """
        index = categories(states, "states", self.n_states)
        noise = np.random.default_rng(rng).standard_normal((len(index), self.n_columns))
        scales = np.stack([self._scale(k) for k in range(self.n_states)])[index]
        return self.means[index] + ((scales @ noise[:, :, None])[:, :, 0] if self._factored else scales * noise)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {
            "family": "gaussian",
            "covariance": self.covariance,
            "means": self.means.tolist(),
            "scales": self.scales.tolist(),
        }

    @classmethod
    def _with_variances(cls, means: FloatArray, variances: FloatArray, covariance: Any) -> Gaussian:
        """The same variances, without covariances, for every state."""
        deviation = np.sqrt(variances)
        scales = {
            "spherical": np.full(len(means), math.sqrt(float(variances.mean()))),
            "diagonal": np.tile(deviation, (len(means), 1)),
            "tied": np.diag(deviation),
            "full": np.tile(np.diag(deviation), (len(means), 1, 1)),
        }
        return cls(means, scales[one_of(covariance, "covariance", KINDS)], covariance)

    @property
    def _factored(self) -> bool:
        return self.covariance in ("tied", "full")

    def _scale(self, k: int) -> FloatArray:
        if self.covariance == "spherical":
            return np.full(self.n_columns, self.scales[k])
        return self.scales if self.covariance == "tied" else np.asarray(self.scales[k])

    def _state(self, k: int) -> tuple[FloatArray, FloatArray]:
        return self.means[k], self._scale(k)

    def _with_prior(
        self, statistics: GaussianStatistics, prior: NormalInverseWishart | None
    ) -> tuple[GaussianStatistics, float]:
        """Statistics with those of the prior, and its weight of log determinants."""
        if prior is None:
            return statistics, 0.0
        imaginary = self._prior(prior).statistics(self.covariance, self.n_states)
        return statistics + imaginary, prior.log_determinant_weight(self.covariance, self.n_states) - mean_weight(
            prior, self.covariance, self.n_states
        )

    def _prior(self, prior: Any) -> NormalInverseWishart:
        if not isinstance(prior, NormalInverseWishart) or prior.mean.size != self.n_columns:
            raise LogTableError(
                f"prior must be a NormalInverseWishart of {self.n_columns} columns for a Gaussian family.", "prior"
            )
        return prior

    def _prior_terms(self, prior: Any) -> list[PriorTerm]:
        if prior is None:
            return []
        return prior_terms([self._state(k) for k in range(self.n_states)], self.covariance, self._prior(prior))

    def _checked(self, x: npt.ArrayLike) -> FloatArray:
        rows = real_array(columns(x, self.n_columns), "x")
        if np.isinf(rows).any() or (self._factored and np.isnan(rows).any()):
            index = tuple(map(int, np.argwhere(~np.isfinite(rows) & ~(np.isnan(rows) & (not self._factored)))[0]))
            remedy = "missing values need 'diagonal' or 'spherical'" if np.isnan(rows[index]) else "drop the observation"
            raise LogTableError(f"x must be finite; got {rows[index]:g} at index {index}; {remedy}.", "x", index)
        return rows
