"""Monomial: tables and changes against ball arithmetic, the M-step against formulas worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from arb_oracle import verdict
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st
from test_categorical import NINF, SEEDS, exact_log_probability

from elbo_exact.errors import LogTableError
from elbo_exact.evidence import posterior
from elbo_exact.fit import fit_em
from elbo_exact.models import Monomial


@pytest.fixture(autouse=True, scope="module")
def _bits() -> Iterator[None]:
    before, ctx.prec = ctx.prec, 1400
    yield
    ctx.prec = before


@st.composite
def monomials(draw: Any) -> Monomial:
    """Up to 3 observations, 3 states, 2 groups of 3 parameters; zeros among constants, parameters and exponents."""
    rng = np.random.default_rng(draw(SEEDS))
    n_rows, n_states, n_groups, n_categories = (draw(st.integers(1, most)) for most in (3, 3, 2, 3))
    raw = rng.uniform(-4.0, 0.0, (n_groups, n_categories))
    raw[:, 1:][rng.random((n_groups, n_categories - 1)) < 0.3] = NINF
    constants = rng.uniform(-4.0, 0.0, (n_rows, n_states))
    constants[:, 1:][rng.random((n_rows, n_states - 1)) < 0.3] = NINF
    exponents = rng.integers(0, 4, (n_rows, n_states, n_groups, n_categories)).astype(float)
    return Monomial(raw - np.log(np.exp(raw).sum(axis=1, keepdims=True)), constants, exponents)


def exact_log_joint(model: Monomial, row: int, z: int) -> Any:
    """constant + sum of exponents times renormalized log parameters, as a ball or -inf."""
    total, possible = arb(0), model.log_constants[row, z] > NINF
    for g, parameters in enumerate(model.log_probabilities.tolist()):
        for c, uses in enumerate(model.exponents[row, z, g].tolist()):
            if uses:
                log_p = exact_log_probability(parameters, c)
                possible = possible and not isinstance(log_p, float)
                total += arb(uses) * (log_p if possible else arb(0))
    return total + arb(float(model.log_constants[row, z])) if possible else NINF


@given(monomials())
def test_log_joint_is_within_its_bound(model: Monomial) -> None:
    rows = range(len(model.log_constants))
    values, errors = model.log_joint_and_error(rows)
    for row in rows:
        for z in range(model.space.size):
            assert verdict(values[row, z], errors[row, z], exact_log_joint(model, row, z)) == "inside"
    assert np.array_equal(model.log_joint(rows, slice(0, 1)), values[:, :1])


@given(monomials(), SEEDS, st.sampled_from([1e-14, 1e-8, 1.0]))
def test_log_joint_change_is_within_its_bound(model: Monomial, seed: int, size: float) -> None:
    raw = model.log_probabilities + np.random.default_rng(seed).uniform(-size, size, model.log_probabilities.shape)
    moved = raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))
    other = Monomial(moved, model.log_constants, model.exponents)
    rows = range(len(model.log_constants))
    changes, errors = model.log_joint_change_and_error(other, rows)
    for row in rows:
        for z in range(model.space.size):
            old, new = exact_log_joint(model, row, z), exact_log_joint(other, row, z)
            if np.isfinite(model.log_constants[row, z]) and not isinstance(old, float) and changes[row, z] != 0.0:
                assert verdict(changes[row, z], errors[row, z], new - old) == "inside"
                # 12 uses of a parameter at most, each change below 2 size, bounds below 200 u of it
                assert errors[row, z] <= 12 * 200 * 2.0**-53 * math.exp(2 * size) * (2 * size + 2.0**-50)
    assert np.array_equal(changes, model.log_joint_change(other, rows))


def linkage(t: float) -> Monomial:
    """Cells 1/2 + t/4, (1-t)/4, (1-t)/4, t/4; state 1 of the first cell is its t/4."""
    quarter = math.log(0.25)
    uses = np.zeros((4, 2, 1, 2))
    uses[0, 1, 0, 0] = uses[3, 0, 0, 0] = uses[1, 0, 0, 1] = uses[2, 0, 0, 1] = 1.0
    constants = [[math.log(0.5), quarter], [quarter, NINF], [quarter, NINF], [quarter, NINF]]
    return Monomial(np.log([[t, 1.0 - t]]), constants, uses)


@given(st.floats(0.01, 0.99))
def test_linkage_step_is_the_published_recursion(t: float) -> None:
    fit = fit_em(linkage(t), range(4), weights=[125, 18, 20, 34], max_iter=1)
    hidden = 125.0 * t / (2.0 + t)
    expected = (hidden + 34.0) / (hidden + 72.0)
    # a dozen logarithms, exponentials and products of numbers below 5, each within 2 u of its size
    assert abs(math.exp(fit.model.log_probabilities[0, 0]) - expected) <= 12 * 2 * 5 * 2.0**-53


def test_linkage_limit_solves_its_quadratic_equation() -> None:
    fit = fit_em(linkage(0.5), range(4), weights=[125, 18, 20, 34], tolerance=0.0)
    limit = (15.0 + math.sqrt(53809.0)) / 394.0
    # a fixed point of a map with slope 0.133 whose evaluation errs by at most 120 u (above)
    assert abs(math.exp(fit.model.log_probabilities[0, 0]) - limit) <= 120 * 2.0**-53 / (1.0 - 0.133)


def test_statistics_count_the_uses() -> None:
    model = linkage(0.5)
    weights = np.array([125.0, 18.0, 20.0, 34.0])[:, None] * posterior(model.log_joint(range(4)))
    found = model.statistics(range(4), weights)
    # 125 times the posterior 1/5 of the hidden cell, off by 8 u of 25 and a few roundings
    assert abs(found[0, 0] - 59.0) <= 16 * 25 * 2.0**-53 and found[0, 1] == 38.0
    halves = [model.statistics(rows, weights[rows]) for rows in (np.array([0, 3]), np.array([1, 2]))]
    assert np.array_equal(halves[0] + halves[1], found)


def test_map_and_structural_zeros() -> None:
    model = Monomial([[math.log(0.5), math.log(0.5), NINF]], [[0.0]], np.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3))
    fit = fit_em(model, [0], weights=[3.0], prior=1.0)
    assert fit.model.log_probabilities.tolist() == [[*np.log([0.8, 0.2]).tolist(), NINF]]
    assert (model.randomize(np.random.default_rng(0)).log_probabilities[0] > NINF).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.0]], [0.0], [[[[1.0]]]]), "log_constants must have shape (R, S); got (1,)."),
        (([[0.0]], [[math.nan]], [[[[1.0]]]]), "log_constants contains NaN at index (0, 0)."),
        (
            ([[0.0]], [[0.0]], [[[[1.0, 2.0]]]]),
            "exponents must have shape (1, 1, 1, 1) and be finite and >= 0; got (1, 1, 1, 2).",
        ),
        (([[0.0]], [[0.0]], [[[[-1.0]]]]), "exponents must have shape (1, 1, 1, 1) and be finite and >= 0; smallest is -1."),
        (([[1.0]], [[0.0]], [[[[1.0]]]]), "log_probabilities sums to 2.72 at index (0,)"),
    ],
)
def test_refused_parameters(arguments: Any, message: str) -> None:
    with pytest.raises(LogTableError) as caught:
        Monomial(*arguments)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_refused_observations() -> None:
    with pytest.raises(LogTableError, match=r"^x must be in 0 \.\.\. 3; got 4 at index \(0,\)"):
        linkage(0.5).log_joint([4])
    with pytest.raises(LogTableError, match=r"^x must have one axis"):
        linkage(0.5).log_joint([[1]])
    with pytest.raises(LogTableError, match=r"^weights must have shape \(1, 2\); got \(2,\)\.$"):
        linkage(0.5).statistics([1], [0.5, 0.5])
