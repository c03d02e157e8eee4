"""Log evidence by its definition in numbers of 50 digits, every path and state one by one, and its differences."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

import mpmath
import numpy as np

from elbo_exact.families import Binomial, Categorical, Gaussian, Multinomial, Poisson
from elbo_exact.fit.parameters import parameter_arrays
from elbo_exact.models import BayesianNetwork, DawidSkene, HiddenMarkov, Mixture, NoisyOr, SigmoidBelief

STEP = mpmath.mpf(10) ** -12
FIELDS = {name: f"log_{name}" for name in ("weights", "probabilities", "rates", "confusion", "initial", "transition", "causes")}

Arrays = dict[str, Any]


def log_evidence(model: Any, arrays: Arrays, x: Any, counts: Any) -> Any:
    """sum count * log p(x_n), with the parameters that ``arrays`` holds."""
    logs = [mpmath.log(mpmath.fsum(joint(model, arrays, row))) for row in x]
    return mpmath.fsum(count * value for count, value in zip(counts, logs, strict=True))


@singledispatch
def joint(model: Any, arrays: Arrays, row: Any) -> Iterator[Any]:
    """p(row, z) of every z."""
    raise AssertionError(model)


@joint.register
def _(model: Mixture, arrays: Arrays, row: Any) -> Iterator[Any]:
    for k, weight in enumerate(normalized(arrays["log_weights"])):
        yield weight * densities(model.components, "components", arrays, row, k)


@joint.register
def _(model: DawidSkene, arrays: Arrays, row: Any) -> Iterator[Any]:
    for k, weight in enumerate(normalized(arrays["log_weights"])):
        for rater, answer in zip(model._columns, row, strict=True):
            weight *= 1 if math.isnan(answer) else normalized(arrays["log_confusion"][rater, k])[int(answer)]
        yield weight


@joint.register
def _(model: HiddenMarkov, arrays: Arrays, row: Any) -> Iterator[Any]:
    steps, states = np.asarray(row, dtype=float).reshape(len(row), -1).tolist(), range(model.n_states)
    initial, moves = normalized(arrays["log_initial"]), [normalized(logs) for logs in arrays["log_transition"]]
    seen = [[densities(model.emission, "emission", arrays, step, k) for k in states] for step in steps]
    for path in itertools.product(states, repeat=len(steps)):
        p = initial[path[0]]
        for first, second in itertools.pairwise(path):
            p *= moves[first][second]
        yield p * mpmath.fprod(seen[t][k] for t, k in enumerate(path))


@joint.register
def _(model: BayesianNetwork, arrays: Arrays, row: Any) -> Iterator[Any]:
    places = {name: i for i, name in enumerate(model.states)}
    choices = [
        range(size) if name in model.hidden or value == -1 else [value]
        for name, size, value in zip(model.states, model.sizes, row, strict=True)
    ]
    for state in itertools.product(*choices):
        seen = all(value in (-1, chosen) for value, chosen in zip(row, state, strict=True))
        p = mpmath.mpf(int(seen))
        for name, own in places.items():
            above = tuple(state[places[parent]] for parent in model.parents[name])
            p *= normalized(arrays[f"log_tables[{own}]"][above])[state[own]]
        yield p


@joint.register
def _(model: NoisyOr, arrays: Arrays, row: Any) -> Iterator[Any]:
    for z, p in cause_states(arrays):
        for value, base, links in zip(row, arrays["leak"], arrays["strengths"], strict=True):
            absent = mpmath.exp(-base - sum(link for link, there in zip(links, z, strict=True) if there))
            p *= 1 if math.isnan(value) else (1 - absent if value else absent)
        yield p


@joint.register
def _(model: SigmoidBelief, arrays: Arrays, row: Any) -> Iterator[Any]:
    for z, p in cause_states(arrays):
        for value, base, links in zip(row, arrays["bias"], arrays["weights"], strict=True):
            odds = base + sum(link for link, there in zip(links, z, strict=True) if there)
            p *= 1 if math.isnan(value) else 1 / (1 + mpmath.exp(-odds if value else odds))
        yield p


def cause_states(arrays: Arrays) -> Iterator[tuple[tuple[int, ...], Any]]:
    priors = [normalized(pair) for pair in arrays["log_causes"]]
    for z in itertools.product((0, 1), repeat=len(priors)):
        yield z, mpmath.fprod(prior[bit] for prior, bit in zip(priors, z, strict=True))


def normalized(logs: Any) -> list[Any]:
    masses = [mpmath.exp(value) for value in logs]
    return [mass / sum(masses) for mass in masses]


def densities(families: Any, owner: str, arrays: Arrays, row: Any, k: int) -> Any:
    """Product of the families' densities of one row in state k."""
    out, first = mpmath.mpf(1), 0
    for i, family in enumerate(families):
        own = {n.split(".")[1]: a for n, a in arrays.items() if n.startswith(f"{owner}[{i}]")}
        out *= density(family, own, row[first : first + family.n_columns], k)
        first += family.n_columns
    return out


