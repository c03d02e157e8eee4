"""From the conditional tables of a discrete network to two log tables over what was not observed: the joint and a proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import log_simplex
from elbo_exact.space import LatentSpace

__all__ = ["network_table"]

MAX_BYTES = 2**27  # a problem file of a few hundred bytes must not ask for gigabytes


def network_table(
    variables: Sequence[Mapping[str, Any]], tables: Mapping[str, Any], observed: Sequence[Mapping[str, Any]]
) -> tuple[FloatArray, FloatArray, LatentSpace]:
    """log p(evidence, latent state) of every case, a log proposal for the latent state, both (cases, S), and the latent space.

    Parameters
    ----------
    variables : sequence of dict
        ``name``, ``states``, ``parents`` (declared before) and ``table``: p(state | parents), the state last, or the name of a
        shared table.
    tables : dict
        Shared tables by name.
    observed : sequence of dict
        One per case: variable to state, or to a list of likelihoods (soft evidence).

    Returns
    -------
    log_joint, log_prior, space
        The latent variables are those that some case leaves open. A case that observes one of them has -inf in the states that
        contradict it.

    Notes
    -----
    ``log_prior`` is the proposal of likelihood weighting (Fung & Chang 1990, UAI; Shachter & Peot 1990, UAI): the product of the
    conditional tables of the variables not observed, with observed parents held at their values. It sums to 1, and the weight
    of a state, p(evidence, state) / proposal, is the product of the tables of the evidence.
    """
    names = [str(variable["name"]) for variable in variables]
    states = {variable["name"]: list(variable["states"]) for variable in variables}
    full = LatentSpace(tuple(len(states[name]) for name in names), tuple(names))
    full.check(MAX_BYTES)
    factors = {variable["name"]: _factor(variable, tables, names, states) for variable in variables}
    log_joint = np.zeros(full.sizes)
    for factor in factors.values():
        log_joint = log_joint + factor
    if not observed:
        raise ValueError("observed must hold at least one case.")
    fixed = [name for name in names if all(isinstance(case.get(name), str) for case in observed)]
    open_names = [name for name in names if name not in fixed]
    rows = [_case(log_joint, case, fixed, names, states) for case in observed]
    proposals = []
    for case in observed:
        held = {name: value for name, value in case.items() if isinstance(value, str)}
        proposal = np.zeros(full.sizes)
        for name in names:
            proposal = proposal if name in held else proposal + factors[name]
        proposals.append(_case(proposal, held, fixed, names, states))
    space = LatentSpace(tuple(len(states[name]) for name in open_names), tuple(open_names))
    return np.stack(rows), np.stack(proposals), space


def _factor(
    variable: Mapping[str, Any], tables: Mapping[str, Any], names: list[str], states: Mapping[str, list[str]]
) -> FloatArray:
    """The log conditional table of one variable, its axes moved to where they belong among all variables."""
    scope = [*variable["parents"], variable["name"]]
    given = variable["table"]
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.log(np.array(tables[given] if isinstance(given, str) else given, dtype=np.float64))
    expected = tuple(len(states[name]) for name in scope)
    if table.shape != expected:
        raise ValueError(f"table of {variable['name']!r} must have shape {expected}; got {table.shape}.")
    table = log_simplex(table, f"table of {variable['name']!r}", len(scope)).given
    order = sorted(range(len(scope)), key=lambda axis: names.index(scope[axis]))
    shape = [len(states[name]) if name in scope else 1 for name in names]
    return table.transpose(order).reshape(shape)


def _case(
    log_joint: FloatArray, case: Mapping[str, Any], fixed: list[str], names: list[str], states: Mapping[str, list[str]]
) -> FloatArray:
    """The table with one case's evidence put in, flattened."""
    unknown = sorted(set(case) - set(names))
    if unknown:
        raise ValueError(f"observed names {unknown[0]!r}, which is not a variable.")
    for axis, name in enumerate(names):
        if name in case:
            with np.errstate(divide="ignore"):
                evidence = np.log(_likelihood(case[name], name, states[name]))
            log_joint = log_joint + evidence.reshape([-1 if other == axis else 1 for other in range(len(names))])
    index = tuple(states[name].index(case[name]) if name in fixed else slice(None) for name in names)
    return np.asarray(log_joint[index]).reshape(-1)


def _likelihood(value: Any, name: str, states: list[str]) -> FloatArray:
    if isinstance(value, str):
        if value not in states:
            raise ValueError(f"observed {name!r} must be one of {', '.join(states)}; got {value!r}.")
        return np.array([float(state == value) for state in states])
    weights = np.array(value, dtype=np.float64)
    if weights.shape != (len(states),) or not (weights >= 0.0).all():
        raise ValueError(f"observed {name!r} must be a state or {len(states)} likelihoods >= 0; got {value!r}.")
    return weights
