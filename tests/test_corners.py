"""Zeros, infinities, overflow and the other corners: what every quantity is there, exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arb_oracle import Reference
from oracle import proportional
from table_strategies import Array

import elbo_exact as ee

U = 2.0**-53

INF, NAN, MAX = np.inf, np.nan, np.finfo(np.float64).max
FIELDS = ("log_evidence", "elbo", "gap", "forward_kl", "eubo")
INCLUDE = ("chi2_divergence", "total_variation", "hellinger", "jensen_shannon", "jeffreys")
LOG_2 = math.log(2)


def fields(a: list[float], b: list[float]) -> tuple[ee.Audit, tuple[float, ...]]:
    result = ee.audit(a, b, unnormalized=True)
    return result, tuple(float(getattr(result, name)) for name in FIELDS)


def same(x: float, y: float) -> bool:
    return x == y or (x != x and y != y)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param([-INF, -INF], [0.0, 0.0], (-INF, -INF, NAN, NAN, NAN), id="zero evidence"),
        pytest.param([-INF], [3.0], (-INF, -INF, NAN, NAN, NAN), id="zero evidence of one state"),
        pytest.param([-INF, -INF], [0.0, -INF], (-INF, -INF, NAN, NAN, NAN), id="zero evidence wins over zeros of q"),
        pytest.param([0.0, -INF], [0.0, 0.0], (0.0, -INF, INF, LOG_2, LOG_2), id="q charges an impossible state"),
        pytest.param([0.0, -INF], [0.0, -1e5], (0.0, -INF, INF, 0.0, 0.0), id="however little"),
        pytest.param([0.0, -INF], [0.0, -1e308], (0.0, -INF, INF, 0.0, 0.0), id="even below all doubles"),
        pytest.param([0.0, 0.0], [0.0, -INF], (LOG_2, 0.0, LOG_2, INF, INF), id="q misses a possible state"),
        pytest.param([0.0, -1e308], [0.0, -INF], (0.0, 0.0, 0.0, INF, INF), id="however unlikely"),
        pytest.param([0.0, -INF, 0.0], [0.0, 0.0, -INF], (LOG_2, -INF, INF, INF, INF), id="both kinds of zero"),
        pytest.param([0.0, -INF], [-INF, 0.0], (0.0, -INF, INF, INF, INF), id="nothing in common"),
        pytest.param([5.0, -INF], [2.0, -INF], (5.0, 5.0, 0.0, 0.0, 5.0), id="a state that both exclude"),
        pytest.param([7.25], [-3.0], (7.25, 7.25, 0.0, 0.0, 7.25), id="one state"),
        pytest.param([MAX], [-MAX], (MAX, MAX, 0.0, 0.0, MAX), id="one state at the ends of the range"),
        pytest.param([0.0, 0.0], [4.0, 4.0], (LOG_2, LOG_2, 0.0, 0.0, LOG_2), id="equal tables"),
    ],
)
def test_corner_table(a: list[float], b: list[float], expected: tuple[float, ...]) -> None:
    result, got = fields(a, b)
    for name, value, exact in zip(FIELDS, got, expected, strict=True):
        bound = float(getattr(result.error, name))
        if math.isfinite(exact):
            # a divergence term 20.2u, the weights' sum 5.1u + 3u, and 1.01; everything else is below
            assert abs(value - exact) <= bound < 30.0 * U * (1.0 + abs(exact)), name
        else:
            assert same(value, exact) and bound == (INF if exact != exact else 0.0), name
    assert result.status == ("zero_evidence" if expected[0] == -INF else "ok")


def test_exact_zeros_and_constants_are_exact() -> None:
    result, _ = fields([7.25], [-3.0])
    assert (result.log_evidence, result.elbo, result.eubo, result.gap, result.forward_kl) == (7.25, 7.25, 7.25, 0.0, 0.0)
    assert result.entropy == 0.0 and result.log_q_normalizer == -3.0
    rounded = ee.audit([-3.0, -1e5], [-3.0, -1e5], unnormalized=True)
    assert rounded.gap == 0.0 and rounded.elbo == rounded.log_evidence == rounded.eubo


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param([-INF, -INF], [0.0, 0.0], (NAN, NAN, NAN, NAN, NAN), id="zero evidence"),
        pytest.param([0.0, -INF], [-INF, 0.0], (INF, 1.0, 1.0, LOG_2, INF), id="nothing in common"),
        pytest.param([0.0, 0.0], [0.0, -INF], (INF, 0.5, math.sqrt(1 - math.sqrt(0.5)), None, INF), id="q misses a state"),
        pytest.param([0.0, -INF], [0.0, 0.0], (1.0, 0.5, math.sqrt(1 - math.sqrt(0.5)), None, INF), id="q charges a zero"),
        pytest.param([1.0, 1.0], [2.0, 2.0], (0.0, 0.0, 0.0, 0.0, 0.0), id="equal"),
    ],
)
def test_corners_of_the_other_divergences(a: list[float], b: list[float], expected: tuple[float | None, ...]) -> None:
    result = ee.audit(a, b, include=INCLUDE, unnormalized=True)
    for name, exact in zip(INCLUDE, expected, strict=True):
        value, bound = float(getattr(result, name)), float(getattr(result.error, name))
        if exact is None:
            assert Reference(a, b).verdict(name, value, bound) == "inside", name
        elif math.isfinite(exact):
            assert abs(value - exact) <= bound + math.ulp(exact), name  # the expected double is rounded, too
        else:
            assert same(value, exact), name


@pytest.mark.parametrize(
    ("alpha", "charged", "missed"),
    [(-1.0, None, -INF), (0.0, 0.0, LOG_2), (0.5, None, LOG_2), (1.0, INF, LOG_2), (2.0, INF, LOG_2), (INF, INF, LOG_2)],
)
def test_renyi_corners(alpha: float, charged: float | None, missed: float) -> None:
    """D_alpha(q || p) where q charges an impossible state, and where it misses one: p(q > 0) = 1/2."""
    for a, b, exact in (([0.0, -INF], [0.0, 0.0], charged), ([0.0, 0.0], [0.0, -INF], missed)):
        result = ee.audit(a, b, include=[("renyi_divergence", alpha)], unnormalized=True)
        value, bound = float(result.renyi_divergence), float(result.error.renyi_divergence)
        if exact is None:
            assert Reference(a, b).verdict("renyi_divergence", value, bound, alpha) == "inside"
        else:
            assert value == exact or abs(value - exact) <= bound + math.ulp(exact)


def test_entropy_does_not_need_the_target() -> None:
    for a in ([0.0, 0.0, 0.0], [-INF, -INF, -INF], [-INF, 0.0, -INF]):
        result = ee.audit(a, [1.0, 1.0, -INF], unnormalized=True)
        assert abs(result.entropy - LOG_2) <= result.error.entropy + math.ulp(LOG_2)
        assert abs(result.log_q_normalizer - (1.0 + LOG_2)) <= result.error.log_q_normalizer + 2 * math.ulp(1.0)


# Overflow: a finite exact value beyond the range of doubles, or sums on the way to one.


def test_giants_whose_elbo_is_small() -> None:
    result, _ = fields([1e308, 0.0], [-1e308, 0.0])
    assert result.gap == 1e308 and result.error.gap < 22.0 * 2.0**-53 * 1e308
    assert abs(result.elbo) <= result.error.elbo < 1e-300
    assert result.log_evidence == 1e308 and result.forward_kl == 1e308


def test_a_sum_that_overflows_on_the_way_is_not_lost() -> None:
    """Its terms are known to rounding; with a long row it is the chunks that overflow."""
    for n in (2, 5, 40, 5_000):
        a, b = [1.7e308, -1.7e308] * (n // 2) + [1e308] * (n % 2), [-np.log(n)] * n
        result, _ = fields(a, b)
        size = 1.7e308 * 2.0**-53
        exact = 1e308 / n if n % 2 else 0.0
        assert abs(result.elbo - exact) <= result.error.elbo < 200.0 * size
        assert abs(result.gap - (1.7e308 - exact)) <= result.error.gap < 200.0 * size and result.status == "ok"
        assert ee.elbo(a, b) == result.elbo and ee.gap(a, b) == result.gap


def test_each_quantity_overflows_on_its_own() -> None:
    result, _ = fields([MAX, -MAX, 0.0], [-MAX, MAX, 0.0])
    assert result.log_evidence == MAX and result.error.log_evidence < INF
    assert result.gap == INF and result.forward_kl == INF and result.status == "overflow"
    assert result.error.gap == INF and result.error.forward_kl == INF
    assert result.eubo == INF and result.error.eubo == INF
    assert result.elbo == -MAX and result.error.elbo < INF  # the direct sum is finite


def test_evidence_survives_the_ends_of_the_range_without_a_warning() -> None:
    assert ee.log_evidence([1e308, -1e308]) == 1e308
    assert ee.log_evidence([MAX, MAX]) == MAX
    assert ee.log_evidence([-MAX, -MAX]) == -MAX
    assert ee.log_evidence([-INF, -INF]) == -INF


def test_empty_batches_give_empty_results() -> None:
    a = np.empty((0, 4))
    result = ee.audit(a, a, include=INCLUDE)
    assert result.log_evidence.shape == result.gap.shape == result.status.shape == result.chi2_divergence.shape == (0,)
    assert ee.log_evidence(np.empty((2, 0, 3))).shape == (2, 0)
    assert ee.posterior(a).shape == (0, 4) and ee.elbo_gradient(a, a).shape == (0, 4)
    assert result.total().log_evidence == 0.0 and str(result)


def test_a_zero_evidence_row_among_others() -> None:
    a = np.array([[0.0, 0.0], [-INF, -INF], [1.0, -INF]])
    result = ee.audit(a, [LOG_2 * -1] * 2)
    assert result.status.tolist() == ["ok", "zero_evidence", "ok"]
    assert np.isnan(result.gap[1]) and result.gap[0] == 0.0 and result.gap[2] == INF
    assert result.residual[1] == 0.0 or np.isnan(result.residual[1])
    with pytest.raises(ee.ZeroEvidence, match=r"at index \(1,\)") as caught:
        ee.posterior(a)
    assert caught.value.index == (1,)
    assert np.isnan(ee.posterior(a, impossible="nan")[1]).all()


def test_the_gradient_at_corners() -> None:
    gradient = ee.elbo_gradient([[0.0, 0.0, 1.0], [-INF, 0.0, 0.0], [0.0, 0.0, 0.0]], [0.0, 1.0, -INF])
    assert gradient[0, 2] == 0.0 and np.isfinite(gradient[0]).all()
    assert np.isnan(gradient[1]).all()  # the ELBO is -inf around this q
    assert gradient[2, 2] == 0.0 and abs(gradient[2, 0] + gradient[2, 1]) <= 2.0**-50


# Cases on which the textbook formulas are known to fail.


def test_the_elbo_of_the_rounded_posterior_stays_below() -> None:
    a = np.array([15998.0, 15987.0])
    q = a - (15998.0 + math.log1p(math.exp(-11.0)))
    result = ee.audit(a, q)
    assert result.elbo <= result.log_evidence and result.gap <= result.error.gap + 1e-22


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6, 1e9])
def test_posteriors_of_any_offset_never_beat_the_evidence(offset: float) -> None:
    a = np.random.default_rng(3).normal(size=(500, 8)) + offset
    rounded = a - ee.log_evidence(a)[:, None]
    result = ee.audit(a, rounded, unnormalized=True)
    assert (result.elbo <= result.log_evidence).all() and (result.log_evidence <= result.eubo).all()
    assert (result.gap <= 1e-10).all()
    rows = ee.audit(a, a + 0.0, unnormalized=True)
    assert (rows.gap == 0.0).all() and (rows.elbo == rows.log_evidence).all()


def test_the_direct_sum_of_the_elbo_is_not_trusted_beyond_the_evidence() -> None:
    """A log joint whose largest entry is 0 makes the textbook sum the sharper one, and where q is the posterior up to its last
    bits, that sum exceeds the log evidence in a good part of the rows."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 8)) * 2.0
    a -= a.max(axis=1, keepdims=True)
    result = ee.audit(a, a + 1e-15 * rng.normal(size=a.shape), unnormalized=True)
    assert (result.elbo <= result.log_evidence).all()


