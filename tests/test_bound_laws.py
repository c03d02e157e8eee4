"""What no bound may notice: an offset of log p, the order of the states, a state split in two; and q = p makes every gap 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from elbo_exact._bound_results import (
    BoundResults,
    Options,
    elbo_results,
    eubo_results,
    perturbative_results,
    renyi_bound_results,
    tvo_results,
)
from elbo_exact._k_sample import annealed_results, jackknife_results, k_sample_results, renyi_sample_results
from elbo_exact._validate import temperatures
from elbo_exact.space import LatentSpace

U = 2.0**-53
LOGITS = Options(True)
Bound = Callable[[Any, Any], BoundResults]
ONE_SAMPLE: dict[str, Bound] = {
    "elbo": lambda a, b: elbo_results(a, b, LOGITS),
    "eubo": lambda a, b: eubo_results(a, b, LOGITS),
    **{f"renyi {x}": lambda a, b, x=x: renyi_bound_results(a, b, x, LOGITS) for x in (-np.inf, -3.0, 0.0, 0.5, 2.0, np.inf)},
    **{f"perturbative {k}": lambda a, b, k=k: perturbative_results(a, b, k, LOGITS) for k in (3, 7)},
    **{f"tvo {s}": lambda a, b, s=s: tvo_results(a, b, temperatures(4), s, False, LOGITS) for s in ("lower", "upper")},
    **{f"iwae {s}": lambda a, b, s=s: k_sample_results(a, b, 5, s, LOGITS) for s in ("lower", "upper")},
    "jackknife": lambda a, b: jackknife_results(a, b, 5, 1, LOGITS),
    **{f"renyi of samples {x}": lambda a, b, x=x: renyi_sample_results(a, b, x, 5, LOGITS) for x in (-1.0, 0.5, 3.0)},
}


def annealed(side: str) -> Bound:
    """Heat-bath sweeps over three bits, whose states keep their places."""
    return lambda a, b: annealed_results(a, b, temperatures(4), side, LatentSpace((2, 2, 2)), 1, LOGITS)


EVERY = ONE_SAMPLE | {f"ais {side}": annealed(side) for side in ("lower", "upper")}


def tables(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Loose and nearly tight rows of eight states."""
    rng = np.random.default_rng(seed)
    a = rng.normal(0.0, 2.0, 8)
    return a, (rng.normal(size=8) if seed % 2 else a + 1e-5 * rng.normal(size=8))


def assert_same_gap(one: BoundResults, other: BoundResults, moved: float = 0.0) -> None:
    """Equal up to the returned errors, and what rounding of the changed table itself may move."""
    assert np.abs(one.gap - other.gap).max() <= (one.gap_error + other.gap_error).max() + moved
    assert one.side == other.side


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("seed", range(4))
def test_an_offset_moves_values_and_no_gap(name: str, seed: int) -> None:
    a, b = tables(seed)
    a = np.round(a * 2.0**20) / 2.0**20  # so that adding 1024 is exact
    one, other = EVERY[name](a, b), EVERY[name](a + 1024.0, b)
    assert_same_gap(one, other)
    assert np.abs(other.value - one.value - 1024.0).max() <= (one.value_error + other.value_error).max()


@pytest.mark.parametrize("name", sorted(ONE_SAMPLE))
@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_states_is_nothing(name: str, seed: int) -> None:
    a, b = tables(seed)
    order = np.random.default_rng(seed).permutation(8)
    assert_same_gap(ONE_SAMPLE[name](a, b), ONE_SAMPLE[name](a[order], b[order]))


@pytest.mark.parametrize("name", sorted(ONE_SAMPLE))
@pytest.mark.parametrize("seed", range(1, 8, 2))
def test_a_state_may_be_split(name: str, seed: int) -> None:
    a, b = tables(seed)
    split_a, split_b = (np.append(table, table[3] - np.log(2.0)) for table in (a, b))
    split_a[3], split_b[3] = split_a[-1], split_b[-1]
    one, other = ONE_SAMPLE[name](a, b), ONE_SAMPLE[name](split_a, split_b)
    # four entries round by u |x|, log 2 by u; a table off by d in every entry moves log w and log p(x) by 2 d, powers by the order
    moved = 7.0 * 4.0 * U * (np.abs(split_a).max() + np.abs(split_b).max() + 1.0)
    assert_same_gap(one, other, moved * (9.0 if name == "jackknife" else 1.0))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_posterior_is_tight(name: str) -> None:
    a, _ = tables(1)
    assert abs(EVERY[name](a, a - 0.5).gap[0]) <= EVERY[name](a, a - 0.5).gap_error[0] < 1e-12
    assert EVERY[name](a, a).gap[0] == 0.0
