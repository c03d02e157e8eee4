"""Early stopping by the exact evidence of observations that a fit does not see."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from elbo_exact.evidence import log_evidence
from elbo_exact.fit.bound import Bound
from elbo_exact.fit.loop import Stopped
from elbo_exact.fit.result import FitResult, Outcome, Restart

__all__ = ["Validation"]


class Validation:
    """The best step so far; does nothing without rows."""

    def __init__(self, x: Any, patience: int, start: Bound) -> None:
        self.x = None if x is None else np.asarray(x)
        self.patience, self.step, self.best, self.best_step = patience, 0, start, 0
        self.highest = self._evidence(start)

    def _evidence(self, point: Bound) -> float:
        if self.x is None:
            return -math.inf
        return math.fsum(np.atleast_1d(log_evidence(point.model.log_joint(self.x))).tolist())

    def resume(self, step: int, best_step: int, best: Bound) -> None:
        """As after so many steps, of which one was the best."""
        self.step, self.best_step, self.best, self.highest = step, best_step, best, self._evidence(best)

    def note(self, point: Bound) -> None:
        """One step further."""
        self.step += 1
        value = self._evidence(point)
        if value > self.highest:
            self.highest, self.best, self.best_step = value, point, self.step

    def stop_if_stale(self) -> None:
        """End the fit before a step that nobody waits for."""
        if self.x is not None and self.step - self.best_step >= self.patience:
            raise Stopped(
                Outcome.EARLY_STOP, f"kept step {self.best_step}, whose validation evidence is {self.highest:.6f} nats."
            )

    def kept(self, fit: FitResult) -> FitResult:
        """The fit up to its best step, if it was stopped."""
        if fit.outcome is not Outcome.EARLY_STOP:
            return fit
        last, point = fit.n_iter - (self.step - self.best_step), self.best
        return dataclasses.replace(
            fit,
            model=point.model,
            guide=point.guide,
            trace=fit.trace[: last + 1],
            gains=fit.gains[:last],
            gain_errors=fit.gain_errors[:last],
            error=point.objective_error,
            restarts=(Restart(point.objective, last, fit.outcome),),
        )
