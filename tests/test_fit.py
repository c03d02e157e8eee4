"""EM: gains against ball arithmetic, monotonicity, endings, restarts, weights, priors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from arb_oracle import verdict
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from test_categorical import NINF, SEEDS
from test_mixture import exact_log_joint

from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.families import Categorical
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.fit.table import expected_by_table
from elbo_exact.models import Mixture

ARB_BITS = 420

PATTERNS = np.array(list(itertools.product([0, 1], repeat=3)))
COUNTS = np.array([20.0, 2.0, 9.0, 4.0, 6.0, 1.0, 0.0, 38.0])


def exact_objective(model: Mixture, x: Any, counts: Any) -> Any:
    """Log evidence of the data under the exactly renormalized stored parameters, as a ball."""
    total = arb(0)
    for pattern, count in zip(np.asarray(x).tolist(), np.asarray(counts).tolist(), strict=True):
        if count:
            joint = [exact_log_joint(model, pattern, k) for k in range(model.n_components)]
            total += arb(count) * sum((ball.exp() for ball in joint if not isinstance(ball, float)), arb(0)).log()
    return total


def start(seed: int, n_components: int = 2) -> Mixture:
    return Mixture.random(n_components, [2, 2, 2], rng=seed)


@given(SEEDS, st.integers(1, 3), st.integers(1, 40))
def test_every_gain_and_the_objective_are_within_their_bounds(seed: int, n_components: int, n_steps: int) -> None:
    fits = [
        fit_em(start(seed, n_components), PATTERNS, weights=COUNTS, max_iter=n, tolerance=0.0) for n in (n_steps, n_steps + 1)
    ]
    before, after = fits
    ends = [exact_objective(fit.model, PATTERNS, COUNTS) for fit in fits]
    assert verdict(after.objective, after.error, ends[1]) == "inside"
    if after.n_iter > before.n_iter:
        assert verdict(after.gains[-1], after.gain_errors[-1], ends[1] - ends[0]) == "inside"
        assert np.array_equal(after.trace[:-1], before.trace)


@given(SEEDS, st.integers(1, 4), st.sampled_from([None, 0.5]))
def test_no_step_loses(seed: int, n_components: int, prior: float | None) -> None:
    fit = fit_em(start(seed, n_components), PATTERNS, weights=COUNTS, prior=prior, max_iter=60, tolerance=0.0)
    assert fit.outcome is not Outcome.NOT_MONOTONE
    assert (fit.gains >= -fit.gain_errors).all()
    assert len(fit.trace) == fit.n_iter + 1 == len(fit.gains) + 1


def test_gains_stay_precise_where_objectives_no_longer_differ() -> None:
    fit = fit_em(start(1), PATTERNS, weights=COUNTS, tolerance=0.0)
    spacing = np.spacing(abs(fit.objective))
    assert fit.outcome is Outcome.CONVERGED
    resolved = (fit.gains < spacing / 1000) & (fit.gains > 1000 * fit.gain_errors)
    assert resolved.any()  # a step a thousand times below the last digit of the objective, with three certain digits


def test_one_class_is_the_product_of_the_marginals() -> None:
    fit = fit_em(start(1, 1), PATTERNS, weights=COUNTS)
    total, expected = COUNTS.sum(), 0.0
    for column in PATTERNS.T:
        ones = COUNTS[column == 1].sum()
        expected += ones * math.log(ones / total) + (total - ones) * math.log((total - ones) / total)
    # six products and logarithms of at most 200 nats each, every one rounded three times
    assert abs(fit.objective - expected) <= fit.error + 6 * 3 * 200 * 2.0**-53
    assert fit.n_iter <= 2


@given(SEEDS)
def test_weights_are_repetitions(seed: int) -> None:
    few = np.array([2.0, 1.0, 0.0, 3.0, 1.0, 0.0, 0.0, 2.0])
    repeated = np.repeat(PATTERNS, few.astype(int), axis=0)
    counted, listed = (fit_em(start(seed), x, weights=w, max_iter=1) for x, w in ((PATTERNS, few), (repeated, None)))
    difference = exact_objective(counted.model, PATTERNS, few) - exact_objective(listed.model, PATTERNS, few)
    # statistics summed in another order: 9 roundings each, and what they lose is of second order
    assert abs(difference).upper() < arb(9 * 16 * 2.0**-53)
    assert abs(counted.trace[0] - listed.trace[0]) <= 2 * counted.error + 2 * listed.error


def test_rows_without_weight_do_not_count_even_if_impossible() -> None:
    never = Mixture([0.0], (Categorical([[0.0, NINF]]),))
    assert fit_em(never, [[0], [1]], weights=[3.0, 0.0]).objective == 0.0


def test_an_impossible_row_is_named() -> None:
    never = Mixture([0.0], (Categorical([[0.0, NINF]]),))
    with pytest.raises(ZeroEvidence) as caught:
        fit_em(never, [[1], [0], [1]], weights=[0.0, 2.0, 1.0])
    assert caught.value.index == (2,)
    assert str(caught.value) == "x is impossible under the model at row 2: p(x) = 0; drop the row or give it weight 0."


@given(SEEDS)
def test_structural_zeros_stay(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = Categorical([[0.0, NINF], [math.log(0.5), math.log(0.5)]])
    model = Mixture(np.log([0.5, 0.5]), (first, *(Categorical.random(2, 2, rng=rng) for _ in range(2))))
    fit = fit_em(model, PATTERNS, weights=COUNTS, prior=1.0, max_iter=20, restarts=1, rng=seed)
    assert fit.model.components[0].log_probabilities[0, 1] == NINF
    assert np.isfinite(fit.model.components[1].log_probabilities).all()  # the prior keeps everything else positive


def test_map_objective_is_log_evidence_plus_log_prior() -> None:
    fit = fit_em(start(4), PATTERNS, weights=COUNTS, prior=0.5)
    logs = [fit.model.log_weights, *(family.log_probabilities for family in fit.model.components)]
    prior = math.fsum(0.5 * value for table in logs for value in table.ravel().tolist())
    exact = exact_objective(fit.model, PATTERNS, COUNTS) + arb(prior)
    # the stored logarithms sum to 1 within 4 u per row of two: 7 rows of pseudo-count 1, and the rounding of ``prior`` itself
    slack = 7 * 4 * 2.0**-53 + abs(prior) * 2.0**-52
    assert verdict(fit.objective, fit.error + slack, exact) == "inside"
    assert fit.outcome is Outcome.CONVERGED


@dataclasses.dataclass(frozen=True, eq=False)
class Overshooting(Mixture):
    """A mixture whose M-step goes to its worst class."""

    def maximize(self, statistics: Any, prior: Any = None) -> Any:
        good = super().maximize(statistics, prior)
        wrong = tuple(Categorical(family.log_probabilities[:, ::-1]) for family in good.components)
        return Overshooting(good.log_weights, wrong)


def test_a_step_down_is_reported_and_not_taken() -> None:
    model = start(2, 1)
    counts = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0]
    fit = fit_em(Overshooting(model.log_weights, model.components), PATTERNS, weights=counts)
    assert fit.outcome is Outcome.NOT_MONOTONE
    assert "changes the objective by -" in fit.detail
    assert fit.n_iter == len(fit.trace) - 1 and (np.diff(fit.trace) > 0).all()
    assert verdict(fit.objective, fit.error, exact_objective(fit.model, PATTERNS, counts)) == "inside"


def test_a_step_to_an_impossible_model_is_reported_and_not_taken() -> None:
    model = start(2, 1)
    fit = fit_em(Overshooting(model.log_weights, model.components), [[1, 1, 1]])
    assert (fit.outcome, fit.n_iter) == (Outcome.NOT_MONOTONE, 0)
    assert fit.detail.startswith("step 1 changes the objective by -inf nats; rounding explains ")


def test_endings() -> None:
    short = fit_em(start(1), PATTERNS, weights=COUNTS, max_iter=3)
    assert (short.outcome, short.n_iter) == (Outcome.MAX_ITER, 3)
    loose = fit_em(start(1), PATTERNS, weights=COUNTS, tolerance=0.1)
    assert loose.outcome is Outcome.CONVERGED and loose.gains[-1] <= 0.1 < loose.gains[:-1].min()
    assert all(outcome.value.endswith(".") and "\n" not in outcome.value for outcome in Outcome)


def test_restarts_are_the_same_on_every_executor() -> None:
    def fit(executor: Any = None) -> Any:
        return fit_em(start(1), PATTERNS, weights=COUNTS, restarts=3, rng=11, max_iter=25, executor=executor)

    alone = fit()
    with ThreadPoolExecutor(2) as threads:
        together = fit(threads)
    assert np.array_equal(alone.trace, together.trace)
    assert alone.restarts == together.restarts and len(alone.restarts) == 4
    assert alone.objective == max(end.objective for end in alone.restarts)
    assert len({end.objective for end in alone.restarts}) == 4  # four different starting points


def test_restarts_run_in_processes() -> None:
    with ProcessPoolExecutor(1) as processes:
        far = fit_em(start(1), PATTERNS, weights=COUNTS, restarts=1, rng=11, max_iter=5, executor=processes)
    near = fit_em(start(1), PATTERNS, weights=COUNTS, restarts=1, rng=11, max_iter=5)
    assert np.array_equal(far.trace, near.trace) and far.model.to_dict() == near.model.to_dict()


@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_bits_do_not_depend_on_threads(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (60_000, 2))  # with 5 classes more than one task per table
    model = Mixture.random(5, [3, 3], rng=1)
    reference = fit_em(model, x, max_iter=2)
    monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", threads)
    again = fit_em(model, x, max_iter=2)
    assert np.array_equal(reference.trace, again.trace) and np.array_equal(reference.gains, again.gains)


@given(SEEDS)
def test_permuting_the_classes_permutes_the_fit(seed: int) -> None:
    model = start(seed)
    mirrored = Mixture(model.log_weights[::-1], tuple(Categorical(f.log_probabilities[::-1]) for f in model.components))
    one, two = (fit_em(m, PATTERNS, weights=COUNTS, max_iter=15, tolerance=0.0) for m in (model, mirrored))
    assert np.array_equal(one.model.log_weights, two.model.log_weights[::-1])  # two terms: their order does not change a sum
    assert one.trace.tolist() == two.trace.tolist()


def test_an_empty_class_stays_empty() -> None:
    model = start(5)
    empty = Mixture([0.0, NINF], model.components)
    fit = fit_em(empty, PATTERNS, weights=COUNTS)
    alone = fit_em(start(5, 1), PATTERNS, weights=COUNTS)
    assert fit.model.log_weights.tolist() == [0.0, NINF]
    assert abs(fit.objective - alone.objective) <= fit.error + alone.error


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    fit_em(start(1), PATTERNS, weights=COUNTS, max_iter=3, restarts=1, rng=0, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "EM start 1/2" in err and "EM start 2/2" in err
    fit_em(start(1), PATTERNS, weights=COUNTS, max_iter=3)
    assert capsys.readouterr() == ("", "")


def test_to_dict_is_json() -> None:
    fit = fit_em(start(1), PATTERNS, weights=COUNTS, max_iter=4, restarts=1, rng=0)
    back = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    assert back["trace"] == fit.trace.tolist() and back["outcome"] == "MAX_ITER" and back["sentence"] == Outcome.MAX_ITER.value
    assert [end["objective"] for end in back["restarts"]] == [end.objective for end in fit.restarts]


def test_inputs_are_not_written() -> None:
    x, counts = PATTERNS.copy(), COUNTS.copy()
    x.flags.writeable = counts.flags.writeable = False
    fit_em(start(1), x, weights=counts, max_iter=2)
    assert np.array_equal(x, PATTERNS) and np.array_equal(counts, COUNTS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": [1.0]}, LogTableError, "weights must have shape (8,), one per observation; got (1,)."),
        ({"weights": [-1.0] * 8}, LogTableError, "weights must be finite and >= 0; got -1 at index 0."),
        ({"weights": [math.nan] * 8}, LogTableError, "weights must be finite and >= 0; got nan at index 0."),
        ({"weights": [0.0] * 8}, LogTableError, "weights must hold at least one positive count; got only zeros."),
        ({"tolerance": -1.0}, ValueError, "tolerance must be a number of nats >= 0, or None; got -1.0."),
        ({"tolerance": math.nan}, ValueError, "tolerance must be a number of nats >= 0, or None; got nan."),
        ({"max_iter": 0}, ValueError, "max_iter must be an integer >= 1; got 0."),
        ({"restarts": -1}, ValueError, "restarts must be an integer >= 0; got -1."),
        ({"prior": -1.0}, LogTableError, "prior must be finite and >= 0; smallest is -1."),
        ({"executor": 3}, TypeError, "executor must have a submit method like concurrent.futures.Executor; got int."),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        fit_em(start(1), PATTERNS, **arguments)
    assert str(caught.value) == message


def test_no_observations_are_refused() -> None:
    with pytest.raises(LogTableError, match=r"x must hold at least one observation; got 0\."):
        fit_em(start(1), np.zeros((0, 3), int))


class OwnExpectation:
    """A model that offers an E-step and nothing per state: for it, observations are items of a list."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture

    def observations(self, x: Any) -> list[Any]:
        return list(x)

    def expectation(self, x: Any, counts: Any, executor: Any) -> Any:
        assert isinstance(x, list)
        return expected_by_table(self.mixture, np.array(x), counts, executor)._replace(posterior=None)

    def maximize(self, statistics: Any, prior: Any = None) -> OwnExpectation:
        return OwnExpectation(self.mixture.maximize(statistics, prior))

    def rounding_loss(self, statistics: Any, prior: Any, relative_error: float) -> float:
        return self.mixture.rounding_loss(statistics, prior, relative_error)


