"""The steps of a variational fit: model and guide in turn, or both along the gradient."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray, integer
from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.fit.ascent import Plan, Slope, by_batches, by_lbfgs
from elbo_exact.fit.bound import Bound, FlatParameters, Rows, bound
from elbo_exact.fit.loop import Step, Stopped
from elbo_exact.fit.objectives import Elbo, Objective, Potential
from elbo_exact.fit.optimizers import NaturalGradient, checked_optimizer
from elbo_exact.fit.result import Outcome
from elbo_exact.guides import Amortized, Free, Structured
from elbo_exact.guides.factors import Pullback
from elbo_exact.models._linear import linear_mixture, linear_network

__all__ = ["Joint", "Walker", "guide_slope", "possible", "refuse_arguments", "refuse_plan", "refuse_training"]

U = 2.0**-53
RUNAWAY = 0.1  # an optimizer that loses this share of the objective, plus one nat, has diverged; one that loses less is noisy
STALE = 250  # steps of joint training without a new best


class Walker:
    """Settings of a fit, and the moments and random numbers of its optimizer."""

    def __init__(self, data: Rows, plan: Plan) -> None:
        self.data, self.plan = data, plan
        self.state: Any = None

    def first(self, model: Any, guide: Any) -> Bound:
        """The guide at its optimum for the first model."""
        table = model.log_joint_and_error(self.data.x)
        _refuse_impossible(table[0], self.data)
        if self._in_closed_form(guide):
            return bound(model, _posterior(guide, table[0]), self.data, table)
        start = possible(bound(model, guide, self.data, table), self.data)
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
            return _gained(point, bound(model, _posterior(point.guide, table[0]), self.data, table), loss)
        half_way = bound(model, point.guide, self.data, table)
        try:
            return _gained(point, self._guide_step(half_way, table), loss)
        except Stopped as stop:
            half = _gained(point, half_way, loss)
            if stop.outcome is not Outcome.NOISY or half.gain <= half.error:
                raise
            return half  # the model moved, so the guide will find another slope

    def climb_by_slope(self, slope: Slope, params: FloatArray) -> FloatArray:
        """Uphill from ``params`` by L-BFGS-B or the optimizer; NaN where the way leaves the domain of model or guide."""

        def guarded(values: FloatArray, batch: Any) -> tuple[float, FloatArray]:
            try:
                return slope(values, batch)
            except LogTableError:  # the data were checked at the start, so it is the parameters
                return math.nan, np.full_like(values, math.nan)

        with np.errstate(all="ignore"):
            if self.plan.optimizer is None:
                return by_lbfgs(guarded, params, self.plan.passes)
            if self.state is None:
                self.state = self.plan.optimizer.start(np.array(params))
            return by_batches(guarded, params, self.plan, self.state, len(self.data.counts))

    def climbed(
        self, before: Bound, slope: Slope, params: FloatArray, make: Any, height: Any = operator.attrgetter("objective")
    ) -> Bound:
        """The bound at the end of `climb_by_slope`; where momentum led downhill, from rest (O'Donoghue & Candes 2015, Found. Comput. Math. 15:715)."""
        has_momentum = self.state is not None and bool(self.state.moments)
        try:
            return self.judged(before, self.climb_by_slope(slope, params), make, height)
        except Stopped as stop:
            if not has_momentum or stop.outcome is not Outcome.NOISY:
                raise
        self.state.moments[0][:] = 0.0
        return self.judged(before, self.climb_by_slope(slope, params), make, height)

    def judged(self, before: Bound, params: FloatArray, make: Any, height: Any) -> Bound:
        """The bound at new parameters if it is higher; what an optimizer lost ends the fit."""
        after: Bound = make(_finite(params))
        lost = height(before) - height(after)
        if lost <= 0.0:
            return after
        if self.plan.optimizer is None or lost <= before.objective_error + after.objective_error:
            return before
        outcome = Outcome.DIVERGED if _ran_away(lost, height(before)) else Outcome.NOISY
        raise Stopped(outcome, f"the optimizer lost {lost:.3g} nats.")

    def _in_closed_form(self, guide: Any) -> bool:
        return isinstance(guide, Free) and self.plan.optimizer is None

    def _guide_step(self, point: Bound, table: tuple[FloatArray, FloatArray]) -> Bound:
        potential = self.data.objective.potential(table[0], point.log_q)
        slope = guide_slope(point.guide, potential, self.data)
        if isinstance(self.plan.optimizer, NaturalGradient):
            slope = natural_slope(point.guide, slope, self.data)

        def height(at: Bound) -> float:
            if self.data.objective.is_one_function:
                return at.objective
            used = self.data.counts > 0.0
            return math.fsum((self.data.counts[used] * potential(at.log_q, None)[0][used]).tolist())

        def make(params: FloatArray) -> Bound:
            return bound(point.model, point.guide.with_params(params), self.data, table)

        return self.climbed(point, slope, point.guide.params, make, height)


class Joint:
    """Model and guide as one flat vector, the guide's parameters first; ``trace`` is the objective up to ``start``."""

    def __init__(self, walker: Walker, start: Bound, trace: list[float]) -> None:
        self.best, self.stale = max(trace), len(trace) - 1 - trace.index(max(trace))
        self.walker, self.width, self.guide = walker, start.guide.params.size, start.guide
        self.flat = FlatParameters(start.model)
        self.linear = linear_mixture(start.model, walker.data.x, walker.plan.batch_size)
        self.network = linear_network(start.guide, self.linear)
        # L-BFGS-B goes on until digits run out; an optimizer's step is not worth an engine that has them all
        objective, is_plain = walker.data.objective, walker.plan.optimizer is not None
        self.evaluate: Any = objective.plain if is_plain else objective
        one_pass = is_plain and isinstance(objective, Elbo) and self.network is not None and self.network.has_elbo
        self.slope: Slope = self._slope_in_one_pass if one_pass else self._slope

    def step(self, point: Bound) -> Step:
        """Both along the gradient."""
        self.flat = FlatParameters(point.model)
        params = np.concatenate([point.guide.params, self.flat.params]).astype(self.guide.params.dtype, copy=False)
        data = self.walker.data
        walk = self.walker.climbed if self.walker.plan.optimizer is None else self._walked
        following = walk(point, self.slope, params, lambda values: bound(*self._at(values), data))
        if self.flat.has_scales:  # an M-step refuses a component that has shrunk to a point or a flat
            following.model.maximize(following.model.statistics(data.x, data.counts[:, None] * following.weights))
        return _gained(point, following, 0.0)

    def _walked(self, before: Bound, slope: Slope, params: FloatArray, make: Any) -> Bound:
        """Where the optimizer goes, which may be down for a while."""
        after: Bound = make(_finite(self.walker.climb_by_slope(slope, params)))
        if _ran_away(self.best - after.objective, self.best):
            raise Stopped(Outcome.DIVERGED, f"the optimizer lost {before.objective - after.objective:.3g} nats.")
        self.stale = 0 if after.objective > self.best else self.stale + 1
        self.best = max(self.best, after.objective)
        if self.stale >= STALE:
            raise Stopped(Outcome.NOISY, f"no step of the last {STALE} was the highest.")
        return after

    def _at(self, params: FloatArray) -> tuple[Any, Any]:
        return self.flat.at(params[self.width :]), self.guide.with_params(params[: self.width])

    def _slope(self, params: FloatArray, batch: Any) -> tuple[float, FloatArray]:
        data = self.walker.data
        x, counts = (data.x, data.counts) if batch is None else (data.x[batch], data.counts[batch])
        log_q, back = self._log_q(params[: self.width], x, batch)
        log_joint, pull = self._log_joint(params[self.width :], x, batch)
        found, shares = self.evaluate(log_joint, log_q), _Shares(counts)
        slopes = np.concatenate([back(shares.of(found.guide)), pull(shares.of(found.model))])
        return shares.mean(found.value), slopes.astype(params.dtype, copy=False)

    def _log_q(self, params: FloatArray, x: Any, batch: Any) -> tuple[FloatArray, Pullback]:
        """log q of a batch and the way back, without a guide object where it has a `LinearNetwork`."""
        if self.network is not None:
            return self.network.log_q(params, self.network.coded.rows(batch))
        forward: tuple[FloatArray, Pullback] = self.guide.with_params(params).forward(x)
        return forward

    def _log_joint(self, params: FloatArray, x: Any, batch: Any) -> tuple[FloatArray, Pullback]:
        """The same of log p and a `LinearMixture`, always in double precision."""
        params = params.astype(np.float64, copy=False)
        if self.linear is not None:
            return self.linear.log_joint(params, self.linear.coded.rows(batch))
        model = self.flat.at(params)
        return model.log_joint(x), lambda cotangent: self.flat.pulled(params, model.pullback(x, cotangent))

    def _slope_in_one_pass(self, params: FloatArray, batch: Any) -> tuple[float, FloatArray]:
        """The same for the ELBO of rows that model and guide both take as codes, without tables of log q and of its slopes."""
        assert self.linear is not None and self.network is not None
        counts, codes = self.walker.data.counts, self.linear.coded.rows(batch)
        counts = counts if batch is None else counts[batch]
        gradient = np.empty(params.size)
        log_joint, pull = self.linear.log_joint(params[self.width :], codes)
        total, q = self.network.elbo(params[: self.width], codes, log_joint, _Shares(counts).share, gradient[: self.width])
        pull(q, gradient[self.width :])
        return total, gradient


def _ran_away(lost: float, height: float) -> bool:
    """Whether an optimizer lost more than it could win back; NaN is more."""
    return not lost <= RUNAWAY * (1.0 + abs(height))


def _finite(params: FloatArray) -> FloatArray:
    """The parameters, if an optimizer has left them in the range of numbers; -inf is a structural zero."""
    if not (params < math.inf).all():
        raise Stopped(Outcome.DIVERGED, "a parameter or a gradient is no finite number.")
    return params


def guide_slope(guide: Any, potential: Potential, data: Rows) -> Slope:
    """Mean of what the guide climbs, per count, and its gradient in the guide's parameters, for a model that stands still."""

    def slope(params: FloatArray, batch: Any) -> tuple[float, FloatArray]:
        x, counts = (data.x, data.counts) if batch is None else (data.x[batch], data.counts[batch])
        log_q, back = guide.with_params(params).forward(x)
        (value, slopes), shares = potential(log_q, batch), _Shares(counts)
        return shares.mean(value), back(shares.of(slopes))

    return slope


def natural_slope(guide: Any, slope: Slope, data: Rows) -> Slope:
    """The slope in the geometry of Fisher's information of each observation's own q (Amari 1998, Neural Computation 10:251)."""

    def natural(params: FloatArray, batch: Any) -> tuple[float, FloatArray]:
        value, gradient = slope(params, batch)
        logits, share = params.reshape(-1, guide.factors.n_logits), data.counts / data.counts.sum()
        own = gradient.reshape(logits.shape) / np.where(share > 0.0, share, 1.0)[:, None]
        return value, guide.factors.natural(logits, own).ravel()

    return natural


class _Shares:
    """Rows of a batch by their counts; one without weight adds nothing, not even an infinity."""

    def __init__(self, counts: FloatArray) -> None:
        self.share = counts / max(counts.sum(), 1e-300)
        self.unused = None if counts.min() > 0.0 else counts == 0.0

    def mean(self, values: FloatArray) -> float:
        """Mean of a value per row."""
        return float(self.share @ (values if self.unused is None else np.where(self.unused, 0.0, values)))

    def of(self, slopes: FloatArray) -> FloatArray:
        """Slopes of the mean."""
        product: FloatArray = slopes * self.share[:, None]
        if self.unused is not None:
            product[self.unused] = 0.0
        return product


def refuse_arguments(guide: Any, data: Rows, optimizer: Any, batch_size: Any) -> None:
    """Raise where an argument is not what it must be, before anything is computed."""
    checked_optimizer(optimizer)
    for name, value, method in (("guide", guide, "forward"), ("objective", data.objective, "potential")):
        if not callable(getattr(value, method, None)):
            raise TypeError(f"{name} must be an object of elbo_exact, with a method {method}; got {type(value).__name__}.")
    if batch_size is not None:
        integer(batch_size, "batch_size", 1)
    if isinstance(guide, Structured):
        guide.logits(data.x)  # as many observations as rows


def refuse_training(objective: Objective, training: str) -> None:
    """Raise where an objective cannot be trained this way."""
    name = type(objective).__name__
    if training == "joint" and not objective.is_one_function:
        raise ValueError(f"training must be 'alternating' for {name}: model and guide climb two functions.")
    if training == "alternating" and not objective.takes_weights:
        raise ValueError(f"training must be 'joint' for {name}: an M-step under its weights may lower it.")


def refuse_plan(guide: Any, training: str, plan: Plan) -> None:
    """Settings that do not go with this guide."""
    if plan.batch_size is not None and (plan.optimizer is None or not isinstance(guide, Amortized)):
        raise ValueError("batch_size must be None without an optimizer and for a guide that is not Amortized.")
    if plan.clip_norm is not None and (plan.optimizer is None or not 0.0 < plan.clip_norm < math.inf):
        raise ValueError(f"clip_norm must be a finite number > 0 beside an optimizer, or None; got {plan.clip_norm!r}.")
    if isinstance(plan.optimizer, NaturalGradient) and (
        training == "joint" or not isinstance(guide, Structured) or guide.factors.linear
    ):
        raise ValueError("optimizer must be another than NaturalGradient for joint training, networks and linear guides.")


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


def possible(point: Bound, data: Rows) -> Bound:
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
