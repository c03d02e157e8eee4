"""E-steps in one compiled pass: equal to tables within the bounds of both, whatever the block, the threads and the data."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from flint import arb
from test_mixture_families import exact_objective

from elbo_exact.families import Bernoulli, Categorical, Gaussian
from elbo_exact.fit import fit_em
from elbo_exact.fit.table import expected_by_table, posterior_and_error
from elbo_exact.kernels.tiles import SHORT
from elbo_exact.models import Mixture
from elbo_exact.models._fused import TASK_ROWS
from elbo_exact.models._fused_categorical import BLOCK
from elbo_exact.models._fused_gaussian import WIDE
from elbo_exact.models._moved import evidence_change

NINF, NAN = -math.inf, math.nan
ARB_BITS = 420


def shares(n_states: int) -> Any:
    return np.full(n_states, -math.log(n_states))


def gaussian(n_rows: int, n_columns: int, n_states: int, kind: Any, spread: float = 1.0) -> tuple[Any, Mixture]:
    rng = np.random.default_rng(n_rows + n_columns)
    centers = spread * rng.standard_normal((n_states, n_columns))
    x = centers[rng.integers(n_states, size=n_rows)] + rng.standard_normal((n_rows, n_columns))
    noise = 0.3 * rng.standard_normal((n_states, n_columns, n_columns)) / math.sqrt(n_columns)
    covariances = np.eye(n_columns) + noise @ np.swapaxes(noise, 1, 2)
    given = {
        "full": covariances,
        "tied": covariances[0],
        "diagonal": np.diagonal(covariances, axis1=1, axis2=2),
        "spherical": covariances[:, 0, 0],
    }
    return x, Mixture(shares(n_states), [Gaussian.from_covariances(centers, given[kind], kind)])


def mixed(n_rows: int) -> tuple[Any, Mixture]:
    """Two kinds of columns, a structural zero, a class of weight zero, missing values."""
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.integers(0, 2, (n_rows, 3)), rng.integers(0, 4, n_rows)]).astype(np.float64)
    x[rng.random(x.shape) < 0.1] = NAN
    answers = Categorical(np.log([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25] * 4]))
    flags = Bernoulli.from_probabilities([[0.0, 0.2, 0.7], [0.6, 0.5, 0.1], [0.5, 0.5, 0.5]])
    return x, Mixture([math.log(0.25), math.log(0.75), NINF], [flags, answers])


def many_classes(n_rows: int) -> tuple[Any, Mixture]:
    """More states than a tile of the softmax of rows takes."""
    rng = np.random.default_rng(4)
    answers = Categorical(np.log(rng.dirichlet(np.ones(5), SHORT + 44)))
    return rng.integers(0, 5, (n_rows, 1)).astype(np.float64), Mixture(shares(SHORT + 44), [answers])


CASES = [
    *(gaussian(300, d, 3, kind) for d in (1, 3, WIDE) for kind in ("spherical", "diagonal", "tied", "full")),
    gaussian(300, 2, 3, "full", 1e3),
    gaussian(300, 2, 3, "diagonal", 1e3),
    mixed(300),
    many_classes(300),
]


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 300])
@pytest.mark.parametrize(("x", "model"), CASES)
def test_the_same_as_by_table(x: Any, model: Mixture, n_rows: int) -> None:
    x, counts = x[:n_rows], np.arange(1.0, n_rows + 1.0) / 3.0
    fused, table = model.expectation(model.observations(x), counts), expected_by_table(model, x, counts)
    if fused is None:
        assert n_rows < 300  # too few rows for scatter that does not cancel
        return
    assert (np.abs(fused.log_evidence - table.log_evidence) <= fused.error + table.error).all()
    relative = fused.statistics_error + table.statistics_error
    a, b = fused.statistics, table.statistics
    assert (np.abs(a.weights - b.weights) <= relative * b.weights).all()
    for mine, theirs in zip(a.components, b.components, strict=True):
        if not isinstance(model.components[0], Gaussian):
            assert (np.abs(mine - theirs) <= relative * theirs).all()
            continue
        size = np.sqrt(theirs.squares)
        assert (
            np.abs(mine.means - theirs.means) * np.sqrt(theirs.weights) <= relative * size + 1e-15 * (1 + np.abs(x).max())
        ).all()
        scale = size * size if mine.scatter.ndim == 2 else size[:, :, None] * size[:, None, :]
        assert (np.abs(mine.scatter - theirs.scatter) <= relative * scale).all()


def test_the_bounds_of_log_evidence_hold_against_ball_arithmetic() -> None:
    for x, model in (gaussian(40, 3, 2, "full"), gaussian(40, 2, 3, "diagonal")):
        for row in x[:10]:
            found = model.expectation(row[None, :], np.ones(1)) or expected_by_table(model, row[None, :], np.ones(1))
            exact = exact_objective(model, row[None, :])
            assert abs(exact - float(found.log_evidence[0])).upper() <= found.error[0]


@pytest.mark.parametrize(("x", "model"), [gaussian(TASK_ROWS + 77, 3, 3, "full"), gaussian(TASK_ROWS + 77, WIDE, 2, "full")])
def test_threads_and_processes_leave_the_bits(x: Any, model: Mixture) -> None:
    counts = np.ones(len(x))
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(1) as processes:
        found = [model.expectation(x, counts, executor) for executor in (None, threads, processes)]
    assert found[0] is not None
    for other in found[1:]:
        assert other is not None
        assert np.array_equal(found[0].log_evidence, other.log_evidence)
        assert np.array_equal(found[0].statistics.components[0].scatter, other.statistics.components[0].scatter)
    turned = model.expectation(np.asfortranarray(x), counts)
    assert turned is not None
    assert np.array_equal(found[0].statistics.components[0].scatter, turned.statistics.components[0].scatter)


def test_zero_probabilities_and_zero_shares_stay_zero() -> None:
    x, model = mixed(200)
    fit = fit_em(model, x, max_iter=20)
    flags = fit.model.components[0].log_probabilities
    assert flags[0, 0, 1] == NINF
    assert fit.model.log_weights[2] == NINF
    assert model.expectation(model.observations(x), np.ones(200)).statistics.components[0][0, 0, 1] == 0.0


def test_impossible_rows_missing_reals_and_other_families_are_left_to_tables() -> None:
    never = Mixture([0.0], [Bernoulli.from_probabilities([[0.0]])])
    assert never.expectation(np.array([[1.0]]), np.ones(1)) is None
    x, model = gaussian(10, 2, 2, "diagonal")
    x[0, 0] = NAN
    assert model.expectation(x, np.ones(10)) is None
    x[0, 0] = 1e300
    assert model.expectation(x, np.ones(10)) is None


def nudged(model: Mixture, size: float) -> Mixture:
    """Every log probability of two mixed columns moved by about ``size``, zeros kept."""
    rng = np.random.default_rng(8)

    def moved(logs: Any) -> Any:
        table = np.exp(logs) * np.exp(size * rng.standard_normal(logs.shape))
        with np.errstate(divide="ignore"):
            return np.log(table / table.sum(axis=-1, keepdims=True))

    flags, answers = model.components
    families = [Bernoulli(moved(flags.log_probabilities)), Categorical(moved(answers.log_probabilities))]
    return Mixture(moved(model.log_weights), families)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 0.1, 3.0])
@pytest.mark.parametrize("n_rows", [1, 33, 300, BLOCK + 5])
def test_changes_of_log_evidence_are_those_of_tables(n_rows: int, size: float) -> None:
    x, model = mixed(n_rows)
    other = nudged(model, size)
    found = model.log_evidence_change_and_error(other, model.observations(x))
    assert found is not None
    p = posterior_and_error(model, x)
    change, change_error = model.log_joint_change_and_error(other, x)
    table, table_error = evidence_change(p.table, p.table_error, change, change_error, 2.0**-1072, 1)
    assert (np.abs(found[0] - table) <= found[1] + table_error).all()
    assert (
        size > 1.0 or (found[1] <= 1e-12 * size).all()
    )  # the bound says something: an error relative to the change, some thousand roundings


def ball_evidence(model: Mixture, row: Any) -> Any:
    """log p(row) of two mixed columns from the stored logarithms, renormalized."""

    def probabilities(logs: Any) -> list[Any]:
        sizes = [arb(float(value)).exp() if value > NINF else arb(0) for value in logs]
        return [size / sum(sizes, arb(0)) for size in sizes]

    flags, answers = (family.log_probabilities for family in model.components)
    total = arb(0)
    for k, p in enumerate(probabilities(model.log_weights)):
        for d in range(3):
            p = p * probabilities(flags[k, d])[int(row[d])]
        total += p * probabilities(answers[k])[int(row[3])]
    return total.log()


def test_changes_of_log_evidence_hold_against_ball_arithmetic() -> None:
    x, model = mixed(40)
    x = np.where(np.isnan(x), 0.0, x)
    for other in (nudged(model, 1e-9), nudged(model, 0.5)):
        gains, errors = model.log_evidence_change_and_error(other, x) or (None, None)
        for n in range(len(x)):
            exact = ball_evidence(other, x[n]) - ball_evidence(model, x[n])
            assert abs(exact - float(gains[n])).upper() <= errors[n]


def test_a_category_lost_is_exact_and_one_won_is_left_to_tables() -> None:
    before = Mixture(np.log([0.5, 0.5]), [Bernoulli.from_probabilities([[0.5], [0.25]])])
    after = Mixture(np.log([0.5, 0.5]), [Bernoulli.from_probabilities([[0.0], [0.25]])])
    gains, errors = before.log_evidence_change_and_error(after, np.array([[1.0], [0.0]])) or (None, None)
    assert (np.abs(gains - np.log([0.125 / 0.375, 0.875 / 0.625])) <= errors + 1e-15).all()
    assert after.log_evidence_change_and_error(before, np.array([[1.0]])) is None
    x, model = gaussian(10, 2, 2, "full")
    assert model.log_evidence_change_and_error(model, x) is None


def test_changes_have_the_same_bits_on_threads() -> None:
    x, model = mixed(TASK_ROWS + 77)
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(1) as processes:
        found = [
            model.log_evidence_change_and_error(nudged(model, 0.1), x, executor) for executor in (None, threads, processes)
        ]
    for other in found[1:]:
        assert other is not None and found[0] is not None
        assert np.array_equal(found[0][0], other[0]) and np.array_equal(found[0][1], other[1])
