"""Studies: published numbers from random starts, tables that agree with plain sums, words that follow the numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import pytest
from studies import study_of

import elbo_exact as ee
from elbo_exact._study.fits import _verdict
from elbo_exact._study.words import sentence
from elbo_exact.fit import Outcome
from elbo_exact.gallery import names, parse

SMALL = json.dumps(
    {
        "title": "t",
        "kind": "latent-class",
        "description": "d",
        "source": "s",
        "license": "l",
        "columns": ["A", "B"],
        "categories": [["no", "yes"], ["low", "mid", "high"]],
        "classes": [1, 2],
        "patterns": [[0, 0], [0, 1], [1, 0], [1, 2]],
        "counts": [7, 1, 2, 5],
        "answers": [],
    }
)


@pytest.mark.parametrize("seed", [2, 5])
def test_published_log_likelihoods_from_random_starts(seed: int) -> None:
    result = ee.study("stouffer-toby", restarts=3, rng=seed)
    for fit in result.fits:
        (answer,) = result.problem.find("log_likelihood", classes=fit.n_classes, published=True)
        assert f"{fit.result.objective:.4f}" == answer.value
    assert result.holds


def test_the_fits_of_stouffer_toby() -> None:
    result = study_of("stouffer-toby")
    assert [fit.n_parameters for fit in result.fits] == [4, 9, 14]
    assert [fit.n_starts for fit in result.fits] == [3, 3, 3]
    assert result.chosen is result.fits[1] and result.chosen.bic == min(fit.bic for fit in result.fits)
    for fit in result.fits:
        assert fit.n_same + fit.n_lower + fit.n_undecided == fit.n_starts and fit.n_same >= 1
        assert fit.result.outcome is Outcome.CONVERGED and len(fit.trace) == fit.n_iter + 1
        assert fit.bic == pytest.approx(fit.n_parameters * math.log(216) - 2 * fit.result.objective, rel=2.0**-50, abs=0.0)
        assert fit.aic == pytest.approx(2 * fit.n_parameters - 2 * fit.result.objective, rel=2.0**-50, abs=0.0)
        assert (np.diff(fit.result.model.log_weights) <= 0).all()
        assert (np.diff(fit.trace) >= -2 * fit.result.error).all()


@pytest.mark.parametrize("name", names())
def test_each_q_is_what_its_name_says(name: str) -> None:
    result = study_of(name)
    prior, blurred, *networks, exact = result.approximations
    assert [part.name for part in (prior, blurred, exact)] == ["prior", "blurred", "exact"]
    assert [part.name for part in networks] == (["amortized"] if result.problem.kind == "latent-class" else [])
    for network in networks:  # trained, so better than the prior; one hidden unit, so not the posterior
        assert exact.total.gap < network.total.gap < prior.total.gap
    assert exact.is_tight and not blurred.is_tight
    # Jensen: half a posterior keeps at least log(1/2) of forward divergence
    assert (blurred.audit.forward_kl <= math.log(2.0) + blurred.audit.error.forward_kl).all()
    assert (exact.log_q[result.log_joint == -np.inf] == -np.inf).all() and np.isfinite(blurred.audit.gap).all()
    for part in result.approximations:
        assert part.holds and part.log_q.shape == result.log_joint.shape
        for i in range(len(result.rows)):
            assert math.fsum(np.exp(part.log_q[i])) == pytest.approx(1.0, abs=256 * 2.0**-52, rel=0.0)
    assert prior.total.log_evidence == blurred.total.log_evidence == exact.total.log_evidence


@pytest.mark.parametrize("name", names())
def test_totals_are_counted_sums(name: str) -> None:
    result = study_of(name)
    for part in result.approximations:
        for quantity in ("elbo", "gap", "forward_kl", "eubo"):
            plain = sum(float(n) * float(v) for n, v in zip(result.counts, getattr(part.audit, quantity), strict=True))
            total, bound = getattr(part.total, quantity), getattr(part.total.error, quantity)
            size = sum(abs(float(n) * float(v)) for n, v in zip(result.counts, getattr(part.audit, quantity), strict=True))
            assert total == plain or abs(total - plain) <= bound + (len(result.counts) + 1) * 2.0**-53 * size


@pytest.mark.parametrize("name", names())
def test_marginals_are_sums_of_the_posterior(name: str) -> None:
    result = study_of(name)
    sizes = [len(states) for states in result.states.values()]
    digits = np.array(np.unravel_index(np.arange(math.prod(sizes)), sizes)).tolist()
    for i, row in enumerate(result.log_joint.tolist()):
        top = max(row)
        weights = [math.exp(value - top) for value in row]
        for axis, (variable, states) in enumerate(result.states.items()):
            for state in range(len(states)):
                chosen = [w for w, digit in zip(weights, digits[axis], strict=True) if digit == state]
                expected = math.fsum(chosen) / math.fsum(weights)
                # two exponentials, two sums, a division: as many roundings as terms, twice, and a few
                rounding = (2 * len(weights) + 16) * 2.0**-53
                assert abs(result.marginals[variable][i, state] - expected) <= rounding * max(expected, 2.0**-1022)


def test_the_fit_and_the_rows_are_of_one_model() -> None:
    for name in ("stouffer-toby", "coins", "linkage"):
        result = study_of(name)
        assert result.chosen is not None
        fit, total = result.chosen.result, result.approximations[-1].total
        assert abs(fit.objective - total.log_evidence) <= fit.error + total.error.log_evidence


def test_the_same_seed_gives_the_same_bits_wherever_it_runs() -> None:
    problem = parse(SMALL, "small")
    first, again = (ee.study(problem, restarts=3, rng=7).to_dict() for _ in range(2))
    with ThreadPoolExecutor(2) as executor:
        elsewhere = ee.study(problem, restarts=3, rng=7, executor=executor).to_dict()
    assert first == again == elsewhere
    assert ee.study(problem, restarts=3, rng=8).to_dict() != first


def test_a_problem_of_your_own() -> None:
    result = ee.study(parse(SMALL, "small"), restarts=2)
    assert [fit.n_parameters for fit in result.fits] == [3, 7]
    assert result.checks == () and result.holds and result.rows == ("no low", "no mid", "yes low", "yes high")


@pytest.mark.parametrize("name", names())
def test_to_dict_is_strict_json(name: str) -> None:
    result = study_of(name)
    text = json.dumps(result.to_dict(), allow_nan=False)
    back = json.loads(text, parse_constant=pytest.fail)
    assert back["sentence"] == result.sentence and back["holds"] is True
    elbos = [float(value) for part in back["approximations"] for value in part["elbo"]]
    assert elbos == [float(value) for part in result.approximations for value in part.audit.elbo]


def ends(gains: list[float], objective: float, outcome: Outcome = Outcome.CONVERGED) -> Any:
    return SimpleNamespace(
        gains=np.array(gains), gain_errors=np.full(len(gains), 1e-18), objective=objective, error=1e-13, outcome=outcome
    )


@pytest.mark.parametrize(
    ("ratio", "peak", "outcome", "verdict"),
    [
        (0.5, -10.0, Outcome.CONVERGED, "same"),
        (0.99, -10.0, Outcome.CONVERGED, "same"),
        (0.99, -10.1, Outcome.CONVERGED, "lower"),
        (0.5, -10.0001, Outcome.CONVERGED, "lower"),
        (0.99, -10.0, Outcome.MAX_ITER, "undecided"),
        (1.01, -10.0, Outcome.CONVERGED, "undecided"),
    ],
)
def test_a_start_is_judged_by_where_its_gains_lead(ratio: float, peak: float, outcome: Outcome, verdict: str) -> None:
    gain = 1e-5
    rest = gain * ratio / (1.0 - ratio) if ratio < 1.0 else 1.0
    assert _verdict(ends([gain / ratio, gain], peak - rest, outcome), ends([0.0], -10.0)) == verdict


def test_a_start_without_gain_is_there_or_elsewhere() -> None:
    assert _verdict(ends([0.0], -10.0), ends([0.0], -10.0)) == "same"
    assert _verdict(ends([0.0], -10.0 - 1e-12), ends([0.0], -10.0)) == "lower"


def test_the_sentence_follows_the_numbers() -> None:
    words = study_of("stouffer-toby").sentence
    assert words.startswith("The exact posterior is tight: ") and words.endswith(".") and "\n" not in words
    for part in study_of("stouffer-toby").approximations[:2]:
        assert f"loose by {part.total.gap:.6g} nats below and {part.total.forward_kl:.6g} above" in words
    assert "charges an impossible state, so its ELBO is -inf" in study_of("sprinkler").sentence


def test_the_sentence_says_when_an_identity_fails() -> None:
    part = study_of("coins").approximations[0]
    broken = dataclasses.replace(part, audit=dataclasses.replace(part.audit, elbo=part.audit.elbo - 1e-3))
    assert not broken.holds
    assert "fails beyond its bound in 5 rows" in sentence([broken], study_of("coins").counts, study_of("coins").rows)


def test_the_elbo_of_the_asia_proposal_against_the_oracle() -> None:
    result = study_of("asia")
    prior = result.approximations[0]
    expected = oracle.elbo(result.log_joint[0], prior.log_q[0])
    # the oracle adds 256 products of a probability and a logarithm below 20
    assert abs(prior.audit.elbo[0] - expected) <= prior.audit.error.elbo[0] + 256 * 20 * 2.0**-53


def test_bad_arguments_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^restarts must be an integer >= 1; got 0\.$"):
        ee.study("coins", restarts=0)
    with pytest.raises(ValueError, match=r"^name must be one of asia, .*; got 'coin'\.$"):
        ee.study("coin")
