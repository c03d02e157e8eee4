"""Sums over all states by hand, for the programs of the tests."""

from __future__ import annotations

import itertools
import math

DATA = (1.0, 0.0, 1.0)
RAIN, COIN, SEEN = 0.3, (0.2, 0.7), (0.1, 0.8)


def bernoulli(p: float, value: float) -> float:
    return math.log(p if value else 1.0 - p)


def log_joints(mask: tuple[bool, ...] = (True, True, True), scale: float = 1.0) -> list[float]:
    """log p of e ~ B(0.3), z_i ~ B(0.2 or 0.7) given e, x_i ~ B(0.1 or 0.8) given z_i; e first, z_3 fastest;
    a masked z_i is no variable."""
    return [
        bernoulli(RAIN, e)
        + math.fsum(
            scale * (bernoulli(COIN[e], z) + bernoulli(SEEN[z], x))
            for z, x, kept in zip(cells, DATA, mask, strict=True)
            if kept
        )
        for e in (0, 1)
        for cells in itertools.product(*[(0, 1) if kept else (0,) for kept in mask])
    ]
