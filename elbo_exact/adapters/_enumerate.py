"""The loop of every adapter: blocks of states in, log table out; states and seconds are predicted first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, integer, raise_bad_entry, real_array
from elbo_exact.errors import EnumerationTooLarge, LogTableError
from elbo_exact.space import MAX_BYTES, LatentSpace, count_text

__all__ = ["MAX_BYTES", "MAX_SECONDS", "enumerated"]

MAX_SECONDS = 60.0
logger = logging.getLogger(__name__)


def enumerated(
    evaluate: Callable[[npt.NDArray[np.int64]], Any],
    space: LatentSpace,
    *,
    block_size: int,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
) -> FloatArray:
    """log p(x, z) of all states, shape (S,); ``evaluate`` maps categories (n, n_variables) to n numbers.

    The first block may compile and is not timed; the second predicts all.
    """
    space.check(max_bytes)
    table = np.empty(space.size)
    n_blocks = -(-space.size // integer(block_size, "block_size", 1))
    for number, block in enumerate(space.blocks(block_size)):
        start = time.perf_counter()
        table[block] = _checked(evaluate(space.states(block)), block)
        if number == 1:
            _refuse_slow(n_blocks * (time.perf_counter() - start), max_seconds, space)
    raise_bad_entry(table, "log_joint")
    return table


def _checked(values: Any, block: slice) -> FloatArray:
    numbers = real_array(values, "log_joint")
    if numbers.shape != (block.stop - block.start,):
        raise LogTableError(
            f"log_joint must return one number per state, shape {(block.stop - block.start,)}; got {numbers.shape}.",
            "log_joint",
            numbers.shape,
        )
    return numbers


def _refuse_slow(seconds: float, max_seconds: float, space: LatentSpace) -> None:
    if seconds > max_seconds:
        raise EnumerationTooLarge(
            f"enumeration needs {count_text(space.sizes)} states and about {seconds:.3g} s > max_seconds={max_seconds:g}; "
            "raise max_seconds, or make plates smaller.",
            space.size,
        )
    logger.info("enumerating %s states, about %.2g s", count_text(space.sizes), seconds)
