"""The fast Renyi moments on tables where no single sum serves: within their bounds, sharp, and not left to the careful kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import flint
import numpy as np
import numpy.typing as npt
import pytest
from flint import arb

import elbo_exact as ee
from elbo_exact import bounds
from elbo_exact._bound_results import Options, renyi_bound_results
from elbo_exact.kernels.moment import M_BOUND, M_VALUE, N_MOMENT, moment_rows

Array = npt.NDArray[np.float64]
INF = math.inf
ORDERS = (0.0, 0.5, -0.5, 1.5, -1.0, 2.0, 0.3, 0.9, 0.99, 1.0 - 1e-6, 1e-5, 3.0, -3.0, 7.5, -20.0, 1e3)
BITS = 500

# (log p, log q) from two normal tables and a heavy-tailed one
KINDS: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "equal": lambda x, y, t: (5.0 * x, 5.0 * x),
    "near": lambda x, y, t: (5.0 * x, 5.0 * x + 1e-4 * y),
    "blurred": lambda x, y, t: (5.0 * x, 4.5 * x),
    "blurred, far": lambda x, y, t: (30.0 * x, 27.0 * x),
    "few large ratios": lambda x, y, t: (2.0 * x, 2.0 * x + 0.01 * t),
    "unrelated": lambda x, y, t: (2.0 * x, 2.0 * y),
    "offsets": lambda x, y, t: (3.0 * x + 1e6, 3.0 * x + 0.1 * t - 1e3),
}


def exact_divergence(a: Array, b: Array, alpha: float) -> arb | float:
    """log sum q**alpha p**(1 - alpha) / (alpha - 1) over the states that count; an infinity by the rule for missing support."""
    log_a, log_b = (sum((arb(x).exp() for x in row.tolist() if x > -INF), arb(0)).log() for row in (a, b))
    total = arb(0)
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        if x > -INF and y > -INF:
            total += (arb(alpha) * (y - log_b) + (1 - arb(alpha)) * (x - log_a)).exp()
        elif x == -INF < y and alpha > 1.0:
            return INF
        elif y == -INF < x and alpha < 0.0:
            return -INF
    return INF if total == 0 else total.log() / (arb(alpha) - 1)


def check(a: Array, b: Array, alpha: float) -> None:
    """A bound lies within its error of the exact value."""
    found = renyi_bound_results(a, b, alpha, Options(True))
    gap = float(found.gap[0]) if alpha >= 0.0 else -float(found.gap[0])
    with flint.ctx.workprec(BITS):
        expected = exact_divergence(a, b, alpha)
        if isinstance(expected, float):
            assert gap == expected and found.gap_error[0] == 0.0
        else:
            assert abs(arb(gap) - expected) <= arb(float(found.gap_error[0])) + arb(2) ** -400  # the resolution of the oracle


@pytest.mark.parametrize("zeros", ["none", "both", "p", "q"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_lie_within_their_bounds(kind: str, zeros: str) -> None:
    rng = np.random.default_rng(len(kind))
    for n in (2, 64, 65, 130):
        a, b = KINDS[kind](rng.normal(size=n), rng.normal(size=n), rng.standard_t(1.5, size=n))
        gone = rng.random(n) < 0.3
        gone[int(a.argmax())] = False
        a[gone] = -INF if zeros in ("both", "p") else a[gone]
        b[gone] = -INF if zeros in ("both", "q") else b[gone]
        for alpha in ORDERS[:-1]:
            check(a, b, alpha)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_kernel_decides_and_is_sharp(kind: str) -> None:
    rng = np.random.default_rng(7)
    a, b = KINDS[kind](rng.normal(size=(20, 256)), rng.normal(size=(20, 256)), rng.standard_t(1.5, size=(20, 256)))
    out = np.empty((20, N_MOMENT))
    for alpha in ORDERS:
        moment_rows(a, b, alpha, out)
        decided = out[:, M_BOUND] < INF
        assert decided.all() or (abs(alpha) > 2.0 and decided.mean() >= 0.5) or "large" in kind
        relative = 2.0**-41 + 40.0 * abs(alpha) * 2.0**-53  # what it is asked for, and the pivot's error at such an order
        room = relative * np.abs(out[decided, M_VALUE]) + 2.0**-90 * (1.0 + abs(alpha))
        assert (out[decided, M_BOUND] <= room).all() or kind == "offsets"  # entries of 1e6 round more


def test_rows_of_several_chunks_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=9000), rng.normal(size=9000)
    for b in (2.0 * x + 1e-3 * y, 1.9 * x):
        for alpha in (0.5, 0.3, 2.0):
            check(2.0 * x, b, alpha)


def test_missing_support_is_decided_by_rule() -> None:
    a, b = np.array([[0.0, -1.0, -INF], [0.0, -INF, -1.0]]), np.array([0.0, -1.0, -2.0])
    b = b - ee.log_evidence(b)
    assert (bounds.renyi(a, b, alpha=2.0) == -INF).all()
    assert (bounds.renyi(b, a - ee.log_evidence(a)[:, None], alpha=-1.0) == INF).all()
    assert np.isfinite(bounds.renyi(a, b, alpha=-1.0)).all()
