"""Mean field: stationary points by their own equations, both optima of F11, monotone ascent, impossible states."""

from __future__ import annotations

import itertools
import json
import math

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from exact_tables import DIGITS, distribution, kl, marginals, mpf, product

import elbo_exact as ee
from elbo_exact._mean_field import SETTLED, mean_field_sweep
from elbo_exact.errors import LogTableError
from elbo_exact.projection import mean_field

Array = npt.NDArray[np.float64]
INF = math.inf
SPINS = np.array([1.5 * s * t + 0.1 * (s + t) for s in (-1, 1) for t in (-1, 1)])
PAIR = ee.LatentSpace((2, 2))


def spin_mean(factor: Array) -> float:
    """E s of a spin whose value 0 is -1."""
    return float(factor[1] - factor[0])


def test_both_optima_of_two_spins() -> None:
    """F11: 1.5 s t + 0.1 (s + t)."""
    found = mean_field(SPINS, PAIR, restarts=20, rng=0)
    assert abs(ee.log_evidence(SPINS) - 2.2606692066) < 5e-11
    assert len(found.optima) == 2 and found.best is found.optima[0]
    for optimum, elbo, mean in zip(found.optima, (1.7921652055, 1.4501674486), (0.8938551972, -0.8010803756), strict=True):
        assert abs(optimum.elbo - elbo) < 5e-11  # ten decimals are tabulated
        assert all(abs(spin_mean(factor) - mean) < 5e-11 for factor in optimum.factors)
        assert optimum.settled and not optimum.from_start
    assert sum(optimum.count for optimum in found.optima) == 20


def test_a_start_in_the_saddle_stays_and_any_other_leaves_it() -> None:
    with mpmath.workdps(30):
        m = float(mpmath.findroot(lambda m: m - mpmath.tanh(mpf(1.5) * m + mpf("0.1")), -0.2))
    assert abs(m + 0.2059790603) < 5e-11
    factor = np.array([(1.0 - m) / 2.0, (1.0 + m) / 2.0])
    saddle = np.log(np.outer(factor, factor)).ravel()
    assert abs(ee.elbo(SPINS, saddle) - 1.3660070116) < 5e-11
    (left,) = mean_field(SPINS, PAIR, restarts=0, start=saddle + np.array([0.0, 0.0, 0.0, 1e-3])).optima
    assert left.from_start and left.elbo > 1.7921


