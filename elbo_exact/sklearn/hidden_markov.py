"""A hidden Markov model of categorical columns as a scikit-learn estimator."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from elbo_exact._validate import FloatArray, categories_or_missing, integer
from elbo_exact.families import Categorical
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.models import HiddenMarkov
from elbo_exact.sklearn._base import probabilities

__all__ = ["CategoricalHMM"]


class CategoricalHMM(DensityMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Hidden Markov model with categorical observations, fitted by exact EM (Baum & Welch).

    Rows of X are steps in time; ``lengths`` cuts them into sequences, as in hmmlearn.

    Parameters
    ----------
    n_components : int
        Number of states K.
    n_features : int, optional
        Each column has at least so many categories, numbered from 0; by default 1 + the largest one seen in `fit`.
    n_init : int
        Number of random starts; the best end is kept.
    n_iter : int
        Most steps of one start.
    tol : float, optional
        Stop when a step gains at most this many nats *in total*; None goes on to the spacing of doubles.
    prior : optional
        Pseudo-counts as `models.HiddenMarkov.maximize` takes them.
    start : models.HiddenMarkov, optional
        The first start, instead of a drawn one.
    random_state : int, RandomState or None

    Attributes
    ----------
    startprob_ : ndarray, shape (K,)
    transmat_ : ndarray, shape (K, K)
        Row i: from state i.
    emissionprob_ : ndarray, shape (K, categories); a list of them for several columns
    model_ : models.HiddenMarkov
    result_ : fit.FitResult
        All of the fit: trace, error bounds, the distinct local maxima.
    converged_, n_iter_ : bool, int
    log_evidence_ : float
        log p of all sequences, in nats; ``elbo_total_`` is the same number, because the E-steps are exact.
    lower_bound_, lower_bounds_ : float, list of float
        The objective per step in time, at the end and after every iteration.

    Notes
    -----
    NaN is a missing observation. O(T K^2) a step.

    Examples
    --------
    >>> X = [[0], [0], [0], [1], [1], [1], [0], [0], [0], [1], [1], [1]]
    >>> chain = CategoricalHMM(2, n_init=5, random_state=0).fit(X, lengths=[6, 6])
    >>> states = chain.predict(X, lengths=[6, 6])
    >>> len(set(states[:3])) == 1, bool(states[0] != states[3])
    (True, True)
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_features: int | None = None,
        n_init: int = 1,
        n_iter: int = 10_000,
        tol: float | None = 1e-6,
        prior: Any = None,
        start: HiddenMarkov | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.n_features = n_features
        self.n_init = n_init
        self.n_iter = n_iter
        self.tol = tol
        self.prior = prior
        self.start = start
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: Any = None, *, lengths: npt.ArrayLike | None = None) -> CategoricalHMM:
        """Fit by EM from ``n_init`` starts and keep the best end.

        Parameters
        ----------
        X : array_like, shape (T, D)
            Categories from 0, all sequences one below the other.
        y : ignored
        lengths : array_like of int, optional
            Steps of each sequence, T in all; by default one sequence.

        Returns
        -------
        self

        Warns
        -----
        ConvergenceWarning
            If the best start ended otherwise than converged; the sentence says how.
        """
        sequences = self._sequences(X, lengths, reset=True)
        generator = np.random.default_rng(check_random_state(self.random_state).randint(2**31, size=4))
        result = fit_em(
            self._first(np.concatenate(sequences), generator),
            sequences,
            prior=self.prior,
            max_iter=self.n_iter,
            tolerance=self.tol,
            restarts=integer(self.n_init, "n_init", 1) - 1,
            rng=generator,
        )
        if result.outcome is not Outcome.CONVERGED:
            warnings.warn(f"{result.outcome.value} {result.detail}", ConvergenceWarning, stacklevel=2)
        self.result_, self.model_ = result, result.model
        self.startprob_ = probabilities(result.model.log_initial)
        self.transmat_ = probabilities(result.model.log_transition)
        tables = [probabilities(family.log_probabilities) for family in result.model.emission]
        self.emissionprob_ = tables[0] if len(tables) == 1 else tables
        self.converged_, self.n_iter_ = result.outcome is Outcome.CONVERGED, result.n_iter
        self.log_evidence_ = self.elbo_total_ = float(result.objective - result.model.log_prior(self.prior)[0])
        steps = sum(map(len, sequences))
        self.lower_bounds_, self.lower_bound_ = (result.trace[1:] / steps).tolist(), float(result.objective / steps)
        return self

    def fit_predict(self, X: npt.ArrayLike, y: Any = None, *, lengths: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
        """`fit`, then `predict` of the same sequences."""
        return self.fit(X, y, lengths=lengths).predict(X, lengths=lengths)

    def predict(self, X: npt.ArrayLike, *, lengths: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
        """The most probable path of every sequence (Viterbi), shape (T,)."""
        return np.concatenate(self._fitted().viterbi(self._sequences(X, lengths)))

    def predict_proba(self, X: npt.ArrayLike, *, lengths: npt.ArrayLike | None = None) -> FloatArray:
        """Exact posterior of the state at every step, given its whole sequence, shape (T, K)."""
        return np.concatenate(self._fitted().posterior(self._sequences(X, lengths)))

    def score(self, X: npt.ArrayLike, y: Any = None, *, lengths: npt.ArrayLike | None = None) -> float:
        """log p(X) of all sequences together, in nats, as hmmlearn has it."""
        return float(self._fitted().log_evidence(self._sequences(X, lengths)).sum())

    def aic(self, X: npt.ArrayLike, *, lengths: npt.ArrayLike | None = None) -> float:
        """2 * parameters - 2 * log p(X) (Akaike 1974)."""
        return float(2.0 * self._fitted().n_parameters - 2.0 * self.score(X, lengths=lengths))

    def bic(self, X: npt.ArrayLike, *, lengths: npt.ArrayLike | None = None) -> float:
        """parameters * log(steps in time) - 2 * log p(X) (Schwarz 1978)."""
        steps = len(np.asarray(X))
        return float(self._fitted().n_parameters * np.log(steps) - 2.0 * self.score(X, lengths=lengths))

    def sample(self, n_samples: int = 1) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Draw one sequence (n_samples, D) and its states (n_samples,)."""
        seed = check_random_state(self.random_state).randint(2**31, size=4)
        return self._fitted().sample(n_samples, rng=np.random.default_rng(seed))

    def __sklearn_tags__(self) -> Any:
        """Categories are not negative; missing values are fine."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.positive_only = tags.input_tags.categorical = True
        return tags

    def _fitted(self) -> HiddenMarkov:
        check_is_fitted(self)
        model: HiddenMarkov = self.model_
        return model

    def _sequences(self, X: npt.ArrayLike, lengths: npt.ArrayLike | None, reset: bool = False) -> list[FloatArray]:
        if not reset:
            check_is_fitted(self)
        rows = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
        check_non_negative(rows, type(self).__name__)
        sizes = [len(rows)] if lengths is None else [integer(length, "lengths", 1) for length in np.asarray(lengths)]
        if sum(sizes) != len(rows):
            raise ValueError(f"lengths must sum to the {len(rows)} rows of X; got {sum(sizes)}.")
        return np.split(rows, np.cumsum(sizes)[:-1])

    def _first(self, rows: FloatArray, generator: np.random.Generator) -> HiddenMarkov:
        if self.start is not None:
            return self.start
        k, columns = integer(self.n_components, "n_components", 1), categories_or_missing(rows, "X", 2**31)
        least = 1 if self.n_features is None else integer(self.n_features, "n_features", 1)
        sizes = [max(least, int(column.max(initial=0, where=column < 2**31)) + 1) for column in columns.T]
        return HiddenMarkov.random([Categorical.random(k, size, rng=generator) for size in sizes], rng=generator)
