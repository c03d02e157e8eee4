"""The elementary functions against ball arithmetic, and compiled against interpreted bits."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
import pytest
from flint import arb, ctx

from elbo_exact.kernels import scalar

Array = npt.NDArray[np.float64]
POINTS = int(os.environ.get("ELBO_EXACT_KERNEL_POINTS", "24000"))
U, ETA = 2.0**-53, 2.0**-1074
FINITE_MAX = np.finfo(np.float64).max


def over(function: Callable[..., float]) -> Callable[[Array], Array]:
    """A device function applied to each element; device functions can only be called from compiled code."""

    @numba.njit(error_model="numpy")
    def loop(x, out):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            out[i] = function(x[i])

    def call(x: Array) -> Array:
        out = np.empty(x.size)
        with np.errstate(all="ignore"):
            loop(x, out)
        return out

    return call


KERNELS = {name: over(getattr(scalar, name)) for name in ("exp", "log", "log1p", "phi", "psi", "expm1")}


@numba.njit(error_model="numpy")
def _pairs(x, y, high, low):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        high[i], low[i] = scalar.two_sum(x[i], y[i])


@numba.njit(error_model="numpy")
def _weights(x, top, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = scalar.weight(x[i], top[i])


@numba.njit(error_model="numpy")
def _powers(k, more, out):  # type: ignore[no-untyped-def]
    for i in range(k.size):
        out[i] = scalar.whole_power(k[i], more)


def neighbors(x: Array) -> Array:
    """Each number with the doubles beside it."""
    return np.concatenate([np.nextafter(x, -np.inf), x, np.nextafter(x, np.inf)])


def binade_edges() -> Array:
    """All powers of two with their neighbors, subnormals and the extremes, of both signs."""
    edges = neighbors(np.ldexp(1.0, np.arange(-1073, 1024)))
    edges = np.concatenate([edges, [ETA, 3 * ETA, FINITE_MAX, 2.0**-1022 - ETA]])
    return np.concatenate([edges, -edges])


def random_points(seed: int) -> Array:
    """Uniform near the origin and over the range of exp, and log-uniform over all magnitudes."""
    rng = np.random.default_rng(seed)
    n = POINTS // 4
    sign = rng.choice([-1.0, 1.0], n)
    return np.concatenate(
        [
            rng.uniform(-2.0, 2.0, n),
            rng.uniform(-745.2, 709.8, n),
            sign * 10.0 ** rng.uniform(-320.0, 308.0, n),
            sign * 10.0 ** rng.uniform(-20.0, 2.5, n),
        ]
    )


THRESHOLDS = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.7, -0.7, 1.6, -1.6, 0.6875, 1.375, 2.0, math.log(2), -math.log(2), 709.782712893384]
    + [-708.39641853226408, -745.13321910194122, -746.0]
    + [k * math.log(2) for k in range(-70, 70)]
    + [(k + 0.5) * math.log(2) for k in range(-1075, 1024)]  # where exp changes its exponent
    + [(176 + k) / 256 for k in range(81)]  # the cells of log
    + [1 + k / 128 for k in range(49)]
    + [(176 + k) / 256 - 1 for k in range(81)]
)


def points_of(name: str) -> Array:
    """Where a function is tested: all finite points at which its value is a finite double."""
    x = np.concatenate([random_points(len(name)), binade_edges(), neighbors(THRESHOLDS)])
    if name == "exp":
        return x[(x > -750.0) & (x < 709.78)]
    if name == "log":
        return np.abs(x[x != 0.0])
    if name in ("log1p", "psi"):
        return x[x > -1.0]
    return x[(x < 709.78)]


def exact(name: str, x: float) -> arb:
    """The function's value as a ball with at least 100 correct bits."""
    small = max(0, -math.frexp(x)[1]) if x else 0
    ctx.prec = 200 + (small if name in ("phi", "psi") else 0) + (int(abs(x) * 1.5) if abs(x) < 1500.0 else 0)
    ball = arb(x)
    return {
        "exp": ball.exp,
        "log": ball.log,
        "log1p": ball.log1p,
        "expm1": ball.expm1,
        "phi": lambda: ball.expm1() - ball,
        "psi": lambda: ball - ball.log1p(),
    }[name]()


def error_in_ulps(value: float, ball: arb) -> float:
    """|value - exact| over the unit in the last place of the exact value; in the subnormal range that unit is eta."""
    ctx.prec = max(ctx.prec, 1200)
    return float(abs(arb(value) - ball).upper()) / math.ulp(float(ball.mid()))


ULP_LIMITS = {"log": 0.52, "log1p": 1.0}
RELATIVE_LIMITS = {
    "exp": 1.6 * U,
    "phi": 6.0 * U,
    "psi": 6.0 * U,
    "expm1": 4.5 * U,
}  # what the error bounds of the package rest on


@pytest.mark.parametrize("name", ULP_LIMITS)
def test_error_in_ulps(name: str) -> None:
    x = points_of(name)
    for t, v in zip(x.tolist(), KERNELS[name](x).tolist(), strict=True):
        assert error_in_ulps(v, exact(name, t)) <= ULP_LIMITS[name], (t, v)