def test_constant_log_ratio_at_a_large_offset_has_no_gap() -> None:
    rng = np.random.default_rng(11)
    a = rng.normal(-1e5, 3.0, 40)
    b = a - ee.log_evidence(a)  # Sterbenz: entries within a factor 2 of their evidence, so the subtraction is exact
    assert proportional(a.tolist(), b.tolist())
    result = ee.audit(a, b, unnormalized=True)
    assert result.gap == 0.0 and result.error.gap < 1e-320 and result.elbo == result.log_evidence
    assert abs(result.log_q_normalizer) > 1e-13  # although the stored q does not sum to one


def test_a_second_state_forty_nats_below_is_not_lost() -> None:
    assert ee.log_evidence([0.0, -40.0]) == 4.248354255291589e-18
    result = ee.audit([0.0, -40.0], [0.0, -INF], unnormalized=True)
    assert result.gap == 4.248354255291589e-18 and result.elbo == 0.0


def test_a_small_elbo_between_giants() -> None:
    a, b = [1e6, 0.3, -1.0], [-40.0, -0.7, -0.9]
    result, _ = fields(a, b)
    assert abs(result.elbo - 0.40295626643002) < 5e-15  # 14 printed digits
    assert Reference(a, b).ulps("elbo", float(result.elbo)) <= 8.0
    assert result.error.elbo < 1e-14


