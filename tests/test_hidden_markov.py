"""Hidden Markov models against enumeration of all paths, and against hmmlearn from the same start."""

import itertools
import math
import tracemalloc

import mpmath
import numpy as np
import pytest
from scipy.optimize import minimize

from elbo_exact import fit_em
from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.families import Categorical, Gaussian, Poisson
from elbo_exact.fit import Outcome
from elbo_exact.models import HiddenMarkov, HiddenMarkovStatistics
from elbo_exact.space import LatentSpace

U = 2.0**-53
# Earthquakes of magnitude 7 or more in each year from 1900 to 2006 (Zucchini & MacDonald 2009, Hidden Markov Models for Time Series)
EARTHQUAKES_TEXT = (
    "13 14 8 10 16 26 32 27 18 32 36 24 22 23 22 18 25 21 21 14 8 11 14 23 18 17 19 20 22 19 13 26 13 14 22 24 "
    "21 22 26 21 23 24 27 41 31 27 35 26 28 36 39 21 17 22 17 19 15 34 10 15 22 18 15 20 15 22 19 16 30 27 29 23 "
    "20 16 21 21 25 16 18 15 18 14 10 15 8 15 6 11 8 7 18 16 13 12 13 20 15 16 12 18 15 16 13 15 16 11 11 "
)
EARTHQUAKES = np.array([float(count) for count in EARTHQUAKES_TEXT.split()])


def normal_weights(logs):
    """exp of a row of logs, renormalized, to 50 digits: what the stored logs mean."""
    values = [mpmath.exp(mpmath.mpf(float(v))) if v > -math.inf else mpmath.mpf(0) for v in logs]
    return [value / mpmath.fsum(values) for value in values]


def enumerate_paths(model, x):
    """The oracle: evidence, posteriors, expected transitions and best paths over every state of T copies, to 50 digits."""
    with mpmath.workdps(50):
        initial = normal_weights(model.log_initial)
        rows = [normal_weights(row) for row in model.log_transition]
        seen = [normal_weights(row) for row in model.emission[0].log_probabilities]
        length, size = len(x), model.n_states
        evidence, posterior = mpmath.mpf(0), np.full((length, size), mpmath.mpf(0))
        counts, best = np.full((size, size), mpmath.mpf(0)), (mpmath.mpf(0), [])
        space = LatentSpace((size,) * length)
        for path in itertools.product(*map(range, space.sizes)):
            p = initial[path[0]]
            for t, state in enumerate(path):
                p *= mpmath.mpf(1) if math.isnan(x[t]) else seen[state][int(x[t])]
                p *= rows[path[t - 1]][state] if t else mpmath.mpf(1)
            evidence += p
            best = (p, [path]) if p > best[0] else (best[0], [*best[1], path]) if p == best[0] else best
            for t, state in enumerate(path):
                posterior[t, state] += p
                if t:
                    counts[path[t - 1], state] += p
        return evidence, posterior / evidence, counts / evidence, best[1]


def random_model(rng, n_states=3, n_categories=3, scale=1.0, zeros=False):
    def table(*shape):
        logs = scale * rng.normal(size=shape)
        if zeros:
            logs = np.where(rng.random(shape) < 0.25, -np.inf, logs)
            logs[..., 0] = 0.0
        return logs - np.logaddexp.reduce(logs, axis=-1, keepdims=True)

    return HiddenMarkov(table(n_states), table(n_states, n_states), Categorical(table(n_states, n_categories)))


