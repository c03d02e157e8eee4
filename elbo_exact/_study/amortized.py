"""The fourth q of a latent-class study: one small network for all answer patterns, trained on the exact ELBO of the fitted model."""

from __future__ import annotations

import numpy as np

from elbo_exact._study.rows import Rows
from elbo_exact._validate import FloatArray
from elbo_exact.fit.ascent import by_lbfgs
from elbo_exact.fit.bound import Rows as Data
from elbo_exact.fit.objectives import Elbo
from elbo_exact.fit.steps import guide_slope
from elbo_exact.gallery import Problem
from elbo_exact.guides import Amortized

__all__ = ["amortized"]

HIDDEN, STEPS, SEED = (1,), 300, 0
MEANING = "one network for all rows, with a single hidden unit, trained on the exact ELBO of the fitted model"


def amortized(problem: Problem, rows: Rows) -> tuple[str, FloatArray]:
    """(meaning, log q); a softmax regression on the answers would be the posterior itself, so a hidden unit squeezes it."""
    assert problem.x is not None and problem.counts is not None
    answers = [column[:, None] == np.arange(len(names)) for column, names in zip(problem.x.T, problem.categories, strict=True)]
    inputs = np.concatenate(answers, axis=1).astype(np.float64)
    guide = Amortized.random(inputs.shape[1], rows.space, hidden=HIDDEN, rng=SEED)
    slope = guide_slope(guide, Elbo().potential(rows.log_joint, guide.log_q(inputs)), Data(inputs, problem.counts))
    return MEANING, guide.with_params(by_lbfgs(slope, guide.params, STEPS)).log_q(inputs)
