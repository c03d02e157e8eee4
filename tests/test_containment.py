"""Every interval of an audit contains the exact value: forty families of pairs against ball arithmetic.

``ELBO_EXACT_CAMPAIGN_INTERVALS`` sets how many intervals are checked (default: what fits into a test run) and
``ELBO_EXACT_CAMPAIGN_SEED`` the first seed.
"""

from __future__ import annotations

import functools
import math
import os
from typing import Any, NamedTuple

import numpy as np
import pytest
from arb_oracle import Reference
from table_families import FAMILIES, OVERFLOW, UNDERFLOW

from elbo_exact._audit import audit

INTERVALS = int(os.environ.get("ELBO_EXACT_CAMPAIGN_INTERVALS", "30000"))
SEED = int(os.environ.get("ELBO_EXACT_CAMPAIGN_SEED", "0"))
MAIN = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy", "log_q_normalizer")
DIVERGENCES = ("chi2_divergence", "total_variation", "hellinger", "jensen_shannon", "jeffreys")
ORDERS = (-2.0, 0.0, 1e-3, 0.25, 0.5, 0.75, 0.999, 1.0, 1.0 + 2**-30, 1.5, 2.0, 7.5, math.inf)
ROWS = max(1, INTERVALS // (len(FAMILIES) * (len(MAIN) + len(DIVERGENCES) + 1)))
FLOOR_ULPS = 8.0  # the one empirical constant: a prototype's worst was 5.42, the bounds allow 10 to 21
SMALLEST_FLOOR = 1e-290  # below, underflow makes accuracy absolute
U, ETA = 2.0**-53, 2.0**-1074
HUGE = 2.0**1000  # an infinite bound is legitimate only where a quantity nears the end of the range, 2**1024


class Interval(NamedTuple):
    """One value with its bound and what the oracle says of it."""

    quantity: str
    seed: int
    value: float
    bound: float
    verdict: str
    exact: str


@functools.cache
def campaign(family: str) -> tuple[list[Interval], list[tuple[int, Any, Reference]]]:
    """The intervals of a family, and its audits with their references."""
    intervals, audits = [], []
    for seed in range(SEED, SEED + ROWS):
        rng = np.random.default_rng((seed, list(FAMILIES).index(family)))
        a, b = FAMILIES[family](rng)
        order = float(rng.choice(ORDERS))
        result = audit(a, b, include=(*DIVERGENCES, ("renyi_divergence", order)), unnormalized=True)
        reference = Reference(a, b)
        audits.append((seed, result, reference))
        for name in (*MAIN, *DIVERGENCES, "renyi_divergence"):
            arguments = (order,) if name == "renyi_divergence" else ()
            value, bound = float(getattr(result, name)), float(getattr(result.error, name))
            said = reference.verdict(name, value, bound, *arguments)
            exact = "" if said == "inside" else repr(reference.sharp(name, *arguments))
            intervals.append(Interval(f"{name}{arguments or ''}", seed, value, bound, said, exact))
    return intervals, audits


@pytest.mark.parametrize("family", FAMILIES)
def test_no_interval_misses_the_exact_value(family: str) -> None:
    outside = [interval for interval in campaign(family)[0] if interval.verdict == "outside"]
    assert not outside, f"{len(outside)} outside, first {outside[:3]}"


@pytest.mark.parametrize("family", FAMILIES)
def test_only_underflow_is_undecided(family: str) -> None:
    undecided = [interval for interval in campaign(family)[0] if interval.verdict == "undecided"]
    assert family in UNDERFLOW or not undecided, undecided[:3]


def test_hardly_any_interval_is_undecided() -> None:
    said = [interval.verdict for family in FAMILIES for interval in campaign(family)[0]]
    assert said.count("undecided") < 0.02 * len(said)


@pytest.mark.parametrize("family", FAMILIES)
def test_ordering_and_signs_are_exact(family: str) -> None:
    for seed, result, _ in campaign(family)[1]:
        assert result.elbo <= result.log_evidence <= result.eubo, seed
        for name in ("gap", "forward_kl", *DIVERGENCES):
            value = getattr(result, name)
            assert value >= 0.0 and math.copysign(1.0, value) == 1.0, (seed, name, value)
        assert result.total_variation <= 1.0 and result.hellinger <= 1.0, seed


@pytest.mark.parametrize("family", FAMILIES)
def test_both_divergences_are_accurate(family: str) -> None:
    for seed, result, reference in campaign(family)[1]:
        for name in ("gap", "forward_kl"):
            value = float(getattr(result, name))
            if SMALLEST_FLOOR <= value < math.inf:
                assert reference.ulps(name, value) <= FLOOR_ULPS, (seed, name, value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_evidence_bound_is_small(family: str) -> None:
    """1.01 (u|L| + 1.01 (2u log A + 4.2u + 5.2u merge + n eta)) with log A <= log S; 2 ulps once |L| outweighs the rest.

    ulp(L) > u|L|, so |L| + constant <= 2|L|/1.03 suffices for two ulps.
    """
    for seed, result, reference in campaign(family)[1]:
        n_states, value = reference.n_states, abs(float(result.log_evidence))
        constant = 2.0 * math.log(n_states) + 4.2 + (5.2 if n_states > 4096 else 0.0)
        bound = result.error.log_evidence
        assert bound <= 1.03 * (U * (value + constant) + n_states * ETA), seed
        if 1.1 * constant <= value < math.inf:
            assert bound <= 2.0 * math.ulp(value), seed


@pytest.mark.parametrize("family", FAMILIES)
def test_infinite_bounds_only_at_the_end_of_the_range(family: str) -> None:
    for seed, result, reference in campaign(family)[1]:
        assert result.error.log_evidence < math.inf, seed
        balls = [reference.sharp(name) for name in ("log_evidence", "elbo", "gap", "forward_kl")]
        giant = any(not isinstance(ball, float) and abs(ball).upper() > HUGE for ball in balls)
        assert result.status == "ok" or (result.status == "overflow" and giant and family in OVERFLOW), (seed, result.status)
        if not giant:
            for name in MAIN:
                assert result.error.__dict__[name] < math.inf, (seed, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_is_within_the_three_bounds(family: str) -> None:
    for seed, result, _ in campaign(family)[1]:
        assert abs(result.residual) <= result.residual_bound, seed


@pytest.mark.parametrize("family", FAMILIES)
def test_interval_ends_enclose_the_exact_value(family: str) -> None:
    for seed, result, reference in campaign(family)[1]:
        for name in MAIN:
            low, high = result.interval(name)
            ball = reference.sharp(name)
            if isinstance(ball, float):
                assert low <= ball <= high, (seed, name)
            else:
                assert not (ball < low or ball > high), (seed, name)
