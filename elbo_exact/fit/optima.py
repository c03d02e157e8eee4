"""The distinct local maxima among the ends of many starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray
from elbo_exact.fit.result import FitResult, Optimum, Outcome

__all__ = ["distinct_optima", "probes", "remaining_gain"]

AGREEMENT = 100.0  # times the nats in doubt: how far apart evidences of rows may be besides, summed as squares
SAME = 1e-7  # difference of log evidences, as a root mean square, at which two ends are one distribution
PROBES = 1000
LAST = 10  # steps that the ratio of gains is taken from


@dataclass(frozen=True, eq=False)
class _End:
    start: int
    fit: FitResult
    doubt: float
    rows: FloatArray  # (N,), log evidence of every row, free of labels
    elsewhere: FloatArray  # (M,), of rows that were not observed


def remaining_gain(fit: FitResult) -> float:
    """Estimate of what a fit would still gain: the rest of a geometric series that goes on as the last ten gains did.

    Not a bound. Where gains shrink ever more slowly, as on a ridge, the ratio is held below 1 - 1 / (steps + 1), which continues a power
    law; and it is that number where they rise and fall, as those of accelerated cycles do.
    """
    gains = fit.gains[fit.gains > 0.0]
    if not gains.size:
        return 0.0
    last = gains[-1 - min(LAST, gains.size - 1) :]
    slowest = 1.0 - 1.0 / (gains.size + 1)
    ratio = slowest if last.size == 1 or (np.diff(last) > 0.0).any() else (last[-1] / last[0]) ** (1.0 / (last.size - 1))
    ratio = min(float(ratio), slowest)
    return float(gains[-1]) * ratio / (1.0 - ratio)


def probes(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows that were not observed: columns of those that were, each shifted by its own number of rows; at most 1000."""
    if x.ndim != 2 or x.shape[1] == 1:
        return x[:0]
    step = max(1, len(x) // (x.shape[1] + 1))
    shifted = np.stack([np.roll(column, j * step) for j, column in enumerate(x.T)], axis=1)
    return shifted[:: len(x) // PROBES + 1]


def distinct_optima(
    fits: Sequence[FitResult], rows: Sequence[FloatArray], elsewhere: Sequence[FloatArray], counts: FloatArray
) -> tuple[Optimum, ...]:
    """Ends that converged, those that agree taken together, the highest first.

    Two ends agree if they are the same distribution: sum count * difference^2 of the log evidences of the rows, and the sum of squared
    differences of the roots of the evidences of the `probes` (in units of the rows' geometric mean, larger ones cut there), are both
    at most (sum of counts) * (1e-7)^2. Slow fits end further apart: if their objectives differ by no more than d, the sum of both
    error bounds and twice both `remaining_gain`, 100 d is allowed beside it. These comparisons know no labels: a permutation of the
    classes, and parameters that no data could determine, do not count as different. Near a maximum the first sum is about twice the
    missing gain.
    """
    ends = [
        _End(start, fit, fit.error + 2.0 * remaining_gain(fit), row, other)
        for start, (fit, row, other) in enumerate(zip(fits, rows, elsewhere, strict=True))
        if fit.outcome is Outcome.CONVERGED
    ]
    ends.sort(key=lambda end: (-end.fit.objective, end.start))
    groups: list[list[_End]] = []
    for end in ends:
        group = next((group for group in groups if _agree(group[0], end, counts)), None)
        if group is None:
            groups.append([end])
        else:
            group.append(end)
    return tuple(
        Optimum(g[0].fit.objective, g[0].fit.error, g[0].fit.model, tuple(sorted(end.start for end in g))) for g in groups
    )


def _agree(one: _End, two: _End, counts: FloatArray) -> bool:
    doubt = one.doubt + two.doubt
    if not abs(one.fit.objective - two.fit.objective) <= doubt < math.inf:
        doubt = 0.0
    total = math.fsum(counts.tolist())
    typical = math.fsum((counts * one.rows).tolist()) / total
    roots = [np.exp(0.5 * np.minimum(end.elsewhere - typical, 0.0)) for end in (one, two)]
    apart = math.fsum((counts * (one.rows - two.rows) ** 2).tolist()), math.fsum(((roots[0] - roots[1]) ** 2).tolist())
    return max(apart) <= AGREEMENT * doubt + total * SAME**2
