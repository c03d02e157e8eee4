"""The audit object: intervals, totals, residual, plain data, printing, and certification against a second library."""

from __future__ import annotations

import json
import math
import sys
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from arb_oracle import Reference, correctly_rounded, verdict
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st
from table_families import FAMILIES
from table_strategies import relation, tables

import elbo_exact as ee

Array = npt.NDArray[np.float64]
INF, NAN = math.inf, math.nan
MAIN = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy", "log_q_normalizer")
EXTRA = ("chi2_divergence", "total_variation", "hellinger", "jensen_shannon", "jeffreys", ("renyi_divergence", 2.0))
EXTRA_NAMES = tuple(item if isinstance(item, str) else item[0] for item in EXTRA)
ADDITIVE = MAIN[:-1]


def batch(seed: int = 0, rows: int = 6, n_states: int = 9) -> tuple[Array, Array]:
    """Random logits."""
    a, b = np.random.default_rng(seed).normal(size=(2, rows, n_states)) * 2.0
    return a, b


@given(tables())
@relation
def test_intervals_hold_the_bound_and_the_value(pair: tuple[Array, Array]) -> None:
    """In exact arithmetic the ends are at least a bound away from the value, and at most two steps of doubles further."""
    audited = ee.audit(*pair, include=EXTRA, unnormalized=True)
    for name in (*MAIN, *EXTRA_NAMES):
        value, bound = float(getattr(audited, name)), float(getattr(audited.error, name))
        low, high = map(float, audited.interval(name))
        if not math.isfinite(value) or bound == INF:
            assert (low, high) == ((value, value) if bound == 0.0 else (0.0 if low == 0.0 else -INF, INF))
            continue
        assert Fraction(high) >= Fraction(value) + Fraction(bound)
        assert high <= math.nextafter(math.nextafter(value + bound, INF), INF)
        if low != 0.0:
            assert Fraction(low) <= Fraction(value) - Fraction(bound)
        if name in ("gap", "forward_kl", "entropy", *EXTRA_NAMES):
            assert low >= 0.0


def test_intervals_of_corners() -> None:
    audited = ee.audit([[0.0, -INF], [-INF, -INF]], [[0.0, 0.0], [0.0, 0.0]], unnormalized=True)
    low, high = audited.interval("gap")
    np.testing.assert_array_equal(low[:1], [INF])
    np.testing.assert_array_equal(high[:1], [INF])
    np.testing.assert_array_equal([low[1], high[1]], [0.0, INF])  # nothing is known but the sign
    np.testing.assert_array_equal(audited.interval("elbo"), [[-INF, -INF], [-INF, -INF]])
    with pytest.raises(ValueError, match="name must be one of 'log_evidence', 'elbo'"):
        audited.interval("evidence")


def test_intervals_have_the_shape_of_the_batch() -> None:
    a, b = batch()
    audited = ee.audit(a.reshape(2, 3, 9), b.reshape(2, 3, 9), unnormalized=True)
    for name in MAIN:
        low, high = audited.interval(name)
        assert low.shape == high.shape == getattr(audited, name).shape == (2, 3)
        assert (low <= getattr(audited, name)).all()
        assert (getattr(audited, name) <= high).all()


@given(tables())
@relation
def test_the_residual_is_the_rounded_exact_difference(pair: tuple[Array, Array]) -> None:
    audited = ee.audit(*pair, unnormalized=True)
    values = [float(x) for x in (audited.log_evidence, audited.elbo, audited.gap)]
    if all(map(math.isfinite, values)):
        exact = Fraction(values[0]) - Fraction(values[1]) - Fraction(values[2])
        assert audited.residual == float(exact)
        assert abs(exact) <= sum(Fraction(float(getattr(audited.error, name))) for name in ("log_evidence", "elbo", "gap"))
    else:
        assert audited.residual == 0.0


