"""The log tables of a problem at one model, and the three q's that the study compares on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.evidence import log_posterior
from elbo_exact.gallery import Problem
from elbo_exact.models import Mixture
from elbo_exact.space import LatentSpace

__all__ = ["Rows", "approximations", "rows_of"]

PRIOR = {
    "latent-class": "the class shares, whatever the answers",
    "tied-multinomial": "equal weight on the states that can produce the row (the model has no p(z) of its own)",
    "network": "latent variables drawn parents first, evidence held fixed (the proposal of likelihood weighting)",
    "guided-network": "the guide of the problem",
    "ising": "equal weight on every arrangement of the spins",
    "gaussian": "the encoder N(a x + b, 2/3)",
}
MOST_PARTS = 6  # of the evidence in the name of a row
BLURRED = "half the posterior, half equal weight on the states that can produce the row"
EXACT = "the posterior, rounded to doubles"


class Rows(NamedTuple):
    """One row for each distinct observation; tables (N, S)."""

    names: tuple[str, ...]
    counts: FloatArray
    log_joint: FloatArray
    log_prior: FloatArray
    space: LatentSpace
    states: Mapping[str, tuple[str, ...]]


def rows_of(problem: Problem, model: Any) -> Rows:
    """The rows of a problem, with the fitted model where it has one."""
    if problem.log_joint is not None:
        return _table_rows(problem)
    assert problem.x is not None and problem.counts is not None
    log_joint = model.log_joint(problem.x)
    n_rows, n_states = log_joint.shape
    if isinstance(model, Mixture):
        names = tuple(_pattern(problem, row) for row in problem.x)
        log_prior, variable = np.tile(model.log_weights, (n_rows, 1)), "class"
    else:
        names = tuple(f"row {i}" for i in range(n_rows))
        log_prior, variable = _equal_weight(log_joint), "state"
    states = {variable: tuple(map(str, range(n_states)))}
    return Rows(names, problem.counts, log_joint, log_prior, LatentSpace((n_states,), (variable,)), states)


def approximations(kind: str, rows: Rows, executor: Any = None) -> dict[str, tuple[str, FloatArray]]:
    """Name to (meaning, log q) of the three q's."""
    exact = log_posterior(rows.log_joint, executor=executor)
    blurred = np.logaddexp(exact, _equal_weight(rows.log_joint)) - np.log(2.0)
    return {"prior": (PRIOR[kind], rows.log_prior), "blurred": (BLURRED, blurred), "exact": (EXACT, exact)}


def _table_rows(problem: Problem) -> Rows:
    assert problem.log_joint is not None and problem.log_prior is not None
    assert problem.space is not None and problem.space.names is not None and problem.states is not None
    names = tuple(_evidence(case) for case in problem.observed)
    states = {name: problem.states[name] for name in problem.space.names}
    return Rows(names, np.ones(len(names)), problem.log_joint, problem.log_prior, problem.space, states)


def _equal_weight(log_joint: FloatArray) -> FloatArray:
    """Log of equal weight on the possible states of each row."""
    possible = log_joint > -np.inf
    return np.where(possible, -np.log(possible.sum(axis=-1, keepdims=True)), -np.inf)


def _pattern(problem: Problem, row: Any) -> str:
    return " ".join(names[value] for names, value in zip(problem.categories, row, strict=True))


def _evidence(case: Mapping[str, Any]) -> str:
    parts = [f"{name}={value}" if isinstance(value, str) else f"{name}~{value}" for name, value in case.items()]
    if len(parts) > MOST_PARTS:
        return f"{parts[0]}, ... {parts[-1]} ({len(parts)} observed)"
    return ", ".join(parts) or "nothing observed"