# 1: scaled arithmetic; 200: transitions below 2**-150 and emissions below 2**-350, logarithms
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("scale", [1.0, 20.0, 200.0])
@pytest.mark.parametrize("seed", range(3))
def test_sums_are_those_of_all_paths(seed, scale, zeros):
    rng = np.random.default_rng([seed, int(scale), zeros])
    model = random_model(rng, scale=scale, zeros=zeros)
    sequences = [model.sample(length, rng=rng)[0].astype(float) for length in (1, 2, 5)]
    sequences[2][1] = math.nan
    expected = model.expectation(sequences, np.ones(3))
    _, errors = model.log_evidence_and_error(sequences)
    posteriors, transitions = model.posterior(sequences), np.zeros((3, 3))
    for x, value, error, posterior in zip(sequences, expected.log_evidence, errors, posteriors, strict=True):
        evidence, exact, counts, best = enumerate_paths(model, x[:, 0])
        with mpmath.workdps(50):
            assert abs(mpmath.log(evidence) - mpmath.mpf(float(value))) <= error
        assert error <= 1e-9
        # beside the relative error: what lies below the normal doubles
        off = np.abs(posterior - exact.astype(float))
        assert (off <= expected.statistics_error * exact.astype(float) + 2.0**-1000).all()
        assert (posterior[exact == 0] == 0.0).all()
        transitions += counts.astype(float)
        if len(best) == 1:
            assert model.viterbi([x])[0].tolist() == list(best[0])
    off = np.abs(expected.statistics.transitions - transitions)
    assert (off <= (expected.statistics_error + 8 * U) * transitions + 2.0**-1000).all()
    assert (expected.statistics.transitions[model.log_transition == -np.inf] == 0.0).all()


@pytest.mark.parametrize("zeros", [False, True])
def test_entropy_of_paths_and_their_criterion(zeros, monkeypatch):
    model = random_model(np.random.default_rng(5), zeros=zeros)
    sequences = [model.sample(length, rng=length)[0].astype(float) for length in (1, 2, 5)]
    monkeypatch.setattr("elbo_exact.models._chain.BLOCK", 9 * 2)  # two steps at a time
    for x, entropy in zip(sequences, model.posterior_entropy(sequences), strict=True):
        exact = -sum(float(p) * math.log(p) for p in path_posterior(model, x[:, 0]))
        # a share moved by r of itself moves its entropy by at most r of (entropy + 1); a step of a log filter rounds by 64 u
        assert abs(entropy - exact) <= 128 * len(x) * U * (exact + len(x))
    fit = fit_em(model, sequences, max_iter=1)
    of_fit = math.fsum(fit.model.posterior_entropy(sequences))
    assert fit.criteria.entropy == of_fit and fit.criteria.icl == fit.criteria.bic + 2.0 * of_fit
    with pytest.raises(ZeroEvidence):
        HiddenMarkov([0.0], [[0.0]], Categorical([[0.0, -math.inf]])).posterior_entropy(np.array([1.0]))


def path_posterior(model, x):
    """p(path | x) of every possible path, by products of probabilities."""
    initial, moves, seen = (np.exp(t) for t in (model.log_initial, model.log_transition, model.emission[0].log_probabilities))
    joint = [
        math.prod((moves[path[t - 1]][k] if t else initial[k]) * seen[k][int(x[t])] for t, k in enumerate(path))
        for path in itertools.product(range(model.n_states), repeat=len(x))
    ]
    return [p / math.fsum(joint) for p in joint if p > 0.0]


def test_viterbi_gives_ties_to_the_smallest_state():
    model = HiddenMarkov(np.log([0.5, 0.5]), np.log(np.full((2, 2), 0.5)), Categorical(np.log(np.full((2, 2), 0.5))))
    assert model.viterbi([np.array([0, 1, 0])])[0].tolist() == [0, 0, 0]


def test_bits_do_not_depend_on_the_batch():
    model = random_model(np.random.default_rng(0))
    sequences = [model.sample(length, rng=length)[0] for length in (40, 3, 17)]
    together = model.log_evidence(sequences)
    assert together.tolist() == [model.log_evidence([x])[0] for x in sequences]
    assert model.posterior(sequences)[1].tobytes() == model.posterior([sequences[1]])[0].tobytes()


