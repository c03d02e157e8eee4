"""Probabilities that were printed with few digits."""

from __future__ import annotations

import numpy as np

from elbo_exact._validate import FloatArray

__all__ = ["SUM_TOLERANCE", "divided_rows"]

SUM_TOLERANCE = 0.02  # rows printed with two or three digits


def divided_rows(table: FloatArray) -> tuple[FloatArray | None, float]:
    """Rows that sum to 1 within the tolerance, divided by their sums; or None and the first sum that is off."""
    sums = table.sum(axis=-1)
    bad = ~(np.abs(sums - 1.0) <= SUM_TOLERANCE)
    if bad.any():
        return None, float(sums[bad][0])
    return np.asarray(table / sums[..., None]), 1.0
