"""A block of lanes on the stack of the calling kernel.

Arrays from the heap could overlap as far as the compiler knows, so it guards every loop over them with checks; lanes on the
stack cannot, and stay in registers or the first-level cache: 1.6 against 2.4 ns per state for log-sum-exp (AVX-512, 2026).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

__all__ = ["N_TILES", "TILE", "tiles"]

TILE = 64  # lanes of a tile; 32 costs more loops, 128 more halvings
N_TILES = 18


@intrinsic  # type: ignore[untyped-decorator]
def _stack(typing_context: Any) -> Any:
    def allocate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = cgutils.alloca_once(builder, ir.ArrayType(ir.DoubleType(), TILE * N_TILES))
        return builder.bitcast(memory, ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(), allocate


def tiles() -> Any:
    """An uninitialised (N_TILES, TILE) array; compiled, it lives until the calling kernel returns."""
    return np.empty((N_TILES, TILE))


@overload(tiles, inline="always")  # type: ignore[untyped-decorator]
def _tiles() -> Any:
    return lambda: numba.carray(_stack(), (N_TILES, TILE))
