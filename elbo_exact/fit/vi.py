"""Variational fits with exact objectives and exact gradients: alternating like EM, or of model and guide together."""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, integer, one_of
from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.fit.ascent import Slope, by_batches, by_lbfgs
from elbo_exact.fit.bound import Bound, LogParameters, Rows, bound, rows
from elbo_exact.fit.loop import Step, Stopped, climb
from elbo_exact.fit.objectives import Objective, Potential
from elbo_exact.fit.optimizers import Optimizer
from elbo_exact.fit.result import FitResult, Outcome
from elbo_exact.guides import Amortized, Free
from elbo_exact.guides.factors import Pullback
from elbo_exact.models._linear import linear_mixture

__all__ = ["fit_vi"]

U = 2.0**-53
RUNAWAY = 0.1  # a pass that loses this share of the objective, plus one nat, has diverged; one that loses less is noisy


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
    inner_iter: int = 100,
    max_iter: int = 1000,
    tolerance: float | None = None,
    rng: np.random.Generator | int | None = None,
    progress: bool = False,
) -> FitResult:
    """Maximize the exact ELBO, or another objective, over the parameters of a model and of a guide.

    Parameters
    ----------
    model : Mixture, or any model with log_joint_and_error, statistics, maximize and rounding_loss
        Where to start. Joint training wants ``pullback`` and parameters that are logarithms.
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
    inner_iter : int
        Iterations of L-BFGS-B, or passes of the optimizer over the rows, in each step.
    max_iter : int
        Most steps.
    tolerance : float, optional
        Stop when a step gains at most this many nats; by default the spacing of doubles at the objective, or the gain's rounding bound.
    rng : numpy.random.Generator or seed, optional
        Shuffles.
    progress : bool
        Show a bar on stderr.

    Returns
    -------
    FitResult
        With ``guide``; ``trace`` is the objective of all rows, exact within ``error``. It never falls, except for the two objectives whose
        guide climbs a function of its own: there the trace is what the model climbs, and the fit ends when that gains nothing.

    Raises
    ------
    ZeroEvidence
        An observation that the model cannot produce, by its row.
    LogTableError, ValueError, TypeError
        Bad observations, weights or settings, a guide with mass on an impossible state, a model that joint training cannot move.

    Notes
    -----
    Neither half of an alternating step lowers the objective: the first is a closed form (for objectives other than the ELBO, of a minorant
    that touches it: Jensen's inequality), the second keeps the old guide where it found no better one. A step of an optimizer that ends lower is not kept and ends the fit, as NOISY or, if it lost much or left the range of
    numbers, as DIVERGED. O(N S) and the cost of the guide for each gradient.
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
    one_of(training, "training", ("alternating", "joint"))
    _refuse_training(data.objective, training)
    if tolerance is not None and not 0.0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be a number of nats >= 0, or None; got {tolerance!r}.")
    if training == "joint" and prior is not None:
        raise ValueError("prior must be None in joint training; use training='alternating'.")
    if batch_size is not None:
        integer(batch_size, "batch_size", 1)
        if optimizer is None or not isinstance(guide, Amortized):
            raise ValueError("batch_size must be None without an optimizer and for a guide that is not Amortized.")
    walker = _Walker(data, optimizer, batch_size, integer(inner_iter, "inner_iter", 1), np.random.default_rng(rng))
    start = walker.first(model, guide) if training == "alternating" else _possible(bound(model, guide, data), data)
    step = walker.alternate if training == "alternating" else _Joint(walker, start).step
    last = start

    def watch(point: Bound, _: Any) -> None:
        nonlocal last
        last = point

    label = "VI" if progress else None
    fit = climb(start, lambda point: _guarded(step, point), integer(max_iter, "max_iter", 1), tolerance, label, watch=watch)
    return dataclasses.replace(fit, guide=last.guide)


def _guarded(step: Any, point: Bound) -> Step:
    """A step that is interrupted, or leaves the domain of model or guide, was not taken."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return Step(*step(point))
    except LogTableError as error:
        raise Stopped(Outcome.DIVERGED, str(error)) from None
    except KeyboardInterrupt:
        raise Stopped(Outcome.INTERRUPTED, "interrupted by the user.") from None


