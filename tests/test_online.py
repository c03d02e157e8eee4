"""Stepwise EM: exact account, kept passes only rise, limits in which it is batch EM, corners."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arb_oracle import verdict
from flint import ctx
from test_categorical import NINF
from test_fit import COUNTS, PATTERNS, exact_objective, start
from test_information import cases
from test_squarem import mixed

from elbo_exact.errors import ZeroEvidence
from elbo_exact.families import Categorical, Gaussian
from elbo_exact.fit import Checkpoint, Outcome, fit_em, fit_em_online
from elbo_exact.models import BayesianNetwork, DawidSkene, HiddenMarkov, Mixture, NoisyOr

U = 2.0**-53


@pytest.fixture(autouse=True)
def _bits() -> Iterator[None]:
    before, ctx.prec = ctx.prec, 420
    yield
    ctx.prec = before


def rows() -> Any:
    return np.repeat(PATTERNS, COUNTS.astype(int), axis=0)


def test_the_objective_is_exact_and_only_rises() -> None:
    for seed in range(5):
        fit = fit_em_online(start(seed), rows(), batch_size=13, rng=seed)
        assert (fit.gains >= -fit.gain_errors).all() and fit.outcome in (Outcome.NOISY, Outcome.MAX_ITER)
        assert fit.n_iter == len(fit.trace) - 1 >= 1
        assert verdict(fit.objective, fit.error, exact_objective(fit.model, PATTERNS, COUNTS)) == "inside"


def test_one_batch_of_full_weight_is_a_step_of_em() -> None:
    # decay 1 and delay 0: the first batch has weight 1 and replaces what was known
    model, x = mixed()
    online = fit_em_online(model, x, batch_size=len(x), max_passes=1, decay=1.0, delay=0, rng=0)
    batch = fit_em(model, x, max_iter=1)
    assert online.trace.tolist() == batch.trace.tolist()


def test_one_pass_beats_one_step_on_many_rows() -> None:
    truth = Mixture.random(3, [2] * 8, rng=0)
    x, _ = truth.sample(2000, rng=1)
    model = Mixture.random(3, [2] * 8, rng=2)
    online, batch = fit_em_online(model, x, batch_size=100, max_passes=2, rng=0), fit_em(model, x, max_iter=4)
    assert online.objective > batch.objective
    finished = fit_em(online.model, x, tolerance=0.1)
    assert finished.outcome is Outcome.CONVERGED and finished.objective >= online.objective


def test_seeds_decide_the_order_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    for threads in ("1", "2"):
        monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", threads)
        fits.append(fit_em_online(start(1), rows(), batch_size=10, rng=3))
    assert fits[0].to_dict() == fits[1].to_dict()
    assert fit_em_online(start(1), rows(), batch_size=10, rng=4).objective != fits[0].objective


@pytest.mark.parametrize("name", cases())
def test_every_family(name: str) -> None:
    model, x = cases()[name]
    fit = fit_em_online(model, np.tile(x, (4, 1)), batch_size=len(x), max_passes=3, rng=0)
    assert (np.diff(fit.trace) > -2 * fit.error).all() and math.isfinite(fit.objective)


def test_categories_absent_from_a_batch_stay_possible_and_zeros_stay_zero() -> None:
    model = Mixture(np.log([0.5, 0.5]), [Categorical([[math.log(0.5), math.log(0.5), NINF], np.log([0.3, 0.3, 0.4])])])
    fit = fit_em_online(model, [[0]] * 30 + [[1]] * 2 + [[2]], batch_size=2, max_passes=2, rng=0)
    assert fit.model.components[0].log_probabilities[0, 2] == NINF
    assert np.isfinite(fit.model.components[0].log_probabilities[1]).all()


def test_counts_and_priors_enter() -> None:
    fit = fit_em_online(start(1), PATTERNS, weights=COUNTS, prior=0.5, batch_size=3, rng=0)
    again = fit_em(fit.model, PATTERNS, weights=COUNTS, prior=0.5)
    assert fit.objective == again.trace[0] <= again.objective
    assert fit.criteria.n_parameters == 7 and fit.criteria.n_observations == COUNTS.sum()


def test_a_collapse_is_an_outcome() -> None:
    x = np.repeat([[0.0], [5.0], [6.0], [7.0]], [40, 1, 1, 1], axis=0)
    model = Mixture(np.log([0.5, 0.5]), [Gaussian([[0.0], [6.0]], [0.05, 1.0], "spherical")])
    fit = fit_em_online(model, x, batch_size=43, max_passes=50, decay=1.0, delay=0, rng=0)
    assert fit.outcome is Outcome.DEGENERATE and math.isfinite(fit.objective)


def test_refused() -> None:
    for arguments, message in (
        ({"batch_size": 0}, "batch_size must be an integer >= 1; got 0."),
        ({"max_passes": 0}, "max_passes must be an integer >= 1; got 0."),
        ({"decay": 0.5}, "decay must be > 0.5 and <= 1; got 0.5."),
        ({"delay": -1}, "delay must be an integer >= 0; got -1."),
        ({"tolerance": math.nan}, "tolerance must be a number of nats >= 0, or None; got nan."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            fit_em_online(start(1), PATTERNS, **arguments)
    with pytest.raises(ZeroEvidence):
        fit_em_online(Mixture([0.0], [Categorical([[0.0, NINF]])]), [[1]])


def layered() -> list[tuple[Any, Any]]:
    """Models whose statistics are named tuples or dictionaries, with data."""
    x = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]] * 3)
    raters = DawidSkene(np.log([0.4, 0.6]), np.log([[[0.9, 0.1], [0.2, 0.8]]] * 2))
    network = BayesianNetwork.from_probabilities(
        {"a": ["no", "yes"], "b": ["no", "yes"]}, {"b": ["a"]}, {"a": [0.5, 0.5], "b": [[0.3, 0.7], [0.6, 0.4]]}
    )
    layer = NoisyOr.from_probabilities([0.1, 0.2], [[0.8, 0.5], [0.1, 0.9]], [0.01, 0.1])
    see = [Categorical(np.log([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])), Gaussian([[0.0], [1.0]], [1.0, 1.2], "spherical")]
    chain = HiddenMarkov(np.log([0.5, 0.5]), np.log([[0.8, 0.2], [0.3, 0.7]]), see)
    sequences = [chain.sample(length, rng=length)[0] for length in (3, 7, 1, 5, 9, 4, 2, 8)]
    gaps = np.where(np.arange(24).reshape(12, 2) % 5 == 0, math.nan, x)
    return [(raters, x), (network, gaps), (layer, x), (chain, sequences)]


@pytest.mark.parametrize("case", range(4))
def test_one_whole_batch_of_weight_one_is_a_step_of_em(case: int) -> None:
    model, x = layered()[case]
    online = fit_em_online(model, x, batch_size=len(x), decay=1.0, delay=0, max_passes=1, rng=0)
    plain = fit_em(model, x, max_iter=1)
    assert online.trace == pytest.approx(plain.trace, rel=2.0**-44)  # sums of at most 48 states of rows or steps, 2**9 u
    assert online.trace[1] > online.trace[0]
    assert len(fit_em_online(model, x, batch_size=5, max_passes=3, rng=0).trace) >= 1


@pytest.mark.parametrize("case", range(4))
def test_a_fit_goes_on_to_the_same_bits(case: int, tmp_path: Path) -> None:
    model, x = layered()[case]
    arguments: dict[str, Any] = {"batch_size": 5, "rng": 3, "decay": 0.9, "tolerance": 0.0}
    whole = fit_em_online(model, x, max_passes=6, **arguments)
    for n in (1, 2):
        file = Checkpoint(tmp_path / f"{n}.npz", 0.0)
        fit_em_online(model, x, max_passes=n, checkpoint=file, **arguments)
        for _ in range(2):
            again = fit_em_online(model, x, max_passes=6, checkpoint=file, **arguments)
            assert again.to_dict() == whole.to_dict() and np.array_equal(again.gains, whole.gains)
    with pytest.raises(ValueError, match="belongs to a fit of other data, starts or settings"):
        fit_em_online(model, x, max_passes=6, checkpoint=file, **{**arguments, "rng": 4})
