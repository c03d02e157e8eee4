"""The numbers of the figure of EM: what is missing after each step, the rate against its prediction, and the ridge of three classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact._figures.data import Columns
from elbo_exact._validate import FloatArray
from elbo_exact.fit import fit_em, information
from elbo_exact.gallery import load
from elbo_exact.models import Mixture

__all__ = ["anatomy"]

PROBLEMS = ("coins", "linkage")
CLASSES, STARTS, STEPS = 3, 8, 400
COLUMNS = ("panel", "problem", "start", "step", "missing", "contraction", "predicted", "largest_share", "smallest_share")


def anatomy() -> Columns:
    """Missing log evidence and its contraction, step by step; starts of a model with a ridge, and where they end on it."""
    columns: Columns = {name: [] for name in COLUMNS}
    for name in PROBLEMS:
        problem = load(name)
        assert problem.x is not None
        fit = fit_em(problem.model, problem.x, weights=problem.counts, tolerance=0.0)
        rate = information(fit.model, problem.x, weights=problem.counts).rate
        missing = _missing(fit.gains)
        for step, left in enumerate(missing):
            # a sum of few gains lacks those that were never made
            contraction = np.sqrt(missing[step + 1] / left) if step + 6 < len(missing) else None
            _append(columns, panel="rate", problem=name, step=step, missing=left, contraction=contraction, predicted=rate)
    _ridge(columns)
    return columns


def _missing(gains: FloatArray) -> FloatArray:
    """What later steps will gain, before the first and after every step: sums of gains, which keep their digits."""
    return np.cumsum(np.append(gains, 0.0)[::-1])[::-1][:-1]


def _ridge(columns: Columns) -> None:
    problem = load("stouffer-toby")
    sizes = [len(names) for names in problem.categories]
    starts = [Mixture.random(CLASSES, sizes, rng=seed) for seed in range(STARTS)]
    assert problem.x is not None
    ends = [fit_em(start, problem.x, weights=problem.counts, acceleration="squarem", max_iter=250) for start in starts]
    best = max(end.objective for end in ends)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        walk = fit_em(start, problem.x, weights=problem.counts, max_iter=STEPS, tolerance=0.0)
        for step in sorted({round(10 ** (k / 12)) for k in range(37)} & set(range(walk.n_iter + 1))):
            _append(columns, panel="starts", problem=problem.name, start=number, step=step, missing=best - walk.trace[step])
        shares = np.exp(end.model.log_weights)
        _append(
            columns,
            panel="ends",
            problem=problem.name,
            start=number,
            step=end.n_iter,
            missing=best - end.objective,
            largest_share=shares.max(),
            smallest_share=shares.min(),
        )


def _append(columns: Columns, **values: Any) -> None:
    for name, column in columns.items():
        value = values.get(name)
        column.append(float(value) if isinstance(value, (float, np.floating)) else value)
