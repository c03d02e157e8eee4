"""K-sample bounds, resampling and gradients: against enumeration, published digits, theorems, and every corner."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mpmath as mp
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from importance_oracle import Moments, deep_multisets, multisets, tuples
from table_strategies import Array, tables
from table_strategies import relation as compiled_relation

import elbo_exact as ee

INF, U = math.inf, 2.0**-53
FIELDS = ("lower_gap", "upper_gap", "variance", "mean_inverse_ess")
ESTIMATORS = ("self_normalized", "doubly_reparameterized", "score")
INTERPRETED = bool(numba.config.DISABLE_JIT)
relation = settings(compiled_relation, max_examples=2) if INTERPRETED else compiled_relation
compiled = pytest.mark.skipif(INTERPRETED, reason="minutes of plain Python")
RELATIVE = 1e-12  # what the library promises for gaps and variances of ordinary tables
curve, law_of, moments_of = ee.importance.curve, ee.importance.resampling_law, ee.importance.gradient_moments


def normalized(row: Array) -> Array:
    return row - ee.log_evidence(row)


def random_pair(rng: np.random.Generator, n_states: int, scale: float, zeros: str = "") -> tuple[Array, Array]:
    """A target at ``scale`` nats from q; zeros: states that only q has ("zero"), only the target has ("missed"), or both."""
    b = rng.normal(0.0, rng.choice([0.3, 2.0]), n_states)
    a = b + scale * rng.normal(size=n_states) + rng.choice([0.0, -40.0, 1e3])
    if zeros in ("zero", "both"):
        a[0] = -INF
    if zeros in ("missed", "both"):
        b[-1] = -INF
    return a, b - np.logaddexp.reduce(b)


def assert_moments(result: Any, k: int, exact: Moments, relative: float = RELATIVE) -> None:
    """Every field within its returned error, and within the promise."""
    for name, reference in zip(FIELDS, exact, strict=True):
        value, bound = float(getattr(result, name)[k]), float(getattr(result.error, name)[k])
        if mp.isnan(reference):
            assert math.isnan(value), name
        elif mp.isinf(reference):
            assert value == INF and bound == 0.0, name
        else:
            error = abs(mp.mpf(value) - reference)
            assert error <= bound, (name, value, bound, reference)
            assert error <= relative * abs(reference), (name, value, reference)


@pytest.mark.parametrize(("n_states", "largest"), [(1, 8), (2, 8), (3, 8), (5, 5), (8, 4)])
@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 5.0])
def test_curve_is_the_enumeration_of_multisets(n_states: int, largest: int, scale: float) -> None:
    a, b = random_pair(np.random.default_rng([n_states, largest, int(1e8 * scale)]), n_states, scale)
    counts = sorted({1, 2, 3, largest})
    result = curve(a, b, counts)
    for k, count in enumerate(counts):
        assert_moments(result, k, multisets(a, b, count))


@compiled
def test_curve_is_the_enumeration_at_eight_states_and_eight_samples() -> None:
    a, b = random_pair(np.random.default_rng(8), 8, 1.0)
    assert_moments(curve(a, b, [8]), 0, multisets(a, b, 8))


@pytest.mark.parametrize("zeros", ["zero", "missed", "both"])
@pytest.mark.parametrize("n_states", [3, 5])
def test_curve_is_the_enumeration_with_zeros(n_states: int, zeros: str) -> None:
    a, b = random_pair(np.random.default_rng(n_states), n_states, 1.5, zeros)
    result = curve(a, b, [1, 2, 4])
    for k, count in enumerate((1, 2, 4)):
        assert_moments(result, k, multisets(a, b, count))


@pytest.mark.parametrize("spread", [30.0, 100.0, 300.0])
def test_curve_of_weights_that_range_over_hundreds_of_nats(spread: float) -> None:
    rng = np.random.default_rng(int(spread))
    b = normalized(rng.normal(size=4))
    a = b + spread * rng.permutation(np.linspace(-0.5, 0.5, 4))
    result = curve(a, b, [1, 2, 5])
    for k, count in enumerate((1, 2, 5)):
        assert_moments(result, k, multisets(a, b, count), relative=1e-10)


@pytest.mark.parametrize("size", [1e-8, 1e-10, 1e-12])
def test_gaps_far_below_one_rounding_keep_their_digits(size: float) -> None:
    rng = np.random.default_rng(3)
    a = normalized(rng.normal(size=4))
    b = a + size * rng.normal(size=4)
    result, exact = curve(a, b, [1, 3], unnormalized=True), [multisets(a, b, count) for count in (1, 3)]
    assert exact[0].gap < 1e-15
    for k in range(2):
        assert_moments(result, k, exact[k])


def test_closed_form_of_two_states() -> None:
    """q = (.3, .7), p = (.1, .9): four terms by hand."""
    one, three, far, mid = math.log(9 / 7), math.log(1 / 3), math.log(17 / 21), math.log(9 / 7)
    bounds = curve(np.log([0.1, 0.9]), np.log([0.3, 0.7]), [1, 2])
    np.testing.assert_allclose(bounds.lower, [0.3 * three + 0.7 * one, 0.09 * three + 0.42 * far + 0.49 * mid], rtol=8e-15)


@compiled
def test_one_sample_is_the_elbo_and_the_eubo() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 40)), normalized(rng.normal(size=40))
    bounds, audit = curve(a, b, 1), ee.audit(a, b)
    for mine, theirs in (("lower_gap", "gap"), ("upper_gap", "forward_kl"), ("lower", "elbo"), ("upper", "eubo")):
        np.testing.assert_allclose(getattr(bounds, mine), getattr(audit, theirs), rtol=1e-13)


@compiled
@pytest.mark.parametrize("scale", [100.0, 300.0, 600.0, 2000.0])
def test_log_ratios_of_thousands_of_nats_stay_within_their_bounds(scale: float) -> None:
    """Several stretches of nothing between the weights, and more of them than are resolved: then the bound says so."""
    rng = np.random.default_rng(int(scale))
    for n_states in (2, 3, 6, 12):
        for _ in range(25):
            log_joint, log_q = rng.normal(size=(2, n_states)) * scale
            log_q -= ee.log_evidence(log_q)
            found, audited = ee.importance.curve(log_joint, log_q, [1, 2, 1000]), ee.audit(log_joint, log_q)
            assert abs(found.lower[0] - audited.elbo) <= found.error.lower[0] + audited.error.elbo
            assert (np.diff(found.lower) >= -(found.error.lower[1:] + found.error.lower[:-1])).all()


@compiled
def test_states_in_steps_of_hundreds_of_nats_are_seen_to_the_last() -> None:
    """Eight states 250 nats apart, and forty of every distance: no sum over K samples ends at exp(-600)."""
    q = np.full(8, -np.log(8.0))
    steps = q - 250.0 * np.arange(8)
    for k in (1, 2, 3):
        found, exact = ee.importance.curve(steps, q, k), deep_multisets(steps, q, k)
        for name in ("gap", "upper_gap", "variance", "mean_inverse_ess"):
            field = {"gap": "lower_gap"}.get(name, name)
            off, error = abs(getattr(found, field) - getattr(exact, name)), getattr(found.error, field)
            assert off <= error <= 1e-11 * max(1.0, abs(getattr(exact, name)))
    rng = np.random.default_rng(2)
    a, b = 130.0 * rng.normal(size=40), rng.normal(size=40)
    found = ee.importance.curve(a, b, 2, unnormalized=True)
    exact = deep_multisets(a.tolist(), b.tolist(), 2)
    assert abs(found.lower_gap - exact.gap) <= found.error.lower_gap <= 1e-12 * found.lower_gap


@compiled
@pytest.mark.parametrize(
    ("a", "b", "k"),
    [
        ([0.0, 10.0], np.log([1.0 - 1e-6, 1e-6]), 1),
        ([-700.0, 0.0], np.log([1.0 - 1e-12, 1e-12]), 30),
        ([-68.5, -42.7, 249.0], [-104.2, 0.0, -85.6], 2),
        ([-1.0, -2.0, 30.0], np.log([0.5, 0.5 - 1e-9, 1e-9]), 4),
        ([-642.0, 0.0], [0.0, -600.0], 3),
    ],
)
def test_a_variance_that_is_small_beside_the_gap_keeps_its_digits(a: list[float], b: list[float], k: int) -> None:
    found, exact = ee.importance.curve(a, b, k, unnormalized=True), deep_multisets(a, list(b), k)
    assert abs(found.variance - exact.variance) <= found.error.variance <= 1e-11 * exact.variance


@compiled
def test_the_law_of_a_state_that_was_raised_is_within_its_bound() -> None:
    low, k = mp.mpf(2) ** -1000, 1000
    found = ee.importance.resampling_law([0.0, -1000.0], np.log([0.5, 0.5]), k)
    # the low state is resampled where all samples are low; otherwise its share is below k exp(-1000)
    assert abs(found.law[1] - low) <= found.error.law[1] <= 1e-38
    with mp.workdps(60):
        q = mp.e**-60
        exact = sum(  # c of three samples are low, and one is taken with its share of the weight
            mp.binomial(3, c) * q**c * (1 - q) ** (3 - c) * (c * mp.e**-940 / (c * mp.e**-940 + (3 - c))) for c in (1, 2, 3)
        )
    found = ee.importance.resampling_law([0.0, -1000.0], [np.log1p(-np.exp(-60.0)), -60.0], 3)
    assert abs(found.law[1] - exact) <= found.error.law[1]


@compiled
def test_gaps_approach_chi_square_over_twice_the_samples() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(10, 30)), normalized(rng.normal(size=30))
    bounds, chi2 = curve(a, b, 10**6), ee.chi2_divergence(a, b)
    for gap in (bounds.lower_gap, bounds.upper_gap, bounds.variance / 2.0):
        np.testing.assert_allclose(gap * 2e6 / chi2, 1.0, rtol=1e-4)
    np.testing.assert_allclose(bounds.ess_fraction, 1.0 / (1.0 + chi2), rtol=1e-15)
    last = curve(a, b, [2**30, 10**12])
    np.testing.assert_allclose(last.lower_gap[:, 1] * 2e12 / chi2, 1.0, rtol=1e-9)
    np.testing.assert_allclose(last.mean_inverse_ess[:, 1] * 1e12 * bounds.ess_fraction, 1.0, rtol=1e-9)


ASIA = {2: (-5.636602772009, -5.230079790685), 5: (-5.479000460416, -5.338341375387), 10: (-5.437096423449, -5.371884658243),
        100: (-5.40645286701, -5.40031064206), 10000: (-5.40340290174, -5.40334184675)}  # fmt: skip


def test_asia() -> None:
    problem = ee.gallery.load("asia")
    bounds = curve(problem.log_joint[0], problem.log_prior[0], list(ASIA))
    for k, (lower, upper) in enumerate(ASIA.values()):
        digits = 5.1e-13 if k < 3 else 5.1e-12
        assert abs(bounds.lower[k] - lower) <= digits and abs(bounds.upper[k] - upper) <= digits


class Toy:
    """Rainforth et al. (2018): a Gaussian model of one dimension, on 721 points."""

    eps = np.linspace(-9.0, 9.0, 721)
    log_q = normalized(-(eps**2) / 2.0)
    x, mu, middle = 2.3, 0.3, 0.97
    z = middle + math.sqrt(2.0 / 3.0) * eps
    log_joint = -math.log(2.0 * math.pi) - (z - mu) ** 2 / 2.0 - (x - z) ** 2 / 2.0 + math.log(0.025 * math.sqrt(2.0 / 3.0))
    theta = z - mu
    pathwise = -(z - mu) + (x - z)
    without_score = pathwise + (z - middle) / (2.0 / 3.0)


# K: L_K, U_K, sd of log mean w, SNR of theta, pathwise, STL, DReG
TOY = {10: (-2.274682157325, -2.256546901799, 0.1369726592, 4.1890817, 0.10417072, 4.3544906, 3.4050207),
       100: (-2.266400091887, -2.264626093151, 0.0421879544, 13.843131, 0.032463757, 13.769302, 10.815065),
       1000: (-2.265600642682, -2.265423623564, 0.0133070266, 43.962127, 0.010251422, 43.542907, 34.220509),
       10000: (-2.265520972640, -2.265503274522, 0.0042069818, 139.07929, 0.0032413269, 137.69495, 108.22126)}  # fmt: skip
TOY_DIGITS = (12, 12, 10, 8, 8, 8, 8)  # significant or decimal, see assert_digits


def assert_digits(value: float, printed: float, significant: int) -> None:
    """``printed`` is ``value`` rounded to its significant digits, half a unit and a little for the printing."""
    unit = 10.0 ** (math.floor(math.log10(abs(printed))) + 1 - significant)
    assert abs(value - printed) <= 0.5001 * unit, (value, printed)


@compiled
def test_tighter_is_not_better_table() -> None:
    counts, t = list(TOY), Toy
    bounds = curve(t.log_joint, t.log_q, counts)
    columns = [bounds.lower, bounds.upper, np.sqrt(bounds.variance)]
    for g, estimator in (
        (t.theta, "self_normalized"),
        (t.pathwise, "self_normalized"),
        (t.without_score, "self_normalized"),
        (t.without_score, "doubly_reparameterized"),
    ):
        columns.append(moments_of(t.log_joint, t.log_q, g, counts, estimator=estimator).snr)
    for k, printed in enumerate(TOY.values()):
        for column, number in zip(columns, printed, strict=True):
            text = f"{number!r}"
            assert_digits(float(column[k]), number, max(len(text.strip("-0.").replace(".", "")), 8))
    assert abs(bounds.log_evidence - -2.265512123484645) <= 2e-15
    assert_digits(float(curve(t.log_joint, t.log_q, 10**6).lower_gap), 8.848851521e-8, 10)


@compiled
def test_tighter_is_not_better_means() -> None:
    t = Toy
    pathwise = moments_of(t.log_joint, t.log_q, t.pathwise, 1000)
    doubly = moments_of(t.log_joint, t.log_q, t.without_score, 1000, estimator="doubly_reparameterized")
    stl = moments_of(t.log_joint, t.log_q, t.without_score, 1000)
    assert_digits(float(pathwise.mean), 4.662664446e-4, 10)
    assert abs(doubly.mean - pathwise.mean) <= 1e-12  # equal in the continuum; the grid ends at 9 sd
    assert_digits(float(stl.mean), 0.4951165666, 10)


def slope(snr: Array) -> float:
    return float(np.log10(snr[1] / snr[0]))


@compiled
def test_slopes_of_the_signal_to_noise_ratio() -> None:
    t, counts = Toy, [10**4, 10**5]
    found = [
        slope(moments_of(t.log_joint, t.log_q, t.theta, counts).snr),
        slope(moments_of(t.log_joint, t.log_q, t.pathwise, counts).snr),
        slope(moments_of(t.log_joint, t.log_q, t.without_score, counts, estimator="doubly_reparameterized").snr),
    ]
    np.testing.assert_allclose(found, [0.5, -0.5, 0.5], atol=1e-3)


@compiled
def test_slopes_of_the_naive_score() -> None:
    """-3/2, and -1 with the constant baseline log p(x), which is the target shifted to log p(x) = 0."""
    rng = np.random.default_rng(0)
    b = normalized(rng.normal(size=64))
    a, g = b + rng.normal(size=64) - 0.7, rng.normal(size=64)
    for target, expected in ((a, -1.5), (normalized(a), -1.0)):
        assert abs(slope(moments_of(target, b, g, [10**4, 10**5], estimator="score").snr) - expected) < 1e-3


@pytest.mark.parametrize("zeros", ["", "zero", "missed", "both"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 6.0])
def test_gradients_and_the_law_are_the_enumeration_of_tuples(zeros: str, scale: float) -> None:
    rng = np.random.default_rng([len(zeros), int(1e3 * scale)])
    a, b = random_pair(rng, 4, scale, zeros)
    a -= np.round(a.max())
    g = rng.normal(size=4) + 2.0
    law = law_of(a, b, [1, 2, 4])
    for k, count in enumerate((1, 2, 4)):
        exact = tuples(a, b, g, count)
        assert abs(law.all_zero[k] - exact.all_zero) <= law.error.all_zero[k]
        for value, bound, reference in zip(law.law[k], law.error.law[k], exact.law, strict=True):
            assert abs(mp.mpf(float(value)) - reference) <= min(float(bound), 2e-14 * float(reference))
        for estimator, pair in zip(ESTIMATORS, exact[:3], strict=True):
            result = moments_of(a, b, g, count, estimator=estimator)
            if estimator == "score" and zeros in ("zero", "both"):
                assert math.isnan(result.mean) and math.isnan(result.snr)
                continue
            for name, reference in zip(("mean", "variance"), pair, strict=True):
                error = abs(mp.mpf(float(getattr(result, name))) - reference)
                assert error <= getattr(result.error, name), (estimator, name, count)
                assert error <= 1e-12 * abs(reference) + 1e-15, (estimator, name, count)
            if pair[1] > 1e-12:
                assert abs(result.snr - abs(pair[0]) / mp.sqrt(pair[1])) <= result.error.snr


def test_the_mean_score_is_the_derivative_of_the_bound() -> None:
    """Along q(t) prop. to q exp(t h), by central differences of the exact curve."""
    rng = np.random.default_rng(5)
    a, b, h, step = rng.normal(size=6), rng.normal(size=6), rng.normal(size=6), 1e-5
    for count in (1, 3, 50):
        up, down = (float(curve(a, normalized(b + sign * step * h), count).lower_gap) for sign in (1.0, -1.0))
        mean = float(moments_of(a, normalized(b), h, count, estimator="score").mean)
        assert abs(mean + (up - down) / (2.0 * step)) < 1e-8  # step**2 times third derivatives below 10


def test_equal_distributions_have_no_gap_and_the_plain_noise() -> None:
    b = normalized(np.array([0.5, 1.25, -3.0]))
    for a, q in ((b + 2.0**-3, b), (np.array([-7.0]), np.array([0.0]))):
        bounds = curve(a, q, [1, 7, 10**9], unnormalized=True)
        for name in ("lower_gap", "upper_gap", "variance"):
            np.testing.assert_array_equal(getattr(bounds, name), 0.0)
        np.testing.assert_array_equal(bounds.mean_inverse_ess, [1.0, 1 / 7, 1e-9])
        np.testing.assert_array_equal(bounds.lower, bounds.log_evidence)


def test_missed_mass_is_a_constant_share_of_the_gap() -> None:
    a, b = np.log([0.25, 0.25, 0.5]), np.array([math.log(0.5), math.log(0.5), -INF])
    bounds = curve(a, b, [1, 5, 10**9])
    np.testing.assert_allclose(bounds.lower_gap, math.log(2.0), rtol=4 * U)
    assert (bounds.upper == INF).all() and (bounds.error.upper == 0.0).all() and bounds.ess_fraction == 0.0
    assert (law_of(a, b, 5).law[2] == 0.0).all()


def test_no_common_state() -> None:
    bounds, law = curve([-INF, -2.0], [0.0, -INF], [1, 9]), law_of([-INF, -2.0], [0.0, -INF], 9)
    assert (bounds.lower == -INF).all() and (bounds.upper == INF).all() and np.isnan(bounds.variance).all()
    assert law.all_zero == 1.0 and (law.law == 0.0).all()
    assert moments_of([-INF, -2.0], [0.0, -INF], [1.0, 2.0], 9).mean == 0.0


def test_impossible_rows_and_nan_rows() -> None:
    bounds = curve([[-INF, -INF], [0.0, 1.0]], np.log([0.5, 0.5]), [1, 4])
    assert (bounds.lower[0] == -INF).all() and np.isnan(bounds.upper[0]).all() and np.isfinite(bounds.upper[1]).all()
    nan = curve([[math.nan, 0.0], [0.0, 1.0]], np.log([0.5, 0.5]), 4, nan_policy="propagate")
    assert np.isnan(nan.lower[0]) and np.isinf(nan.error.lower[0]) and np.isfinite(nan.lower[1])
    moments = moments_of([[-INF, -INF], [0.0, 1.0]], np.log([0.5, 0.5]), [1.0, 2.0], 4)
    assert np.isnan(moments.mean[0]) and np.isfinite(moments.mean[1])


def test_an_underflowing_charge_still_makes_the_lower_bound_minus_infinity() -> None:
    bounds = curve([0.0, -INF], [0.0, -1e5], [1, 5])
    assert (bounds.lower == -INF).all() and (bounds.error.lower == 0.0).all() and (bounds.upper >= 0.0).all()


def test_weights_beyond_the_doubles() -> None:
    """A state with q = exp(-800) that holds half of the posterior: only its logarithm counts, in the upper bound."""
    bounds = curve([0.0, 0.0], [0.0, -800.0], [1, 3], unnormalized=True)
    with mp.workdps(400):
        for k, exact in enumerate((multisets([0.0, 0.0], [0.0, -800.0], 1), multisets([0.0, 0.0], [0.0, -800.0], 3))):
            assert abs(bounds.lower_gap[k] - exact.gap) <= bounds.error.lower_gap[k] <= 1e-12
            assert abs(bounds.upper_gap[k] - exact.upper_gap) <= bounds.error.upper_gap[k] <= 1e-9


ENTRIES = (-INF, 0.0, 1.0, -1.0, 1e3, -1e3, 1e6, -1e6, 1e300, -1e300)


def corners(n_tables: int) -> list[tuple[list[float], list[float]]]:
    """Tables that once were wrong, and random ones of up to four of ``ENTRIES``."""
    rng = np.random.default_rng(9)
    found = [
        ([0.0, 1e3], [0.0, -INF]),
        ([999.3, -INF], [0.0, 1.0]),
        ([-INF, -1.7, -INF], [0.0, -1e3, 1.0]),
        ([0.3, -999.7], [1e300, 1e6]),
        ([0.0, -1e3, -1e300], [0.0, 0.0, 0.0]),
        ([1e300, 1e6, 1.0, 1.0], [0.0, -5.0, 1.0, -INF]),
        ([0.0, 1e300, -INF], [-1e3, -1.0, -INF]),
    ]
    while len(found) < n_tables:
        size = int(rng.integers(1, 5))
        a, b = (rng.choice(ENTRIES, size) + rng.choice([0.0, 0.25], size) for _ in range(2))
        if max(a) > -INF and max(b) > -INF:
            found.append((a.tolist(), b.tolist()))
    return found


def test_corners_are_the_enumeration() -> None:
    counts = (1, 2, 6)
    for a, b in corners(8 if INTERPRETED else 100):
        result = curve(a, b, [*counts, 10**9], unnormalized=True)
        assert (result.lower <= result.log_evidence).all() and (result.upper >= result.log_evidence).all()
        for k, count in enumerate(counts):
            for name, exact in zip(FIELDS, deep_multisets(a, b, count), strict=True):
                value, bound = float(getattr(result, name)[k]), float(getattr(result.error, name)[k])
                if mp.isnan(exact):
                    assert math.isnan(value), (name, a, b)
                elif mp.isinf(exact):
                    assert value == INF and bound == 0.0, (name, a, b)
                elif math.isinf(value):
                    assert bound == INF and (exact > 1e290 or name == "variance"), (name, a, b)  # the gap's square overflows
                else:
                    assert abs(mp.mpf(value) - exact) <= bound + 2.0**-1074, (name, count, a, b)
                    assert name == "variance" or bound <= 1e-6 * (1 + exact), (name, count, a, b)


def test_nearly_impossible_states_are_resolved_for_any_number_of_samples() -> None:
    """Half of q on a state of weight exp(-1000): both samples there cost 1000 nats."""
    bounds = curve([0.0, -1e3], np.log([0.5, 0.5]), [2, 10, 1000])
    for k, count in enumerate((2, 10)):
        exact = deep_multisets([0.0, -1e3], np.log([0.5, 0.5]).tolist(), count)
        assert_moments(bounds, k, exact)
    law = law_of([0.0, -1e3, -2e3], np.log([0.5, 0.25, 0.25]), 2)
    np.testing.assert_allclose(law.law, [0.75, 0.1875, 0.0625], rtol=1e-12)


@relation
@given(tables(), st.lists(st.integers(1, 10**9), min_size=2, max_size=4, unique=True))
def test_theorems_of_the_curve(pair: tuple[Array, Array], counts: list[int]) -> None:
    a, b = pair
    counts = sorted(counts)
    bounds = curve(a, b, counts, unnormalized=True)
    error, chi2 = bounds.error, ee.audit(a, b, include=("chi2_divergence",), unnormalized=True)
    assert (bounds.lower <= bounds.log_evidence).all() and (bounds.upper >= bounds.log_evidence).all()
    assert (bounds.lower_gap >= 0.0).all() and (bounds.upper_gap >= 0.0).all()
    for gap, bound in ((bounds.lower_gap, error.lower_gap), (bounds.upper_gap, error.upper_gap)):
        finite = np.isfinite(gap)
        assert finite.all() or not finite.any()
        if finite.all():
            assert (gap[1:] <= gap[:-1] + (bound[1:] + bound[:-1])).all()
    largest = np.log1p((chi2.chi2_divergence + chi2.error.chi2_divergence) / np.array(counts)) * (1.0 + 4.0 * U)
    assert ((bounds.upper_gap <= largest + error.upper_gap) | np.isinf(bounds.upper_gap)).all()
    share, slack = bounds.mean_inverse_ess, error.mean_inverse_ess
    assert (share <= 1.0 + slack).all() and (share >= 0.0).all()
    charged = np.isinf(bounds.lower_gap).any()
    assert charged or (share >= 1.0 / np.array(counts) - slack).all()


@relation
@given(tables(max_size=8), st.integers(1, 10**6))
def test_theorems_of_the_law(pair: tuple[Array, Array], count: int) -> None:
    a, b = pair
    law, bounds = law_of(a, b, count, unnormalized=True), curve(a, b, count, unnormalized=True)
    slack = law.error.law.sum() + law.error.all_zero + 20.0 * U
    assert abs(law.law.sum() + law.all_zero - 1.0) <= slack
    assert (law.law >= 0.0).all() and (law.law[b == -INF] == 0.0).all()
    if law.all_zero > 0.0 or not np.isfinite(bounds.lower_gap):
        return
    log_law = np.log(np.where(law.law > 0.0, law.law, 1.0)) + np.where(law.law > 0.0, 0.0, -INF)
    moved = np.max(law.error.law / np.where(law.law > 0.0, law.law, 1.0))  # relative: KL moves by as much times its log ratios
    divergence = ee.audit(a, log_law, unnormalized=True)
    both = (a > -INF) & (b > -INF)
    spread = 1.0 + float(np.ptp(a[both] - b[both])) + bounds.lower_gap
    assert divergence.gap <= bounds.lower_gap + bounds.error.lower_gap + divergence.error.gap + 2.0 * moved * spread
    if np.isfinite(bounds.upper_gap):
        forward = divergence.forward_kl - divergence.error.forward_kl
        assert forward <= bounds.upper_gap + bounds.error.upper_gap + 2.0 * moved * spread


@relation
@given(tables(min_size=2), st.integers(1, 10**7), st.randoms(use_true_random=False))
def test_shifts_permutations_and_split_states_change_nothing(pair: tuple[Array, Array], count: int, random: Any) -> None:
    a, b = pair
    order = list(range(a.size))
    random.shuffle(order)
    split = np.append(b, b[0] - math.log(2.0)), np.append(a, a[0] - math.log(2.0))
    split[0][0], split[1][0] = split[0][-1], split[1][-1]
    base = curve(a, b, count, unnormalized=True)
    rounding = (
        4.0 * U * (float(np.abs(np.where(np.isinf(a), 0.0, a)).max() + np.abs(np.where(np.isinf(b), 0.0, b)).max()) + 1.0)
    )
    for other, moved in ((curve(a + 64.0, b, count, unnormalized=True), 0.0),
                         (curve(a[order], b[order], count, unnormalized=True), 0.0),
                         (curve(split[1], split[0], count, unnormalized=True), rounding)):  # fmt: skip
        for name in ("lower_gap", "upper_gap"):
            mine, theirs = float(getattr(base, name)), float(getattr(other, name))
            slack = getattr(base.error, name) + getattr(other.error, name) + moved * 4.0 * (1.0 + min(mine, 1e6))
            assert mine == theirs or abs(mine - theirs) <= slack, name


@compiled
def test_the_same_bits_in_any_batch_layout_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(300, 70)), normalized(rng.normal(size=70))
    whole = curve(a, b, [1, 9, 1000])
    monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", "3")
    with ThreadPoolExecutor(2) as pool:
        others = [curve(np.asfortranarray(a), b, [1, 9, 1000]), curve(a, b, [1, 9, 1000], executor=pool)]
    for other in others:
        assert all((getattr(whole, name) == getattr(other, name)).all() for name in ("lower", "upper", "variance"))
    for i in (0, 7, 299):
        alone = curve(a[i], b, [9])
        assert alone.lower[0] == whole.lower[i, 1] and alone.variance[0] == whole.variance[i, 1]


def test_shapes() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 3, 5)), normalized(rng.normal(size=5))
    assert curve(a, b, [2, 3]).lower.shape == (2, 3, 2) and curve(a, b, 2).lower.shape == (2, 3)
    assert isinstance(curve(a[0, 0], b, 2).lower, np.float64) and curve(a[0, 0], b, np.array([2])).lower.shape == (1,)
    assert law_of(a, b, [2, 3]).law.shape == (2, 3, 2, 5) and law_of(a, b, 2).all_zero.shape == (2, 3)
    assert moments_of(a[:, :1], b, rng.normal(size=(3, 5)), [2, 3, 4]).mean.shape == (2, 3, 3)
    assert curve(np.empty((0, 5)), b, [1, 2]).lower.shape == (0, 2)


@pytest.mark.parametrize("count", [0, -3, 2.0, True, "4", None, [1, 0], [2.5], 2**53 + 1, [], [[1]]])
def test_counts_that_are_no_counts(count: Any) -> None:
    with pytest.raises(ValueError, match=r"^num_samples must be .*got .*\.$"):
        curve([0.0, 0.0], np.log([0.5, 0.5]), count)


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        ([1.0], "gradient must have the same shape as log_joint"),
        ([1.0, math.nan], "must be finite|finite array"),
        (3.0, "finite array"),
    ],
)
def test_gradients_that_are_no_gradients(gradient: Any, words: str) -> None:
    with pytest.raises(ee.LogTableError, match=words):
        moments_of([0.0, 0.0], np.log([0.5, 0.5]), gradient, 3)
    with pytest.raises(ValueError, match="estimator must be one of"):
        moments_of([0.0, 0.0], np.log([0.5, 0.5]), [1.0, 2.0], 3, estimator="reinforce")


def test_tables_are_checked_like_everywhere() -> None:
    for call in (lambda a, b: curve(a, b, 3), lambda a, b: law_of(a, b, 3), lambda a, b: moments_of(a, b, [0.0, 1.0], 3)):
        with pytest.raises(ee.LogTableError, match="log_q sums to 2"):
            call([0.0, 0.0], [0.0, 0.0])
        with pytest.raises(ee.LogTableError, match="NaN"):
            call([0.0, math.nan], [0.0, -INF])


def test_results_print_and_become_dictionaries() -> None:
    a, b = np.log([0.3, 0.1]), np.log([0.5, 0.5])
    bounds = curve([a] * 25, b, [1, 10])
    lines = str(bounds).splitlines()
    assert lines[0].split() == ["row", "num_samples", "lower", "upper", *FIELDS]
    assert len(lines) == 1 + 2 * 20 + 1 and len({len(line) for line in lines}) == 1
    plain = json.loads(json.dumps(curve(a, b, 10).to_dict()))
    assert plain["num_samples"] == 10 and set(plain["error"]) == {"log_evidence", "lower", "upper", *FIELDS, "ess_fraction"}
    assert "snr" in str(moments_of(a, b, [1.0, 0.0], 3)) and "all_zero" in str(law_of(a, b, 3))
    assert np.shape(law_of(a, b, [1, 3]).to_dict()["law"]) == (2, 2)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6, 1e9])
def test_a_constant_in_the_gradient_leaves_the_variance(offset: float) -> None:
    """K = 1 draws g itself: its variance is q0 q1 (g0 - g1)**2, whatever the mean, and the difference of two such doubles is exact."""
    g = np.array([offset + 1.0 / 3.0, offset - 1.0 / 3.0])
    found = ee.importance.gradient_moments(np.log([0.3, 0.7]), np.log([0.5, 0.5]), g, 1)
    exact = 0.25 * (g[0] - g[1]) ** 2
    assert abs(found.variance - exact) <= found.error.variance + 2.0 * 2.0**-53 * exact
    alone = ee.importance.gradient_moments(np.log([0.3, 0.7]), np.log([0.5, 0.5]), [1.0 / 3.0, -1.0 / 3.0], 1)
    assert found.error.variance <= 1.01 * alone.error.variance < 1e-13 * exact


@pytest.mark.parametrize("k", [1, 3, 10])
def test_a_constant_score_is_no_score(k: int) -> None:
    """E_q h is taken out of h, so nothing is left; what rounding leaves is within the bounds."""
    found = ee.importance.gradient_moments(
        np.log([0.3, 0.6, 0.1]), np.log([0.5, 0.2, 0.3]), [1.0 / 3.0] * 3, k, estimator="score"
    )
    assert abs(found.mean) <= found.error.mean
    assert found.variance <= found.error.variance


def test_a_ratio_of_a_variance_that_could_be_nothing_is_unknown() -> None:
    gradient = [1.0000000114615408, 1.0000000112922762]
    found = ee.importance.gradient_moments([0.0, 0.0], np.log([0.5, 0.5]), gradient, 5, estimator="doubly_reparameterized")
    assert found.error.variance >= found.variance
    assert found.error.snr == np.inf
    exact = ee.importance.gradient_moments(np.log([0.3, 0.7]), np.log([0.5, 0.5]), [1.0, 2.0], 1)
    # K = 1 and q = (1/2, 1/2): mean 3/2, standard deviation 1/2
    assert abs(exact.snr - 3.0) <= exact.error.snr


def test_the_upper_bound_with_little_mass_that_counts() -> None:
    """q0 = .999: with n of K samples on the possible state, of weight 1000 w0, U_K = E log(n/K) + log(1000) + log w0 with one drawn from p."""
    log_q = np.log([0.999, 0.001])
    for k in (2, 10):
        found = ee.importance.curve([-np.inf, 0.0], log_q, k)
        p_one = math.exp(log_q[1] - math.log(math.fsum(np.exp(log_q))))
        exact = math.fsum(
            math.comb(k - 1, n) * p_one**n * (1.0 - p_one) ** (k - 1 - n) * (math.log((n + 1) / k) - math.log(p_one))
            for n in range(k)
        )
        assert abs(found.upper_gap - exact) <= found.error.upper_gap + 16.0 * 2.0**-53 * 7.0
