"""LatentSpace: numbering against NumPy's, exact sizes, refusals before allocation."""

import dataclasses
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbo_exact.errors import EnumerationTooLarge
from elbo_exact.space import LatentSpace

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(SIZES)
def test_states_are_the_c_order_of_numpy(sizes):
    space = LatentSpace(sizes)
    expected = np.stack(np.unravel_index(np.arange(space.size), sizes), axis=-1)
    states = space.states()
    assert states.dtype == np.int64 and states.shape == (space.size, len(sizes))
    assert np.array_equal(states, expected)
    assert np.array_equal(states, list(itertools.product(*map(range, sizes))))


@given(SIZES, st.data())
def test_index_undoes_states_and_agrees_with_ravel(sizes, data):
    space = LatentSpace(tuple(sizes))
    start = data.draw(st.integers(0, space.size - 1))
    stop = data.draw(st.integers(start + 1, space.size))
    block = space.states(slice(start, stop))
    assert np.array_equal(space.index(block), np.arange(start, stop))
    assert np.array_equal(space.index(block), np.ravel_multi_index(tuple(block.T), sizes))
    single = space.index(block[0])
    assert type(single) is int and single == start


@given(SIZES, st.integers(1, 50))
def test_blocks_cover_the_space_in_order(sizes, block_size):
    space = LatentSpace(sizes)
    parts = [space.states(block) for block in space.blocks(block_size)]
    assert all(len(part) == block_size for part in parts[:-1]) and 1 <= len(parts[-1]) <= block_size
    assert np.array_equal(np.concatenate(parts), space.states())


@given(st.lists(st.integers(2, 2**62), min_size=65, max_size=80), st.data())
def test_spaces_beyond_int64_are_numbered_exactly(sizes, data):
    space = LatentSpace(sizes)
    start = data.draw(st.integers(2**63, space.size - 4))
    states = space.states(slice(start, start + 4))
    rest = start + 3
    for variable in reversed(range(len(sizes))):  # the definition of mixed radix, in Python integers
        rest, digit = divmod(rest, sizes[variable])
        assert states[3, variable] == digit
    assert list(space.index(states)) == [start, start + 1, start + 2, start + 3]
    assert space.index(states[0]) == start


def test_a_space_of_exactly_int64_size_keeps_its_last_index():
    space = LatentSpace([2] * 63)
    assert space.index(np.ones(63, dtype=np.int8)) == 2**63 - 1
    assert space.index(np.ones((1, 63), dtype=np.uint8)).tolist() == [2**63 - 1]
    assert LatentSpace([2] * 64).index(np.ones(64, dtype=np.int64)) == 2**64 - 1


def test_sizes_are_python_integers_of_any_length():
    assert LatentSpace([2] * 64).size == 2**64  # np.prod gives 0 here
    assert LatentSpace(np.array([3, 4])).sizes == (3, 4)
    assert type(LatentSpace(np.array([3, 4])).size) is int
    assert LatentSpace(()).size == 1
    assert LatentSpace(()).states().shape == (1, 0)
    assert LatentSpace(()).index([]) == 0
    assert LatentSpace((2, 3, 4)).n_variables == 3


