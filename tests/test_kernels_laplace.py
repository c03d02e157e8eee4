"""The integrals themselves: the step, one sample against the gap engine, merged states, long rows."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from table_families import FAMILIES
from table_strategies import Array

import elbo_exact as ee
from elbo_exact.kernels.laplace import N_HEAD, N_VALUES, importance_rows
from elbo_exact.kernels.laplace_walk import STEP
from elbo_exact.kernels.laplace_weights import N_FACTS, weight_rows
from elbo_exact.kernels.reduce import OK
from elbo_exact.kernels.rows import N_OUTPUTS, OUT_FORWARD, OUT_GAP, OUT_STATUS, audit_rows

INTERPRETED = bool(numba.config.DISABLE_JIT)
COUNTS = (1.0, 2.0, 10.0, 1e4, 1e9)


def weights(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """q, e and facts of one row."""
    q, e, facts = np.empty((1, a.size)), np.empty((1, a.size)), np.empty((1, N_FACTS))
    with np.errstate(all="ignore"):
        weight_rows(a[None], b[None], q, e, facts)
    return q, e, facts


def integrals(a: Array, b: Array, counts: tuple[float, ...] = COUNTS, step: float = STEP) -> tuple[Array, Array]:
    """(values, bounds) of one row, K by quantity."""
    out, head, (q, e, facts) = np.empty((len(counts), N_VALUES)), np.empty((1, N_HEAD)), weights(a, b)
    with np.errstate(all="ignore"):
        importance_rows(q, e, facts, np.array(counts), step, out, head)
    return out[:, ::2], out[:, 1::2]


def within_range(a: Array, b: Array) -> bool:
    """Whether no q underflows and no ratio leaves exp(+-600): beyond, one sample is left to the engine."""
    both = (a > -np.inf) & (b > -np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        ratios = (a - b)[both]
        return bool(np.ptp(ratios) < 500.0 and np.ptp(b[b > -np.inf]) < 600.0) if both.any() else False


def pairs(seed: int) -> list[tuple[Array, Array]]:
    """A row of every family of the tests."""
    rng = np.random.default_rng(seed)
    return [make(rng) for name, make in FAMILIES.items() if name != "many_states" for _ in range(1 if INTERPRETED else 3)]


def agree(first: tuple[Array, Array], second: tuple[Array, Array]) -> bool:
    """Equal, infinities and NaN included, up to both bounds."""
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(first[0] - second[0]) <= first[1] + second[1]
    same = (first[0] == second[0]) | (np.isnan(first[0]) & np.isnan(second[0]))
    return bool((close | same).all())


@pytest.mark.parametrize("seed", range(1 if INTERPRETED else 3))
def test_half_the_step_changes_nothing_beyond_the_bounds(seed: int) -> None:
    for a, b in pairs(seed):
        assert agree(integrals(a, b), integrals(a, b, step=STEP / 2.0)), (a, b)


def test_a_coarse_step_is_noticed() -> None:
    """The test above can fail: at h = 1 the error is 4e-3."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), rng.normal(size=20)
    assert not agree(integrals(a, b), integrals(a, b, step=1.0))


@pytest.mark.parametrize("seed", range(1 if INTERPRETED else 3))
def test_one_sample_is_the_gap_engine(seed: int) -> None:
    for a, b in pairs(seed):
        engine = np.zeros((1, N_OUTPUTS))
        with np.errstate(all="ignore"):
            audit_rows(a[None], b[None], 0, 1, engine)
        values, bounds = integrals(a, b, (1.0,))
        if engine[0, OUT_STATUS] != OK or not within_range(a, b):
            continue
        for column, reference in ((0, OUT_GAP), (1, OUT_FORWARD)):
            exact, error = engine[0, reference], engine[0, reference + 1]
            if np.isinf(exact):
                continue  # also where q underflows, which the public function knows from the engine
            assert abs(values[0, column] - exact) <= bounds[0, column] + error, (column, a, b)


def test_one_sample_is_the_gap_engine_to_1e_13() -> None:
    rng = np.random.default_rng(7)
    for scale in (1e-9, 1e-4, 1.0, 10.0):
        b = rng.normal(size=50)
        a = b + scale * rng.normal(size=50) + 1e3
        audit, (values, _) = ee.audit(a, b, unnormalized=True), integrals(a, b, (1.0,))
        np.testing.assert_allclose(values[0, :2], [audit.gap, audit.forward_kl], rtol=1e-13)


def test_offsets_of_a_billion_cost_nothing() -> None:
    rng = np.random.default_rng(1)
    b = np.round(rng.normal(size=30) * 2.0**10) / 2.0**10
    a = b + np.round(rng.normal(size=30) * 2.0**10) / 2.0**18
    values, shifted = integrals(a, b)[0], integrals(a + 2.0**30, b - 2.0**29)[0]
    np.testing.assert_allclose(shifted, values, rtol=1e-13)


@pytest.mark.skipif(INTERPRETED, reason="minutes of plain Python")
def test_an_ising_table_has_fifteen_weights() -> None:
    """4x4 torus: 65,536 states, and the same integrals from the 15 levels of the energy (8 of them by symmetry)."""
    spins = 1.0 - 2.0 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1).reshape(-1, 4, 4)
    energy = -(spins * np.roll(spins, 1, 1)).sum((1, 2)) - (spins * np.roll(spins, 1, 2)).sum((1, 2))
    levels, members = np.unique(energy, return_counts=True)
    assert levels.size == 15
    whole = integrals(-0.25 * energy, np.full(2**16, -16.0 * np.log(2.0)))
    short = integrals(-0.25 * levels + np.log(members), np.log(members) - 16.0 * np.log(2.0))
    assert agree(whole, short)
    np.testing.assert_allclose(whole[0], short[0], rtol=1e-12)


@pytest.mark.parametrize("n_states", [63, 65] if INTERPRETED else [63, 64, 65, 255, 257, 4095, 4096, 4097, 9000])
def test_block_and_chunk_boundaries(n_states: int) -> None:
    """A row doubled by splitting every state in two equal halves has the same integrals."""
    rng = np.random.default_rng(n_states)
    a, b = rng.normal(size=n_states), rng.normal(size=n_states)
    assert agree(integrals(a, b), integrals(np.concatenate([a, a]), np.concatenate([b, b])))