def test_a_model_with_its_own_e_step_takes_the_same_path() -> None:
    model, n_steps = start(3), 12
    own = fit_em(OwnExpectation(model), PATTERNS.tolist(), weights=COUNTS, max_iter=n_steps, tolerance=0.0)
    table = fit_em(model, PATTERNS, weights=COUNTS, max_iter=n_steps, tolerance=0.0)
    assert (np.abs(own.trace - table.trace) <= 1e-9).all()  # a dozen steps apart by rounding
    assert (np.abs(own.gains - table.gains) <= own.gain_errors + table.gain_errors).all()
    converged = fit_em(OwnExpectation(model), PATTERNS, weights=COUNTS)
    assert converged.outcome is Outcome.CONVERGED
    assert abs(converged.objective - fit_em(model, PATTERNS, weights=COUNTS).objective) < 1e-6  # stops at its own rounding


def test_an_impossible_item_is_named_by_its_own_e_step() -> None:
    never = OwnExpectation(Mixture([0.0], (Categorical([[0.0, NINF]]),)))
    assert fit_em(never, [[0], [1]], weights=[3.0, 0.0]).objective == 0.0
    with pytest.raises(ZeroEvidence) as caught:
        fit_em(never, [[1], [0], [1]], weights=[0.0, 2.0, 1.0])
    assert caught.value.index == (2,)