@pytest.mark.parametrize("seed", range(12))
def test_optima_solve_their_equations_and_report_their_own_elbo(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [(2, 2, 2), (3, 2), (4, 3), (2, 1, 2)][seed % 4]
    a = rng.normal(0.0, 2.0, math.prod(sizes))
    states = list(itertools.product(*map(range, sizes)))
    for optimum in mean_field(a, ee.LatentSpace(sizes), restarts=6, rng=seed).optima:
        assert optimum.settled
        factors = [factor.tolist() for factor in optimum.factors]
        for k, factor in enumerate(factors):
            energy = [0.0] * sizes[k]
            for z, state in enumerate(states):
                energy[state[k]] += a[z] * math.prod(factors[j][v] for j, v in enumerate(state) if j != k)
            weights = [math.exp(x - max(energy)) for x in energy]
            # one sweep changed nothing by more than SETTLED; the loop here and the sweep round some S times each
            slack = 8 * len(factors) * SETTLED * (1.0 + np.ptp(a)) + 40 * len(a) * 2.0**-53
            assert all(abs(x - w / math.fsum(weights)) <= slack for x, w in zip(factor, weights, strict=True))
        with mpmath.workdps(DIGITS):
            q, p = distribution(optimum.log_q), distribution(a)
            assert abs(mpf(optimum.gap) - kl(q, p)) <= optimum.error.gap
            own = marginals(q, states, sizes)  # log_q is the product of the factors
            distance = kl(q, product(own, states))
            assert abs(distance) < 1e-28  # u**2: rounding of logs is no dependence
            for factor, marginal in zip(optimum.factors, own, strict=True):
                assert max(abs(mpf(float(x)) - y) for x, y in zip(factor, marginal, strict=True)) < 1e-14
        assert ee.gap(a, optimum.log_q) == optimum.gap


@pytest.mark.parametrize("seed", range(20))
def test_a_sweep_never_lowers_the_elbo(seed: int) -> None:
    rng = np.random.default_rng([1, seed])
    sizes = (2, 3, 2)
    space, a = ee.LatentSpace(sizes), rng.normal(0.0, 3.0, 12)
    factors = [rng.dirichlet(np.ones(size)) for size in sizes]

    def audited(current: list[Array]) -> ee.Audit:
        table = np.log(np.einsum("i,j,k->ijk", *current)).ravel()
        return ee.audit(a, table, unnormalized=True)

    before = audited(factors)
    for _ in range(15):
        factors = mean_field_sweep(a, space, factors)
        after = audited(factors)
        # the update is rounded: to first order that costs nothing at its maximum; the bounds are those of the two values
        assert after.elbo >= before.elbo - before.error.elbo - after.error.elbo - 2.0**-50 * np.ptp(a)
        before = after


@pytest.mark.parametrize("seed", range(20))
def test_amortization_is_not_negative_when_the_amortized_q_is_a_start(seed: int) -> None:
    rng = np.random.default_rng([2, seed])
    sizes = (2, 2, 2)
    space = ee.LatentSpace(sizes)
    logits = [rng.normal(0.0, 2.0, 2) for _ in sizes]
    shared = ee.log_posterior(np.add.outer(np.add.outer(logits[0], logits[1]), logits[2]).ravel())
    a = rng.normal(0.0, 3.0, 8) if seed % 2 else shared + 10.0 ** rng.uniform(-16.0, -3.0) * rng.normal(size=8)
    found = mean_field(a, space, restarts=2, rng=seed, start=shared)
    assert sum(optimum.from_start for optimum in found.optima) == 1
    result = ee.anatomy.gap_anatomy(a, found.best.log_q, shared)
    assert result.amortization >= 0.0 and not result.best_is_worse


def test_a_start_that_is_no_product_is_only_a_start() -> None:
    found = mean_field(SPINS, PAIR, restarts=0, start=SPINS)  # the posterior: gap 0
    assert found.best.gap > 0.4 and found.best.from_start


def test_independent_variables_have_one_optimum_without_a_gap() -> None:
    rng = np.random.default_rng(3)
    a = np.add.outer(rng.normal(size=3), rng.normal(size=4)).ravel()
    found = mean_field(a, ee.LatentSpace((3, 4)), restarts=5, rng=0)
    assert len(found.optima) == 1 and found.best.gap < 1e-28 and found.best.count == 5


def test_impossible_states_are_avoided() -> None:
    """Exactly one bit is set: every product within the support is a point mass."""
    states = list(itertools.product((0, 1), repeat=3))
    a = np.array([float(s[0]) if sum(s) == 1 else -INF for s in states])
    found = mean_field(a, ee.LatentSpace((2, 2, 2)), restarts=30, rng=0)
    assert sorted(round(optimum.elbo, 12) for optimum in found.optima) == [0.0, 0.0, 1.0]
    blocked = np.array([0.0, 0.0, 0.0, -INF])
    best = mean_field(blocked, PAIR, restarts=10, rng=0).best
    assert abs(best.elbo - math.log(2.0)) <= best.error.elbo + 2.0**-52  # half of the three states
    either = np.array([-INF, 0.0, 0.0, -INF])  # exactly one of two bits
    hopeless = mean_field(either, PAIR, restarts=0, start=np.log([0.25] * 4)).best
    assert hopeless.elbo == -INF  # no single factor can leave


def test_the_same_generator_gives_the_same_optima_and_they_print() -> None:
    first, second = (mean_field(SPINS, PAIR, restarts=4, rng=9) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    json.dumps(first.to_dict())
    assert len({len(line) for line in str(first).splitlines()}) == 1
    assert not mean_field(SPINS, PAIR, restarts=1, rng=0, max_sweeps=1).best.settled


def test_refusals() -> None:
    with pytest.raises(ValueError, match="restarts must be at least 1 without a start"):
        mean_field(SPINS, PAIR, restarts=0)
    with pytest.raises(LogTableError, match="log_joint must have shape"):
        mean_field(np.zeros((2, 4)), PAIR)
    with pytest.raises(LogTableError, match="start must have shape"):
        mean_field(SPINS, PAIR, start=np.zeros(3))
    with pytest.raises(ee.ZeroEvidence):
        mean_field(np.full(4, -INF), PAIR)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ([np.nan, 0.0], "start contains NaN"),
        ([np.inf, 0.0], r"start contains \+inf"),
        ([-np.inf, -np.inf], "start has no support"),
    ],
)
def test_a_bad_start_is_named(start: list[float], words: str) -> None:
    with pytest.raises(LogTableError, match=words):
        mean_field(np.zeros(2), ee.LatentSpace((2,)), start=start)


def test_a_space_of_another_kind_is_named() -> None:
    with pytest.raises(TypeError, match=r"space must be a LatentSpace; got \(2, 2\)"):
        mean_field(np.zeros(4), (2, 2))  # type: ignore[arg-type]


def test_a_state_beyond_the_range_counts_as_impossible() -> None:
    found = mean_field([1e308, -1e308], ee.LatentSpace((2,)), rng=0, restarts=1)
    np.testing.assert_array_equal(found.best.factors[0], [1.0, 0.0])