class _Walker:
    """Settings of a fit, and the moments and random numbers of its optimizer."""

    def __init__(
        self, data: Rows, optimizer: Optimizer | None, batch_size: int | None, inner_iter: int, rng: np.random.Generator
    ) -> None:
        self.data, self.optimizer, self.batch_size, self.inner_iter, self.rng = data, optimizer, batch_size, inner_iter, rng
        self.state: Any = None

    def first(self, model: Any, guide: Any) -> Bound:
        """The guide at its optimum for the first model."""
        table = model.log_joint_and_error(self.data.x)
        _refuse_impossible(table[0], self.data)
        if self._in_closed_form(guide):
            return bound(model, _posterior(guide, table[0]), self.data, table)
        start = _possible(bound(model, guide, self.data, table), self.data)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return self._guide_step(start, table)
        except (Stopped, LogTableError):
            return start  # the first step of the fit will say so again

    def alternate(self, point: Bound) -> Step:
        """theta by the M-step under q, then phi."""
        statistics = point.model.statistics(self.data.x, self.data.counts[:, None] * point.weights)
        model = point.model.maximize(statistics, self.data.prior)
        table = model.log_joint_and_error(self.data.x)
        added = (len(point.weights) + 2) * U
        loss = (
            model.rounding_loss(statistics, self.data.prior, point.weights_error + added)
            if point.weights_error < math.inf
            else math.inf
        )
        if self._in_closed_form(point.guide):
            following = bound(model, _posterior(point.guide, table[0]), self.data, table)
        else:
            following = self._guide_step(bound(model, point.guide, self.data, table), table)
        return _gained(point, following, loss)

    def climb_by_slope(self, slope: Slope, params: FloatArray) -> FloatArray:
        """Uphill from ``params`` by L-BFGS-B or the optimizer; NaN where the way leaves the domain of model or guide."""

        def guarded(values: FloatArray, batch: Any) -> tuple[float, FloatArray]:
            try:
                return slope(values, batch)
            except LogTableError:  # the data were checked at the start, so it is the parameters
                return math.nan, np.full_like(values, math.nan)

        with np.errstate(all="ignore"):
            if self.optimizer is None:
                return by_lbfgs(guarded, params, self.inner_iter)
            if self.state is None:
                self.state = self.optimizer.start(np.array(params))
            plan = self.optimizer, self.state, len(self.data.counts), self.batch_size, self.inner_iter, self.rng
            return by_batches(guarded, params, *plan)

    def judged(self, before: Bound, params: FloatArray, make: Any, height: Any = operator.attrgetter("objective")) -> Bound:
        """The bound at new parameters if it is higher; what an optimizer lost ends the fit."""
        if not (params < math.inf).all():
            raise Stopped(Outcome.DIVERGED, "a parameter or a gradient is no finite number.")
        after: Bound = make(params)
        lost = height(before) - height(after)
        if lost <= 0.0:
            return after
        if self.optimizer is None or lost <= before.objective_error + after.objective_error:
            return before
        diverged = not lost <= RUNAWAY * (1.0 + abs(height(before)))
        raise Stopped(Outcome.DIVERGED if diverged else Outcome.NOISY, f"the optimizer lost {lost:.3g} nats.")

    def _in_closed_form(self, guide: Any) -> bool:
        return isinstance(guide, Free) and self.optimizer is None

    def _guide_step(self, point: Bound, table: tuple[FloatArray, FloatArray]) -> Bound:
        potential = self.data.objective.potential(table[0], point.log_q)
        params = self.climb_by_slope(guide_slope(point.guide, potential, self.data), point.guide.params)

        def height(at: Bound) -> float:
            if self.data.objective.is_one_function:
                return at.objective
            used = self.data.counts > 0.0
            return math.fsum((self.data.counts[used] * potential(at.log_q, None)[0][used]).tolist())

        return self.judged(
            point, params, lambda values: bound(point.model, point.guide.with_params(values), self.data, table), height
        )


