"""Memory that a thread keeps between blocks: fresh pages of a megabyte cost more time than the block that fills them."""

from __future__ import annotations

import math
import threading

import numpy as np

from elbo_exact._validate import FloatArray

__all__ = ["scratch"]

_kept = threading.local()


def scratch(name: str, shape: tuple[int, ...]) -> FloatArray:
    """An uninitialized array, this thread's own, until the next call with the same name."""
    size, buffer = math.prod(shape), getattr(_kept, name, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size)
        setattr(_kept, name, buffer)
    return np.asarray(buffer[:size].reshape(shape))
