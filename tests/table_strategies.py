"""Hypothesis strategies for pairs of log tables, and how far a divergence moves when its tables do."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Array = npt.NDArray[np.float64]
U = 2.0**-53
relation = settings(
    max_examples=int(os.environ.get("ELBO_EXACT_EXAMPLES", "300")), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def tables(min_size: int = 1, max_size: int = 12, zeros: bool = True) -> st.SearchStrategy[tuple[Array, Array]]:
    """Pairs of rows of multiples of 2**-8 or 2**-4, with impossible states, or with q within 2**-28 of the target."""

    @st.composite
    def draw_pair(draw: Any) -> tuple[Array, Array]:
        n = draw(st.integers(min_size, max_size))
        grid = draw(st.sampled_from([2.0**-8, 2.0**-4]))
        entry = st.integers(-(2**12), 2**12)

        def row(elements: Any) -> Array:
            return np.array(draw(st.lists(elements, min_size=n, max_size=n)), np.float64)

        a = row(entry) * grid
        b = a + row(st.integers(-4, 4)) * 2.0**-30 if draw(st.booleans()) else row(entry) * grid
        if zeros and draw(st.booleans()):
            z = draw(st.integers(0, n - 1))
            impossible, missed = (row(st.integers(0, 3)) == 0 for _ in range(2))
            impossible[z] = missed[z] = False
            a, b = np.where(impossible, -np.inf, a), np.where(missed, -np.inf, b)
        return a, b

    return draw_pair()


def perturbation(a: Array, b: Array, size: float) -> float:
    """How far both KLs can move when some entries of both rows move by at most ``size``.

    The derivative of the gap is p - q in a, and q (log(q/p) - gap) in b: their sizes sum to at most 2 and to at most
    2 max|log(q/p)|, and log(q/p) changes sign, so it is at most the spread of a - b. The same holds with p and q exchanged.
    """
    both = (a > -np.inf) & (b > -np.inf)
    difference = a[both] - b[both]
    spread = float(difference.max() - difference.min()) + 2.0 * size if difference.size else 0.0
    return 1.01 * size * (2.0 + 2.0 * spread)