def test_the_residual_of_corners() -> None:
    audited = ee.audit([[0.0, -INF], [0.0, 1.0]], np.zeros((2, 2)), unnormalized=True)
    assert audited.residual[0] == 0.0
    impossible = ee.audit([[-INF, -INF]], [[0.0, 0.0]], unnormalized=True)
    np.testing.assert_array_equal(impossible.residual, [0.0])
    unknown = ee.audit([[NAN, 0.0]], [[0.0, 0.0]], unnormalized=True, nan_policy="propagate")
    assert np.isnan(unknown.residual).all()
    assert unknown.status.tolist() == ["nan"]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_totals_contain_the_exact_sums(weighted: bool) -> None:
    a, b = batch(1, 40, 7)
    weights = np.random.default_rng(2).uniform(0.0, 1e3, 40) * (np.arange(40) % 3 > 0) if weighted else None
    total = ee.audit(a, b, unnormalized=True).total(weights)
    counts = np.ones(40) if weights is None else weights
    for name in ADDITIVE:
        balls = [Reference(x, y).sharp(name) for x, y in zip(a, b, strict=True)]
        ctx.prec = 420
        try:
            exact = sum((arb(float(w)) * ball for w, ball in zip(counts, balls, strict=True)), arb(0))
        finally:
            ctx.prec = 53
        assert verdict(getattr(total, name), getattr(total.error, name), exact) == "inside"
    assert total.elbo <= total.log_evidence <= total.eubo


@given(st.lists(st.integers(0, 5), min_size=6, max_size=6))
@relation
def test_totals_do_not_depend_on_the_order_of_the_rows(counts: list[int]) -> None:
    """The sums are rounded once, so permuted rows give the same bits; and a weight of k is k copies, within both bounds."""
    a, b = batch(3)
    audited, order = ee.audit(a, b, unnormalized=True), [3, 1, 5, 0, 4, 2]
    moved = ee.audit(a[order], b[order], unnormalized=True)
    one, other = audited.total(counts), moved.total(np.array(counts)[order])
    copies = np.repeat(np.arange(6), counts)
    repeated = ee.audit(a[copies], b[copies], unnormalized=True).total()
    for name in ADDITIVE:
        assert getattr(one, name) == getattr(other, name)
        assert abs(getattr(one, name) - getattr(repeated, name)) <= getattr(one.error, name) + getattr(repeated.error, name)


def test_rows_of_weight_zero_add_nothing() -> None:
    audited = ee.audit([[0.0, 1.0], [-INF, -INF], [0.0, -INF]], np.zeros((3, 2)), unnormalized=True)
    alone = ee.audit([0.0, 1.0], [0.0, 0.0], unnormalized=True)
    total = audited.total([2.0, 0.0, 0.0])
    assert total.gap == 2.0 * alone.gap
    assert total.log_evidence == 2.0 * alone.log_evidence
    everything = audited.total()
    assert everything.elbo == -INF
    assert math.isnan(everything.gap)
    assert everything.error.gap == INF


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 1.0], r"weights must have the shape \(6,\) of the rows; got \(2,\)"),
        ([1.0] * 5 + [-1.0], "weights must be finite and not negative"),
        ([1.0] * 5 + [NAN], "weights must be finite and not negative"),
        ([1.0] * 5 + [INF], "weights must be finite and not negative"),
    ],
    ids=["shape", "negative", "nan", "infinite"],
)
def test_weights_that_are_no_counts_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ee.LogTableError, match=message):
        ee.audit(*batch(), unnormalized=True).total(weights)


def test_plain_data_survive_json() -> None:
    audited = ee.audit(*batch(), include=EXTRA, unnormalized=True)
    plain = json.loads(json.dumps(audited.to_dict()))
    for name in (*MAIN, *EXTRA_NAMES):
        np.testing.assert_array_equal(plain[name], getattr(audited, name))
        np.testing.assert_array_equal(plain["error"][name], getattr(audited.error, name))
    np.testing.assert_array_equal(plain["residual"], audited.residual)
    assert plain["status"] == ["ok"] * 6
    assert plain["certified"] is None
    assert plain["assumptions"] == list(audited.assumptions)


def test_one_row_prints_one_quantity_a_line() -> None:
    audited = ee.audit(*(x[0] for x in batch()), include=("hellinger",), unnormalized=True)
    lines = str(audited).splitlines()
    assert [line.split()[0] for line in lines] == [*MAIN, "hellinger", "residual", "status"]
    assert {line.index("±") for line in lines[:-1]} == {lines[0].index("±")}
    for line in lines[:-2]:
        assert float(line.split()[1]) == getattr(audited, line.split()[0])  # 17 digits identify a double


