"""Correct rounding: every certified number against a second library at two precisions, and the loop that decides when to stop.

``ELBO_EXACT_CAMPAIGN_CERTIFY`` sets the number of pairs, ``ELBO_EXACT_CAMPAIGN_SEED`` the first seed. What an audit says of its
certification is in ``test_audit.py``.
"""

from __future__ import annotations

import math
import os
import sys
import zlib

import flint
import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from arb_oracle import Reference
from oracle import proportional
from table_families import FAMILIES

import elbo_exact as ee
from elbo_exact import _certify

Array = npt.NDArray[np.float64]
INF = math.inf
NAMES = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy", "log_q_normalizer")
PAIRS = int(os.environ.get("ELBO_EXACT_CAMPAIGN_CERTIFY", "200"))
SEED = int(os.environ.get("ELBO_EXACT_CAMPAIGN_SEED", "0"))
SOURCES = [name for name in FAMILIES if name != "many_states"]
DIGITS = (420, 840)  # exp(-760) times a relative 1e-16 beside 1 takes 350 digits
DEEP = 4000  # for what those leave undecided: weights and gaps beyond the range of doubles


def by_mpmath(a: Array, b: Array, digits: int) -> dict[str, float]:
    """The definitions with ``digits`` decimal digits, rounded once."""
    with mpmath.workdps(digits):
        p, log_a = normalized(a)
        q, log_w = normalized(b)
        charged, missed = ((a == -INF) & (b > -INF)).any(), ((b == -INF) & (a > -INF)).any()
        result = {"log_evidence": log_a, "log_q_normalizer": log_w, "entropy": log_w - mean(q, b)}
        mean_q = None if charged else mean(q, a) - mean(q, b) + log_w
        mean_p = None if missed else mean(p, a) - mean(p, b) + log_w
        result |= {"elbo": -INF, "gap": INF} if mean_q is None else {"elbo": mean_q, "gap": log_a - mean_q}
        result |= {"eubo": INF, "forward_kl": INF} if mean_p is None else {"eubo": mean_p, "forward_kl": mean_p - log_a}
        return {name: nearest(value) for name, value in result.items()}


def normalized(row: Array) -> tuple[list[mpmath.mpf], mpmath.mpf]:
    """(probabilities, log of the sum of exp)."""
    weights = [mpmath.exp(mpmath.mpf(float(x))) if x > -INF else mpmath.mpf(0) for x in row]
    total = mpmath.fsum(weights)
    return [w / total for w in weights], mpmath.log(total)


def mean(weights: list[mpmath.mpf], row: Array) -> mpmath.mpf:
    """Sum of weight times entry; 0 times anything is 0."""
    return mpmath.fsum(w * mpmath.mpf(float(x)) for w, x in zip(weights, row, strict=True) if w != 0)


def nearest(value: mpmath.mpf | float) -> float:
    """The double nearest to a number; mpmath itself rounds subnormal results twice."""
    if isinstance(value, float) or not mpmath.isfinite(value):
        return float(value)
    sign, mantissa, exponent, _ = value._mpf_
    if exponent + mantissa.bit_length() > 1024:
        return -INF if sign else INF
    if exponent + mantissa.bit_length() < -1075:
        return 0.0
    shift = max(mantissa.bit_length() - 53, -1074 - exponent, 0)  # the bits to be rounded away
    low = mantissa & ((1 << shift) - 1)
    mantissa >>= shift
    half = (1 << shift) >> 1
    mantissa += 1 if shift and (low > half or (low == half and mantissa & 1)) else 0
    size = math.ldexp(mantissa, exponent + shift) if mantissa.bit_length() + exponent + shift <= 1024 else INF
    return -size if sign else size


def is_beyond_all_bits(a: Array, b: Array) -> bool:
    """Whether some weight is too small for the last precision: if it alone decides a tie of two doubles, either is returned."""
    finite = [row[row > -INF] / 2.0 for row in (a, b)]  # halves, whose differences do not overflow
    return max(float(row.max() - row.min()) for row in finite) > _certify.LAST_BITS * math.log(2.0) / 2.0


@pytest.mark.parametrize("family", SOURCES)
def test_certified_numbers_are_the_nearest_doubles(family: str) -> None:
    rng = np.random.default_rng([SEED, zlib.crc32(family.encode())])
    for _ in range(max(1, round(PAIRS / len(SOURCES)))):
        a, b = FAMILIES[family](rng)
        audited = ee.audit(a, b, unnormalized=True, certify="arb")
        rough, fine = (by_mpmath(a, b, digits) for digits in DIGITS)
        if rough != fine:
            fine = by_mpmath(a, b, DEEP)
        same = proportional(a.tolist(), b.tolist())
        for name in NAMES:
            value, bound = float(getattr(audited, name)), float(getattr(audited.error, name))
            expected = fine[name]
            if same and name in ("gap", "forward_kl"):
                expected = 0.0
            elif same and name in ("elbo", "eubo"):
                expected = fine["log_evidence"]
            rounded = value == expected and (not bound > max(0.5 * math.ulp(value), 2.0**-1074) or math.isinf(value))
            assert rounded or (abs(value - expected) <= bound and is_beyond_all_bits(a, b)), (name, value, expected, a, b)