def test_a_million_steps_in_memory_linear_in_them():
    model = random_model(np.random.default_rng(1))
    x = np.random.default_rng(2).integers(0, 3, 1_000_000)
    model.log_evidence([x[:10]])
    tracemalloc.start()
    value, error = (float(part[0]) for part in model.log_evidence_and_error([x]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert -3e6 < value < -1e5 and error < 1e-7 * abs(value)
    assert peak < 40 * 8 * 3 * len(x)  # forty tables of (T, K) doubles; a table of pairs alone would be T times as much


def hmmlearn_categorical(model, sequences):
    hmm = pytest.importorskip("hmmlearn.hmm")
    rival = hmm.CategoricalHMM(model.n_states, n_iter=1, tol=0.0, init_params="", startprob_prior=1.0, transmat_prior=1.0)
    rival.startprob_, rival.transmat_ = np.exp(model.log_initial), np.exp(model.log_transition)
    rival.emissionprob_ = np.exp(model.emission[0].log_probabilities)
    return rival, np.concatenate(sequences), [len(x) for x in sequences]


# 1e-9: what a library without bounds reaches on well-conditioned input (numerics.md section 8)
def test_categorical_equals_hmmlearn():
    model = random_model(np.random.default_rng(3), 4, 5)
    sequences = [model.sample(length, rng=length)[0] for length in (200, 31)]
    rival, x, lengths = hmmlearn_categorical(model, sequences)
    assert model.log_evidence(sequences).sum() == pytest.approx(rival.score(x, lengths), abs=0, rel=1e-9)
    assert np.concatenate(model.viterbi(sequences)).tolist() == rival.predict(x, lengths).tolist()
    np.testing.assert_allclose(np.concatenate(model.posterior(sequences)), rival.predict_proba(x, lengths), rtol=0, atol=1e-9)
    moved = model.maximize(model.statistics(sequences))
    rival.fit(x, lengths)
    np.testing.assert_allclose(np.exp(moved.log_transition), rival.transmat_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.exp(moved.log_initial), rival.startprob_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.exp(moved.emission[0].log_probabilities), rival.emissionprob_, rtol=0, atol=1e-9)


def test_gaussian_equals_hmmlearn():
    hmm = pytest.importorskip("hmmlearn.hmm")
    means, variances = np.array([[0.0, 1.0], [4.0, -1.0]]), np.array([[1.0, 2.0], [0.5, 1.0]])
    start, rows = np.array([0.4, 0.6]), np.array([[0.9, 0.1], [0.2, 0.8]])
    model = HiddenMarkov(np.log(start), np.log(rows), Gaussian(means, np.sqrt(variances), "diagonal"))
    sequences = [model.sample(length, rng=length)[0] for length in (150, 40)]
    rival = hmm.GaussianHMM(2, "diag", min_covar=0.0, covars_prior=0.0, covars_weight=1.0, n_iter=1, init_params="")
    rival.startprob_, rival.transmat_, rival.means_, rival.covars_ = start, rows, means, variances
    x, lengths = np.concatenate(sequences), [150, 40]
    assert model.log_evidence(sequences).sum() == pytest.approx(rival.score(x, lengths), abs=0, rel=1e-9)
    assert np.concatenate(model.viterbi(sequences)).tolist() == rival.predict(x, lengths).tolist()
    moved = model.maximize(model.statistics(sequences))
    rival.fit(x, lengths)
    np.testing.assert_allclose(np.exp(moved.log_transition), rival.transmat_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(moved.emission[0].means, rival.means_, rtol=1e-9)
    rival_scales = np.sqrt(np.diagonal(rival.covars_, axis1=1, axis2=2))
    np.testing.assert_allclose(moved.emission[0].scales, rival_scales, rtol=1e-9)


@pytest.mark.parametrize("prior", [None, 0.5])
def test_em_never_loses_and_keeps_zeros(prior):
    model = random_model(np.random.default_rng(4), zeros=True)
    sequences = [model.sample(length, rng=length)[0] for length in (60, 25)]
    fit = fit_em(model.randomize(np.random.default_rng(5)), sequences, prior=prior, max_iter=60)
    assert (fit.gains >= -fit.gain_errors).all() and fit.outcome in (Outcome.CONVERGED, Outcome.MAX_ITER)
    assert (fit.model.log_transition[model.log_transition == -np.inf] == -np.inf).all()


def test_two_sequences_seen_twice_are_weights_of_two():
    model = random_model(np.random.default_rng(6))
    x = [model.sample(12, rng=1)[0], model.sample(7, rng=2)[0]]
    twice, weighted = model.statistics([*x, *x]), model.statistics(x, [2.0, 2.0])
    sums = model.statistics(x) + model.statistics(x)
    assert isinstance(sums, HiddenMarkovStatistics)
    for other in (weighted, sums):  # sums of 38 non-negative terms in another order: 38 u
        np.testing.assert_allclose(twice.transitions, other.transitions, rtol=40 * U)


def test_poisson_chain_with_several_families():
    model = HiddenMarkov(
        np.log([0.5, 0.5]),
        np.log([[0.9, 0.1], [0.1, 0.9]]),
        [Poisson(np.log([[1.0], [6.0]])), Categorical(np.log([[0.9, 0.1], [0.3, 0.7]]))],
    )
    x, z = model.sample(30, rng=0)
    assert x.shape == (30, 2) and z.shape == (30,) and model.to_dict()["emission"][0]["family"] == "poisson"
    assert math.isfinite(model.log_evidence(x)[0])


def test_messages():
    model = HiddenMarkov([0.0], [[0.0]], Categorical([[0.0, -math.inf]]))
    with pytest.raises(ZeroEvidence, match=r"x\[0\] is impossible under the model"):
        model.viterbi([np.array([1])])
    assert model.log_evidence([np.array([0, 1])])[0] == -math.inf
    with pytest.raises(LogTableError, match=r"x\[1\] must have shape \(T, 1\) with T >= 1; got \(2, 2\)"):
        model.log_evidence([np.array([0]), np.zeros((2, 2))])
    with pytest.raises(LogTableError, match="at least one sequence"):
        model.log_evidence([])
    with pytest.raises(LogTableError, match=r"log_transition must have shape \(1, 1\)"):
        HiddenMarkov([0.0], np.log(np.full((2, 2), 0.5)), Categorical([[0.0]]))
    with pytest.raises(ValueError, match=r"emission\[0\] must have 1 states"):
        HiddenMarkov([0.0], [[0.0]], Categorical(np.log(np.full((2, 2), 0.5))))


@pytest.mark.parametrize(("n_states", "published"), [(2, -341.8787), (3, -328.5275)])
def test_earthquakes_have_their_published_maximum(n_states, published):
    rates = np.quantile(EARTHQUAKES, (np.arange(n_states) + 0.5) / n_states)
    start = HiddenMarkov.random(Poisson(np.log(rates)[:, None]), rng=0)
    fit = fit_em(start, [EARTHQUAKES], restarts=20, rng=1, max_iter=3000)
    assert abs(fit.objective - published) <= 0.5e-4 + fit.error  # four printed digits


# the book's models begin in the stationary law of their transitions, which EM does not keep: climbed by SciPy on our log evidence
@pytest.mark.parametrize(("rates", "published"), [([15.0, 26.0], -342.3183), ([13.0, 20.0, 30.0], -329.4603)])
def test_earthquakes_have_their_published_log_likelihood(rates, published):
    size = len(rates)
    off = ~np.eye(size, dtype=bool)

    def loss(parameters):
        logs = np.zeros((size, size))
        logs[off] = parameters[size:]
        logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
        rows = np.exp(logs)
        stationary = np.linalg.solve((np.eye(size) - rows + 1.0).T, np.ones(size))
        model = HiddenMarkov(np.log(stationary), logs, Poisson(parameters[:size, None]))
        return -model.log_evidence(EARTHQUAKES)[0]

    start = np.concatenate([np.log(rates), np.full(size * (size - 1), -2.5)])
    found = minimize(loss, start, method="BFGS")
    assert -found.fun == pytest.approx(published, abs=0.5e-4 + 1e-6)  # four printed digits; how flat the optimum is for BFGS
