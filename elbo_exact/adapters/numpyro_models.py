"""NumPyro programs, enumerated by log density alone (tested with numpyro 0.22.0)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.util import log_density

from elbo_exact.adapters._enumerate import MAX_BYTES, MAX_SECONDS, enumerated
from elbo_exact.adapters._oracle import Oracle, Site, joint_space, site_values
from elbo_exact.adapters._sites import STATE, check_fixed, latent_site, refuse_dependence, refuse_subsampling

__all__ = ["from_numpyro", "posterior_guide"]

BLOCK = 1024  # states of one vectorized call
WRAPPERS = (dist.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)


def from_numpyro(
    model: Callable[..., Any],
    *args: Any,
    fixed: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
    **kwargs: Any,
) -> Oracle:
    """Enumerate the discrete sites of a NumPyro model.

    Parameters
    ----------
    model : callable
        Called as ``model(*args, **kwargs)``; data conditioned or passed as usual.
    fixed : mapping, optional
        Values of further sites, needed for every continuous latent site and for every ``param``: the answers are conditional on them.
    max_bytes, max_seconds : optional
        Budgets of table and time, predicted before the loop.

    Returns
    -------
    Oracle
        Each cell of a plate is a variable of its own, ``z[0]``, ``z[1]`` ...; masks and scales count as in ``log_density``.

    Raises
    ------
    EnumerationTooLarge
        Too many states for the budgets.
    ValueError
        A site without a finite support and without a fixed value, or a plate that subsamples.

    Notes
    -----
    Only ``handlers.substitute``, ``handlers.trace`` and ``log_density`` are used, never NumPyro's enumeration, so that this can judge it.
    States are vectorized by ``jax.vmap``, 1024 at a time. Without ``jax_enable_x64`` the densities are those of float32.
    """
    seeded = handlers.seed(model, 0)
    values = check_fixed(fixed, (name for name, message in _trace(seeded, args, kwargs).items() if message["type"] == "sample"))
    conditioned = handlers.condition(seeded, data={name: jnp.asarray(value) for name, value in values.items()})
    sites = _sites(_trace(conditioned, args, kwargs))
    space = joint_space(sites)
    supports = {site.name: jnp.asarray(site.support) for site in sites}

    def one(state: Any) -> Any:
        return log_density(conditioned, args, kwargs, _values(sites, supports, state))[0]

    refuse_dependence(
        Oracle(np.empty(0), space, sites), lambda values: float(log_density(conditioned, args, kwargs, dict(values))[0])
    )
    vectorized = jax.jit(jax.vmap(one))
    table = enumerated(
        lambda states: vectorized(jnp.asarray(states)), space, block_size=BLOCK, max_bytes=max_bytes, max_seconds=max_seconds
    )
    return Oracle(table, space, sites)


def _trace(model: Any, args: Any, kwargs: Any) -> Any:
    return handlers.trace(model).get_trace(*args, **kwargs)


def _sites(trace: Any) -> tuple[Site, ...]:
    found = []
    for name, message in trace.items():
        if message["type"] == "plate":
            refuse_subsampling(name, *message["args"])
        elif message["type"] == "sample" and not message["is_observed"]:
            found.append(latent_site(message, WRAPPERS))
    return tuple(found)


def _values(sites: tuple[Site, ...], supports: Mapping[str, Any], states: Any) -> dict[str, Any]:
    """`site_values` of traced arrays."""
    return site_values(tuple(Site(site.name, site.shape, supports[site.name]) for site in sites), states)


def posterior_guide(oracle: Oracle) -> Callable[..., None]:
    """A guide that draws the state at an auxiliary site and puts every site of the model on its value."""
    logits, states = jnp.asarray(oracle.log_posterior), jnp.asarray(oracle.space.states())
    supports = {site.name: jnp.asarray(site.support) for site in oracle.sites}

    def guide(*args: Any, **kwargs: Any) -> None:
        state = numpyro.sample(STATE, dist.Categorical(logits=logits), infer={"is_auxiliary": True})
        values = _values(oracle.sites, supports, states[state])
        for site in oracle.sites:
            with ExitStack() as stack:
                for name, dim, size in site.plates:
                    stack.enter_context(numpyro.plate(name, size, dim=dim))
                numpyro.sample(site.name, dist.Delta(values[site.name], event_dim=site.event_dim))

    return guide
