"""Expectation-maximization on exact posteriors (Dempster, Laird & Rubin 1977, JRSS-B 39:1), with gains that rounding cannot fake."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from elbo_exact._parallel import run
from elbo_exact._validate import integer, one_of
from elbo_exact.fit.checkpoint import Checkpoint, Journal, open_journal
from elbo_exact.fit.ends import End, best_end
from elbo_exact.fit.expectation import Expectation, Observations, expectation, observations
from elbo_exact.fit.gain import gain
from elbo_exact.fit.loop import Step, Walk, climb
from elbo_exact.fit.result import FitResult
from elbo_exact.fit.squarem import squared_step
from elbo_exact.models._seeding import seeded

__all__ = ["fit_em"]


def fit_em(
    model: Any,
    x: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    prior: Any = None,
    max_iter: int = 10_000,
    tolerance: float | None = None,
    restarts: int = 0,
    starts: Literal["random", "k-means++"] = "random",
    acceleration: Literal["squarem"] | None = None,
    rng: np.random.Generator | int | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    executor: Any = None,
) -> FitResult:
    """Maximum likelihood, or the posterior mode, by expectation-maximization with exact E-steps.

    Parameters
    ----------
    model : Mixture, Monomial, or any model with maximize, rounding_loss and either log_joint_and_error and statistics, or expectation
        Where to start. Its structural zeros are kept.
    x : array_like, N observations in the model's form
    weights : array_like, shape (N,), optional
        How often each observation was seen; any non-negative number, 0 leaves it out.
    prior : optional
        Pseudo-counts as ``model.maximize`` takes them; the objective is then log evidence plus ``model.log_prior(prior)``.
    max_iter : int
        Most steps of one start.
    tolerance : float, optional
        Stop when a step gains at most this many nats; by default the spacing of doubles at the objective. 0 goes on until the
        gain is no larger than its own rounding bound.
    restarts : int
        Further starts, each with its own spawned random stream; the best end is returned, one without a collapsed component if
        there is any, and all distinct maxima in ``optima``.
    starts : {"random", "k-means++"}
        How they are drawn: by ``model.randomize``, or, for a ``Mixture`` and a ``HiddenMarkov``, around rows of the data that lie far apart.
    acceleration : {"squarem"}, optional
        Every pair of steps is followed by a jump along it, which is taken only where it, or one more step from its end, raises the
        objective further by more than rounding explains; it is shortened twice. A step of the trace is then such a cycle: two M-steps
        and three E-steps, or a few more where the first jump fails.
    rng : numpy.random.Generator or seed, optional
        Passed once through ``numpy.random.default_rng``.
    progress : bool
        Show a bar on stderr.
    checkpoint : path or Checkpoint, optional
        An npz file that keeps the path of every start, written every ten seconds. A fit that finds its own file there goes on
        to the same bits as if it had never stopped; with a larger ``max_iter`` also one that had run out of steps.
    executor : concurrent.futures.Executor, optional
        Where the starts run; with a single start, where its tables run. The bits do not depend on it.

    Returns
    -------
    FitResult

    Raises
    ------
    ZeroEvidence
        An observation that the model cannot produce, by its row.
    LogTableError, ValueError
        Bad observations, weights or settings.

    Notes
    -----
    The gain of a step is the difference of two objectives while that is 1000 times its rounding bound, and from then on
    dL = sum_n w_n log1p(sum_z p(z | x_n) expm1(change of log p(x_n, z))); the changes come from parameter differences
    (``log_joint_change_and_error``), so the gain keeps its relative precision when two objectives no longer differ. O(N S) a step.

    ``maximize`` need not maximize (generalized EM): any step that does not lower the expected log joint will do, one of gradient ascent
    for instance. ``rounding_loss`` says by how much rounding may make it lose all the same. A step that loses more is not taken
    and ends the fit as NOT_MONOTONE.

    Examples
    --------
    Five sets of ten tosses of one of two coins (Do & Batzoglou 2008, Nat. Biotechnol. 26:897):

    >>> import elbo_exact as ee
    >>> coins = ee.gallery.load("coins")
    >>> fit = ee.fit_em(coins.model, coins.x, weights=coins.counts)
    >>> round(fit.objective, 9), fit.outcome.name
    (-31.570200236, 'CONVERGED')
    """
    data = observations(model, x, weights, prior, executor)
    step_limit, n_restarts = integer(max_iter, "max_iter", 1), integer(restarts, "restarts", 0)
    if tolerance is not None and not 0.0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be a number of nats >= 0, or None; got {tolerance!r}.")
    one_of(starts, "starts", ("random", "k-means++"))
    squared = one_of(acceleration, "acceleration", (None, "squarem")) is not None
    models = [model, *_further_starts(model, data, n_restarts, starts, np.random.default_rng(rng))]
    labels = [f"EM start {i + 1}/{len(models)}" if progress else None for i in range(len(models))]
    # with several starts each is a task, which must not wait for the executor it runs on
    local = data if len(models) == 1 else dataclasses.replace(data, executor=None)
    journal = None
    if checkpoint is not None:
        if executor is not None and len(models) > 1:
            raise ValueError("executor must be None for several starts with a checkpoint; they run on threads of this process.")
        journal = open_journal(checkpoint, models, (data.x, data.counts, prior, tolerance, acceleration))
    calls = [(model, i, local, step_limit, tolerance, squared, labels[i], journal) for i, model in enumerate(models)]
    ends = [_fit_once(*calls[0])] if len(calls) == 1 else run(_fit_once, calls, executor)
    return best_end(ends, data, model)


def _further_starts(model: Any, data: Observations, number: int, kind: str, rng: np.random.Generator) -> list[Any]:
    streams = rng.spawn(number) if number else []
    if kind == "random":
        return [model.randomize(stream) for stream in streams]
    return [seeded(model, data.x, data.counts, stream, data.prior) for stream in streams]


def _fit_once(
    model: Any,
    number: int,
    data: Observations,
    max_iter: int,
    tolerance: float | None,
    squared: bool,
    progress: str | None,
    journal: Journal | None,
) -> End:
    def plain(point: Expectation) -> Step:
        return _step(point, data)

    def accelerated(point: Expectation) -> Step:
        return squared_step(point, plain, lambda model: expectation(model, data), lambda old, new: gain(old, new, data))

    before = None if journal is None else journal.walks[number]
    last = expectation(model if before is None else before.model, data)

    def watch(point: Expectation, walk: Walk) -> None:
        nonlocal last
        last = point
        if journal is not None:
            journal.note(number, walk)

    step = accelerated if squared else plain
    fit = climb(last, step, max_iter, tolerance, progress, before=before, watch=watch)
    if journal is not None:
        journal.note(number, Walk(fit.model, fit.trace.tolist(), fit.gains.tolist(), fit.gain_errors.tolist()), last=True)
    return End(fit, last.log_evidence, last.error)


def _step(point: Expectation, data: Observations) -> Step:
    """One M-step and the E-step at the new model."""
    statistics = point.expected.statistics
    model = point.model.maximize(statistics, data.prior)
    following = expectation(model, data)
    gained, error = gain(point, following, data)
    # A M-step from rounded posteriors misses its maximum by a second-order amount, which may make a true gain negative.
    return Step(following, gained, error + model.rounding_loss(statistics, data.prior, point.expected.statistics_error))
