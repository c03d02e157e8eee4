"""What the engine adds to the kernels: which entry is to blame, what a flagged row becomes, and empty or single results.

The bits of its plans are in ``test_reproducibility.py`` (threads, executors, batches, and a spoiled floating-point unit), the words
of its messages in ``test_bad_input.py``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact import _engine
from elbo_exact._engine import evidence_results, pair_results, pivoted_results, shaped
from elbo_exact._parallel import TASK_ENTRIES
from elbo_exact.kernels.divergences import TOTAL_VARIATION, divergence_rows
from elbo_exact.kernels.reduce import BAD_Q, BAD_TARGET, OK
from elbo_exact.kernels.rows import N_OUTPUTS, OUT_GAP, OUT_STATUS
from elbo_exact.kernels.tiles import SHORT

INF, NAN = math.inf, math.nan


def table(*shape: int) -> Any:
    """A uniform table."""
    return np.full(shape, -math.log(shape[-1]))


@pytest.mark.parametrize(
    ("own", "other", "place", "index"),
    [
        ((4,), (4,), (1,), (1,)),
        ((4,), (3, 4), (1,), (1,)),
        ((3, 4), (4,), (2, 0), (2, 0)),
        ((3, 1, 4), (5, 4), (2, 0, 3), (2, 0, 3)),
        ((1, 4), (3, 4), (0, 2), (0, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_bad_entry_is_named_by_its_index_in_its_own_table(
    own: tuple[int, ...], other: tuple[int, ...], place: tuple[int, ...], index: tuple[int, ...], bad: float
) -> None:
    guilty = table(*own)
    guilty[place] = bad
    for name, pair in (("log_joint", (guilty, table(*other))), ("log_q", (table(*other), guilty))):
        with pytest.raises(ee.LogTableError, match=name) as caught:
            ee.gap(*pair, unnormalized=True)
        assert str(index) in str(caught.value)


@pytest.mark.parametrize(
    ("own", "other", "row", "index"),
    [
        ((4,), (3, 4), (), ()),
        ((3, 4), (4,), (2,), (2,)),
        ((3, 1, 4), (5, 4), (1, 0), (1, 0)),
        ((5, 4), (3, 1, 4), (4,), (4,)),
    ],
    ids=str,
)
def test_a_bad_row_of_q_is_named_by_its_index_in_its_own_table(
    own: tuple[int, ...], other: tuple[int, ...], row: tuple[int, ...], index: tuple[int, ...]
) -> None:
    empty, scaled = table(*own), table(*own)
    empty[row] = -INF
    scaled[row] += 1.0
    with pytest.raises(ee.LogTableError) as caught:
        ee.gap(table(*other), empty)
    place = f" at index {index}" if index else ""  # a table of one row has no index to tell
    assert str(caught.value) == f"log_q has no support{place}."
    with pytest.raises(ee.LogTableError, match=r"sums to 2\.72") as caught:
        ee.gap(table(*other), scaled)
    assert f"{place} (log normalizer 1)" in str(caught.value)


def test_infinity_is_an_error_even_where_nan_may_pass() -> None:
    both = np.array([[NAN, 0.0], [INF, 0.0]])
    for call in (lambda: ee.log_evidence(both, nan_policy="propagate"), lambda: ee.gap(both, table(2), nan_policy="propagate")):
        with pytest.raises(ee.LogTableError, match=r"\(1, 0\)"):
            call()


@pytest.mark.parametrize("n_states", [3, SHORT + 1, TASK_ENTRIES + 1])
def test_rows_with_nan_become_nan_and_their_neighbours_stay(n_states: int) -> None:
    rng = np.random.default_rng(n_states)
    a, b = rng.normal(size=(2, 4, n_states))
    expected, _ = pair_results(a, b, True, True, "raise", None)
    a[1, -1] = b[2, 0] = NAN
    results, batch = pair_results(a, b, True, True, "propagate", None)
    assert batch == (4,) and results[:, OUT_STATUS].tolist() == [OK, BAD_TARGET, BAD_Q, OK]
    np.testing.assert_array_equal(results[[0, 3]], expected[[0, 3]])
    assert np.isnan(results[1:3, :OUT_STATUS:2]).all() and (results[1:3, 1:OUT_STATUS:2] == INF).all()
    evidence, _ = evidence_results(a, "propagate", None)
    assert np.isnan(evidence[1, 0]) and evidence[1, 1] == INF and np.isfinite(evidence[[0, 2, 3]]).all()


def test_other_kernels_get_nan_for_the_same_rows() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3, 5))
    a[0, 0] = b[2, 4] = NAN
    order = (TOTAL_VARIATION, 0.0)
    results, _ = pivoted_results(divergence_rows, a, b, True, "propagate", None, order)
    assert np.isnan(results[[0, 2], 0]).all() and (results[[0, 2], 1] == INF).all()
    alone, _ = pivoted_results(divergence_rows, a[1], b[1], True, "raise", None, order)
    np.testing.assert_array_equal(results[1:2], alone)


def test_rows_that_need_care_are_done_again_in_their_places() -> None:
    """Equal tables have a gap of exactly 0 and are left out by the kernel that works side by side."""
    a = np.random.default_rng(1).normal(size=(70, 6))
    b = a + np.where(np.arange(70) % 3 == 0, 0.0, 1.0)[:, None] * np.random.default_rng(2).normal(size=a.shape)
    gaps = pair_results(a, b, True, True, "raise", None)[0][:, OUT_GAP]
    assert ((gaps == 0.0) == (np.arange(70) % 3 == 0)).all()


@pytest.mark.parametrize("n_states", [2, TASK_ENTRIES + 1])
def test_empty_batches(n_states: int) -> None:
    empty = np.empty((0, n_states))
    assert evidence_results(empty, "raise", None)[0].shape == (0, 3)
    assert pair_results(empty, empty, True, False, "raise", None)[0].shape == (0, N_OUTPUTS)


def test_one_number_is_a_scalar_and_several_have_the_shape_of_the_batch() -> None:
    columns = np.arange(12.0).reshape(6, 2)
    assert isinstance(shaped(columns[:1, 1], ()), np.float64)
    grid = shaped(columns[:, 1], (2, 3))
    assert grid.tolist() == [[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]] and grid.flags.c_contiguous


def test_arithmetic_is_checked_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "_SMALLEST", 0.0)  # what a flushed product looks like
    with pytest.raises(FloatingPointError, match="subnormal numbers are flushed to zero in this thread"):
        ee.log_evidence("not even a table")
    monkeypatch.undo()
    monkeypatch.setattr(_engine, "_ONE", 1.0 + 2.0**-52)  # neither is 1 + 2**-54 rounded up
    with pytest.raises(FloatingPointError, match="does not round to nearest in this thread"):
        ee.gap("not even", "tables")