def test_tiny_probability_times_huge_loss() -> None:
    result, _ = fields([0.0, -1e308], [0.0, -750.0])
    reference = Reference([0.0, -1e308], [0.0, -750.0])
    assert f"{float(result.gap):.5g}" == "1.9017e-18"
    assert reference.verdict("gap", result.gap, result.error.gap) == "inside"
    assert reference.ulps("gap", float(result.gap)) <= 8.0


@pytest.mark.parametrize(
    ("probabilities", "exact"),
    [((1e-200, 1.0), 460.51701859880916), ((1e-300, 1.0), 690.77552789821368)],
)
def test_far_apart_distributions_are_not_clamped(probabilities: tuple[float, float], exact: float) -> None:
    """KL of (1, e) from (e, 1) with e tiny is log(1/e) up to rounding of the inputs' logarithms."""
    b = np.log(np.array(probabilities))
    result = ee.audit(b[::-1], b, unnormalized=True)
    assert abs(result.gap - exact) <= 2.0 * math.ulp(exact) and result.gap == result.forward_kl


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-8, 1e-15])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_nearly_equal_distributions_keep_all_digits(scale: float, offset: float) -> None:
    rng = np.random.default_rng(int(-math.log10(scale)))
    a: Array = rng.normal(size=10) + offset
    b = (a - offset) * (1.0 + scale * rng.normal(size=10))
    result, reference = ee.audit(a, b, unnormalized=True), Reference(a, b)
    for name in ("gap", "forward_kl"):
        assert reference.ulps(name, float(getattr(result, name))) <= 8.0


