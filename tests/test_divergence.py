"""Values and bounds of the divergences beyond the main six, against ball arithmetic, and the laws between them."""

from __future__ import annotations

import functools
import math
import os
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from arb_oracle import Reference
from table_families import FAMILIES

from elbo_exact import divergence
from elbo_exact._audit import audit
from elbo_exact._engine import pivoted_results
from elbo_exact.kernels.pivoted import cross_entropy_rows

Array = npt.NDArray[np.float64]
U = 2.0**-53
INF = math.inf
PAIRS = int(os.environ.get("ELBO_EXACT_DIVERGENCE_PAIRS", "5"))
SEED = int(os.environ.get("ELBO_EXACT_CAMPAIGN_SEED", "0"))
ORDERS = (-3.0, -1e-3, 0.0, 1e-300, 1e-8, 0.3, 0.5, 0.75, 1.0 - 1e-9, 1.0, 1.0 + 1e-9, 1.5, 2.0, 50.0, 1e6, INF)
PLAIN = ("chi2_divergence", "total_variation", "hellinger", "jensen_shannon", "jeffreys")


def subnormal_both(rng: np.random.Generator) -> tuple[Array, Array]:
    """Weights down to the smallest subnormal in both rows, together and apart."""
    n = int(rng.integers(2, 7))
    depths = -rng.uniform(700.0, 1600.0, (2, n))
    return np.append(0.0, depths[0]), np.append(rng.choice([0.0, -720.0]), depths[1])


def far_apart(rng: np.random.Generator) -> tuple[Array, Array]:
    """Disjoint but for tails of e**-50 to e**-5000."""
    n, depth = int(rng.integers(2, 9)), rng.uniform(50.0, 5000.0)
    slope = depth * np.linspace(0.0, 1.0, n)
    return slope + rng.normal(size=n), slope[::-1] + rng.normal(size=n)


def tight(rng: np.random.Generator) -> tuple[Array, Array]:
    """q within 1e-3 to 1e-16 of the posterior, offset by up to 1e9."""
    n, size = int(rng.integers(2, 40)), 10.0 ** rng.uniform(-16.0, -3.0)
    a = rng.normal(0.0, 2.0, n)
    return a + rng.choice([0.0, 1e3, 1e9]), a + size * rng.normal(size=n)


def many(rng: np.random.Generator) -> tuple[Array, Array]:
    """Around one leaf of the summation tree and around one chunk."""
    n = int(rng.choice([257, 700, 4097]))
    a = rng.normal(0.0, 3.0, n)
    return a, a + 10.0 ** rng.uniform(-9.0, 0.0) * rng.normal(size=n)


OWN = {function.__name__: function for function in (subnormal_both, far_apart, tight, many)}
SOURCES = {name: make for name, make in FAMILIES.items() if name != "many_states"} | OWN


class Case(NamedTuple):
    """One returned interval and what ball arithmetic says of it."""

    name: str
    order: float | None
    value: float
    bound: float
    verdict: str
    reference: Reference


def results_of(a: Array, b: Array) -> list[tuple[str, float | None, float, float]]:
    """(name, order, value, bound) of everything this module checks."""
    found = []
    audited = audit(a, b, include=PLAIN, unnormalized=True)
    for name in (*PLAIN, "entropy"):
        found.append((name, None, float(getattr(audited, name)), float(getattr(audited.error, name))))
    crossed, _ = pivoted_results(cross_entropy_rows, a, b, True, "raise", None)
    found.append(("cross_entropy", None, float(crossed[0, 0]), float(crossed[0, 1])))
    for order in ORDERS:
        renyi, _ = divergence.renyi_results(a, b, order, True, "raise", None)
        found.append(("renyi_divergence", order, float(renyi[0, 0]), float(renyi[0, 1])))
    return found


@functools.cache
def cases(family: str) -> list[Case]:
    """All intervals of the pairs of one family."""
    rng = np.random.default_rng([SEED, zlib.crc32(family.encode())])
    result = []
    for _ in range(PAIRS if family != "many" else 1):
        a, b = SOURCES[family](rng)
        reference = Reference(a, b)
        for name, order, value, bound in results_of(a, b):
            arguments = () if order is None else (order,)
            result.append(Case(name, order, value, bound, reference.verdict(name, value, bound, *arguments), reference))
    return result


def describe(case: Case) -> tuple[object, ...]:
    """What a failure needs to be repeated."""
    return case.name, case.order, case.value, case.bound, case.reference._a, case.reference._b


@pytest.mark.parametrize("family", SOURCES)
def test_no_interval_misses_the_exact_value(family: str) -> None:
    missed = [describe(case) for case in cases(family) if case.verdict == "outside"]
    assert not missed, (len(missed), len(cases(family)), missed[0])


def test_the_bound_of_a_high_order_counts_states_whose_weight_underflows() -> None:
    """exp(-751) is 0 as a double, but exp(-751 + c e) with c of a million is not."""
    a = np.array([0.0, -751.3022718881631, -712.663367476267])
    b = np.array([-0.00012626814961884763, -751.3023178313778, -712.6643830594895])
    results, _ = divergence.renyi_results(a, b, 1e6, True, "raise", None)
    value, bound = map(float, results[0])
    assert Reference(a, b).verdict("renyi_divergence", value, bound, 1e6) == "inside"
