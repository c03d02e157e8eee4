"""Public bounds: oracles, the table of edge cases row by row, and the counterexamples to orders that do not hold."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import bound_oracle as oracle
import mpmath
import numpy as np
import pytest
from table_families import FAMILIES

import elbo_exact as ee
from elbo_exact import bounds
from elbo_exact._bound_results import Options, elbo_results, perturbative_results, renyi_bound_results, tvo_results
from elbo_exact._validate import temperatures

INF = math.inf
OWN = mpmath.mpf(10) ** -45
ORDERS = (-3.0, -0.5, -1e-3, 1e-8, 0.3, 0.5, 1.5, 2.0, 30.0)
ZERO = ([-1.0, -2.0, -INF], np.log([0.3, 0.3, 0.4]))  # q0 = 0.4
MISS = (np.log([0.1, 0.2, 0.3]), [math.log(0.5), math.log(0.5), -INF])  # miss = 1/2
BOTH = ([-1.0, -INF, -1.0], [math.log(0.5), math.log(0.5), -INF])  # q0 = miss = 1/2
MISSED, WASTED = math.log(0.5), math.log(0.6)


def pair(q: list[float], p: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """(log_joint, log_q) with log p(x) = 0."""
    return np.log(p), np.log(q)


@pytest.mark.parametrize("seed", range(30))
def test_renyi_and_cubo_lie_within_their_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 5, 40]))
    a = rng.normal(0.0, 3.0, n) + rng.choice([0.0, -50.0, 1e9])
    b = rng.normal(0.0, 2.0, n) if seed % 3 else a + 1e-5 * rng.normal(size=n)
    with mpmath.workdps(oracle.DIGITS):
        exact = oracle.log_evidence(a)
        for alpha in ORDERS:
            result = renyi_bound_results(a, b, alpha, Options(True))
            value = oracle.renyi(a, b, alpha)
            sign = 1 if alpha >= 0 else -1
            assert result.side == ("lower" if alpha >= 0 else "upper")
            assert abs(mpmath.mpf(float(result.gap[0])) - sign * (exact - value)) <= result.gap_error[0] + OWN
            assert abs(mpmath.mpf(float(result.value[0])) - value) <= result.value_error[0] + OWN
        for n_chi in (1.25, 2.0, 7.5):
            got = mpmath.mpf(float(bounds.cubo(a, b, n_chi, unnormalized=True)))
            assert abs(got - oracle.cubo(a, b, n_chi)) <= 1e-12 * (1 + abs(got))


@pytest.mark.parametrize("alpha", [0.5, -0.5, 1.5, -1.0, 2.0])
def test_orders_without_another_exp_lie_within_their_bounds(alpha: float) -> None:
    """At full and broken blocks, nearly tight to hundreds of nats apart, on both sides of the weights at which they give up."""
    rng = np.random.default_rng(5)
    for n_states in (2, 65):
        for scale, distance in ((2.0, 1.0), (2.0, 1e-3), (2.0, 1e-9), (60.0, 1.0), (60.0, 60.0), (110.0, 1e-6)):
            a = rng.normal(0.0, scale, n_states) + rng.choice([0.0, 1e3])
            b = a + rng.normal(0.0, distance, n_states)
            sign = 1 if alpha > 0.0 else -1
            result = renyi_bound_results(a, b, alpha, Options(True))
            with mpmath.workdps(oracle.DIGITS):
                exact, value = oracle.log_evidence(a), oracle.renyi(a, b, alpha)
                assert abs(mpmath.mpf(float(result.gap[0])) - sign * (exact - value)) <= result.gap_error[0] + OWN
                assert abs(mpmath.mpf(float(result.value[0])) - value) <= result.value_error[0] + OWN
            assert sign * (ee.log_evidence(a) - result.value[0]) >= 0.0


def test_renyi_limits_are_the_elbo_the_evidence_and_the_extreme_weights() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 20))
    b -= np.log(np.exp(b).sum())
    assert bounds.renyi(a, b, 1.0) == ee.elbo(a, b)
    assert bounds.renyi(a, b, 0.0) == ee.log_evidence(a)
    assert abs(bounds.renyi(a, b, INF) - (a - b).min()) < 1e-14
    assert abs(bounds.renyi(a, b, -INF) - (a - b).max()) < 1e-14
    assert bounds.elbo is ee.elbo and bounds.eubo is ee.eubo


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_bounds_are_on_their_side_of_the_evidence(name: str) -> None:
    rng = np.random.default_rng(sorted(FAMILIES).index(name))
    for _ in range(3):
        a, b = FAMILIES[name](rng)
        exact = ee.log_evidence(a)
        options = Options(True)
        found = [renyi_bound_results(a, b, alpha, options) for alpha in (-INF, -2.0, 0.0, 0.5, 1.0, 3.0, INF)]
        found += [tvo_results(a, b, temperatures(3), side, False, options) for side in ("lower", "upper")]
        found += [perturbative_results(a, b, 3, options)]
        for result in found:
            assert not np.isnan(result.value).any()
            assert (result.gap >= 0.0).all() and (result.gap_error >= 0.0).all()
            assert (result.value <= exact).all() if result.side == "lower" else (result.value >= exact).all()


def test_zero_weight() -> None:
    a, b = ZERO
    exact = ee.log_evidence(a)
    for value in (
        bounds.elbo(a, b),
        bounds.perturbative(a, b, 3),
        bounds.tvo(a, b, 4),
        bounds.renyi(a, b, 1.5),
        bounds.renyi(a, b, 1.0),
    ):
        assert value == -INF
    for alpha in (0.9, 0.5, 0.0):
        assert -INF < bounds.renyi(a, b, alpha) <= exact
    for value in (bounds.eubo(a, b), bounds.tvo(a, b, 4, "upper"), bounds.cubo(a, b, 2), bounds.renyi(a, b, -1.0)):
        assert exact <= value < INF
    assert abs(bounds.tvo(a, b, 1, "upper") - bounds.eubo(a, b)) < 1e-14
    restricted = [bounds.tvo(a, b, 4, side, restricted=True) for side in ("lower", "upper")]
    assert -INF < restricted[0] <= exact <= restricted[1] < bounds.tvo(a, b, 4, "upper")
    with mpmath.workdps(30):
        direct = oracle.tvo(a, b, temperatures(4), "lower") + mpmath.log(mpmath.mpf("0.6"))
    assert abs(restricted[0] - float(direct)) < 1e-14


def test_missed_mass() -> None:
    a, b = MISS
    below = ee.log_evidence(a) + MISSED
    for value in (bounds.elbo(a, b), bounds.perturbative(a, b, 3), bounds.tvo(a, b, 4), bounds.renyi(a, b, 0.5)):
        assert -INF < value <= below + 1e-15
    assert abs(bounds.renyi(a, b, 0.0) - below) < 1e-15
    for value in (bounds.eubo(a, b), bounds.tvo(a, b, 4, "upper"), bounds.cubo(a, b), bounds.renyi(a, b, -1.0)):
        assert value == INF
    assert bounds.cubo(np.log([0.5, 0.5]), [0.0, -INF]) == INF


def test_zero_weight_and_missed_mass_together() -> None:
    a, b = BOTH
    assert bounds.elbo(a, b) == bounds.perturbative(a, b) == bounds.tvo(a, b, 3) == -INF
    assert bounds.eubo(a, b) == bounds.tvo(a, b, 3, "upper") == bounds.cubo(a, b) == INF
    assert abs(bounds.tvo(a, b, 3, restricted=True) - (ee.log_evidence(a) + MISSED)) < 1e-15
    for rung in bounds.ladder(a, b).rungs:
        assert rung.error == 0.0 or np.isfinite(rung.value), rung.label  # an infinity is exact here


@pytest.mark.parametrize("compute", [bounds.perturbative, partial(bounds.tvo, betas=4), partial(bounds.renyi, alpha=0.5)])
def test_a_row_has_its_bits_whatever_its_neighbors_are(compute: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 5))
    b -= np.log(np.exp(b).sum(axis=1, keepdims=True))
    a[1, 2], a[2, 0] = -INF, -INF
    b[2], b[3] = np.log([0.5, 0.5, 0.0 + 1e-320, 1e-320, 1e-320]), np.array([0.0, -INF, -INF, -INF, -INF])
    together = compute(a, b)
    assert together.tolist() == [compute(x, y) for x, y in zip(a, b, strict=True)]
    assert together[:1].tolist() == compute(a[:1], b[:1]).tolist()


def test_the_thermodynamic_integral_counts_wasted_and_missed_mass() -> None:
    nodes, node_weights = np.polynomial.legendre.leggauss(40)
    betas = (nodes + 1.0) / 2.0
    for (a, b), offset in ((ZERO, -WASTED), (MISS, MISSED)):
        path = bounds.thermodynamic(a, b, betas)
        assert abs(path.integrand @ node_weights / 2.0 - (ee.log_evidence(a) + offset)) < 1e-13
    at_zero = bounds.thermodynamic(*ZERO, [0.0, 0.5])
    assert at_zero.integrand[0] == -INF and np.isnan(at_zero.variance[0]) and at_zero.variance[1] > 0.0


def test_an_impossible_observation() -> None:
    a, b = [-INF, -INF], np.log([0.5, 0.5])
    for value in (
        bounds.renyi(a, b, 0.5),
        bounds.renyi(a, b, 2.0),
        bounds.tvo(a, b, 3),
        bounds.perturbative(a, b),
        bounds.cubo(a, b),
    ):
        assert value == -INF
    assert np.isnan(bounds.tvo(a, b, 3, "upper"))


def test_f1_cubo_against_eubo() -> None:
    for q, p, eubo, cubo in (
        ([0.3, 0.7], [0.98, 0.02], 1.0889877338, 0.5818729354),
        ([0.99, 0.01], [0.9, 0.1], 0.1444793475, 0.2989185004),
    ):
        a, b = pair(q, p)
        assert (round(float(bounds.eubo(a, b)), 10), round(float(bounds.cubo(a, b)), 10)) == (eubo, cubo)


def test_f2_f3_perturbative_orders() -> None:
    a, b = pair([0.02, 0.98], [1e-12, 1 - 1e-12])
    assert round(float(bounds.perturbative(a, b, 3)), 10) == -1.9921505484
    assert round(float(bounds.elbo(a, b)), 10) == -0.4545813090
    a, b = pair([0.02, 0.98], [1e-20, 1 - 1e-20])
    assert [round(float(bounds.perturbative(a, b, k)), 10) for k in (5, 3)] == [-5.5256127179, -4.9291944988]


def test_f4_jackknife_is_no_bound() -> None:
    a, b = pair([0.3, 0.7], [0.1, 0.9])
    assert round(float(bounds.jackknife(a, b, 2, 1)), 10) == 0.0247018759
    assert bounds.jackknife(a, b, 3, 0) == bounds.iwae(a, b, 3) == bounds.sumo(a, b, 2)
    assert bounds.jackknife(*ZERO, 3) == bounds.sumo(*ZERO, 2) == -INF


def test_f5_f6_f7_k_sample_bounds_against_others() -> None:
    near, far = pair([0.05, 0.95], [0.1, 0.9]), pair([0.05, 0.95], [0.8, 0.2])
    for (a, b), renyi, five in ((near, -0.00927592, -0.00472800), (far, -0.90545971, -0.91552396)):
        assert (round(float(bounds.renyi(a, b, 0.5)), 8), round(float(bounds.iwae(a, b, 5)), 8)) == (renyi, five)
    for (a, b), tvo, five in (
        (near, -0.00365698, -0.00472800),
        (pair([0.1, 0.9], [0.05, 0.95]), -0.00381516, -0.00298037),
    ):
        assert (round(float(bounds.tvo(a, b, 5)), 8), round(float(bounds.iwae(a, b, 5)), 8)) == (tvo, five)
    for (a, b), two, cubo in ((near, 0.01152544, 0.02564665), (far, 1.42609156, 1.27636462)):
        assert (round(float(bounds.iwae_upper(a, b, 2)), 8), round(float(bounds.cubo(a, b)), 8)) == (two, cubo)


def test_f8_more_steps_need_not_be_tighter() -> None:
    c = 1.0 / (1.0 + math.exp(18.0))
    b = np.array([math.log1p(-c), -18.0 - math.log1p(math.exp(-18.0))])
    a = b + np.array([0.0, 40.0])
    assert abs(ee.log_evidence(a) - 21.9999999850) < 5e-10
    assert [round(float(bounds.tvo(a, b, steps)), 10) for steps in (2, 3)] == [17.6159418642, 13.4552502930]


def test_f9_thermodynamic_side() -> None:
    b = np.log([0.75, 0.25])
    a = b + np.array([0.0, math.log(9.0)])
    assert round(float(bounds.tvo(a, b, [0.0, 0.5, 1.0])), 10) == 0.8239592165


def test_f9_annealing_can_beat_the_thermodynamic_bound() -> None:
    b = np.log([0.75, 0.25])
    a = b + np.array([0.0, math.log(9.0)])
    assert abs(bounds.ais(a, b, [0.0, 0.5, 1.0], [np.array([[0.0, 1.0], [1.0, 0.0]])]) - math.log(3.0)) < 1e-14


def test_f13_f14_directions_and_restricted_fits() -> None:
    p, q = np.log([0.5, 0.5]), np.log([0.9, 0.1])
    assert {round(float(ee.reverse_kl(p, q)), 10), round(float(ee.forward_kl(p, q)), 10)} == {0.5108256238, 0.3680642072}
    q = [0.0, -INF]
    before, after = np.log([0.2, 0.6]), np.log([0.3, 0.1])
    assert bounds.elbo(before, q) < bounds.elbo(after, q) and ee.log_evidence(before) > ee.log_evidence(after)


def test_errors_say_what_to_do() -> None:
    a, b = MISS[0], np.log([0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match=r"alpha must be one real number or an infinity; got nan\."):
        bounds.renyi(a, b, math.nan)
    with pytest.raises(ValueError, match=r"n must be one real number above 1; got 1\."):
        bounds.cubo(a, b, 1)
    with pytest.raises(ValueError, match=r"order must be odd, because even Taylor polynomials .*; got 4\."):
        bounds.perturbative(a, b, 4)
    with pytest.raises(ValueError, match="betas must rise strictly from 0 to 1"):
        bounds.tvo(a, b, [0.0, 0.5, 0.5, 1.0])
    with pytest.raises(ValueError, match="side must be one of 'lower', 'upper'"):
        bounds.tvo(a, b, 3, "left")
    with pytest.raises(ValueError, match="betas must be one axis of points between 0 and 1"):
        bounds.thermodynamic(a, b, [1.5])
    for call in (bounds.renyi, bounds.cubo, bounds.tvo):
        with pytest.raises(ee.LogTableError, match=r"log_q sums to 2\.01"):
            call(a, b + 0.7, 2)
        with pytest.raises(ee.LogTableError, match="log_joint contains NaN"):
            call([math.nan, 0.0, 0.0], b, 2)


def test_batches_broadcast_and_nan_stays_in_its_row() -> None:
    a = np.random.default_rng(5).normal(size=(4, 6))
    q = np.full(6, -math.log(6.0))
    for call in (lambda x: bounds.renyi(x, q, 0.5), lambda x: bounds.tvo(x, q, 3), lambda x: bounds.perturbative(x, q, 5)):
        assert (call(a) == [call(row) for row in a]).all()
    a[1, 2] = math.nan
    values = bounds.renyi(a, q, 0.5, nan_policy="propagate")
    assert np.isnan(values[1]) and np.isfinite(values[[0, 2, 3]]).all()
    assert np.isnan(bounds.tvo(a, q, 3, nan_policy="propagate")[1])


def test_the_catalogue_names_functions_and_sides() -> None:
    for entry in bounds.catalogue():
        assert callable(getattr(bounds, entry.name))
        assert entry.side in ("lower", "upper", "both", "exact", "estimate")
        assert entry.formula and entry.tight and entry.cost and entry.citation and entry.zero_weight
    upper = {entry.name for entry in bounds.CATALOGUE if entry.needs_support}
    assert upper == {"eubo", "renyi", "cubo", "tvo", "iwae_upper", "ais"}
    assert elbo_results(*MISS, Options()).side == "lower"


@pytest.mark.parametrize("name", ["renyi", "cubo", "tvo", "perturbative", "iwae", "jackknife"])
def test_a_row_does_not_know_its_neighbors(name: str) -> None:
    """Same bits alone, in a batch, and beside a row of NaN and an impossible one."""
    rng = np.random.default_rng(3)
    a = rng.normal(0.0, 3.0, (20, 7))
    b = a + rng.normal(0.0, 1.0, a.shape)
    b -= ee.log_evidence(b)[:, None]
    if name != "jackknife":  # which raises
        a[5], a[9] = np.nan, -np.inf
    calls = {
        "renyi": lambda x, y: bounds.renyi(x, y, 0.5, nan_policy="propagate"),
        "cubo": lambda x, y: bounds.cubo(x, y, 2.0, nan_policy="propagate"),
        "tvo": lambda x, y: bounds.tvo(x, y, 7, "upper", nan_policy="propagate"),
        "perturbative": lambda x, y: bounds.perturbative(x, y, 3, nan_policy="propagate"),
        "iwae": lambda x, y: bounds.iwae(x, y, 5, nan_policy="propagate"),
        "jackknife": lambda x, y: bounds.jackknife(x, y, 9, 3),
    }
    together = calls[name](a, b)
    for i in set(range(20)) - {5, 9}:
        assert together[i] == calls[name](a[i], b[i])
