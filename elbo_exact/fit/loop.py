"""The loop of every fit: take steps until one gains nothing, and prove on the way that none lost anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from elbo_exact.errors import CollapsedComponent
from elbo_exact.fit.result import FitResult, Outcome, Restart

__all__ = ["Point", "Step", "Stopped", "Walk", "climb"]

EPSILON = 2.0**-52


class Point(Protocol):
    """A place on the way up."""

    @property
    def model(self) -> Any:
        """The model at this place."""

    @property
    def objective(self) -> float:
        """What the fit maximizes, in nats."""

    @property
    def objective_error(self) -> float:
        """Bound on its rounding error."""


P = TypeVar("P", bound=Point)


class Stopped(Exception):
    """Raised by a step that was not taken and ends the fit with an outcome of its own."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome, self.detail = outcome, detail


class Step(NamedTuple):
    """A new point, what it gained, and how far rounding can have moved the gain."""

    point: Any
    gain: float
    error: float


class Walk(NamedTuple):
    """Where a fit has come: the model there, and the objectives, gains and error bounds on the way."""

    model: Any
    trace: list[float]
    gains: list[float]
    errors: list[float]


def climb(
    point: P,
    step: Callable[[P], Step],
    max_iter: int,
    tolerance: float | None,
    progress: str | None = None,
    *,
    before: Walk | None = None,
    watch: Callable[[P, Walk], None] | None = None,
    may_fall: bool = False,
) -> FitResult:
    """Take steps until a gain is at most ``tolerance`` or its own error bound.

    A step whose gain is below minus its error bound did not maximize: it is dropped and the fit ends, likewise a step on which a
    component collapses. Without a tolerance the fit goes on while a step gains more than the spacing of doubles at the objective:
    below that the objective cannot show it. ``before`` is a path that ends at ``point``, which the fit continues as if it had never
    stopped; with ``may_fall`` a step down is taken too, and is no end; ``watch`` sees every new point and the path to it, the same lists each time.
    """
    bar = _bar(progress)
    _, trace, gains, errors = before or Walk(None, [point.objective], [], [])
    outcome, detail = Outcome.MAX_ITER, ""
    while True:
        if gains and not (may_fall and gains[-1] < 0.0) and _is_over(gains[-1], errors[-1], point.objective, tolerance):
            outcome = Outcome.CONVERGED
            break
        if len(gains) >= max_iter:
            break
        try:
            following, gain, error = step(point)
        except CollapsedComponent as collapse:
            outcome, detail = Outcome.DEGENERATE, f"step {len(gains) + 1}: {collapse}"
            break
        except Stopped as stop:
            outcome, detail = stop.outcome, f"step {len(gains) + 1}: {stop.detail}"
            break
        if gain < -error and not may_fall:
            outcome = Outcome.NOT_MONOTONE
            detail = f"step {len(gains) + 1} changes the objective by {gain:.3g} nats; rounding explains {error:.3g}."
            break
        point = following
        trace.append(point.objective)
        gains.append(gain)
        errors.append(error)
        if watch is not None:
            watch(point, Walk(point.model, trace, gains, errors))
        if bar is not None:
            bar.set_postfix_str(getattr(point, "status", f"objective {point.objective:.6f}"), refresh=False)
            bar.update()
    if bar is not None:
        bar.close()
    if not detail:
        detail = f"the last of {len(gains)} steps gained {gains[-1]:.3g} nats."
    end = Restart(point.objective, len(gains), outcome)
    return FitResult(
        model=point.model,
        trace=np.array(trace),
        gains=np.array(gains),
        gain_errors=np.array(errors),
        error=point.objective_error,
        outcome=outcome,
        detail=detail,
        restarts=(end,),
    )


def _is_over(gain: float, error: float, objective: float, tolerance: float | None) -> bool:
    limit = EPSILON * abs(objective) if tolerance is None else tolerance
    return gain <= max(limit, error if error < math.inf else 0.0)  # no bound is no reason to stop


def _bar(label: str | None) -> Any:
    """A progress bar on stderr, or None."""
    if label is None:
        return None
    from tqdm import tqdm  # only who asks for a bar waits for its import

    return tqdm(desc=label, unit="step", leave=False)
