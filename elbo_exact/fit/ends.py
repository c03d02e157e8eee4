"""What can be said about the ends of all starts: the best, its price, and the distinct maxima among them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import entr

from elbo_exact._validate import FloatArray
from elbo_exact.evidence import log_evidence
from elbo_exact.fit.expectation import Observations, weighted_sum
from elbo_exact.fit.information import information, n_free_parameters
from elbo_exact.fit.optima import distinct_optima, probes
from elbo_exact.fit.result import Criteria, FitResult, Outcome
from elbo_exact.fit.table import posterior_and_error

__all__ = ["End", "best_end", "criteria_of"]

ENTRIES = 2**22  # of a table: 32 MiB
AFFORDABLE = 2**26  # products of scores, a tenth of a second
LEAVES = 1.001  # a rate of 1 is a ridge, give or take its rounding


class End(NamedTuple):
    """A finished fit, and the log evidence of every observation at its model with error bounds."""

    fit: FitResult
    log_evidence: FloatArray
    error: FloatArray


def best_end(ends: Sequence[End], data: Observations, start: Any) -> FitResult:
    """The highest end, with all others in its lists; of those that rounding cannot tell apart from it, the first."""
    # a likelihood on its way to infinity does not make a start the best
    sound = [end for end in ends if end.fit.outcome is not Outcome.DEGENERATE] or ends
    top = max(sound, key=lambda end: end.fit.objective).fit
    best = next(end for end in sound if end.fit is top or end.fit.objective >= top.objective - top.error - end.fit.error)
    fits = [end.fit for end in ends]
    found = distinct_optima(fits, [end.log_evidence for end in ends], _elsewhere(fits, data.x), data.counts)
    return dataclasses.replace(
        best.fit,
        restarts=tuple(one for fit in fits for one in fit.restarts),
        optima=tuple(one for one in found if len(found) == 1 or not _has_a_way_up(one.model, data)),
        criteria=criteria_of(start, best, data),
    )


def criteria_of(start: Any, end: End, data: Observations) -> Criteria | None:
    """AIC, BIC and ICL; None for a model whose parameters nobody knows how to count."""
    try:
        size = n_free_parameters(start)
    except TypeError:
        return None
    total, error = weighted_sum(data.counts, end.log_evidence, end.error)
    of_rows = _posterior_entropy(end.fit.model, data)
    entropy = None if of_rows is None else math.fsum((data.counts * of_rows).tolist())
    lengths = [len(row) for row in data.x] if isinstance(data.x, list) else 1.0  # a chain is observed once at each step
    return Criteria(total, error, entropy, size, math.fsum((data.counts * lengths).tolist()))


def _has_a_way_up(model: Any, data: Observations) -> bool:
    """Whether second derivatives tell that EM leaves this place again: a rate above 1. False where they are not known, or dear."""
    states = model.space.size if hasattr(model, "space") else getattr(model, "n_states", 1) ** 2
    n_rows = sum(map(len, data.x)) if isinstance(data.x, list) else len(data.x)
    try:
        if data.prior is not None or n_rows * states * n_free_parameters(model) ** 2 > AFFORDABLE:
            return False
        return information(model, data.x, weights=data.counts).rate > LEAVES
    except (TypeError, ValueError):
        return False


def _posterior_entropy(model: Any, data: Observations) -> FloatArray | None:
    """Of every observation, in nats; None for a model with neither tables nor an entropy of its own."""
    if hasattr(model, "posterior_entropy"):
        return np.asarray(model.posterior_entropy(data.x))
    if not hasattr(model, "log_joint_and_error"):
        return None
    tables = (posterior_and_error(model, part, data.executor).table for part in _blocks(model, data.x))
    return np.concatenate([entr(table).sum(axis=1) for table in tables])


def _elsewhere(fits: Sequence[FitResult], x: Any) -> list[FloatArray]:
    """Log evidence of rows that were not observed, at every end."""
    if len(fits) == 1 or not isinstance(x, np.ndarray):
        return [np.zeros(0)] * len(fits)
    try:
        rows = probes(x)
        return [
            np.concatenate([log_evidence(fit.model.log_joint(part)) for part in _blocks(fit.model, rows)] or [np.zeros(0)])
            for fit in fits
        ]
    except ValueError:  # columns that do not stand alone, as those of a Multinomial with missing rows
        return [np.zeros(0)] * len(fits)


def _blocks(model: Any, x: Any) -> list[Any]:
    """The rows in pieces whose tables have at most 2**22 entries."""
    step = max(1, ENTRIES // model.space.size) if hasattr(model, "space") else max(1, len(x))
    return [x[first : first + step] for first in range(0, len(x), step)]