@pytest.mark.parametrize("name", RELATIVE_LIMITS)
def test_relative_error(name: str) -> None:
    """Below the normal range three products lose half of the smallest double each."""
    x = points_of(name)
    for t, v in zip(x.tolist(), KERNELS[name](x).tolist(), strict=True):
        ball = exact(name, t)
        ctx.prec = max(ctx.prec, 1200)
        assert abs(arb(v) - ball) <= abs(ball) * RELATIVE_LIMITS[name] + 1.5 * ETA, (t, v)


def test_no_value_of_phi_or_psi_is_negative() -> None:
    for name in ("phi", "psi"):
        values = KERNELS[name](points_of(name))
        assert not np.signbit(values).any(), name


@pytest.mark.parametrize(
    ("name", "x", "value"),
    [
        ("exp", 0.0, 1.0),
        ("exp", -0.0, 1.0),
        ("exp", -np.inf, 0.0),
        ("exp", -745.14, 0.0),
        ("exp", -745.13, ETA),
        ("exp", np.inf, np.inf),
        ("exp", 709.79, np.inf),
        ("exp", -1e308, 0.0),
        ("log", 0.0, -np.inf),
        ("log", 1.0, 0.0),
        ("log", np.inf, np.inf),
        ("log", -1.0, np.nan),
        ("log1p", -1.0, -np.inf),
        ("log1p", -1.5, np.nan),
        ("log1p", np.inf, np.inf),
        ("log1p", 0.0, 0.0),
        ("phi", np.inf, np.inf),
        ("phi", -np.inf, np.inf),
        ("phi", 0.0, 0.0),
        ("phi", -0.0, 0.0),
        ("psi", -1.0, np.inf),
        ("psi", -1.5, np.nan),
        ("psi", np.inf, np.inf),
        ("psi", 0.0, 0.0),
        ("psi", -0.0, 0.0),
        ("expm1", 0.0, 0.0),
        ("expm1", -np.inf, -1.0),
        ("expm1", np.inf, np.inf),
        *((name, np.nan, np.nan) for name in ("exp", "log", "log1p", "phi", "psi", "expm1")),
    ],
)
def test_edges(name: str, x: float, value: float) -> None:
    got = KERNELS[name](np.array([x]))[0]
    assert got == value or (got != got and value != value)


def test_two_sum_loses_nothing() -> None:
    rng = np.random.default_rng(5)
    x, y = (
        rng.choice([-1.0, 1.0], POINTS) * rng.uniform(1.0, 2.0, POINTS) * 2.0 ** rng.integers(-1074, 1023, POINTS)
        for _ in range(2)
    )
    near = rng.random(POINTS) < 0.5
    y = np.where(near, x * rng.choice([-1.0, -0.5, 1.0, 2.0**-53, 2.0**-54], POINTS), y)
    high, low = np.empty(POINTS), np.empty(POINTS)
    _pairs(x, y, high, low)
    for a, b, s, e in zip(x.tolist(), y.tolist(), high.tolist(), low.tolist(), strict=True):
        if math.isfinite(s):
            assert s == a + b and Fraction(s) + Fraction(e) == Fraction(a) + Fraction(b), (a, b)


def test_weight_error_and_limits() -> None:
    """exp of an exact difference: 2 u relative, and half of the smallest subnormal."""
    rng = np.random.default_rng(6)
    top = rng.normal(0.0, 1.0, POINTS) * 10.0 ** rng.uniform(-3.0, 9.0, POINTS)
    x = top - np.abs(rng.normal(0.0, 1.0, POINTS)) * 10.0 ** rng.uniform(-9.0, 2.9, POINTS)
    x[:5] = -np.inf, top[1], top[2] - 1500.0, -FINITE_MAX, np.nextafter(top[4], -np.inf)
    top[3] = FINITE_MAX
    out = np.empty(POINTS)
    with np.errstate(all="ignore"):
        _weights(x, top, out)
    assert out[0] == 0.0 and out[1] == 1.0 and out[2] == 0.0 and out[3] == 0.0
    ctx.prec = 300
    for a, m, w in zip(x[4:].tolist(), top[4:].tolist(), out[4:].tolist(), strict=True):
        ball = (arb(a) - arb(m)).exp()
        assert abs(arb(w) - ball) <= ball * (2.0 * U) + ETA, (a, m)


@pytest.mark.parametrize("more", [-7.0, 0.0, 100.0])
def test_whole_powers_are_exact(more: float) -> None:
    k = np.arange(-1022.0, 1024.0) - more
    out = np.empty_like(k)
    _powers(k, more, out)
    assert out.tolist() == [math.ldexp(1.0, int(power + more)) for power in k.tolist()]


def digest() -> str:
    """Hash of the bits of every function on a fixed set of points."""
    state = hashlib.sha256()
    for name, function in KERNELS.items():
        values = function(np.concatenate([points_of(name)[::7], neighbors(THRESHOLDS)]))
        state.update(np.where(np.isnan(values), 0.0, values).tobytes())
    return state.hexdigest()


def test_compiled_and_interpreted_bits_agree() -> None:
    """The same operations one by one in Python: a contracted multiply-add or a re-associated sum would show."""
    here = Path(__file__).resolve().parent
    other = "0" if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0" else "1"
    environment = os.environ | {"NUMBA_DISABLE_JIT": other, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    code = "import test_kernels_scalar as t; print(t.digest())"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == digest()
