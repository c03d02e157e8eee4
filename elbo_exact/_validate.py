"""The only place where arguments are checked and made aligned, C-contiguous float64.

Everything here runs before any arithmetic and costs O(1), except the search for a guilty entry, which starts only after
a kernel has flagged a row. Messages name the argument, the requirement, what came, where, and the remedy.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact.errors import LogTableError

__all__ = [
    "LARGEST_EXACT_INTEGER",
    "FloatArray",
    "at_index",
    "broadcast_rows",
    "categories",
    "categories_or_missing",
    "counts_or_missing",
    "integer",
    "log_table",
    "one_of",
    "raise_bad_entry",
    "real_array",
    "same_states",
    "temperatures",
    "unmasked",
]

FloatArray = npt.NDArray[np.float64]

LARGEST_EXACT_INTEGER = 2**53
MOST_STEPS = 10**6  # of a path of temperatures
NORMALIZER_TOLERANCE = 1e-6  # |log sum q| accepted as "normalized": float32 simplices pass, swapped arguments do not


def real_array(values: npt.ArrayLike, name: str) -> FloatArray:
    """Any real array (NumPy, torch CPU, JAX, pandas, lists) as aligned C-contiguous native float64, unchanged in value."""
    if type(values) is np.ndarray and values.dtype == np.float64 and values.flags.c_contiguous and values.flags.aligned:
        return values
    _refuse_masks(values, name, "set masked states to -inf")
    array = np.asanyarray(_on_the_cpu(values, name)) if not isinstance(values, np.ndarray) else values
    if array.dtype.kind in "iu":
        _refuse_inexact_integers(array, name)
    elif array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    elif array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} must be a real floating array; got dtype {array.dtype.name}.")
    return np.asarray(np.require(array, np.float64, ["C", "A"]))


def log_table(values: npt.ArrayLike, name: str) -> FloatArray:
    """A real array with at least one axis, whose last axis (the states) is not empty."""
    table = real_array(values, name)
    if table.ndim == 0:
        raise LogTableError(f"{name} must have at least one axis, the states; got a scalar.", name, ())
    if table.shape[-1] == 0:
        raise LogTableError(f"{name} has 0 states along axis=-1; at least 1 is required.", name, table.shape)
    return table


def same_states(first: FloatArray, first_name: str, second: FloatArray, second_name: str) -> tuple[int, ...]:
    """The broadcast shape of the leading axes; the state axes must agree exactly."""
    try:
        if first.shape[-1] == second.shape[-1]:
            return np.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    except ValueError:
        pass
    raise LogTableError(
        f"{second_name} must have the same shape as {first_name} {first.shape}; got {second.shape}.",
        second_name,
        second.shape,
    )


def broadcast_rows(table: FloatArray, batch: tuple[int, ...]) -> FloatArray:
    """The table as (rows, S) over the flattened batch; one row that serves the whole batch stays one row."""
    n_states = table.shape[-1]
    if math.prod(table.shape[:-1]) == 1 and math.prod(batch) != 0:
        return table.reshape(1, n_states)
    if table.shape[:-1] != batch:
        table = np.ascontiguousarray(np.broadcast_to(table, (*batch, n_states)))
    return table.reshape(math.prod(batch), n_states)


def raise_bad_entry(table: FloatArray, name: str) -> None:
    """Name the first NaN, else the first +inf, of a table that a kernel has flagged."""
    for found, words in ((np.isnan(table), "NaN"), (table == np.inf, "+inf")):
        if found.any():
            index = tuple(map(int, np.unravel_index(int(found.argmax()), table.shape)))
            tail = "." if words == "NaN" else "; a log density must be finite or -inf."
            raise LogTableError(f"{name} contains {words} at index {index}{tail}", name, table[index])


def at_index(index: tuple[int, ...]) -> str:
    """Where, as part of a sentence; nothing for a table of a single row without leading axes."""
    return f" at index {index}" if index else ""


def one_of(value: Any, name: str, allowed: tuple[Any, ...]) -> Any:
    """A value out of a closed list of choices."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")
    return value


