"""Expectation-maximization on exact posteriors (Dempster, Laird & Rubin 1977, JRSS-B 39:1), with gains that rounding cannot fake."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._parallel import run
from elbo_exact._validate import integer
from elbo_exact.fit.expectation import Expectation, Observations, expectation, observations
from elbo_exact.fit.gain import gain
from elbo_exact.fit.loop import Step, climb
from elbo_exact.fit.result import FitResult, Outcome

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
    rng: np.random.Generator | int | None = None,
    progress: bool = False,
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
        Further starts at ``model.randomize``, each with its own spawned random stream; the best end is returned, one without a
        collapsed component if there is any.
    rng : numpy.random.Generator or seed, optional
        Passed once through ``numpy.random.default_rng``.
    progress : bool
        Show a bar on stderr.
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
    streams = np.random.default_rng(rng).spawn(n_restarts) if n_restarts else []
    starts = [model, *(model.randomize(stream) for stream in streams)]
    labels = [f"EM start {i + 1}/{len(starts)}" if progress else None for i in range(len(starts))]
    if executor is None or len(starts) == 1:
        fits = [_fit_once(start, data, step_limit, tolerance, label) for start, label in zip(starts, labels, strict=True)]
    else:
        local = dataclasses.replace(data, executor=None)  # a task must not wait for the executor it runs on
        fits = run(_fit_once, [(start, local, step_limit, tolerance) for start in starts], executor)
    # a likelihood on its way to infinity does not make a start the best
    best = max(fits, key=lambda fit: (fit.outcome is not Outcome.DEGENERATE, fit.objective))
    return dataclasses.replace(best, restarts=tuple(end for fit in fits for end in fit.restarts))


def _fit_once(model: Any, data: Observations, max_iter: int, tolerance: float | None, progress: str | None = None) -> FitResult:
    return climb(expectation(model, data), lambda point: _step(point, data), max_iter, tolerance, progress)


def _step(point: Expectation, data: Observations) -> Step:
    """One M-step and the E-step at the new model."""
    statistics = point.expected.statistics
    model = point.model.maximize(statistics, data.prior)
    following = expectation(model, data)
    gained, error = gain(point, following, data)
    # A M-step from rounded posteriors misses its maximum by a second-order amount, which may make a true gain negative.
    return Step(following, gained, error + model.rounding_loss(statistics, data.prior, point.expected.statistics_error))
