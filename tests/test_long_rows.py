"""Rows of several chunks: whole chunks without mass, split points, and threads that share a row."""

from __future__ import annotations

import numpy as np
import pytest
from arb_oracle import Reference

from elbo_exact._audit import audit

CHUNK = 4096
FLOOR_ULPS = 8.0  # the accuracy floor of test_containment.py
QUANTITIES = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy", "log_q_normalizer")
PATTERNS = {
    "none": ([], []),
    "p misses the first chunk": ([0], []),
    "q misses the first chunk": ([], [0]),
    "both miss the first chunk": ([0], [0]),
    "p misses the last chunk": ([2], []),
    "q misses the middle chunk": ([], [1]),
    "each misses another chunk": ([0], [1]),
    "p lives in one chunk": ([0, 1], []),
}


def tables(pattern: str, tightness: float) -> tuple[np.ndarray, np.ndarray]:
    """A row of two chunks and a bit, with impossible chunks."""
    rng = np.random.default_rng(list(PATTERNS).index(pattern))
    a = rng.normal(size=2 * CHUNK + 700) * 3
    b = a + tightness * rng.normal(size=a.size)
    for table, chunks in zip((a, b), PATTERNS[pattern], strict=True):
        for chunk in chunks:
            table[chunk * CHUNK : (chunk + 1) * CHUNK] = -np.inf
    return a, b


@pytest.mark.parametrize("tightness", [1.0, 1e-9], ids=["loose", "tight"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_intervals_of_a_long_row_contain_the_exact_values(pattern: str, tightness: float) -> None:
    a, b = tables(pattern, tightness)
    result, reference = audit(a, b, unnormalized=True), Reference(a, b)
    for name in QUANTITIES:
        value, bound = float(getattr(result, name)), float(getattr(result.error, name))
        assert reference.verdict(name, value, bound) == "inside", (name, value, bound)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_chunk_of_impossible_states_changes_nothing(pattern: str) -> None:
    """Appending (-inf, -inf) states adds a chunk to the merge and no mass: exact values stay, so intervals must overlap."""
    a, b = tables(pattern, 1.0)
    longer = [np.concatenate([table, np.full(CHUNK, -np.inf)]) for table in (a, b)]
    one, other = audit(a, b, unnormalized=True), audit(*longer, unnormalized=True)
    for name in QUANTITIES:
        if np.isfinite(getattr(one, name)):
            assert abs(getattr(one, name) - getattr(other, name)) <= getattr(one.error, name) + getattr(other.error, name)
        else:
            np.testing.assert_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("tightness", [1e-9, 1e-12])
def test_nearly_equal_long_rows_keep_all_digits(tightness: float) -> None:
    """The pivot of a merge is the rounding of two logarithms: its square is 1e-4 of a gap of 1e-24 until it is corrected."""
    rng = np.random.default_rng(5)
    a = rng.normal(size=CHUNK + 100) * 3
    b = a + tightness * rng.normal(size=a.size)
    result, reference = audit(a, b, unnormalized=True), Reference(a, b)
    for name in ("gap", "forward_kl"):
        assert reference.ulps(name, float(getattr(result, name))) <= FLOOR_ULPS, name