def density(family: Any, own: Arrays, x: list[float], k: int) -> Any:
    out = mpmath.mpf(1)
    if isinstance(family, Gaussian):
        return gaussian(family, own["means"][k], own["scales"], x, k)
    if isinstance(family, Poisson):
        for value, rate in zip(x, own["log_rates"][k], strict=True):
            out *= 1 if math.isnan(value) else mpmath.exp(value * rate - mpmath.exp(rate)) / mpmath.factorial(value)
    elif isinstance(family, Multinomial):
        p = normalized(own["log_probabilities"][k])
        out = mpmath.factorial(sum(x))
        for value, q in zip(x, p, strict=True):
            out *= q**value / mpmath.factorial(value)
    elif isinstance(family, Categorical):
        out = 1 if math.isnan(x[0]) else normalized(own["log_probabilities"][k])[int(x[0])]
    else:
        trials = family.trials.tolist() if isinstance(family, Binomial) else [1] * len(x)
        for value, n, pair in zip(x, trials, own["log_probabilities"][k], strict=True):
            q = normalized(pair)
            out *= 1 if math.isnan(value) else mpmath.binomial(n, value) * q[1] ** value * q[0] ** (n - value)
    return out


def gaussian(family: Any, mean: Any, scales: Any, x: list[float], k: int) -> Any:
    n, out = len(x), mpmath.mpf(1)
    if family.covariance in ("spherical", "diagonal"):
        for d, value in enumerate(x):
            s = scales[k] if family.covariance == "spherical" else scales[k][d]
            out *= 1 if math.isnan(value) else mpmath.npdf(value, mean[d], s)
        return out
    factor = scales if family.covariance == "tied" else scales[k]
    y: list[Any] = []
    for i in range(n):
        y.append((x[i] - mean[i] - sum(factor[i][j] * y[j] for j in range(i))) / factor[i][i])
        out *= mpmath.npdf(y[i]) / factor[i][i]
    return out


def moved(model: Any, changes: list[tuple[str, Any]]) -> Arrays:
    """The model's arrays with steps added at named coordinates."""
    out = {place: np.vectorize(mpmath.mpf, otypes=[object])(array) for place, array in parameter_arrays(model).items()}
    for name, step in changes:
        match = re.fullmatch(r"((?:components\[\d+\]\.|emission\[\d+\]\.)?)(\w+)\[([\d,]+)\]", name)
        assert match is not None
        field, cell = match[2], tuple(map(int, match[3].split(",")))
        if isinstance(model, BayesianNetwork):
            out[f"log_tables[{model.nodes.index(field)}]"][cell] += step
        elif isinstance(model, NoisyOr) and field != "causes":  # by the log odds to fire
            odds = mpmath.log(mpmath.expm1(out[field][cell])) + step
            out[field][cell] = mpmath.log1p(mpmath.exp(odds))
        else:
            place = field if isinstance(model, SigmoidBelief) and field == "weights" else FIELDS.get(field, field)
            out[match[1] + place][cell] += step
    return out


def minus_hessian(model: Any, names: list[str], x: Any, counts: Any) -> Any:
    """Central second differences with 50 digits: off by their step squared, 1e-24."""
    out = np.zeros((len(names), len(names)))
    with mpmath.workdps(50):
        for i, first in enumerate(names):
            for j, second in enumerate(names[: i + 1]):
                corners = [
                    a * b * log_evidence(model, moved(model, [(first, a * STEP), (second, b * STEP)]), x, counts)
                    for a in (1, -1)
                    for b in (1, -1)
                ]
                out[i, j] = out[j, i] = -float(sum(corners) / (4 * STEP**2))
    return out


def slope(model: Any, name: str, x: Any, counts: Any) -> float:
    """Central difference with 50 digits."""
    with mpmath.workdps(50):
        high, low = (log_evidence(model, moved(model, [(name, sign * STEP)]), x, counts) for sign in (1, -1))
        return float((high - low) / (2 * STEP))
