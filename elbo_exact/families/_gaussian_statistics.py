"""Gaussian sufficient statistics that add without cancellation (Chan, Golub & LeVeque 1983, Am. Stat. 37:242), and their prior.

Weights, weighted means and scatter about those means; no sum of squares from which a square is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, real_array
from elbo_exact.errors import LogTableError

__all__ = ["GaussianStatistics", "NormalInverseWishart", "gathered_statistics"]


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """What a Gaussian family has seen; those of two batches add up.

    Parameters
    ----------
    weights : ndarray, shape (K, D)
        Sum of the weights; of the values not missing in each column.
    means : ndarray, shape (K, D)
        Weighted means; where nothing was seen, the means of the family that looked.
    scatter : ndarray, shape (K, D) or (K, D, D)
        Weighted sums of squares about the means; with the products of columns for "tied" and "full".
    """

    weights: FloatArray
    means: FloatArray
    scatter: FloatArray

    def __add__(self, other: GaussianStatistics) -> GaussianStatistics:
        """The statistics of both batches together."""
        weights = self.weights + other.weights
        share = np.where(weights > 0.0, other.weights / np.where(weights > 0.0, weights, 1.0), 0.0)
        apart = other.means - self.means
        means = np.where(self.weights > 0.0, self.means + share * apart, np.where(weights > 0.0, other.means, self.means))
        between = self.weights * share * apart
        between = between * apart if self.scatter.ndim == 2 else between[:, :, None] * apart[:, None, :]
        return GaussianStatistics(weights, means, self.scatter + other.scatter + between)

    def scaled(self, factor: float) -> GaussianStatistics:
        """The statistics of the same observations, each seen ``factor`` times as often."""
        return GaussianStatistics(self.weights * factor, self.means, self.scatter * factor)

    @property
    def squares(self) -> FloatArray:
        """Diagonal of the scatter, (K, D)."""
        return self.scatter if self.scatter.ndim == 2 else np.diagonal(self.scatter, axis1=1, axis2=2)

    def total_variances(self) -> FloatArray:
        """Variance of every column over all states together, (D,); 0 where nothing was seen."""
        weights = self.weights.sum(axis=0)
        safe = np.where(weights > 0.0, weights, 1.0)
        apart = self.means - (self.weights * self.means).sum(axis=0) / safe
        return np.asarray((self.squares + self.weights * apart * apart).sum(axis=0) / safe)


@dataclass(frozen=True, eq=False)
class NormalInverseWishart:
    """Prior of means and covariances: covariance ~ inverse Wishart(scale, degrees), mean ~ N(mean, covariance / mean_weight).

    Parameters
    ----------
    mean : array_like, shape (D,)
    mean_weight : float
        How many observations ``mean`` is worth; 0 leaves the means without a prior.
    scale : array_like, shape (D, D), (D,) or a number
        Positive definite; one axis or a number is a diagonal. The prior in force is that of its Cholesky factor as stored.
    degrees : float
        Degrees of freedom, >= 0.

    Notes
    -----
    The log density is -(c log|C| + tr(scale inv C) + mean_weight (mu - mean)^T inv C (mu - mean)) / 2 up to a constant. For "full"
    c = degrees + D + 2 for each state; "tied" has one scale and c = degrees + D + 1 + K; "spherical" is the density of "full" at multiples of
    the identity; "diagonal" has one such prior for each column, c = degrees + 3. Without a mean_weight c is smaller by 1 (by K for "tied").

    Examples
    --------
    >>> NormalInverseWishart([0.0, 0.0], 1.0, 0.5, 2.0).scale.tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """

    mean: FloatArray
    mean_weight: float
    scale: FloatArray
    degrees: float
    factor: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mean = np.atleast_1d(real_array(self.mean, "mean"))
        scale = real_array(self.scale, "scale")
        scale = scale if scale.ndim == 2 else np.diag(np.broadcast_to(scale, mean.shape))
        if mean.ndim != 1 or scale.shape != (mean.size, mean.size) or not np.isfinite(mean).all():
            raise LogTableError(f"scale must have shape {(mean.size,) * 2} and mean be finite; got {scale.shape}.", "scale")
        for value, name in ((self.mean_weight, "mean_weight"), (self.degrees, "degrees")):
            if not 0.0 <= value < np.inf:
                raise ValueError(f"{name} must be finite and >= 0; got {value!r}.")
        try:
            factor = np.linalg.cholesky(scale)
        except np.linalg.LinAlgError:
            raise LogTableError("scale must be positive definite; its Cholesky factorization failed.", "scale") from None
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "factor", factor)

    def log_determinant_weight(self, covariance: str, n_states: int) -> float:
        """The c of the notes: how many observations' worth of log determinants the prior holds."""
        means = float(self.mean_weight > 0.0)
        if covariance == "diagonal":
            return self.degrees + 2.0 + means
        return self.degrees + self.mean.size + 1.0 + means * (n_states if covariance == "tied" else 1)

    def statistics(self, covariance: str, n_states: int) -> GaussianStatistics:
        """The prior as imaginary observations; "tied" carries its one scale in the first state."""
        scale = np.diagonal(self.scale) if covariance in ("spherical", "diagonal") else self.scale
        scatter = np.array(np.broadcast_to(scale, (n_states, *scale.shape)))
        if covariance == "tied":
            scatter[1:] = 0.0
        shape = (n_states, self.mean.size)
        return GaussianStatistics(np.full(shape, float(self.mean_weight)), np.array(np.broadcast_to(self.mean, shape)), scatter)


def gathered_statistics(x: FloatArray, weights: FloatArray, start: FloatArray, products: bool) -> GaussianStatistics:
    """Statistics of a batch in three passes: a mean near ``start``, that mean corrected, the scatter about it.

    Deviations are taken from a mean m that is right up to rounding, so every sum is relative to the scatter, wherever the data lie:
    mean = m + e with e = sum w (x - m) / sum w, scatter = sum w (x - m)^2 - (sum w) e^2, the last term of the order of u^2.
    """
    seen = ~np.isnan(x)
    parts = [_one_state(x, seen, column[:, None], mean, products) for column, mean in zip(weights.T, start, strict=True)]
    return GaussianStatistics(*(np.stack(part) for part in zip(*parts, strict=True)))


@np.errstate(over="ignore", invalid="ignore")  # squares that overflow are inf or NaN, and the M-step refuses them
def _one_state(
    x: npt.NDArray[np.float64], seen: npt.NDArray[np.bool_], weight: FloatArray, start: FloatArray, products: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    total = (weight * seen).sum(axis=0)
    safe = np.where(total > 0.0, total, 1.0)
    mean = start + (weight * np.where(seen, x - start, 0.0)).sum(axis=0) / safe
    deviation = np.where(seen, x - mean, 0.0)
    weighted = weight * deviation
    rest = weighted.sum(axis=0) / safe
    if products:
        scatter = weighted.T @ deviation - (total * rest)[:, None] * rest
    else:
        scatter = np.maximum((weighted * deviation).sum(axis=0) - total * rest * rest, 0.0)
    return total, mean + rest, scatter
