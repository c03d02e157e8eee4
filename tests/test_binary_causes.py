"""Layers of binary causes: tables and posteriors against balls and loops, firing against enumerated links, fits that never lose."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from arb_oracle import verdict
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from test_categorical import NINF, SEEDS, exact_log_probability

from elbo_exact.errors import EnumerationTooLarge, LogTableError
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.gallery import load
from elbo_exact.models import NoisyOr, SigmoidBelief
from elbo_exact.models import _causes as causes_module

ARB_BITS = 420

U = 2.0**-53
INF = math.inf


@st.composite
def layers(draw: Any) -> Any:
    """Up to 3 causes and 2 findings; strengths from 1e-18 to infinity, odds from 1e-3 to 300."""
    rng = np.random.default_rng(draw(SEEDS))
    n, d = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    causes = np.log(rng.dirichlet([0.5, 0.5], n))
    if draw(st.booleans()):
        size = 10.0 ** rng.uniform(-3, 2.5, (d, n + 1)) * rng.choice([-1, 1], (d, n + 1))
        return SigmoidBelief(causes, size[:, 1:], size[:, 0])
    strengths = rng.choice([0.0, 1e-18, 1e-3, 0.7, 5.0, 900.0, INF], (d, n + 1))
    return NoisyOr(causes, strengths[:, 1:], strengths[:, 0])


def every_finding(model: Any) -> list[tuple[float, ...]]:
    return list(itertools.product([0.0, 1.0, math.nan], repeat=model.n_findings))


def exact(model: Any, x: tuple[float, ...], z: tuple[int, ...]) -> Any:
    """The log joint as a ball, or -inf: a loop over causes and findings."""
    terms = [exact_log_probability(row.tolist(), bit) for row, bit in zip(model.log_causes, z, strict=True)]
    for d, value in enumerate(x):
        if math.isnan(value):
            continue
        weights, first = (model.strengths, model.leak) if isinstance(model, NoisyOr) else (model.weights, model.bias)
        active = [float(first[d]), *(float(w) for w, bit in zip(weights[d], z, strict=True) if bit)]
        if isinstance(model, SigmoidBelief):
            odds = sum(map(arb, active), arb(0))
            terms.append(-(arb(1) + (-odds if value else odds).exp()).log())
        elif value == 0.0:
            terms.append(NINF if INF in active else -sum(map(arb, active), arb(0)))
        elif INF in active:
            terms.append(arb(0))
        else:
            y = sum(map(arb, active), arb(0))
            terms.append(NINF if y == 0 else (-(-y).expm1()).log())
    return NINF if NINF in [t for t in terms if isinstance(t, float)] else sum(terms, arb(0))


@given(layers())
def test_tables_are_within_their_bounds_and_blocks_have_the_same_bits(model: Any) -> None:
    findings = every_finding(model)
    values, errors = model.log_joint_and_error(findings)
    states = list(itertools.product((0, 1), repeat=model.space.n_variables))
    for (n, x), (s, z) in itertools.product(enumerate(findings), enumerate(states)):
        assert verdict(values[n, s], errors[n, s], exact(model, x, z)) == "inside"
    for first in range(len(states)):
        assert np.array_equal(model.log_joint(findings, slice(first, len(states))), values[:, first:])
    for n in range(len(findings)):
        assert np.array_equal(model.log_joint(findings[n : n + 1])[0], values[n])


@given(layers())
def test_marginals_are_within_their_bounds(model: Any) -> None:
    findings = every_finding(model)
    states = list(itertools.product((0, 1), repeat=model.space.n_variables))
    terms = [[exact(model, x, z) for z in states] for x in findings]
    possible = [n for n, row in enumerate(terms) if any(t is not NINF and not isinstance(t, float) for t in row)]
    found = model.marginals([findings[n] for n in possible])
    for i, n in enumerate(possible):
        weights = [arb(0) if isinstance(t, float) else t.exp() for t in terms[n]]
        total = sum(weights, arb(0))
        assert verdict(found.log_evidence[i], found.error[i], total.log()) == "inside"
        for j in range(model.space.n_variables):
            present = sum((w for w, z in zip(weights, states, strict=True) if z[j]), arb(0)) / total
            assert abs(arb(float(found.present[i, j])) - present) <= arb(float(found.present_error[i, j])) + arb(0)


def test_firing_is_that_of_every_combination_of_links() -> None:
    """Links as variables of their own: 2 causes, a leak and one finding, 2**5 states, by a loop."""
    p, links = [0.3, 0.6], [0.2, 0.7, 0.4]  # leak first
    model = NoisyOr.from_probabilities(p, [links[1:]], links[:1])
    for x in (0, 1):
        weights = np.exp(model.log_joint([[x]]))
        found = model.statistics([[x]], weights).links[0]
        counts = np.zeros((3, 2))
        for z in itertools.product((0, 1), repeat=2):
            present = (1, *z)
            for fired in itertools.product((0, 1), repeat=3):
                if any(f > c for f, c in zip(fired, present, strict=True)) or any(fired) != bool(x):
                    continue
                weight = math.prod(q if bit else 1 - q for q, bit in zip(p, z, strict=True))
                weight *= math.prod(q if f else 1 - q for q, f, c in zip(links, fired, present, strict=True) if c)
                for j in range(3):
                    counts[j, fired[j]] += weight * present[j]
        # all terms positive: four states, five factors and three conversions of a probability to a strength and back, each 8 u
        assert np.abs(found - counts).max() <= 4 * 8 * 8 * U


@pytest.mark.parametrize("rows_at_once", [7, 1000])
@pytest.mark.parametrize("kind", [NoisyOr, SigmoidBelief])
def test_fits_never_lose(kind: Any, rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    causes = np.log([[0.7, 0.3], [0.5, 0.5], [0.8, 0.2]])
    layer = rng.standard_exponential((4, 3)), rng.standard_exponential(4) * 0.1
    truth = kind(causes, *layer)
    x = truth.sample(60, rng=2)[0].astype(float)
    x[rng.random(x.shape) < 0.1] = math.nan
    monkeypatch.setattr(causes_module, "CHUNK_BYTES", 64 * rows_at_once)
    for prior in (None, 0.5):
        fit = fit_em(truth.randomize(rng), x, prior=prior, max_iter=5)
        assert fit.outcome in (Outcome.CONVERGED, Outcome.MAX_ITER), fit.detail
        assert (fit.gains >= -fit.gain_errors).all() and fit.gains[0] > 0.0


@pytest.mark.parametrize("kind", [NoisyOr, SigmoidBelief])
def test_one_cause_of_four_answers_is_the_published_model_of_two_classes(kind: Any) -> None:
    survey = load("stouffer-toby")
    start = kind(np.log([[0.5, 0.5]]), np.full((4, 1), 0.5), np.full(4, 0.3))
    fit = fit_em(start, survey.x, weights=survey.counts, acceleration="squarem")
    (published,) = survey.find("log_likelihood", classes=2, published=True)
    assert f"{fit.objective:.4f}" == published.value
    assert (fit.gains >= -fit.gain_errors).all()


def test_structural_zeros_stay() -> None:
    model = NoisyOr.from_probabilities([0.3, 0.4], [[0.5, 0.0], [0.0, 0.5]], [0.1, 0.0])
    x, _ = model.sample(50, rng=3)
    fitted = fit_em(model, x, max_iter=20).model
    assert fitted.strengths[0, 1] == 0.0 == fitted.strengths[1, 0] and fitted.leak[1] == 0.0


def test_a_single_finding_is_explained_away() -> None:
    """p(z_1 | x) falls when the other cause is known: quotients of products of four probabilities."""
    model = NoisyOr.from_probabilities([0.1, 0.2], [[0.8, 0.5], [0.0, 0.9]], [0.0, 0.0])
    one, both = model.marginals([[1, math.nan], [1, 1]]).present[:, 0]
    none, other, mine, all_ = 0.0, 0.9 * 0.2 * 0.5, 0.1 * 0.8 * 0.8, 0.1 * 0.2 * 0.9
    assert abs(one - (mine + all_) / (none + other + mine + all_)) <= 64 * U
    assert abs(both - all_ / (other + all_)) <= 64 * U


def test_large_tables_are_refused_before_they_are_made() -> None:
    causes = np.log(np.full((60, 2), 0.5))
    model = NoisyOr(causes, np.ones((1, 60)), [0.1])
    with pytest.raises(EnumerationTooLarge, match=r"2\*\*60"):
        model.marginals([[1]])
    with pytest.raises(EnumerationTooLarge):
        SigmoidBelief(causes, np.ones((1, 60)), [0.1]).log_joint([[1]])
    assert model.log_joint([[1]], slice(2**50, 2**50 + 3)).shape == (1, 3)


def test_many_rows_are_fitted_without_a_table_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    model = NoisyOr.from_probabilities([0.3] * 6, rng.uniform(0.1, 0.9, (2, 6)), [0.1, 0.2])
    few, often = np.array([[0, 1], [1, 1], [1, math.nan]]), [30, 20, 25]
    x = np.repeat(few, often, axis=0)
    monkeypatch.setattr(causes_module, "MAX_BYTES", 2**6 * 8 * 2 * len(x) - 1)
    monkeypatch.setattr("elbo_exact.fit.ends.ENTRIES", 2**6 * 7)
    with pytest.raises(EnumerationTooLarge):
        model.log_joint(x)
    fit = fit_em(model, x, max_iter=2, tolerance=0.0)
    counted = fit_em(model, few, weights=often, max_iter=2, tolerance=0.0)
    assert abs(fit.objective - counted.objective) <= fit.error + counted.error
    assert fit.criteria is not None and fit.criteria.entropy is not None
    assert counted.criteria is not None and counted.criteria.entropy is not None
    # sums of 2**6 posteriors each, and of the rows
    assert abs(fit.criteria.entropy - counted.criteria.entropy) <= (2**6 + len(x)) * 4 * U * counted.criteria.entropy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoisyOr([[0.0, -INF]], [[-1.0]], [0.1]), "strengths must be in [0, inf]; got -1."),
        (
            lambda: NoisyOr([[0.0, -INF]], [[1.0, 2.0]], [0.1]),
            "strengths and leak must have shapes (D, 1) and (D,); got (1, 2), (1,).",
        ),
        (lambda: NoisyOr.from_probabilities([0.5], [[1.5]], [0.1]), "strengths must be in [0, inf]; got nan."),
        (lambda: SigmoidBelief([[0.0, -INF]], [[INF]], [0.1]), "weights must be finite; got inf."),
        (lambda: SigmoidBelief([[0.0]], [[1.0]], [0.1]), "log_causes must have shape (n, 2); got (1, 1)."),
        (
            lambda: NoisyOr([[0.0, -INF]], [[1.0]], [0.1]).log_joint([[1, 0]]),
            "x must have shape (N, 1), one column per finding",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(LogTableError) as caught:
        make()
    assert message in str(caught.value)


def test_a_cause_that_cannot_be_leaves_bounds_finite() -> None:
    model = SigmoidBelief([[0.0, -INF], np.log([0.5, 0.5])], [[1.0, 2.0]], [-1.0])
    _, error = model.log_joint_and_error([[1.0], [0.0]])
    found = model.marginals([[1.0], [0.0]])
    assert np.isfinite(error).all() and np.isfinite(found.error).all() and np.isfinite(found.present_error).all()
    odds = [1.0 / (1.0 + math.exp(1.0)), 1.0 / (1.0 + math.exp(-1.0))]
    wanted = odds[1] / (odds[0] + odds[1])
    assert found.present[0, 0] == 0.0 and abs(found.present[0, 1] - wanted) <= found.present_error[0, 1] + 8.0 * U
    assert 0.0 < model.expectation(np.array([[1.0], [0.0]]), np.ones(2), None).statistics_error < 1e-10


def test_states_that_rounding_may_have_hidden_are_not_left_out() -> None:
    model = SigmoidBelief(np.log([[0.5, 0.5]] * 3), [[1e19, -1e19, 1.0]], [1000.0])  # 1e19 + 1000 is off by up to 1024
    assert np.isinf(model.marginals([[1.0]]).error).all()
