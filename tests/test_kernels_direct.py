"""The ELBO and the EUBO alone: the bits of the whole engine, the order without the log evidence, terms within their sizes.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter, at the smaller sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt
import pytest
from arb_oracle import COMPARISON_BITS, Reference
from flint import arb, ctx

import elbo_exact as ee
from elbo_exact.kernels._jit import FLOAT, INT, OUT2, ROW, kernel, void
from elbo_exact.kernels.direct import direct_term, last_at, reference
from elbo_exact.kernels.direct_rows import D_STATUS, D_VALUE, N_DIRECT, UNORDERED, lower_rows, upper_rows
from elbo_exact.kernels.reduce import OK, UNDECIDED, WEIGHT_ERROR
from elbo_exact.kernels.rows import N_OUTPUTS, OUT_ELBO, OUT_EUBO, OUT_EVIDENCE, audit_rows
from elbo_exact.kernels.scalar import weight
from elbo_exact.kernels.terms import guarded_direct
from elbo_exact.kernels.tree import U

Array = npt.NDArray[np.float64]
INF = math.inf
INTERPRETED = bool(numba.config.DISABLE_JIT)
SIZES = (3, 65) if INTERPRETED else (1, 2, 15, 16, 63, 64, 65, 100, 256, 257, 1000, 4096)
KINDS: dict[str, Callable[[np.random.Generator, Array], Array]] = {
    "loose": lambda rng, b: rng.normal(0.0, 2.0, b.shape),
    "far": lambda rng, b: rng.normal(0.0, 40.0, b.shape),
    "offset": lambda rng, b: b + rng.normal(0.0, 1.0, b.shape) + 1e9,
    "tight": lambda rng, b: b + rng.normal(0.0, 1e-3, b.shape),
    "tighter": lambda rng, b: b + rng.normal(0.0, 1e-8, b.shape) - 7.0,
    "ties": lambda rng, b: np.rint(rng.normal(0.0, 2.0, b.shape)) + 1e6,
    "equal": lambda rng, b: b - 3.0,
    "faint": lambda rng, b: b + rng.normal(0.0, 9.0, b.shape),
    "extreme target": lambda rng, b: b + np.where(rng.random(b.shape) < 0.3, -720.0, 0.0),
}


@np.errstate(all="ignore")  # as every caller of a kernel does
def alone(a: Array, b: Array) -> tuple[Array, Array]:
    """Results of both kernels."""
    lower, upper = np.zeros((2, max(len(a), len(b)), N_DIRECT))
    lower_rows(a, b, 0, len(lower), lower)
    upper_rows(a, b, 0, len(upper), upper)
    return lower, upper


@np.errstate(all="ignore")
def whole(a: Array, b: Array) -> Array:
    """Results of the whole engine."""
    out = np.zeros((max(len(a), len(b)), N_OUTPUTS))
    audit_rows(a, b, 0, len(out), out)
    return out


def pair(n: int, kind: str) -> tuple[Array, Array]:
    """Rows of logits."""
    rng = np.random.default_rng([n, len(kind)])
    b = rng.normal(0.0, 2.0, (11, n))
    b = np.rint(b) if kind == "ties" else 300.0 * b if kind == "faint" else b
    return KINDS[kind](rng, b), b


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_the_bits_are_those_of_the_whole_engine(n: int, kind: str) -> None:
    a, b = pair(n, kind)
    (lower, upper), full = alone(a, b), whole(a, b)
    ordered = lower[:, D_STATUS] == OK
    np.testing.assert_array_equal(lower[ordered, D_VALUE], full[ordered, OUT_ELBO])
    loose = lower[:, D_STATUS] == UNORDERED
    np.testing.assert_array_equal(np.minimum(lower[loose, D_VALUE], full[loose, OUT_EVIDENCE]), full[loose, OUT_ELBO])
    known = upper[:, D_STATUS] == OK
    np.testing.assert_array_equal(upper[known, D_VALUE], full[known, OUT_EUBO])
    if kind in ("loose", "tight", "offset", "faint", "extreme target"):
        assert known.all() and not (lower[:, D_STATUS] == UNDECIDED).any()
    if kind in ("tighter", "equal"):
        assert not ordered.any()  # the variance is below the rounding of the bounds
    if kind == "loose" and n > 1:
        assert ordered.all()


@pytest.mark.parametrize("n", [size for size in SIZES if size > 1])
def test_what_is_taken_as_ordered_is(n: int) -> None:
    """At every tightness: what passes without the log evidence lies below it, and the exact distance is above both bounds."""
    rng = np.random.default_rng(n)
    b = rng.normal(0.0, 2.0, (60, n))
    a = b + rng.normal(0.0, 1.0, b.shape) * 10.0 ** rng.uniform(-9.0, 1.0, (60, 1)) + rng.choice([0.0, 1e3, -1e6], (60, 1))
    (lower, _), full = alone(a, b), whole(a, b)
    ordered = lower[:, D_STATUS] == OK
    assert 0 < ordered.sum() < 60
    room = full[:, OUT_ELBO + 1] + full[:, OUT_EVIDENCE + 1]
    gaps = np.asarray(ee.gap(a, b, unnormalized=True))
    assert (gaps[ordered] > room[ordered]).all()


@pytest.mark.parametrize("entry", [np.nan, INF, 1e300])
@pytest.mark.parametrize("which", [0, 1])
def test_a_hard_row_is_left_out_and_its_neighbours_do_not_notice(which: int, entry: float) -> None:
    a, b = pair(65, "loose")
    before = alone(a, b)
    for row in (0, 7, 8, 10):
        (a, b)[which][row, 3 * row] = entry
    hard = np.isin(np.arange(11), (0, 7, 8, 10))
    for old, new in zip(before, alone(a, b), strict=True):
        assert (new[hard, D_STATUS] == UNDECIDED).all()
        np.testing.assert_array_equal(new[~hard], old[~hard])


def test_nan_where_q_has_no_weight_is_seen() -> None:
    a, b = pair(65, "loose")
    a[2, 5], b[2, 5], a[4, 6], b[4, 6] = np.nan, -INF, -INF, np.nan
    for result in alone(a, b):
        assert (result[[2, 4], D_STATUS] == UNDECIDED).all()


@pytest.mark.parametrize("depth", [-695.0, -730.0, -744.0, -1e4, -INF])
def test_a_faint_state_keeps_what_it_counts(depth: float) -> None:
    """Tiny weights times huge ratios, and sums that are nothing else."""
    b = np.array([[0.0, depth], [0.0, depth], [-1.0, depth], [0.0, -INF], [-INF, -INF]])
    a = np.array([[0.0, -1e250], [-depth, 1e5], [0.0, -INF], [depth, 0.0], [0.0, depth]])
    (lower, upper), full = alone(a, b), whole(a, b)
    for found, column in ((lower, OUT_ELBO), (upper, OUT_EUBO)):
        known = found[:, D_STATUS] != UNDECIDED
        assert known[:4].sum() >= 2 and not known[4]
        values = np.where(
            found[:, D_STATUS] == UNORDERED, np.minimum(found[:, D_VALUE], full[:, OUT_EVIDENCE]), found[:, D_VALUE]
        )
        np.testing.assert_array_equal(values[known], full[known, column])


@pytest.mark.parametrize("n", SIZES)
def test_infinite_answers_are_those_of_the_whole_engine(n: int) -> None:
    a, b = pair(n, "loose")
    a[1::3, n // 2], b[2::3, n // 2] = -INF, -INF
    if n == 1:
        b[2::3] = 0.0
    audit = ee.audit(a, b, unnormalized=True)
    np.testing.assert_array_equal(ee.elbo(a, b, unnormalized=True), audit.elbo)
    np.testing.assert_array_equal(ee.eubo(a, b, unnormalized=True), audit.eubo)
    assert (audit.elbo[1::3] == -INF).all() and (n == 1 or (audit.eubo[2::3] == INF).all())


@pytest.mark.parametrize("kind", ["loose", "tight", "offset", "tighter"])
def test_values_lie_within_the_bounds_of_an_audit(kind: str) -> None:
    a, b = pair(65, kind)
    audit = ee.audit(a, b, unnormalized=True)
    for i in range(3):
        for name in ("elbo", "eubo"):
            value = getattr(ee, name)(a[i], b[i], unnormalized=True)
            assert Reference(a[i], b[i]).verdict(name, value, getattr(audit.error, name)[i]) == "inside"


@pytest.mark.parametrize("shared", [0, 1])
def test_one_row_serves_all(shared: int) -> None:
    tables = list(pair(100, "loose"))
    copied, single = list(tables), list(tables)
    copied[shared], single[shared] = np.tile(tables[shared][:1], (11, 1)), tables[shared][:1]
    for first, second in zip(alone(*copied), alone(*single), strict=True):
        np.testing.assert_array_equal(first, second)


@kernel(void(ROW, ROW, FLOAT, FLOAT, OUT2))
def terms(x, y, base, top, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i, 0], out[i, 1] = direct_term(weight(y[i], top), x[i], y[i], base, top)
        out[i, 2], out[i, 3] = guarded_direct(x[i], y[i], base, top)


@kernel(void(ROW, FLOAT, INT, OUT2))
def places(row, top, n, out):  # type: ignore[no-untyped-def]
    out[0, 0] = last_at(row[:n], top)
    for i in range(row.size):
        out[1, i] = reference(row[i])


@np.errstate(all="ignore")
def test_terms_are_within_their_sizes_plain_and_guarded() -> None:
    rng = np.random.default_rng(3)
    y = np.append(-rng.uniform(0.0, 1600.0, 600) * rng.choice([1.0, 1e-3], 600), [-INF, 0.0])
    x = np.append(rng.normal(0.0, 1e3, 600), [1.0, 1e300])
    out = np.empty((602, 4))
    terms(x, y, 5.5, 0.0, out)
    bits, ctx.prec = ctx.prec, COMPARISON_BITS
    try:
        for xi, yi, (term, size, guarded, guarded_size) in zip(x.tolist(), y.tolist(), out.tolist(), strict=True):
            exact = arb(0) if yi < -1500.0 else arb(yi).exp() * (arb(xi) - arb(5.5) - arb(yi))
            room = (WEIGHT_ERROR + 4.0 * U) * 1.01
            assert abs(arb(guarded) - exact) <= room * arb(guarded_size) + arb(2) ** -1071
            if yi >= -700.0 or yi == -INF:
                assert abs(arb(term) - exact) <= room * arb(size) + arb(2) ** -1071 and term == guarded
    finally:
        ctx.prec = bits


def test_references() -> None:
    out = np.zeros((2, 200))
    row = np.zeros(200)
    row[[130, 131, 199]] = 2.0
    places(row, 2.0, 200, out)
    assert out[0, 0] == 199.0
    places(row, np.nan, 200, out)
    assert out[0, 0] == 0.0
    row[:4] = [1e300, -INF, np.nan, -2.0]
    places(row, 2.0, 150, out)
    assert out[0, 0] == 131.0 and out[1, :4].tolist() == [0.0, 0.0, 0.0, -2.0]