def test_leading_axes_of_index_are_kept():
    space = LatentSpace((3, 5))
    states = space.states().reshape(5, 3, 2)
    assert np.array_equal(space.index(states), np.arange(15).reshape(5, 3))
    assert space.index(np.empty((0, 2), dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("sizes", "amount"),
    [
        ([2] * 40, "2**40 states (8.0 TiB)"),
        ([3] * 25, "3**25 states (6.2 TiB)"),
        ([7, 3, 7, 2**40], "3 * 7**2 * 1099511627776 states (1.1 PiB)"),
        ([2] * 5000, "2**5000 states (about 10**1506 bytes)"),
        ([3] * 10000, "3**10000 states (about 10**4772 bytes)"),  # 4,772 digits, more than Python agrees to print
    ],
)
def test_check_refuses_with_exact_numbers(sizes, amount):
    with pytest.raises(EnumerationTooLarge) as caught:
        LatentSpace(sizes).check()
    remedy = "raise max_bytes or work in blocks (states=...)"
    assert str(caught.value) == f"enumeration needs {amount} > max_bytes=2 GiB; {remedy}"
    assert caught.value.n_states == LatentSpace(sizes).size
    assert caught.value.n_bytes == 8 * LatentSpace(sizes).size
    assert caught.value.max_bytes == 2**31


def test_the_budget_is_inclusive_and_counts_rows():
    space = LatentSpace((2, 3))
    space.check(48)
    space.check(480, n_rows=10)
    space.check(0, n_rows=0)
    with pytest.raises(EnumerationTooLarge, match=r"6 states \(48 bytes\) > max_bytes=47 bytes"):
        space.check(47)
    with pytest.raises(EnumerationTooLarge):
        space.check(479, n_rows=10)
    assert len(space.states(max_bytes=96)) == 6
    with pytest.raises(EnumerationTooLarge):
        space.states(max_bytes=95)
    assert len(space.states(slice(0, 1), max_bytes=16)) == 1


def test_refusal_comes_before_allocation():
    space = LatentSpace([2] * 30)
    tracemalloc.start()
    with pytest.raises(EnumerationTooLarge):
        space.states()
    with pytest.raises(EnumerationTooLarge):
        space.states(slice(5, 2**29))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # one state of one variable for each of 2**29 states would be 4 GiB


def test_blocks_of_an_enormous_space_start_at_once():
    blocks = LatentSpace([2] * 200).blocks(2**60)
    assert next(blocks) == slice(0, 2**60)
    assert next(blocks) == slice(2**60, 2**61)


@pytest.mark.parametrize(
    ("states", "error"),
    [
        (slice(0, 7), ValueError),
        (slice(-1, 3), ValueError),
        (slice(3, 3), ValueError),
        (slice(4, 3), ValueError),
        (slice(6, None), ValueError),
        (slice(0, 6, 2), ValueError),
        (slice(0.0, 3.0), TypeError),
        (3, TypeError),
        ((0, 3), TypeError),
    ],
)
def test_slices_that_do_not_fit_are_refused(states, error):
    with pytest.raises(error, match="^states must"):
        LatentSpace((2, 3)).states(states)


def test_open_slices_and_spans():
    space = LatentSpace((2, 3))
    assert space.span() == (0, 6)
    assert space.span(slice(None, 4)) == (0, 4)
    assert space.span(slice(np.int64(2), None, 1)) == (2, 6)
    assert space.states(slice(4, None)).tolist() == [[1, 1], [1, 2]]


@pytest.mark.parametrize("sizes", [(0,), (2, -1), (2.0,), (True,), ("2",), (2**62 + 1,), (None,)])
def test_sizes_must_be_positive_integers(sizes):
    with pytest.raises(ValueError, match=r"^sizes\[\d\] must be"):
        LatentSpace(sizes)


def test_a_single_number_of_sizes_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"sizes must be a sequence of integers; got 8; pass \(8,\)\."):
        LatentSpace(8)


@pytest.mark.parametrize("block_size", [0, -3, 2.0, True])
def test_block_size_must_be_a_positive_integer(block_size):
    with pytest.raises(ValueError, match="^block_size must be an integer >= 1"):
        LatentSpace((4,)).blocks(block_size)


def test_index_names_the_guilty_variable():
    space = LatentSpace((2, 3), names=("rain", "month"))
    with pytest.raises(ValueError, match=r"states must be in 0 \.\.\. 2 for variable 'month'; got 3 at index \(1, 1\)\."):
        space.index([[0, 0], [1, 3]])
    with pytest.raises(ValueError, match=r"for variable 0; got -1 at index \(0,\)"):
        LatentSpace((2, 3)).index([-1, 0])
    with pytest.raises(ValueError, match=r"last axis of 2 variables; got shape \(3,\)"):
        space.index([0, 0, 0])
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        space.index(0)
    for floating in ([0.0, 1.0], [True, False], ["0", "1"]):
        with pytest.raises(TypeError, match="array of integers"):
            space.index(floating)
    with pytest.raises(ValueError, match="got 18446744073709551615"):
        space.index(np.array([2**64 - 1, 0], dtype=np.uint64))


@pytest.mark.parametrize("names", [("a",), ("a", "a"), ("a", 1), "ab"])
def test_names_must_be_distinct_strings(names):
    with pytest.raises(ValueError, match="^names must be 2 distinct strings"):
        LatentSpace((2, 2), names=names)


def test_spaces_are_frozen_comparable_values():
    space = LatentSpace([2, 3], names=["a", "b"])
    assert space == LatentSpace((2, 3), ("a", "b")) and hash(space) == hash(LatentSpace((2, 3), ("a", "b")))
    assert space != LatentSpace((3, 2), ("a", "b"))
    assert pickle.loads(pickle.dumps(space)) == space
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.sizes = (1,)
