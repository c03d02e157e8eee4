"""Stepwise EM: a M-step after every mini-batch, an exact account of the objective after every pass."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import integer
from elbo_exact.families._columns import scaled
from elbo_exact.fit.checkpoint import open_journal
from elbo_exact.fit.ends import End, criteria_of
from elbo_exact.fit.expectation import Expectation, Observations, expectation, observations
from elbo_exact.fit.gain import gain
from elbo_exact.fit.loop import Step, Walk, climb
from elbo_exact.fit.parameters import parameter_arrays, with_arrays
from elbo_exact.fit.result import FitResult, Outcome

__all__ = ["fit_em_online"]


@dataclass(frozen=True, eq=False)
class _Pass:
    """The place after a pass: its exact E-step, the running statistics, and the mini-batches seen so far."""

    at: Expectation
    statistics: Any
    seen: int

    @property
    def model(self) -> Any:
        return self.at.model

    @property
    def objective(self) -> float:
        return self.at.objective

    @property
    def objective_error(self) -> float:
        return self.at.objective_error


class _Kept(NamedTuple):
    """What a file keeps of a pass: the model, and the statistics as bare arrays."""

    model: Any
    statistics: Any

    def pair(self, model: Any, statistics: Any) -> tuple[Any, tuple[Any, ...]]:
        return model, tuple(parameter_arrays(statistics).values())

    def restored(self, pair: Any) -> tuple[Any, Any]:
        model, arrays = pair
        return model, with_arrays(self.statistics, dict(zip(parameter_arrays(self.statistics), arrays, strict=True)))


def fit_em_online(
    model: Any,
    x: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    prior: Any = None,
    batch_size: int = 1000,
    max_passes: int = 10,
    decay: float = 0.7,
    delay: int = 2,
    tolerance: float | None = None,
    rng: np.random.Generator | int | None = None,
    progress: bool = False,
    executor: Any = None,
    checkpoint: Any = None,
) -> FitResult:
    """Stepwise expectation-maximization over mini-batches, with the exact objective after every pass.

    Parameters
    ----------
    model, x, weights, prior
        As for `fit_em`.
    batch_size : int
        Observations of a mini-batch, which are whole sequences for a ``HiddenMarkov``; each pass takes them in a new random order.
    max_passes : int
        Most passes over the data.
    decay, delay : float in (0.5, 1] and int >= 0
        Mini-batch t = 1, 2, ... enters with the weight (t + delay)^-decay.
    tolerance : float, optional
        Stop when a pass gains at most this many nats; by default the spacing of doubles at the objective.
    rng : numpy.random.Generator or seed, optional
        Passed once through ``numpy.random.default_rng``.
    progress : bool
        Show a bar on stderr.
    executor : concurrent.futures.Executor, optional
        Where the tables of the exact evaluations run.
    checkpoint : path or Checkpoint, optional
        Keep model and running statistics in this npz file after a pass, and continue from it if it exists, to the same bits.

    Returns
    -------
    FitResult
        A step of its trace is a pass. One that lowers the objective by more than rounding explains is not kept and ends the fit with
        the outcome NOISY; `fit_em` from its model then finds the maximum.

    Raises
    ------
    ZeroEvidence, LogTableError, ValueError
        As `fit_em`.

    Notes
    -----
    s <- (1 - g) s + g (total weight / weight of the batch) statistics(batch), then the M-step at s (Cappe & Moulines 2009, JRSS-B
    71:593; Liang & Klein 2009, NAACL). s starts as the exact statistics of all data, so that a category absent from the first batch
    does not become impossible. O(N S) a pass, twice: once by mini-batches, once for the exact objective.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> x, _ = ee.models.Mixture.random(2, [2, 2, 3], rng=0).sample(5000, rng=1)
    >>> fit = ee.fit_em_online(ee.models.Mixture.random(2, [2, 2, 3], rng=2), x, batch_size=500, rng=0)
    >>> bool((np.diff(fit.trace) > 0).all()), fit.outcome.name in ("NOISY", "MAX_ITER")
    (True, True)
    """
    data = observations(model, x, weights, prior, executor)
    size, passes = integer(batch_size, "batch_size", 1), integer(max_passes, "max_passes", 1)
    shift = integer(delay, "delay", 0)
    if not 0.5 < decay <= 1.0:
        raise ValueError(f"decay must be > 0.5 and <= 1; got {decay!r}.")
    if tolerance is not None and not 0.0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be a number of nats >= 0, or None; got {tolerance!r}.")
    seed = int(np.random.default_rng(rng).integers(2**63))
    start = expectation(model, data)
    kept = _Kept(model, start.expected.statistics)
    settings = ("online", data.x, data.counts, prior, tolerance, size, float(decay), shift, seed)
    journal = None if checkpoint is None else open_journal(checkpoint, [kept.pair(model, kept.statistics)], settings)
    before = None if journal is None else journal.walks[0]
    point = _Pass(start, kept.statistics, 0)
    if before is not None:
        resumed, statistics = kept.restored(before.model)
        point = _Pass(expectation(resumed, data), statistics, len(before.gains) * -(-len(data.x) // size))

    def step(point: _Pass) -> Step:
        order = np.random.default_rng([seed, point.seen]).permutation(len(data.x))
        following = _one_pass(point, data, size, lambda t: float((t + shift) ** -decay), order)
        return Step(following, *gain(point.at, following.at, data))

    def watch(point: _Pass, walk: Walk) -> None:
        if journal is not None:
            path = Walk(kept.pair(point.model, point.statistics), walk.trace, walk.gains, walk.errors)
            journal.note(0, path, last=len(walk.gains) == passes)

    label = "passes of stepwise EM" if progress else None
    fit = climb(point, step, passes, tolerance, label, before=before, watch=watch)
    if fit.outcome is Outcome.NOT_MONOTONE:
        ends = tuple(dataclasses.replace(end, outcome=Outcome.NOISY) for end in fit.restarts)
        fit = dataclasses.replace(fit, outcome=Outcome.NOISY, detail=fit.detail.replace("step", "pass", 1), restarts=ends)
    last = expectation(fit.model, data)
    return dataclasses.replace(fit, criteria=criteria_of(model, End(fit, last.log_evidence, last.error), data))


def _one_pass(point: _Pass, data: Observations, size: int, share: Any, order: npt.NDArray[np.int64]) -> _Pass:
    model, statistics, seen = point.model, point.statistics, point.seen
    total = math.fsum(data.counts.tolist())
    for first in range(0, len(order), size):
        rows = np.sort(order[first : first + size])
        seen += 1
        g, counts = share(seen), data.counts[rows]
        weights = counts * (g * total / math.fsum(counts.tolist()))
        batch = data.x[rows] if isinstance(data.x, np.ndarray) else [data.x[row] for row in rows]
        found = expectation(model, Observations(batch, weights, None, data.executor)).expected
        statistics = _followed(statistics, 1.0 - g, found.statistics)
        model = model.maximize(statistics, data.prior)
    return _Pass(expectation(model, data), statistics, seen)


def _followed(statistics: Any, share: float, more: Any) -> Any:
    """share * statistics + more; a named tuple is a tuple of tables, whose own sum would be longer."""
    if isinstance(statistics, tuple):
        return type(statistics)(*(_followed(old, share, new) for old, new in zip(statistics, more, strict=True)))
    return scaled(statistics, share) + more
