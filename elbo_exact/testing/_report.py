"""Compare numbers with exact intervals, and say in a few lines what is wrong, where, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray, at_index, real_array

__all__ = ["compare", "numbers"]


def numbers(actual: Any, shape: tuple[int, ...], name: str) -> FloatArray:
    """The caller's numbers as float64 of the expected shape; another shape is a failed assertion with a hint."""
    if isinstance(actual, (bool, int, float)):
        actual = np.float64(actual)
    values = real_array(actual, "actual")
    if values.shape != shape:
        raise AssertionError(
            f"{name}: expected shape {shape}, one number per row; got {values.shape}: a missing or extra sum or mean?"
        )
    return values


def compare(
    name: str,
    actual: FloatArray,
    low: FloatArray,
    high: FloatArray,
    expected: FloatArray,
    allowed: FloatArray,
    explain: Callable[[tuple[int, ...]], str],
) -> None:
    """Raise unless low <= actual <= high everywhere; the smallest wrong number in size is shown."""
    with np.errstate(invalid="ignore"):
        wrong = ~((actual >= low) & (actual <= high))
    if not wrong.any():
        return
    sizes = np.where(wrong, np.abs(np.where(np.isnan(actual), 0.0, actual)), np.inf)
    index = tuple(map(int, np.unravel_index(int(np.argmin(sizes)), wrong.shape)))
    first = np.argwhere(wrong)[0]
    index = index if wrong[index] else tuple(map(int, first))
    with np.errstate(invalid="ignore"):
        difference = actual[index] - expected[index]
    raise AssertionError(
        "\n".join(
            [
                f"{name} is wrong{at_index(index)} ({int(wrong.sum())} of {wrong.size}).",
                f"  expected {expected[index]:.17g}",
                f"  got      {actual[index]:.17g}",
                f"  off by   {difference:.3g}; allowed {allowed[index]:.3g}",
                *([line] if (line := explain(index)) else []),
            ]
        )
    )
