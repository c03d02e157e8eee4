"""What a fit returns: the model, the path that led to it, and one sentence on how it ended."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray

__all__ = ["Criteria", "FitResult", "Optimum", "Outcome", "Restart"]


class Outcome(enum.Enum):
    """How a fit ended; the value is a sentence for the user."""

    CONVERGED = "The last step gained no more than the tolerance, or no more than rounding lets one tell."
    MAX_ITER = "max_iter ran out while steps still gained more than the tolerance; raise max_iter, or look at the trace."
    NOT_MONOTONE = (
        "A step lowered the objective by more than rounding explains, so it was not taken; "
        "the model's maximize does not maximize this objective."
    )
    NOISY = (
        "The optimizer, or a pass over mini-batches, no longer raises the objective: what is left to gain is less than the noise of its steps; "
        "go on with fit_em from here, or with a lower learning rate."
    )
    DIVERGED = (
        "A step left the range of numbers or lost more than it could win back, so it was not kept; "
        "lower the learning rate and go on from the last good parameters, which are returned."
    )
    EARLY_STOP = "The evidence of the validation rows no longer rose, so the fit went back to the step where it was highest."
    INTERRUPTED = "The run was interrupted; the last good parameters are returned."
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
class Optimum:
    """A local maximum, and the starts that led to it.

    Parameters
    ----------
    objective : float
        The highest objective of its starts, in nats.
    error : float
        Bound on the rounding error of that number.
    model : object
        The model there.
    starts : tuple of int
        Numbers of the starts: 0 is the given model.
    """

    objective: float
    error: float
    model: Any
    starts: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many starts ended here."""
        return len(self.starts)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and floats."""
        return {
            "objective": self.objective,
            "error": self.error,
            "count": self.count,
            "starts": list(self.starts),
            "model": self.model.to_dict(),
        }


@dataclass(frozen=True)
class Criteria:
    """What a model's fit is worth after a price for its parameters; smaller is better.

    Parameters
    ----------
    log_evidence : float
        Of all the data, without any prior, in nats.
    error : float
        Bound on its rounding error.
    entropy : float or None
        Of the posterior over the hidden states, of a chain over its paths, summed over the data: what is left to doubt about the
        classes. None for a model with neither log tables nor an entropy of its own.
    n_parameters : int
        Free parameters; structural zeros of the starting model are none.
    n_observations : float
        Sum of the counts; for sequences, of their steps.

    Examples
    --------
    >>> Criteria(-100.0, 1e-13, 2.0, 5, 50.0).aic
    210.0
    """

    log_evidence: float
    error: float
    entropy: float | None
    n_parameters: int
    n_observations: float

    @property
    def aic(self) -> float:
        """2 * parameters - 2 * log evidence (Akaike 1974, IEEE Trans. Autom. Control 19:716)."""
        return 2.0 * self.n_parameters - 2.0 * self.log_evidence

    @property
    def bic(self) -> float:
        """parameters * log(observations) - 2 * log evidence (Schwarz 1978, Ann. Stat. 6:461)."""
        return self.n_parameters * math.log(self.n_observations) - 2.0 * self.log_evidence

    @property
    def icl(self) -> float | None:
        """bic + 2 * entropy (Biernacki, Celeux & Govaert 2000, IEEE TPAMI 22:719, in the form of McLachlan & Peel 2000)."""
        return None if self.entropy is None else self.bic + 2.0 * self.entropy

    def to_dict(self) -> dict[str, float | None]:
        """Plain numbers."""
        return {**vars(self), "aic": self.aic, "bic": self.bic, "icl": self.icl}


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
    optima : tuple of Optimum
        The distinct local maxima among the ends of all starts that converged, the highest first. Of several, those are left out
        from which second derivatives show a way up, where they are known and cheap (saddles that EM leaves too slowly to see).
    criteria : Criteria, optional
        AIC, BIC and ICL of the fitted model, where its parameters can be counted.
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
    optima: tuple[Optimum, ...] = field(default=())
    criteria: Criteria | None = None

    @property
    def n_iter(self) -> int:
        """Steps taken."""
        return len(self.gains)

    @property
    def objective(self) -> float:
        """Final objective, in nats."""
        return float(self.trace[-1])

    @property
    def measured_rate(self) -> float:
        """Factor by which the last clear steps shrank the distance from the maximum: the root of a ratio of gains.

        Near a maximum what is missing is a quadratic of the distance. The last two gains above a million times their error bounds,
        so that the ratio has six digits; 0 where there are no two, as in a fit that one step ends.
        """
        clear = np.flatnonzero(self.gains > 1e6 * self.gain_errors)
        pairs = clear[1:][np.diff(clear) == 1]
        return math.sqrt(self.gains[pairs[-1]] / self.gains[pairs[-1] - 1]) if pairs.size else 0.0

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
            "optima": [optimum.to_dict() for optimum in self.optima],
            "criteria": None if self.criteria is None else self.criteria.to_dict(),
            "guide": None if self.guide is None else self.guide.to_dict(),
        }
