"""Variational fits with exact objectives and exact gradients: alternating like EM, or of model and guide together."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import integer, one_of
from elbo_exact.errors import LogTableError
from elbo_exact.fit.ascent import Plan
from elbo_exact.fit.bound import Bound, bound, rows
from elbo_exact.fit.loop import Step, Stopped, Walk, climb
from elbo_exact.fit.objectives import Objective
from elbo_exact.fit.optimizers import Optimizer
from elbo_exact.fit.result import FitResult, Outcome
from elbo_exact.fit.steps import Joint, Walker, possible, refuse_arguments, refuse_plan, refuse_training
from elbo_exact.fit.validation import Validation
from elbo_exact.fit.vi_checkpoint import open_record

__all__ = ["fit_vi"]


def fit_vi(
    model: Any,
    guide: Any,
    x: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    prior: Any = None,
    objective: Objective | None = None,
    training: Literal["alternating", "joint"] = "alternating",
    optimizer: Optimizer | None = None,
    batch_size: int | None = None,
    clip_norm: float | None = None,
    inner_iter: int = 100,
    max_iter: int = 1000,
    tolerance: float | None = None,
    validation: npt.ArrayLike | None = None,
    patience: int = 10,
    checkpoint: Any = None,
    rng: np.random.Generator | int | None = None,
    progress: bool = False,
) -> FitResult:
    """Maximize the exact ELBO, or another objective, over the parameters of a model and of a guide.

    Parameters
    ----------
    model : Mixture, or any model with log_joint_and_error, statistics, maximize and rounding_loss
        Where to start. Joint training wants ``pullback``, and parameters that are logarithms or those of a Gaussian, whose standard
        deviations (diagonals of Cholesky factors) move by their logarithms; a component that collapses ends it as DEGENERATE.
    guide : Free, MeanField, Amortized, or any guide with forward
        Where to start.
    x : array_like, N observations
    weights : array_like, shape (N,), optional
        How often each observation was seen.
    prior : optional
        Pseudo-counts as ``model.maximize`` takes them, for alternating training; the objective is then ELBO plus log prior.
    objective : optional
        One of ``elbo_exact.fit.objectives``: Elbo (the default), Renyi, ImportanceWeighted, Thermodynamic, ForwardKL, ReweightedWakeSleep.
    training : {"alternating", "joint"}
        A step of the first is ``model.maximize`` under q (or the objective's weights), and then the guide brought towards its optimum; a step of the second moves
        the parameters of both by the gradient.
    optimizer : Optimizer, optional
        See ``elbo_exact.fit.optimizers``. By default L-BFGS-B on all rows; and in alternating training a `~elbo_exact.guides.Free` guide is set to its
        optimum, the posterior, which makes the fit that of EM.
    batch_size : int, optional
        Rows of one step of the optimizer, for an `~elbo_exact.guides.Amortized` guide; all by default.
    clip_norm : float, optional
        Longest gradient that the optimizer sees; longer ones are shrunk to it.
    inner_iter : int
        Iterations of L-BFGS-B, or passes of the optimizer over the rows, in each step.
    max_iter : int
        Most steps.
    tolerance : float, optional
        Stop when a step gains at most this many nats; by default the spacing of doubles at the objective, or the gain's rounding bound.
    validation : array_like, optional
        Observations that the fit does not see. After each step their exact log p(x) is taken, and the fit stops early, back at the best step,
        when it has not risen for ``patience`` steps.
    patience : int
        Such steps.
    checkpoint : path or Checkpoint, optional
        An npz file, written now and then; a fit that was killed goes on from it to the same bits. One of other data, starts or settings is refused.
    rng : numpy.random.Generator or seed, optional
        Shuffles.
    progress : bool
        Show a bar on stderr, with the current objective and the exact gap of the ELBO.

    Returns
    -------
    FitResult
        With ``guide``; ``trace`` is the objective of all rows, exact within ``error``. It never falls, except on the way of an optimizer in
        joint training, and for the two objectives whose guide climbs a function of its own: there the trace is what the model climbs, and the
        fit ends when that gains nothing.

    Raises
    ------
    ZeroEvidence
        An observation that the model cannot produce, by its row.
    LogTableError, ValueError, TypeError
        Bad observations, weights or settings, a guide with mass on an impossible state, a model that joint training cannot move.

    Notes
    -----
    Neither half of an alternating step lowers the objective: the first is a closed form (for objectives other than the ELBO, of a minorant
    that touches it: Jensen's inequality), the second keeps the old guide where it found no better one. Where an optimizer's passes end lower,
    they are taken again without its momentum; if that loses too, and the model does not move either, the fit ends as NOISY. Joint training
    follows the optimizer, also downhill, and ends as NOISY when none of 250 steps was the highest. A step that lost much or left the range of
    numbers ends a fit as DIVERGED, before that step. O(N S) and the cost of the guide for each gradient.
    Neal & Hinton (1998), Learning in Graphical Models; Dayan, Hinton, Neal & Zemel (1995), Neural Computation 7:889.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> coins = ee.gallery.load("coins")
    >>> guide = ee.guides.Free.uniform(coins.model.log_joint(coins.x))
    >>> fit = ee.fit_vi(coins.model, guide, coins.x, weights=coins.counts)
    >>> round(fit.objective, 9), fit.outcome.name  # the maximum of EM
    (-31.570200236, 'CONVERGED')
    """
    data = rows(model, x, weights, prior, objective)
    refuse_arguments(guide, data, optimizer, batch_size)
    one_of(training, "training", ("alternating", "joint"))
    refuse_training(data.objective, training)
    if tolerance is not None and not 0.0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be a number of nats >= 0, or None; got {tolerance!r}.")
    if training == "joint" and prior is not None:
        raise ValueError("prior must be None in joint training; use training='alternating'.")
    plan = Plan(optimizer, batch_size, integer(inner_iter, "inner_iter", 1), clip_norm, np.random.default_rng(rng))
    refuse_plan(guide, training, plan)
    walker = Walker(data, plan)
    seed = None if rng is None else plan.rng.bit_generator.state
    settings = (
        data,
        training,
        dataclasses.replace(plan, rng=None),
        seed,
        None if validation is None else np.asarray(validation),
        patience,
    )
    record = None if checkpoint is None else open_record(checkpoint, model, guide, settings)
    before = None if record is None else record.resumed(walker)
    if before is not None:
        start = bound(before.model, before.guide, data)
    elif training == "alternating":
        start = walker.first(model, guide)
    else:
        start = possible(bound(model, guide, data), data)
    path = None if before is None else Walk(before.model, before.trace, before.gains, before.errors)
    is_joint = training == "joint"
    step = Joint(walker, start, [start.objective] if path is None else path.trace).step if is_joint else walker.alternate
    held = Validation(validation, integer(patience, "patience", 1), start)
    if before is not None and before.best is not None:
        best_step, best_model, best_guide = before.best
        held.resume(len(before.gains), best_step, bound(best_model, best_guide, data))
    last, interrupted = start, False

    def watch(point: Bound, walk: Walk) -> None:
        nonlocal last, interrupted
        last = point
        try:
            held.note(point)
            if record is not None:
                record.note(walk, point.guide, walker, held)
        except KeyboardInterrupt:  # the step itself is whole
            interrupted = True

    def guarded(point: Bound) -> Step:
        if interrupted:
            raise Stopped(Outcome.INTERRUPTED, "interrupted by the user.")
        held.stop_if_stale()
        return _guarded(step, point)

    fit = climb(
        start,
        guarded,
        integer(max_iter, "max_iter", 1),
        tolerance,
        "VI" if progress else None,
        before=path,
        watch=watch,
        may_fall=is_joint and optimizer is not None,
    )
    if record is not None:
        record.finish(
            Walk(last.model, fit.trace.tolist(), fit.gains.tolist(), fit.gain_errors.tolist()), last.guide, walker, held
        )
    return held.kept(dataclasses.replace(fit, guide=last.guide))


def _guarded(step: Any, point: Bound) -> Step:
    """A step that is interrupted, or leaves the domain of model or guide, was not taken."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return Step(*step(point))
    except LogTableError as error:
        raise Stopped(Outcome.DIVERGED, str(error)) from None
    except KeyboardInterrupt:
        raise Stopped(Outcome.INTERRUPTED, "interrupted by the user.") from None
