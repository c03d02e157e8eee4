"""PyMC models, enumerated by log density alone (tested with pymc 5.28.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pymc

from elbo_exact.adapters._enumerate import MAX_BYTES, MAX_SECONDS, enumerated
from elbo_exact.adapters._oracle import Oracle, Site, joint_space, site_values
from elbo_exact.adapters._sites import check_fixed

__all__ = ["from_pymc"]

BLOCK = 64  # states; the second block predicts the time


def from_pymc(
    model: Any, *, fixed: Mapping[str, Any] | None = None, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS
) -> Oracle:
    """Enumerate the discrete random variables of a PyMC model.

    Parameters
    ----------
    model : pymc.Model
        With observed data; ``pymc.observe`` adds more.
    fixed : mapping, optional
        Values of further variables by name, needed for every continuous one: the answers are conditional on them, and their densities
        count.
    max_bytes, max_seconds : optional
        Budgets of table and time, predicted before the loop.

    Returns
    -------
    Oracle
        Each cell of an array is a variable of its own, ``z[0]``, ``z[1]`` ...

    Raises
    ------
    EnumerationTooLarge
        Too many states for the budgets.
    ValueError
        A variable without a finite support of its own and without a fixed value, or no discrete variable.

    Notes
    -----
    Bernoulli, Categorical, DiscreteUniform, Binomial and BetaBinomial variables are enumerated. Only ``Model.compile_logp`` is used,
    about 50 microseconds a state.
    """
    values = check_fixed(fixed, (rv.name for rv in model.basic_RVs))
    conditioned = pymc.observe(model, values) if values else model
    order = [rv.name for rv in model.free_RVs]  # conditioning may change it
    free = sorted(conditioned.free_RVs, key=lambda rv: order.index(rv.name))
    if not free:
        raise ValueError("model must have a discrete variable that is not observed; got none.")
    sites = tuple(_site(rv) for rv in free)
    names = {rv.name: conditioned.rvs_to_values[rv].name for rv in free}
    log_density = conditioned.compile_logp()
    space = joint_space(sites)

    def evaluate(states: Any) -> list[float]:
        points = ({names[name]: value for name, value in site_values(sites, state).items()} for state in states)
        return [float(log_density(point)) for point in points]

    table = enumerated(evaluate, space, block_size=BLOCK, max_bytes=max_bytes, max_seconds=max_seconds)
    return Oracle(table, space, sites)


def _site(rv: Any) -> Site:
    """The cells and the common support of a discrete variable."""
    kind = type(rv.owner.op).__name__.removesuffix("RV")
    if kind not in _BOUNDS:
        raise ValueError(
            f"site {rv.name!r} is {kind}, which has no finite support; pass a value in fixed={{{rv.name!r}: ...}}, "
            "or make it a Categorical over a grid."
        )
    low, high = (np.unique(bound) for bound in _BOUNDS[kind](rv, rv.owner.op.dist_params(rv.owner)))
    if low.size != 1 or high.size != 1:
        raise ValueError(
            f"site {rv.name!r} must have one support for all its cells; got bounds {low.tolist()} and {high.tolist()}."
        )
    return Site(rv.name, tuple(rv.shape.eval().tolist()), np.arange(int(low[0]), int(high[0]) + 1))


def _constant(rv: Any, parameter: Any) -> Any:
    """A parameter of the support, which other random variables may not change."""
    from pytensor.graph.traversal import ancestors

    if any(type(node.owner.op).__name__.endswith("RV") for node in ancestors([parameter]) if node.owner is not None):
        raise ValueError(f"site {rv.name!r} must have a support of its own; it depends on the values of others.")
    return parameter.eval()


_BOUNDS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "Bernoulli": lambda rv, parameters: (0, 1),
    "Categorical": lambda rv, parameters: (0, parameters[0].shape[-1].eval() - 1),
    "DiscreteUniform": lambda rv, parameters: (_constant(rv, parameters[0]), _constant(rv, parameters[1])),
    "Binomial": lambda rv, parameters: (0, _constant(rv, parameters[0])),
    "BetaBinomial": lambda rv, parameters: (0, _constant(rv, parameters[0])),
}
