"""What a fit returns: the model, the path that led to it, and one sentence on how it ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from elbo_exact._validate import FloatArray

__all__ = ["FitResult", "Outcome", "Restart"]


class Outcome(enum.Enum):
    """How a fit ended; the value is a sentence for the user."""

    CONVERGED = "The last step gained no more than the tolerance, or no more than rounding lets one tell."
    MAX_ITER = "max_iter ran out while steps still gained more than the tolerance; raise max_iter, or look at the trace."
    NOT_MONOTONE = (
        "A step lowered the objective by more than rounding explains, so it was not taken; "
        "the model's maximize does not maximize this objective."
    )
    DEGENERATE = (
        "A component was about to collapse, where the likelihood has no maximum, so the step was not taken; "
        "start elsewhere, take fewer components, or give a prior."
    )


@dataclass(frozen=True)
class Restart:
    """How one starting point ended.

    Parameters
    ----------
    objective : float
        Final log evidence of the data (plus log prior), in nats.
    n_iter : int
        Steps taken.
    outcome : Outcome
        How it ended.
    """

    objective: float
    n_iter: int
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class FitResult:
    """The best of all starting points.

    Parameters
    ----------
    model : object
        The fitted model.
    trace : ndarray, shape (n_iter + 1,)
        Objective before the first and after every step: exact log evidence of the data, plus the log prior of a MAP fit, in nats.
    gains, gain_errors : ndarray, shape (n_iter,)
        Gain of every step from parameter differences, and a bound on its rounding: far more precise than ``np.diff(trace)``.
    error : float
        Bound on the rounding error of ``trace[-1]``.
    outcome : Outcome
        How the fit ended.
    detail : str
        The same in numbers.
    restarts : tuple of Restart
        Every starting point, in order: the given model first.
    guide : object, optional
        The fitted approximation, for fits that have one.
    """

    model: Any
    trace: FloatArray
    gains: FloatArray
    gain_errors: FloatArray
    error: float
    outcome: Outcome
    detail: str
    restarts: tuple[Restart, ...] = field(default=())
    guide: Any = None

    @property
    def n_iter(self) -> int:
        """Steps taken."""
        return len(self.gains)

    @property
    def objective(self) -> float:
        """Final objective, in nats."""
        return float(self.trace[-1])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, floats and strings."""
        return {
            "objective": self.objective,
            "error": self.error,
            "outcome": self.outcome.name,
            "sentence": self.outcome.value,
            "detail": self.detail,
            "n_iter": self.n_iter,
            "trace": self.trace.tolist(),
            "restarts": [{**vars(end), "outcome": end.outcome.name} for end in self.restarts],
            "model": self.model.to_dict(),
            "guide": None if self.guide is None else self.guide.to_dict(),
        }