def test_the_rounding_of_the_oracle_is_that_of_python() -> None:
    """``nearest`` against exact fractions, at the places where two roundings differ from one."""
    for numerator, exponent in (
        (2**53 + 1, 0),
        (2**54 + 3, -1075),
        (3, -1075),
        (1, -1075),
        (5, -1076),
        (2**53 - 1, 971),
        (2**60 + 129, -7),
    ):
        with mpmath.workdps(60):
            value = mpmath.ldexp(mpmath.mpf(numerator), exponent)
        expected = numerator * 2**exponent if exponent >= 0 else numerator / 2**-exponent
        assert nearest(value) == float(expected)
        assert nearest(-value) == -float(expected)


def test_a_ball_is_rounded_only_if_all_of_it_rounds_alike() -> None:
    flint.ctx.prec = 120
    try:
        third, wide = flint.arb(1) / 3, flint.arb(1, 2.0**-54)
        assert _certify._rounded(third) == (1.0 / 3.0, 2.0**-55)
        assert _certify._rounded(wide) is None  # from 1 - 2**-54, which rounds to even 1, to 1 + 2**-54; both ends must agree
        assert _certify._rounded(flint.arb("nan")) is None
    finally:
        flint.ctx.prec = 53
    assert _certify._rounded(INF) == (INF, 0.0)
    assert _certify._rounded(math.nan)[1] == INF
    zero = _certify._rounded(-flint.arb(0))
    assert zero is not None and math.copysign(1.0, zero[0]) == 1.0


def test_equal_distributions_end_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their gap is 0, which no finite precision can tell from a tiny number: they are recognized before it starts."""
    monkeypatch.setattr(_certify, "LAST_BITS", _certify.FIRST_BITS)
    a = np.array([0.5, -3.25, -INF, 2.0])
    for b in (a, a + 2.0, a - 2.0**-20):
        audited = ee.audit(a, b, unnormalized=True, certify="arb")
        assert (audited.gap, audited.forward_kl, audited.error.gap) == (0.0, 0.0, 0.0)
        assert audited.elbo == audited.log_evidence == audited.eubo


def test_precision_grows_until_the_answer_is_known() -> None:
    """The gap is near exp(-600) 2**-81 = 2**-947: 128 bits beside entries of that size and 1 cannot see it."""
    a, b = np.array([0.0, -600.0]), np.array([0.0, -600.0 + 2.0**-40])
    audited, reference = ee.audit(a, b, unnormalized=True, certify="arb"), Reference(a, b)
    assert 0.0 < audited.gap < 2.0**-940 and reference.ulps("gap", float(audited.gap)) <= 0.5
    assert reference.verdict("gap", float(audited.gap), float(audited.error.gap)) == "inside"


def test_a_tie_that_no_precision_breaks_is_returned_with_its_ball() -> None:
    """Only a weight of about exp(-7e307) breaks this tie; no number of bits that fits in a memory shows it."""
    a, b = [7.281714681034002e307, -6.314884926938575e307, 0.0], [0.0, 5.815308040108643e307, 0.0]
    audited = ee.audit(a, b, unnormalized=True, certify="arb")
    for name in NAMES:
        value, bound = float(getattr(audited, name)), float(getattr(audited.error, name))
        assert math.isinf(value) or bound <= 0.51 * math.ulp(value)


def test_values_left_undecided_lie_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.array([0.0, -3.0]), np.array([0.0, -3.0 + 2.0**-50])
    exact = ee.audit(a, b, unnormalized=True, certify="arb")
    monkeypatch.setattr(_certify, "LAST_BITS", _certify.FIRST_BITS)
    audited = ee.audit(a, b, unnormalized=True, certify="arb")
    for name in ("gap", "forward_kl"):
        assert abs(getattr(audited, name) - getattr(exact, name)) <= getattr(audited.error, name) + getattr(exact.error, name)


def test_rows_without_a_meaning_keep_their_nan() -> None:
    audited = ee.audit(
        [[0.0, 1.0], [math.nan, 0.0], [-INF, -INF]], [0.0, 1.0], unnormalized=True, certify="arb", nan_policy="propagate"
    )
    assert audited.status.tolist() == ["ok", "nan", "zero_evidence"]
    assert np.isnan(audited.gap[1:]).all() and audited.gap[0] == 0.0
    assert np.isnan(audited.elbo[1]) and audited.elbo[2] == -INF and audited.log_evidence[2] == -INF
    assert (audited.error.gap[1:] == INF).all() and audited.error.elbo[2] == 0.0


def test_a_table_of_one_row_serves_every_row_of_the_other() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 3, 4))
    for x, y in ((a[0], b), (a, b[0])):
        audited = ee.audit(x, y, unnormalized=True, certify="arb")
        for i in range(3):
            alone = ee.audit(x if x.ndim == 1 else x[i], y if y.ndim == 1 else y[i], unnormalized=True, certify="arb")
            assert all(getattr(audited, name)[i] == getattr(alone, name) for name in NAMES)


def test_nothing_is_imported_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flint", None)
    assert ee.audit([0.0], [0.0]).certified is None