def integer(value: Any, name: str, minimum: int, maximum: int | None = None) -> int:
    """A whole number of at least ``minimum``, and at most ``maximum``; booleans and floats are refused."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)) or number < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}; got {value!r}.")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be an integer from {minimum} to {maximum}; got {value!r}.")
    return number


def temperatures(betas: npt.ArrayLike | int) -> FloatArray:
    """Inverse temperatures 0 = b_0 < ... < b_T = 1 of a path from q to p, from a sequence or a number of equal steps."""
    if isinstance(betas, (int, float, np.number)) or np.ndim(real_array(betas, "betas")) == 0:
        n_steps = integer(betas, "betas", 1, MOST_STEPS)
        return np.arange(n_steps + 1) / n_steps
    values = real_array(betas, "betas")
    rising = values.ndim == 1 and values.size > 1 and bool((np.diff(values) > 0.0).all())
    if not (rising and values[0] == 0.0 and values[-1] == 1.0):
        raise LogTableError(
            f"betas must rise strictly from 0 to 1, or be a number of equal steps; got {betas!r}.", "betas", betas
        )
    return values


def _on_the_cpu(values: Any, name: str) -> Any:
    """What ``np.asanyarray`` can read without losing anything: torch tensors are detached, bfloat16 is widened."""
    if hasattr(values, "detach") and hasattr(values, "numpy"):
        values = values.detach()
        if getattr(values.device, "type", "cpu") != "cpu":
            raise TypeError(f"{name} must be on the CPU; got a tensor on {values.device}; pass {name}.cpu().numpy().")
        return values.float() if "bfloat16" in str(values.dtype) else values
    try:
        return np.asanyarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be a real floating array; got {type(values).__name__} ({error}); "
            f"pass an array on the CPU, for example {name}.cpu().numpy()."
        ) from None


def _refuse_inexact_integers(array: npt.NDArray[Any], name: str) -> None:
    if array.size and (int(array.max()) > LARGEST_EXACT_INTEGER or int(array.min()) < -LARGEST_EXACT_INTEGER):
        raise LogTableError(f"{name} holds integers beyond 2**53, which float64 cannot represent exactly; pass float64.", name)


def unmasked(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Observations as an array; a mask, which NumPy would drop, is refused."""
    _refuse_masks(values, name, "set masked values to NaN where a value may be missing, or drop the observation")
    return np.asarray(values)


def _refuse_masks(values: Any, name: str, remedy: str) -> None:
    parts = values if isinstance(values, (list, tuple)) else (values,)
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise TypeError(f"{name}: masked arrays are not supported; {remedy}.")


def categories(values: npt.ArrayLike, name: str, n_categories: int) -> npt.NDArray[np.int64]:
    """Whole numbers in 0 ... n_categories - 1 as int64; missing values (NaN or -1) are refused by name."""
    array = unmasked(values, name)
    if array.dtype.kind == "f" and np.isnan(array).any():
        index = tuple(map(int, np.argwhere(np.isnan(array))[0]))
        raise LogTableError(f"{name} has a missing value (NaN) at index {index}; drop the observation.", name, index)
    if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and (array != np.floor(array)).any()):
        raise TypeError(f"{name} must hold whole numbers 0 ... {n_categories - 1}; got dtype {array.dtype.name}.")
    bad = (array < 0) | (array >= n_categories)
    if bad.any():
        index = tuple(map(int, np.argwhere(bad)[0]))
        found = "a missing value (-1)" if array[index] == -1 else f"{array[index]:g}"
        remedy = "drop the observation" if array[index] == -1 else "number the categories from 0"
        raise LogTableError(f"{name} must be in 0 ... {n_categories - 1}; got {found} at index {index}; {remedy}.", name, index)
    return array.astype(np.int64)


def categories_or_missing(values: npt.ArrayLike, name: str, n_categories: int) -> npt.NDArray[np.int64]:
    """`categories`, with NaN allowed: a missing value gets the number ``n_categories``."""
    array = unmasked(values, name)
    if array.dtype.kind != "f":
        return categories(array, name, n_categories)
    missing = np.isnan(array)
    index = categories(np.where(missing, 0.0, array), name, n_categories)
    index[missing] = n_categories
    return index


def counts_or_missing(values: npt.ArrayLike, name: str, largest: npt.ArrayLike = LARGEST_EXACT_INTEGER) -> FloatArray:
    """Whole numbers in 0 ... largest as float64; NaN is a missing value."""
    array = unmasked(values, name)
    whole = array.dtype.kind in "iuf" and not (array.dtype.kind == "f" and (array != np.floor(array))[~np.isnan(array)].any())
    if not whole:
        raise TypeError(f"{name} must hold whole numbers >= 0; got dtype {array.dtype.name}.")
    limit = np.broadcast_to(np.asarray(largest), array.shape)
    bad = (array < 0) | (array > limit)
    if bad.any():
        index = tuple(map(int, np.argwhere(bad)[0]))
        raise LogTableError(f"{name} must be in 0 ... {limit[index]:d}; got {array[index]:g} at index {index}.", name, index)
    return array.astype(np.float64)
