"""Conversion and checks at the public border: what is accepted keeps its values, what is refused is named."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbo_exact._validate import (
    LARGEST_EXACT_INTEGER,
    broadcast_rows,
    categories,
    integer,
    log_table,
    one_of,
    raise_bad_entry,
    real_array,
    same_states,
)
from elbo_exact.errors import LogTableError

VALUES = [[0.5, -1.25, -np.inf], [3.0, 0.0, -7.5]]  # exact in every format below
BASE = np.array(VALUES)


class FromElsewhere:
    """An array type of another library, known by ``__array__`` alone."""

    def __init__(self, values: npt.NDArray[np.float64]) -> None:
        self._values = values

    def __array__(self, dtype: object = None, copy: bool | None = None) -> npt.NDArray[np.float64]:
        return self._values


class OnTheDevice:
    """A tensor that lives elsewhere."""

    device = type("Device", (), {"type": "cuda", "__str__": lambda self: "cuda:0"})()

    def detach(self) -> OnTheDevice:
        return self

    def numpy(self) -> npt.NDArray[np.float64]:
        raise AssertionError("must not be read")


def unaligned(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A copy that starts one byte off."""
    memory = np.empty(values.nbytes + 1, np.uint8)
    view = memory[1:].view(np.float64).reshape(values.shape)
    view[...] = values
    return view


