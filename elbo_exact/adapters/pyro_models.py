"""Pyro programs, enumerated by trace and log density alone (tested with pyro-ppl 1.9.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

from elbo_exact.adapters._enumerate import MAX_BYTES, MAX_SECONDS, enumerated
from elbo_exact.adapters._oracle import Oracle, Site, joint_space
from elbo_exact.adapters._sites import STATE, check_fixed, latent_site, refuse_changed, refuse_dependence, refuse_subsampling

__all__ = ["from_pyro", "posterior_guide"]

BLOCK = 8  # states, the second eight predict the time
WRAPPERS = (dist.Independent, dist.MaskedDistribution, dist.ExpandedDistribution, torch.distributions.Independent)


def from_pyro(
    model: Callable[..., Any],
    *args: Any,
    fixed: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
    **kwargs: Any,
) -> Oracle:
    """Enumerate the discrete sites of a Pyro model, one run of the program per state.

    Parameters
    ----------
    model : callable
        Called as ``model(*args, **kwargs)``; data conditioned or passed as usual.
    fixed : mapping, optional
        Values of further sites, needed for every continuous latent site: the answers are conditional on them.
    max_bytes, max_seconds : optional
        Budgets of table and time, predicted before the loop.

    Returns
    -------
    Oracle
        Each cell of a plate is a variable of its own, ``z[0]``, ``z[1]`` ...; masks and scales count as in ``log_prob_sum``.

    Raises
    ------
    EnumerationTooLarge
        Too many states for the budgets.
    ValueError
        A site without a finite support and without a fixed value, a plate that subsamples, or a site that exists in some states only.

    Notes
    -----
    Only ``poutine.condition``, ``poutine.trace`` and ``Trace.log_prob_sum`` are used, never Pyro's enumeration, so that this can judge
    it. About a millisecond per state and site. Densities are as precise as the model: call ``torch.set_default_dtype(torch.float64)``.
    """
    first = _trace(model, args, kwargs, {})
    values = check_fixed(fixed, (name for name, message in first.nodes.items() if message["type"] == "sample"))
    conditioned = poutine.condition(model, data={name: torch.as_tensor(value) for name, value in values.items()})
    sites = _sites(_trace(conditioned, args, kwargs, {}))
    space = joint_space(sites)
    oracle = Oracle(torch.empty(0).numpy(), space, sites)

    def log_density(values: Mapping[str, Any]) -> float:
        return _log_density(conditioned, args, kwargs, sites, values)

    def evaluate(states: Any) -> list[float]:
        return [log_density(oracle.values(state)) for state in states]

    refuse_dependence(oracle, log_density)
    table = enumerated(evaluate, space, block_size=BLOCK, max_bytes=max_bytes, max_seconds=max_seconds)
    return Oracle(table, space, sites)


def _trace(model: Any, args: Any, kwargs: Any, values: Mapping[str, Any]) -> Any:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return poutine.trace(poutine.condition(model, data=values)).get_trace(*args, **kwargs)


def _sites(trace: Any) -> tuple[Site, ...]:
    found = []
    for name, message in trace.nodes.items():
        if message["type"] != "sample":
            continue
        if site_is_subsample(message):
            refuse_subsampling(name, message["fn"].size, len(message["value"]))
        elif not message["is_observed"]:
            found.append(latent_site(message, WRAPPERS))
    return tuple(found)


def _log_density(model: Any, args: Any, kwargs: Any, sites: tuple[Site, ...], values: Mapping[str, Any]) -> float:
    trace = _trace(model, args, kwargs, {name: torch.as_tensor(value) for name, value in values.items()})
    left = {name for name, message in trace.nodes.items() if _is_free(message)} | (values.keys() - trace.nodes.keys())
    now = [latent_site(trace.nodes[name], WRAPPERS) for name in values if name in trace.nodes]
    refuse_changed(map(_form, sites), [*map(_form, now), *((name,) for name in left)])
    return float(trace.log_prob_sum())


def _is_free(message: Any) -> bool:
    return message["type"] == "sample" and not message["is_observed"] and not site_is_subsample(message)


def _form(site: Site) -> tuple[Any, ...]:
    return site.name, site.shape, site.sizes


def posterior_guide(oracle: Oracle) -> Callable[..., None]:
    """A guide that draws the state at an auxiliary site and puts every site of the model on its value."""
    logits = torch.from_numpy(oracle.log_posterior)
    states = oracle.space.states()

    def guide(*args: Any, **kwargs: Any) -> None:
        state = pyro.sample(STATE, dist.Categorical(logits=logits), infer={"is_auxiliary": True})
        values = oracle.values(states[int(state)])
        for site in oracle.sites:
            with ExitStack() as stack:
                for name, dim, size in site.plates:
                    stack.enter_context(pyro.plate(name, size, dim=dim))
                pyro.sample(site.name, dist.Delta(torch.as_tensor(values[site.name]), event_dim=site.event_dim))

    return guide