class _Joint:
    """Model and guide as one flat vector, the guide's parameters first."""

    def __init__(self, walker: _Walker, start: Bound) -> None:
        self.walker, self.width, self.guide = walker, start.guide.params.size, start.guide
        self.logs = LogParameters(start.model)
        self.linear = linear_mixture(start.model, walker.data.x)

    def step(self, point: Bound) -> Step:
        """Both along the gradient."""
        self.logs = LogParameters(point.model)
        params = np.concatenate([point.guide.params, self.logs.params])
        data = self.walker.data
        following = self.walker.judged(
            point, self.walker.climb_by_slope(self._slope, params), lambda values: bound(*self._at(values), data)
        )
        return _gained(point, following, 0.0)

    def _at(self, params: FloatArray) -> tuple[Any, Any]:
        return self.logs.at(params[self.width :]), self.guide.with_params(params[: self.width])

    def _slope(self, params: FloatArray, batch: Any) -> tuple[float, FloatArray]:
        data = self.walker.data
        x, counts = (data.x, data.counts) if batch is None else (data.x[batch], data.counts[batch])
        log_q, back = self.guide.with_params(params[: self.width]).forward(x)
        log_joint, pull = self._log_joint(params[self.width :], x, batch)
        # L-BFGS-B goes on until digits run out; an optimizer's step is not worth an engine that has them all
        evaluate = data.objective if self.walker.optimizer is None else data.objective.plain
        found = evaluate(log_joint, log_q)
        value, cotangent = _mean(found.value, found.guide, counts)
        return value, np.concatenate([back(cotangent), pull(_mean(found.value, found.model, counts)[1])])

    def _log_joint(self, params: FloatArray, x: Any, batch: Any) -> tuple[FloatArray, Pullback]:
        """The log table of a batch and the way back, without a model object where the model is a matrix product."""
        if self.linear is not None:
            return self.linear.log_joint(params, batch)
        model = self.logs.at(params)
        return model.log_joint(x), lambda cotangent: model.pullback(x, cotangent)


def guide_slope(guide: Any, potential: Potential, data: Rows) -> Slope:
    """Mean of what the guide climbs, per count, and its gradient in the guide's parameters, for a model that stands still."""

    def slope(params: FloatArray, batch: Any) -> tuple[float, FloatArray]:
        x, counts = (data.x, data.counts) if batch is None else (data.x[batch], data.counts[batch])
        log_q, back = guide.with_params(params).forward(x)
        value, cotangent = _mean(*potential(log_q, batch), counts)
        return value, back(cotangent)

    return slope


def _mean(values: FloatArray, slopes: FloatArray, counts: FloatArray) -> tuple[float, FloatArray]:
    used, share = counts > 0.0, counts / max(counts.sum(), 1e-300)
    return math.fsum((share[used] * values[used]).tolist()), np.where(used[:, None], share[:, None] * slopes, 0.0)


def _refuse_training(objective: Objective, training: str) -> None:
    name = type(objective).__name__
    if training == "joint" and not objective.is_one_function:
        raise ValueError(f"training must be 'alternating' for {name}: model and guide climb two functions.")
    if training == "alternating" and not objective.takes_weights:
        raise ValueError(f"training must be 'joint' for {name}: an M-step under its weights may lower it.")


def _posterior(guide: Free, log_joint: FloatArray) -> Free:
    possible = np.any(log_joint > -np.inf, axis=1)
    return Free.optimum(np.where(possible[:, None], log_joint, 0.0), guide.space)


def _gained(old: Bound, new: Bound, loss: float) -> Step:
    gain = new.objective - old.objective
    error = 1.01 * (old.objective_error + new.objective_error + loss + U * abs(gain))
    return Step(new, gain, error)


def _refuse_impossible(log_joint: FloatArray, data: Rows) -> None:
    bad = (data.counts > 0.0) & ~(log_joint > -np.inf).any(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ZeroEvidence(f"x is impossible under the model at row {row}: p(x) = 0; drop the row or give it weight 0.", (row,))


def _possible(point: Bound, data: Rows) -> Bound:
    """Refuse an ELBO of -inf, from which no gradient leads away."""
    _refuse_impossible(point.log_joint, data)
    bad = (data.counts[:, None] > 0.0) & (point.log_joint == -np.inf) & (point.log_q > -np.inf)
    if bad.any():
        row, state = map(int, np.argwhere(bad)[0])
        raise LogTableError(
            f"guide gives probability to state {state} of row {row}, which the model excludes, so its ELBO is -inf; "
            "take logits of -inf there, as Free.uniform does.",
            "guide",
            (row, state),
        )
    return point
