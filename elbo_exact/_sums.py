"""What results over many observations share: weights, sums with their bounds, and the aligned table of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, real_array
from elbo_exact.errors import LogTableError

__all__ = ["observation_counts", "rows_table", "weighted_sum"]

U = 2.0**-53


def observation_counts(weights: npt.ArrayLike | None, shape: tuple[int, ...]) -> FloatArray:
    """One finite weight >= 0 per row; 1 by default."""
    counts = np.ones(shape) if weights is None else real_array(weights, "weights")
    if counts.shape != shape:
        message = f"weights must have the shape {shape} of the rows; got {counts.shape}."
        raise LogTableError(message, "weights", counts.shape)
    if not ((counts >= 0.0) & (counts < np.inf)).all():
        raise LogTableError("weights must be finite and not negative; got a negative, infinite or NaN weight.", "weights")
    return counts


def weighted_sum(weights: FloatArray, values: Any, bounds: Any) -> tuple[float, float]:
    """Sum of weight * value with a bound: each product rounds once, math.fsum rounds once."""
    used = weights > 0.0
    w, x, b = weights[used], np.asarray(values)[used], np.asarray(bounds)[used]
    products = (w * x).ravel()
    if not np.isfinite(products).all():
        total = float(np.sum(products))
        return total, (math.inf if math.isnan(total) or (b == np.inf).any() else 0.0)
    total = math.fsum(products.tolist())
    spread = math.fsum((w * b).ravel().tolist()) + U * math.fsum(np.abs(products).tolist()) + products.size * 2.0**-1074
    return total, 1.01 * (spread + U * abs(total))


def rows_table(values: Mapping[str, tuple[Any, Any]], status: npt.NDArray[Any], limit: int = 20) -> str:
    """One line per row; every value with its bound; the middle of a long table is left out."""
    n_rows = status.size
    shown = list(range(n_rows)) if n_rows <= limit else [*range(limit // 2), -1, *range(n_rows - limit // 2, n_rows)]
    names = [name for name in values if name != "log_q_normalizer"]
    cells = [["row", *names, "status"]]
    for i in shown:
        if i < 0:
            cells.append(["...", *("..." for _ in names), "..."])
            continue
        row = [f"{np.ravel(values[n][0])[i]:.10g} ± {np.ravel(values[n][1])[i]:.0e}" for n in names]
        cells.append([str(i), *row, str(status.ravel()[i])])
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