def test_subnormal_probabilities_count() -> None:
    result, _ = fields([0.0, -745.0], [0.0, -INF])
    assert 0.0 < result.gap == ee.log_evidence([0.0, -745.0]) and result.forward_kl == INF
    result, _ = fields([0.0, -760.0], [0.0, -INF])
    assert result.gap <= result.error.gap < 1e-320
    assert Reference([0.0, -760.0], [0.0, -INF]).verdict("gap", result.gap, result.error.gap) == "inside"


def test_terms_just_beyond_the_series_are_within_their_bounds() -> None:
    """At e = 1.6 ... 1.8 most digits cancel in v s - w (1 + e): errors come to a fifth of the bound, the largest share there is."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        y, e = -rng.uniform(5.0, 9.0), rng.uniform(1.6, 1.8)
        a, b = np.array([0.0, y + e]), np.array([0.0, y])
        result, reference = ee.audit(a, b, unnormalized=True), Reference(a, b)
        for name in ("gap", "forward_kl"):
            value, bound = float(getattr(result, name)), float(getattr(result.error, name))
            assert reference.verdict(name, value, bound) == "inside", (name, y, e)


def test_cross_entropy_of_the_largest_numbers() -> None:
    """The sum of what is averaged leaves the doubles, the average does not."""
    u = [-math.log(3.0)] * 3
    for sign in (1.0, -1.0):
        value = ee.cross_entropy([sign * 1e308] * 3, u)
        assert abs(value + sign * 1e308) <= 8 * 2.0**-53 * 1e308
    reconstruction, kl = ee.elbo_terms([1e308] * 3, u, u)
    assert abs(reconstruction - 1e308) <= 8 * 2.0**-53 * 1e308 and kl == 0.0


def test_an_entry_of_the_gradient_below_the_doubles_is_not_called_exact() -> None:
    gradient, error = ee.elbo_gradient([0.0, 0.0, 0.0], [0.0, -1600.0, -math.inf], return_error=True)
    assert gradient[1] == gradient[2] == error[2] == 0.0 < error[1] < 1e-320
