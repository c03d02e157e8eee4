"""What the estimators share: the methods of scikit-learn's mixtures on `models.Mixture` and `fit_em`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, check_non_negative, validate_data

from elbo_exact._validate import FloatArray, integer, one_of
from elbo_exact.evidence import log_evidence, posterior
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.models import Mixture
from elbo_exact.models._seeding import seeded

__all__ = ["MixtureEstimator", "probabilities"]


class MixtureEstimator(DensityMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """What the four mixtures share; a family says how its columns are read, started and shown."""

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_init: int = 1,
        init_params: str = "k-means++",
        max_iter: int = 10_000,
        tol: float | None = 1e-6,
        prior: Any = None,
        start: Mixture | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.n_init = n_init
        self.init_params = init_params
        self.max_iter = max_iter
        self.tol = tol
        self.prior = prior
        self.start = start
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: Any = None, *, counts: npt.ArrayLike | None = None) -> Any:
        """Fit by EM from ``n_init`` starts and keep the best end.

        Parameters
        ----------
        X : array_like, shape (N, D)
        y : ignored
        counts : array_like, shape (N,), optional
            How often each row was seen; any numbers >= 0.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Values that the family cannot produce, or settings out of range.

        Warns
        -----
        ConvergenceWarning
            If the best start ended otherwise than converged; the sentence says how.
        """
        rows = self._read(X, reset=True)
        weights = _check_sample_weight(counts, rows, dtype=np.float64)
        generator = np.random.default_rng(check_random_state(self.random_state).randint(2**31, size=4))
        result = fit_em(
            self._first(rows, weights, generator),
            rows,
            weights=weights,
            prior=self._mixture_prior(),
            max_iter=self.max_iter,
            tolerance=self.tol,
            restarts=integer(self.n_init, "n_init", 1) - 1,
            starts=self.init_params,  # type: ignore[arg-type] # checked by fit_em
            rng=generator,
        )
        if result.outcome is not Outcome.CONVERGED:
            warnings.warn(f"{result.outcome.value} {result.detail}", ConvergenceWarning, stacklevel=2)
        return self._keep(result, float(weights.sum()))

    def fit_predict(self, X: npt.ArrayLike, y: Any = None, *, counts: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
        """`fit`, then `predict` of the same rows."""
        found: npt.NDArray[np.int64] = self.fit(X, y, counts=counts).predict(X)
        return found

    def predict_proba(self, X: npt.ArrayLike) -> FloatArray:
        """Exact posterior of the components, shape (N, K).

        Raises
        ------
        ZeroEvidence
            A row that no component can produce.
        """
        return posterior(self._log_joint(X))

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The most probable component of each row, shape (N,)."""
        return np.asarray(self.predict_proba(X).argmax(axis=1))

    def score_samples(self, X: npt.ArrayLike) -> FloatArray:
        """log p(x) of each row, in nats, shape (N,); -inf for a row that no component can produce."""
        return np.asarray(log_evidence(self._log_joint(X)))

    def score(self, X: npt.ArrayLike, y: Any = None) -> float:
        """Mean of `score_samples`: larger is better, as GridSearchCV wants it."""
        return float(np.mean(self.score_samples(X)))

    def aic(self, X: npt.ArrayLike) -> float:
        """2 * parameters - 2 * log p(X) (Akaike 1974)."""
        return float(2.0 * self._n_parameters() - 2.0 * self.score_samples(X).sum())

    def bic(self, X: npt.ArrayLike) -> float:
        """parameters * log N - 2 * log p(X) (Schwarz 1978)."""
        scores = self.score_samples(X)
        return float(self._n_parameters() * np.log(len(scores)) - 2.0 * scores.sum())

    def sample(self, n_samples: int = 1) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Draw rows (n, D) and their components (n,)."""
        check_is_fitted(self)
        seed = check_random_state(self.random_state).randint(2**31, size=4)
        return self.model_.sample(n_samples, rng=np.random.default_rng(seed))  # type: ignore[no-any-return] # model_ is set by fit

    def __sklearn_tags__(self) -> Any:
        """Missing values are fine: they contribute nothing."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._allows_missing()
        return tags

    def _keep(self, result: Any, total: float) -> Any:
        self.result_, self.model_ = result, result.model
        self.weights_ = probabilities(result.model.log_weights)
        self.converged_ = result.outcome is Outcome.CONVERGED
        self.n_iter_ = result.n_iter
        self.log_evidence_ = float(result.objective - result.model.log_prior(self._mixture_prior())[0])
        self.elbo_total_ = self.log_evidence_
        self.lower_bounds_ = (result.trace[1:] / total).tolist()
        self.lower_bound_ = float(result.objective / total)
        self._show(result.model)
        return self

    def _first(self, rows: FloatArray, counts: FloatArray, generator: np.random.Generator) -> Mixture:
        """The given start, or the first drawn one."""
        if self.start is not None:
            return self.start
        one_of(self.init_params, "init_params", ("k-means++", "random"))
        shares = np.full(integer(self.n_components, "n_components", 1), -np.log(self.n_components))
        model = Mixture(shares, tuple(self._families(rows, generator)))
        if self.init_params == "random":
            return model.randomize(generator)
        start: Mixture = seeded(model, model.observations(rows), counts, generator, self._mixture_prior())
        return start

    def _read(self, X: npt.ArrayLike, reset: bool) -> FloatArray:
        finite = "allow-nan" if self._allows_missing() else True
        rows = validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_all_finite=finite, ensure_min_samples=2 if reset else 1
        )
        if self.__sklearn_tags__().input_tags.positive_only:
            check_non_negative(rows, type(self).__name__)
        return np.ascontiguousarray(rows)

    def _log_joint(self, X: npt.ArrayLike) -> FloatArray:
        check_is_fitted(self)
        joint: FloatArray = self.model_.log_joint(self._read(X, reset=False))
        return joint

    def _n_parameters(self) -> int:
        check_is_fitted(self)
        return int(self.result_.criteria.n_parameters)

    def _mixture_prior(self) -> Any:
        return self.prior

    def _allows_missing(self) -> bool:
        return True

    def _families(self, rows: FloatArray, generator: np.random.Generator) -> list[Any]:
        """Families of the right shape for these rows."""
        raise AssertionError("every mixture has its own families")

    def _show(self, model: Mixture) -> None:
        """Set the attributes that only this family has."""


def probabilities(logs: FloatArray) -> FloatArray:
    """Probabilities that sum to 1 along the last axis as closely as doubles can."""
    table = np.exp(logs)
    return np.asarray(table / table.sum(axis=-1, keepdims=True))
