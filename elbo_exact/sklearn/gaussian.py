"""Mixture of Gaussians, spherical, diagonal, tied or full."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from elbo_exact._validate import FloatArray, one_of
from elbo_exact.families import Gaussian, NormalInverseWishart
from elbo_exact.models import Mixture, MixtureStatistics
from elbo_exact.sklearn._base import MixtureEstimator

__all__ = ["COVARIANCES", "GaussianMixture"]

COVARIANCES = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical"}


class GaussianMixture(MixtureEstimator):
    """Mixture of Gaussians without any regularization: a component that collapses is told by a ConvergenceWarning.

    Parameters
    ----------
    n_components : int
        Number of components K.
    covariance_type : {"full", "tied", "diag", "spherical"}
    n_init, init_params, max_iter, tol, start, random_state
        As in `BernoulliMixture`.
    prior : families.NormalInverseWishart or models.MixtureStatistics, optional
        Instead of scikit-learn's ``reg_covar``, which is no prior of anything.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_ : ndarray
        In the shapes of scikit-learn's ``GaussianMixture``.
    model_, result_, converged_, n_iter_, log_evidence_, elbo_total_, lower_bound_, lower_bounds_
        As in `BernoulliMixture`.

    Notes
    -----
    NaN is a missing value for "diag" and "spherical". O(N K D^2) a step, O(N K D) for these two.

    Examples
    --------
    >>> mixture = GaussianMixture(covariance_type="diag").fit([[0.0, 1.0], [2.0, 5.0]])
    >>> mixture.means_.tolist(), mixture.covariances_.round(4).tolist()
    ([[1.0, 3.0]], [[1.0, 4.0]])
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        n_init: int = 1,
        init_params: str = "k-means++",
        max_iter: int = 10_000,
        tol: float | None = 1e-6,
        prior: Any = None,
        start: Mixture | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            n_components,
            n_init=n_init,
            init_params=init_params,
            max_iter=max_iter,
            tol=tol,
            prior=prior,
            start=start,
            random_state=random_state,
        )
        self.covariance_type = covariance_type

    def _allows_missing(self) -> bool:
        return self.covariance_type in ("diag", "spherical")

    def _families(self, rows: FloatArray, generator: np.random.Generator) -> list[Any]:
        kind: Any = COVARIANCES[one_of(self.covariance_type, "covariance_type", tuple(COVARIANCES))]
        unseen = np.flatnonzero(np.isnan(rows).all(axis=0))
        if unseen.size:
            raise ValueError(f"X must hold a number in every column; column {unseen[0]} holds missing values only.")
        constant = np.flatnonzero(np.nanvar(rows, axis=0) == 0.0)
        if constant.size and kind != "spherical":
            raise ValueError(f"X must vary in every column; column {constant[0]} is constant: the likelihood has no maximum.")
        return [Gaussian.random(rows, self.n_components, kind, rng=generator)]

    def _mixture_prior(self) -> Any:
        if isinstance(self.prior, NormalInverseWishart):
            return MixtureStatistics(np.zeros(self.n_components), (self.prior,))
        return self.prior

    def _show(self, model: Mixture) -> None:
        family = model.components[0]
        self.means_, self.covariances_ = np.array(family.means), np.array(family.covariances)
        if family.covariance in ("spherical", "diagonal"):
            self.precisions_cholesky_: FloatArray = 1.0 / family.scales
            self.precisions_: FloatArray = self.precisions_cholesky_**2
            return
        factors = family.scales.reshape(-1, family.n_columns, family.n_columns)
        inverse = np.stack([solve_triangular(factor, np.eye(len(factor)), lower=True).T for factor in factors])
        self.precisions_cholesky_ = inverse.reshape(family.scales.shape)
        self.precisions_ = self.precisions_cholesky_ @ np.swapaxes(self.precisions_cholesky_, -1, -2)
