"""The scikit-learn face: scikit-learn's own checks, its GaussianMixture, and its tools around ours."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.mixture
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import elbo_exact as ee
from elbo_exact.families import Categorical, Gaussian
from elbo_exact.models import HiddenMarkov, Mixture
from elbo_exact.sklearn import BernoulliMixture, CategoricalHMM, CategoricalMixture, GaussianMixture, PoissonMixture
from elbo_exact.sklearn.gaussian import COVARIANCES

MIXTURES = [BernoulliMixture(), CategoricalMixture(), PoissonMixture(), GaussianMixture()]
MIXTURES += [GaussianMixture(covariance_type=kind) for kind in ("tied", "diag", "spherical")]


def rows_of_three_groups(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(centre, 1.0, (70, 3)) for centre in ([0, 0, 0], [3, 0, 1], [0, 4, 2])])


@pytest.mark.filterwarnings("default")
@parametrize_with_checks(MIXTURES)
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.filterwarnings("default")
@parametrize_with_checks([CategoricalHMM(), CategoricalHMM(2)])
def test_checks_of_scikit_learn_on_a_chain(estimator: Any, check: Any) -> None:
    check(estimator)


def test_a_chain_equals_hmmlearn_from_the_same_start() -> None:
    hmm = pytest.importorskip("hmmlearn.hmm")
    rng = np.random.default_rng(5)
    X, lengths, steps = rng.integers(0, 4, (300, 1)), [120, 80, 100], 20
    first = HiddenMarkov.random(Categorical.random(3, 4, rng=1), rng=2)
    theirs = hmm.CategoricalHMM(3, n_iter=steps, tol=0.0, init_params="")
    theirs.startprob_, theirs.transmat_ = np.exp(first.log_initial), np.exp(first.log_transition)
    theirs.emissionprob_ = np.exp(first.emission[0].log_probabilities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = CategoricalHMM(3, n_iter=steps, tol=0.0, start=first).fit(X, lengths=lengths)
        theirs.fit(X, lengths)
    for name in ("startprob_", "transmat_", "emissionprob_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-9, err_msg=name)
    assert ours.score(X, lengths=lengths) == pytest.approx(theirs.score(X, lengths), rel=1e-11)
    np.testing.assert_array_equal(ours.predict(X, lengths=lengths), theirs.predict(X, lengths))
    np.testing.assert_allclose(ours.predict_proba(X, lengths=lengths), theirs.predict_proba(X, lengths), rtol=0, atol=1e-9)


def test_a_chain_takes_several_columns_and_missing_cells() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 2, 60), rng.integers(0, 3, 60)]).astype(float)
    X[::7, 1] = np.nan
    chain = CategoricalHMM(2, n_init=3, random_state=1).fit(X, lengths=[20, 40])
    assert [table.shape for table in chain.emissionprob_] == [(2, 2), (2, 3)]
    assert chain.score(X, lengths=[20, 40]) == pytest.approx(chain.log_evidence_, rel=1e-12)
    assert chain.sample(5)[0].shape == (5, 2)
    size, score = 1 + 2 + 2 * (1 + 2), chain.score(X, lengths=[20, 40])
    assert chain.aic(X, lengths=[20, 40]) == 2 * size - 2 * score
    assert chain.bic(X, lengths=[20, 40]) == size * np.log(60) - 2 * score
    assert chain.lower_bound_ == chain.lower_bounds_[-1] and len(chain.lower_bounds_) == chain.n_iter_
    again = CategoricalHMM(2, n_init=3, random_state=1).fit_predict(X, lengths=[20, 40])
    np.testing.assert_array_equal(again, chain.predict(X, lengths=[20, 40]))
    with pytest.raises(ValueError, match="lengths must sum to the 60 rows of X; got 59"):
        chain.predict(X, lengths=[20, 39])


@pytest.mark.parametrize("kind", list(COVARIANCES))
def test_gaussian_equals_scikit_learn_from_the_same_start(kind: str) -> None:
    X, steps = rows_of_three_groups(), 25
    start = {"weights_init": [0.2, 0.3, 0.5], "means_init": X[[0, 70, 140]]}
    one = {"full": np.tile(np.eye(3), (3, 1, 1)), "tied": np.eye(3), "diag": np.ones((3, 3)), "spherical": np.ones(3)}[kind]
    theirs = sklearn.mixture.GaussianMixture(
        3, covariance_type=kind, reg_covar=0.0, tol=0.0, max_iter=steps, precisions_init=one, **start
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(X)
        family = Gaussian(start["means_init"], one, COVARIANCES[kind])
        first = Mixture(np.log(start["weights_init"]), [family])
        ours = GaussianMixture(3, covariance_type=kind, tol=0.0, max_iter=steps, start=first).fit(X)
    assert ours.n_iter_ == theirs.n_iter_ == steps
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.bic(X) == pytest.approx(theirs.bic(X), rel=1e-9) and ours.aic(X) == pytest.approx(theirs.aic(X), rel=1e-9)


def test_published_log_likelihood_of_latent_classes() -> None:
    problem = ee.gallery.load("stouffer-toby")
    fitted = CategoricalMixture(2, n_init=5, tol=None, random_state=0).fit(problem.x, counts=problem.counts)
    again = ee.fit_em(fitted.model_, problem.x, weights=problem.counts)
    assert fitted.converged_ and abs(again.objective - fitted.log_evidence_) <= 2.0 * (again.error + fitted.result_.error)
    assert fitted.log_evidence_ == pytest.approx(-504.4677, abs=6e-5)  # Goodman (1974)
    assert fitted.lower_bound_ == fitted.lower_bounds_[-1] == fitted.log_evidence_ / problem.counts.sum()


@pytest.mark.parametrize(
    "estimator", [CategoricalMixture(2, tol=None, random_state=3), BernoulliMixture(2, tol=None, random_state=3)]
)
def test_counts_are_repetitions(estimator: Any) -> None:
    rng = np.random.default_rng(1)
    X, counts = rng.integers(0, 2, (12, 3)), rng.integers(1, 4, 12)
    once = estimator.fit(X, counts=counts).log_evidence_
    assert once == pytest.approx(estimator.fit(np.repeat(X, counts, axis=0)).log_evidence_, rel=1e-12)


def test_missing_cells_contribute_nothing() -> None:
    X = np.array([[0.0, np.nan], [1.0, 1.0], [np.nan, 1.0], [1.0, 0.0]])
    for estimator in (BernoulliMixture(), CategoricalMixture(), PoissonMixture(), GaussianMixture(covariance_type="diag")):
        assert np.isfinite(estimator.fit(X).score(X))
    np.testing.assert_allclose(BernoulliMixture().fit(X).means_, [[2 / 3, 2 / 3]], rtol=1e-15)
    with pytest.raises(ValueError, match="NaN"):
        GaussianMixture().fit(X)


def test_pipeline_and_grid_search() -> None:
    X = rows_of_three_groups(1)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GaussianMixture(random_state=0, n_init=3)),
        {"gaussianmixture__n_components": [1, 3], "gaussianmixture__covariance_type": ["full", "spherical"]},
        error_score="raise",
    ).fit(X)
    assert search.best_params_["gaussianmixture__n_components"] == 3
    text = np.array([["a", "x"], ["a", "y"], ["b", "y"], ["b", "x"]], dtype=object)
    assert make_pipeline(OrdinalEncoder(), CategoricalMixture(2, random_state=0)).fit_predict(text).shape == (4,)


def test_min_categories_make_room_for_rows_not_seen() -> None:
    X = [[0, 1], [1, 0], [0, 0]]
    wide = CategoricalMixture(min_categories=3, prior=1.0).fit(X)
    assert wide.n_categories_.tolist() == [3, 3] and np.isfinite(wide.score([[2, 2]]))
    with pytest.raises(ValueError, match="x must"):
        CategoricalMixture().fit(X).score([[2, 2]])


def test_collapse_is_told() -> None:
    X = np.array([[0.0], [0.0], [0.0], [1.0], [2.0], [5.0]])
    with pytest.warns(ConvergenceWarning, match="collapse"):
        fitted = GaussianMixture(3, random_state=0).fit(X)
    assert not fitted.converged_
    with pytest.raises(ValueError, match="column 0 is constant"):
        GaussianMixture().fit([[1.0], [1.0]])


def test_same_seed_same_bits_and_samples() -> None:
    X = rows_of_three_groups(2)
    first, second = (GaussianMixture(3, init_params="random", random_state=7).fit(X) for _ in range(2))
    assert first.means_.tobytes() == second.means_.tobytes()
    assert first.sample(5)[0].tobytes() == second.sample(5)[0].tobytes()
    assert PoissonMixture(2, random_state=0).fit([[1], [2], [30], [40]]).sample(3)[1].shape == (3,)