def read_only(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    copy = values.copy()
    copy.flags.writeable = False
    return copy


FORMS = {
    "list": VALUES,
    "tuple": tuple(map(tuple, VALUES)),
    "float64": BASE,
    "float32": BASE.astype(np.float32),
    "float16": BASE.astype(np.float16),
    "big-endian": BASE.astype(">f8"),
    "big-endian float32": BASE.astype(">f4"),
    "little-endian": BASE.astype("<f8"),
    "Fortran order": np.asfortranarray(BASE),
    "strided": np.repeat(np.repeat(BASE, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": BASE[::-1, ::-1].copy()[::-1, ::-1],
    "transposed": BASE.T.copy().T,
    "unaligned": unaligned(BASE),
    "read-only": read_only(BASE),
    "other library": FromElsewhere(BASE),
    "rows of arrays": [BASE[0], BASE[1]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_same_plain_array(form: str) -> None:
    before = np.array(FORMS[form], copy=True) if form != "other library" else None
    result = real_array(FORMS[form], "log_joint")
    assert result.dtype == np.dtype(np.float64)
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    assert result.flags.aligned
    assert type(result) is np.ndarray
    assert result.tobytes() == BASE.tobytes()
    if before is not None:
        np.testing.assert_array_equal(FORMS[form], before)


def test_a_plain_array_is_not_copied() -> None:
    for table in (BASE, read_only(BASE)):
        assert np.shares_memory(real_array(table, "log_joint"), table)


def test_a_broadcast_view_becomes_rows() -> None:
    view = np.broadcast_to(BASE[0], (4, 3))
    result = real_array(view, "log_joint")
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, np.stack([BASE[0]] * 4))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", ">i4"])
def test_integers_that_doubles_can_hold(dtype: str) -> None:
    np.testing.assert_array_equal(real_array(np.array([0, 1, 100], dtype), "log_q"), [0.0, 1.0, 100.0])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_last_exact_integer_is_the_last_accepted(sign: int) -> None:
    assert real_array([sign * LARGEST_EXACT_INTEGER], "log_q")[0] == sign * 2.0**53
    with pytest.raises(LogTableError, match=r"^log_q holds integers beyond 2\*\*53, which float64 cannot represent exactly"):
        real_array([sign * (LARGEST_EXACT_INTEGER + 1)], "log_q")


@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=20))
def test_half_precision_is_widened_exactly(values: list[float]) -> None:
    assert real_array(np.array(values, np.float16), "log_q").tolist() == values


REFUSED = {
    "bool": np.array([True]),
    "str": np.array(["1.0"]),
    "object": np.array([None]),
    "complex128": np.array([1j]),
    "datetime64[D]": np.array(["2020-01-01"], "datetime64[D]"),
    "bytes8": np.array([b"1"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_real_number_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError, match=r"^log_joint must be a real floating array; got dtype "):
        real_array(REFUSED[name], "log_joint")


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is double here")
def test_long_doubles_are_not_rounded_silently() -> None:
    with pytest.raises(TypeError, match="log_q must be a real floating array; got dtype "):
        real_array(np.zeros(3, np.longdouble), "log_q")


def test_masked_ragged_and_distant_arrays_are_type_errors() -> None:
    with pytest.raises(TypeError, match="log_q: masked arrays are not supported; set masked states to -inf"):
        real_array(np.ma.masked_array([1.0, 2.0], [False, True]), "log_q")
    with pytest.raises(TypeError, match="log_q must be a real floating array; got list"):
        real_array([[1.0], [1.0, 2.0]], "log_q")
    with pytest.raises(TypeError, match=r"log_q must be on the CPU; got a tensor on cuda:0; pass log_q\.cpu\(\)\.numpy\(\)"):
        real_array(OnTheDevice(), "log_q")


def test_tables_have_states() -> None:
    assert log_table([1.0], "log_q").shape == (1,)
    assert log_table(np.zeros((0, 3)), "log_q").shape == (0, 3)
    with pytest.raises(LogTableError, match=r"^log_q must have at least one axis, the states; got a scalar\.$"):
        log_table(1.0, "log_q")
    with pytest.raises(LogTableError, match=r"^log_q has 0 states along axis=-1; at least 1 is required\.$") as caught:
        log_table(np.zeros((4, 0)), "log_q")
    assert caught.value.argument == "log_q"
    assert caught.value.value == (4, 0)


@pytest.mark.parametrize(
    ("first", "second", "batch"),
    [((3,), (3,), ()), ((5, 3), (3,), (5,)), ((2, 1, 3), (4, 3), (2, 4)), ((0, 3), (1, 3), (0,)), ((1, 3), (7, 3), (7,))],
)
def test_leading_axes_broadcast(first: tuple[int, ...], second: tuple[int, ...], batch: tuple[int, ...]) -> None:
    assert same_states(np.zeros(first), "log_joint", np.zeros(second), "log_q") == batch


@pytest.mark.parametrize(("first", "second"), [((3,), (1,)), ((1,), (3,)), ((2, 3), (4, 3)), ((2, 3), (2, 4))])
def test_the_states_do_not_broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(LogTableError) as caught:
        same_states(np.zeros(first), "log_joint", np.zeros(second), "log_q")
    assert str(caught.value) == f"log_q must have the same shape as log_joint {first}; got {second}."


@given(st.lists(st.integers(0, 3), max_size=3), st.data())
def test_rows_are_those_of_the_broadcast_table(batch: list[int], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(batch)))
    shape = [1 if data.draw(st.booleans()) else size for size in batch[len(batch) - kept :]]
    table = np.arange(float(np.prod(shape, dtype=int) * 2)).reshape(*shape, 2)
    rows = broadcast_rows(table, tuple(batch))
    expected = np.broadcast_to(table, (*batch, 2)).reshape(int(np.prod(batch, dtype=int)), 2)
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows if len(rows) == len(expected) else np.broadcast_to(rows, expected.shape), expected)


def test_one_row_for_many_is_not_copied() -> None:
    table = np.zeros(5)
    rows = broadcast_rows(table, (1000, 1000))
    assert rows.shape == (1, 5)
    assert np.shares_memory(rows, table)


def test_nan_is_named_before_infinity_and_with_its_index() -> None:
    table = np.zeros((2, 3))
    raise_bad_entry(table, "log_q")  # nothing to complain about
    table[0, 1] = np.inf
    with pytest.raises(LogTableError) as caught:
        raise_bad_entry(table, "log_q")
    assert str(caught.value) == "log_q contains +inf at index (0, 1); a log density must be finite or -inf."
    table[1, 2] = np.nan
    with pytest.raises(LogTableError, match=r"^log_q contains NaN at index \(1, 2\)\.$"):
        raise_bad_entry(table, "log_q")


def test_choices_are_compared_by_value_only_if_they_are_strings() -> None:
    assert one_of("raise", "nan_policy", ("raise", "propagate")) == "raise"
    assert one_of(None, "certify", (None, "arb")) is None
    for value in ("no", 1, None, ["raise"], np.array(["raise"])):
        with pytest.raises(ValueError, match="^nan_policy must be one of 'raise', 'propagate'; got "):
            one_of(value, "nan_policy", ("raise", "propagate"))


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_whole_numbers_of_any_type(value: object) -> None:
    result = integer(value, "k", 3)
    assert result == 3
    assert type(result) is int


@pytest.mark.parametrize("value", [2, -1, 3.0, "3", None, True, np.True_, [3], np.array([3, 4])], ids=repr)
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="^k must be an integer >= 3; got "):
        integer(value, "k", 3)


@pytest.mark.parametrize("values", [[0, 2, 1], [0.0, 2.0, 1.0], np.array([0, 2, 1], np.uint8)], ids=["int", "float", "uint8"])
def test_categories_are_int64(values: object) -> None:
    result = categories(values, "x", 3)
    assert result.dtype == np.int64
    assert result.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([0.0, np.nan], LogTableError, r"x has a missing value \(NaN\) at index \(1,\); drop the observation"),
        ([[0], [-1]], LogTableError, r"got a missing value \(-1\) at index \(1, 0\); drop the observation"),
        ([0, 3], LogTableError, r"x must be in 0 \.\.\. 2; got 3 at index \(1,\); number the categories from 0"),
        ([0.5], TypeError, r"x must hold whole numbers 0 \.\.\. 2; got dtype float64"),
        (["a"], TypeError, r"x must hold whole numbers 0 \.\.\. 2; got dtype str"),
    ],
    ids=["nan", "minus one", "too large", "fraction", "text"],
)
def test_what_is_no_category_is_refused(values: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        categories(values, "x", 3)
