"""Mixtures of zeros and ones, of categories, and of counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray
from elbo_exact.families import Bernoulli, Categorical, Poisson
from elbo_exact.models import Mixture
from elbo_exact.sklearn._base import MixtureEstimator, probabilities

__all__ = ["BernoulliMixture", "CategoricalMixture", "PoissonMixture"]


class BernoulliMixture(MixtureEstimator):
    """Mixture of independent zeros and ones (latent classes of yes-or-no answers).

    Parameters
    ----------
    n_components : int
        Number of classes K.
    binarize : float or None
        Values above it are ones, the others zeros, as in scikit-learn's ``BernoulliNB``; None takes zeros and ones only.
    n_init : int
        Number of starts; the best end is kept.
    init_params : {"k-means++", "random"}
        Start around rows of the data far from each other, or anywhere.
    max_iter : int
        Most steps of one start.
    tol : float, optional
        Stop when a step gains at most this many nats *in total* (scikit-learn's is per row); None goes
        on to the spacing of doubles.
    prior : optional
        Pseudo-counts as `models.Mixture.maximize` takes them: a number, or `models.MixtureStatistics`.
    start : models.Mixture, optional
        The first start, instead of a drawn one.
    random_state : int, RandomState or None

    Attributes
    ----------
    weights_ : ndarray, shape (K,)
    means_ : ndarray, shape (K, D)
        Probabilities of a one.
    model_ : models.Mixture
    result_ : fit.FitResult
        All of the fit: trace, error bounds, the distinct local maxima.
    converged_, n_iter_ : bool, int
    log_evidence_ : float
        log p of all rows, in nats; ``elbo_total_`` is the same number, because the E-steps are exact.
    lower_bound_, lower_bounds_ : float, list of float
        Mean objective of a row at the end, and after every step.

    Notes
    -----
    NaN is a missing value. O(N K D) a step.

    Examples
    --------
    >>> X = [[0, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]]
    >>> mixture = BernoulliMixture(2, random_state=0).fit(X)
    >>> mixture.weights_.round(4).tolist(), bool(mixture.predict(X)[0] == mixture.predict(X)[1])
    ([0.5, 0.5], True)
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        binarize: float | None = 0.0,
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
        self.binarize = binarize

    def _read(self, X: npt.ArrayLike, reset: bool) -> FloatArray:
        rows = super()._read(X, reset)
        return rows if self.binarize is None else np.where(np.isnan(rows), np.nan, rows > self.binarize)

    def _families(self, rows: FloatArray, generator: np.random.Generator) -> list[Any]:
        return [Bernoulli.random(self.n_components, rows.shape[1], rng=generator)]

    def _show(self, model: Mixture) -> None:
        self.means_ = probabilities(model.components[0].log_probabilities)[:, :, 1]


class CategoricalMixture(MixtureEstimator):
    """Mixture of independent categorical columns (latent class analysis), categories numbered from 0.

    Parameters
    ----------
    n_components : int
        Number of classes K.
    min_categories : int or sequence of int, optional
        Each column has at least so many categories; by default 1 + the largest one seen in `fit`. Give it where folds of a
        cross-validation may miss some.
    n_init, init_params, max_iter, tol, prior, start, random_state
        As in `BernoulliMixture`.

    Attributes
    ----------
    weights_ : ndarray, shape (K,)
    probabilities_ : list of ndarray, one (K, categories) for each column
    n_categories_ : ndarray of int, shape (D,)
    model_, result_, converged_, n_iter_, log_evidence_, elbo_total_, lower_bound_, lower_bounds_
        As in `BernoulliMixture`.

    Examples
    --------
    >>> X = [[0, 2], [0, 2], [1, 0], [1, 1]]
    >>> mixture = CategoricalMixture(2, random_state=0).fit(X)
    >>> mixture.n_categories_.tolist(), round(mixture.log_evidence_, 4)
    ([2, 3], -4.1589)
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        min_categories: Any = None,
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
        self.min_categories = min_categories

    def __sklearn_tags__(self) -> Any:
        """Columns are categories."""
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.positive_only = True
        return tags

    def _families(self, rows: FloatArray, generator: np.random.Generator) -> list[Any]:
        seen = Mixture.initialize(rows, 1, rng=generator)
        least = np.broadcast_to(1 if self.min_categories is None else self.min_categories, rows.shape[1])
        sizes = [max(family.n_categories, int(size)) for family, size in zip(seen.components, least, strict=True)]
        return [Categorical.random(self.n_components, size, rng=generator) for size in sizes]

    def _show(self, model: Mixture) -> None:
        self.probabilities_ = [probabilities(family.log_probabilities) for family in model.components]
        self.n_categories_ = np.array([family.n_categories for family in model.components])


class PoissonMixture(MixtureEstimator):
    """Mixture of independent counts.

    Parameters
    ----------
    n_components : int
        Number of classes K.
    n_init, init_params, max_iter, tol, prior, start, random_state
        As in `BernoulliMixture`; ``prior`` is a `models.MixtureStatistics` with what `families.Poisson` takes.

    Attributes
    ----------
    weights_ : ndarray, shape (K,)
    rates_ : ndarray, shape (K, D)
    model_, result_, converged_, n_iter_, log_evidence_, elbo_total_, lower_bound_, lower_bounds_
        As in `BernoulliMixture`.

    Examples
    --------
    >>> PoissonMixture().fit([[1, 4], [3, 6]]).rates_.round(4)
    array([[2., 5.]])
    """

    def __sklearn_tags__(self) -> Any:
        """Whole numbers >= 0, which scikit-learn knows under the name of categories only."""
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.positive_only = True
        return tags

    def _families(self, rows: FloatArray, generator: np.random.Generator) -> list[Any]:
        return [Poisson(np.log(np.fmax(np.nanmean(rows, axis=0), 1.0)) * np.ones((self.n_components, 1)))]

    def _show(self, model: Mixture) -> None:
        self.rates_ = np.exp(model.components[0].log_rates)