@pytest.mark.parametrize("rows", [2, 20, 21, 500])
def test_several_rows_print_one_row_a_line(rows: int) -> None:
    audited = ee.audit(*batch(4, rows), unnormalized=True)
    lines = str(audited).splitlines()
    assert len({len(line) for line in lines}) == 1
    numbers = [line.split()[0] for line in lines[1:]]
    expected = list(map(str, range(rows))) if rows <= 20 else [*map(str, range(10)), "...", *map(str, range(rows - 10, rows))]
    assert numbers == expected
    assert lines[0].split()[-1] == "status"


def test_only_included_divergences_are_attributes() -> None:
    audited = ee.audit(*batch(), include=("hellinger",), unnormalized=True)
    assert audited.names == (*MAIN, "hellinger")
    np.testing.assert_array_equal(audited.hellinger, ee.hellinger(*batch(), unnormalized=True))
    with pytest.raises(AttributeError, match=r"no quantity 'jeffreys'; pass include=\('jeffreys',\)"):
        _ = audited.jeffreys
    with pytest.raises(AttributeError, match="no quantity 'evidence'"):
        _ = audited.evidence


def test_one_name_may_be_included_as_a_string() -> None:
    assert ee.audit(*batch(), include="hellinger", unnormalized=True).names == (*MAIN, "hellinger")
    with pytest.raises(ValueError, match="include must be one of 'chi2_divergence'"):
        ee.audit(*batch(), include="kl", unnormalized=True)
    with pytest.raises(ValueError, match=r'include must name the order: \("renyi_divergence", alpha\)'):
        ee.audit(*batch(), include=["renyi_divergence"], unnormalized=True)


@pytest.mark.parametrize(
    "family", ["random_300", "magnitudes", "subnormal_weights", "overflow_both", "zeros_of_both", "skewed_pair"]
)
def test_certified_values_are_correctly_rounded(family: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(4):
        a, b = FAMILIES[family](rng)
        audited, plain, reference = (
            ee.audit(a, b, unnormalized=True, certify="arb"),
            ee.audit(a, b, unnormalized=True),
            Reference(a, b),
        )
        for name in MAIN:
            value, bound = float(getattr(audited, name)), float(getattr(audited.error, name))
            exact = correctly_rounded(reference.sharp(name))
            assert exact is None or value == exact or (value != value and exact != exact), (name, a, b)
            assert reference.verdict(name, value, bound) != "outside"
            assert not bound > max(float(getattr(plain.error, name)), 0.5 * math.ulp(value)), (name, bound)


def test_certification_says_what_it_rests_on() -> None:
    audited = ee.audit(*batch(), unnormalized=True, certify="arb")
    assert audited.certified == "arb"
    assert audited.assumptions == ("python-flint (Arb) ball arithmetic",)
    assert ee.audit(*batch(), unnormalized=True).certified is None
    with pytest.raises(ValueError, match="certify must be one of None, 'arb'; got 'mpfr'"):
        ee.audit(*batch(), unnormalized=True, certify="mpfr")


def test_certification_of_corners_and_equal_tables() -> None:
    a = np.array([[0.0, -INF], [-INF, -INF], [0.1, 0.7], [0.0, 1.0]])
    b = np.array([[0.0, 0.0], [0.0, 0.0], [0.1, 0.7], [0.0, -INF]])
    audited = ee.audit(a, b, unnormalized=True, certify="arb")
    np.testing.assert_array_equal(audited.gap, [INF, NAN, 0.0, ee.audit(a, b, unnormalized=True, certify="arb").gap[3]])
    np.testing.assert_array_equal(audited.elbo[:2], [-INF, -INF])
    assert audited.elbo[2] == audited.log_evidence[2] == audited.eubo[2]
    assert audited.eubo[3] == INF


def test_certification_without_flint_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(
        ImportError, match=r'certify="arb" needs python-flint; install it with: pip install "elbo_exact\[certify\]"'
    ):
        ee.audit(*batch(), unnormalized=True, certify="arb")
    assert ee.audit(*batch(), unnormalized=True).certified is None
