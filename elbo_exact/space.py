"""Finite latent spaces: which state stands in which column of a log table, and what enumerating them would cost.

States are numbered in mixed radix, the last variable fastest (C order), as ``np.unravel_index`` does. Sizes are Python
integers, so a space of 2**200 states is described exactly and refused before anything is allocated.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import integer, unmasked
from elbo_exact.errors import EnumerationTooLarge

__all__ = ["BYTES_PER_ENTRY", "MAX_BYTES", "LatentSpace", "count_text", "refuse_above", "whole_sizes"]

MAX_BYTES = 2**31
BYTES_PER_ENTRY = 8  # float64 and int64 alike
LARGEST_SIZE = 2**62  # an offset plus a digit must stay inside int64
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True)
class LatentSpace:
    """The product of finitely many finite variables.

    Parameters
    ----------
    sizes : sequence of int
        Number of values of each variable, each at least 1.
    names : sequence of str, optional
        One distinct name per variable, used in error messages.

    Raises
    ------
    ValueError
        If a size is not an integer in 1 ... 2**62, or the names are not one distinct string per variable.

    Examples
    --------
    >>> space = LatentSpace((2, 3))
    >>> space.size
    6
    >>> space.states().tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    >>> space.index((1, 2))
    5
    """

    sizes: tuple[int, ...]
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", whole_sizes(self.sizes))
        if self.names is not None:
            object.__setattr__(self, "names", _distinct_names(self.names, len(self.sizes)))

    @property
    def n_variables(self) -> int:
        """Number of variables."""
        return len(self.sizes)

    @property
    def size(self) -> int:
        """Number of states, an exact Python integer of any length."""
        return math.prod(self.sizes)

    def span(self, states: slice | None = None) -> tuple[int, int]:
        """First and one-past-last flat index of a block; None is the whole space.

        Raises
        ------
        TypeError
            If ``states`` is not a slice of integers.
        ValueError
            If the slice has a step, is empty, or leaves ``0 ... size``. Negative positions are refused, not wrapped.
        """
        if states is None:
            return 0, self.size
        if not isinstance(states, slice):
            raise TypeError(f"states must be a slice or None; got {type(states).__name__}; pass slice(start, stop).")
        try:
            start = 0 if states.start is None else operator.index(states.start)
            stop = self.size if states.stop is None else operator.index(states.stop)
        except TypeError:
            raise TypeError(f"states must be a slice of integers; got {states}.") from None
        if states.step not in (None, 1) or not 0 <= start < stop <= self.size:
            raise ValueError(f"states must satisfy 0 <= start < stop <= {count_text(self.sizes)} with step 1; got {states}.")
        return start, stop

    def states(self, states: slice | None = None, *, max_bytes: int = MAX_BYTES) -> npt.NDArray[np.int64]:
        """The value of every variable in every state, or in the states of one block.

        Parameters
        ----------
        states : slice, optional
            Flat indices ``start ... stop - 1``; the whole space by default.
        max_bytes : int, optional
            Byte budget of the result.

        Returns
        -------
        ndarray of int64, shape (stop - start, n_variables)
            Row ``i`` is state ``start + i``. Time and memory O((stop - start) n_variables).

        Raises
        ------
        EnumerationTooLarge
            Before allocation, if the result exceeds ``max_bytes``.

        Examples
        --------
        >>> LatentSpace([2] * 100).states(slice(2**99, 2**99 + 2))[:, [0, 98, 99]].tolist()
        [[1, 0, 0], [1, 0, 1]]
        """
        start, stop = self.span(states)
        text = count_text(self.sizes) if stop - start == self.size else str(stop - start)
        refuse_above(stop - start, max(1, self.n_variables) * BYTES_PER_ENTRY, max_bytes, text)
        values = np.empty((stop - start, self.n_variables), dtype=np.int64)
        carry = np.arange(stop - start, dtype=np.int64)
        for variable in reversed(range(self.n_variables)):
            start, digit = divmod(start, self.sizes[variable])  # Python integers: the start may exceed int64
            carry, values[:, variable] = np.divmod(carry + digit, self.sizes[variable])
        return values

    def index(self, states: npt.ArrayLike) -> int | npt.NDArray[np.int64]:
        """Flat index of one state, or of many.

        Parameters
        ----------
        states : array_like of int, shape (..., n_variables)
            The value of every variable.

        Returns
        -------
        int, or ndarray of int64 with shape (...)
            ``sum_j states[..., j] * prod(sizes[j + 1:])``; for spaces above 2**63 states the array holds Python integers.

        Raises
        ------
        TypeError
            If ``states`` is not an array of integers.
        ValueError
            If the last axis is not ``n_variables`` long or a value is outside ``0 ... size - 1`` of its variable.

        Examples
        --------
        >>> LatentSpace((2, 3)).index([[0, 1], [1, 0]]).tolist()
        [1, 3]
        """
        values = self._checked_states(states)
        digits = values if self.size <= 2**63 else values.astype(object)
        flat: Any = np.zeros(values.shape[:-1], dtype=digits.dtype)
        for variable, size in enumerate(self.sizes):
            flat = flat * size + digits[..., variable]
        return int(flat) if values.ndim == 1 else flat

    def blocks(self, block_size: int) -> Iterator[slice]:
        """Slices of ``block_size`` flat indices (the last may be shorter) that cover the space in order.

        Examples
        --------
        >>> list(LatentSpace((5,)).blocks(2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
        """
        step = integer(block_size, "block_size", 1)
        size = self.size
        return (slice(first, min(first + step, size)) for first in range(0, size, step))

    def check(self, max_bytes: int = MAX_BYTES, *, n_rows: int = 1) -> None:
        """Refuse a float64 log table of ``n_rows`` rows over this space that would exceed ``max_bytes``.

        Raises
        ------
        EnumerationTooLarge
            With the exact numbers in ``.n_states``, ``.n_bytes`` and ``.max_bytes``.

        Examples
        --------
        >>> LatentSpace([2] * 40).check()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        elbo_exact.errors.EnumerationTooLarge: enumeration needs 2**40 states (8.0 TiB) > max_bytes=2 GiB; raise max_bytes or ...
        """
        refuse_above(self.size, integer(n_rows, "n_rows", 0) * BYTES_PER_ENTRY, max_bytes, count_text(self.sizes))

    def _checked_states(self, states: npt.ArrayLike) -> npt.NDArray[np.int64]:
        values = unmasked(states, "states")
        if values.size == 0 and values.dtype == np.float64:  # an empty list has no type of its own
            values = values.astype(np.int64)
        if values.dtype.kind not in "iu":
            raise TypeError(f"states must be an array of integers; got dtype {values.dtype.name}.")
        if values.ndim == 0 or values.shape[-1] != self.n_variables:
            raise ValueError(f"states must have a last axis of {self.n_variables} variables; got shape {values.shape}.")
        bad = (values < 0) | (values >= np.array(self.sizes, dtype=np.int64))
        if bad.any():
            where = tuple(map(int, np.argwhere(bad)[0]))
            variable = where[-1] if self.names is None else repr(self.names[where[-1]])
            allowed = f"0 ... {self.sizes[where[-1]] - 1}"
            raise ValueError(f"states must be in {allowed} for variable {variable}; got {values[where]} at index {where}.")
        return values.astype(np.int64)


def whole_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes as a tuple of Python integers, each in 1 ... 2**62."""
    try:
        listed = tuple(sizes)
    except TypeError:
        raise TypeError(f"sizes must be a sequence of integers; got {sizes!r}; pass ({sizes!r},).") from None
    checked = tuple(integer(size, f"sizes[{axis}]", 1) for axis, size in enumerate(listed))
    for axis, size in enumerate(checked):
        if size > LARGEST_SIZE:
            raise ValueError(f"sizes[{axis}] must be at most 2**62; got {size}; split the variable into several.")
    return checked


def refuse_above(
    n_states: int, bytes_per_state: int, max_bytes: int, n_states_text: str, remedy: str = "work in blocks (states=...)"
) -> None:
    """Raise EnumerationTooLarge if the states need more than ``max_bytes``; nothing has been allocated yet."""
    budget = integer(max_bytes, "max_bytes", 0)
    n_bytes = n_states * bytes_per_state
    if n_bytes > budget:
        message = (
            f"enumeration needs {n_states_text} states ({_bytes_text(n_bytes, '.1f')}) > "
            f"max_bytes={_bytes_text(budget, '.4g')}; raise max_bytes or {remedy}"
        )
        raise EnumerationTooLarge(message, n_states, n_bytes, budget)


def count_text(sizes: Sequence[int]) -> str:
    """The product of the sizes in the shortest exact form: 6, 2**40, 3**25 * 7."""
    size = math.prod(sizes)
    if size < 2**20:
        return str(size)
    if size & (size - 1) == 0:
        return f"2**{size.bit_length() - 1}"
    powers = {base: sum(base == other for other in sizes) for base in sorted(set(sizes) - {1})}
    return " * ".join(f"{base}**{power}" if power > 1 else str(base) for base, power in powers.items())


def _bytes_text(n_bytes: int, form: str) -> str:
    """A byte count in binary units; beyond 1024 EiB as a power of ten, which no float need hold."""
    unit = min(max(n_bytes.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    if n_bytes >= 2**70:
        return f"about 10**{math.log10(n_bytes):.0f} bytes"
    return f"{n_bytes} bytes" if unit == 0 else f"{n_bytes / 1024**unit:{form}} {UNITS[unit]}"


def _distinct_names(names: Sequence[str], n_variables: int) -> tuple[str, ...]:
    listed = tuple(names)
    strings = all(isinstance(name, str) for name in listed)
    if isinstance(names, str) or not strings or len(set(listed)) != len(listed) or len(listed) != n_variables:
        raise ValueError(f"names must be {n_variables} distinct strings, one per variable; got {names!r}.")
    return listed
