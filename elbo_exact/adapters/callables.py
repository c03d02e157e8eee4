"""Log densities given as Python functions of batched states: NumPy, PyTorch or JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from elbo_exact.adapters._enumerate import MAX_BYTES, MAX_SECONDS, enumerated
from elbo_exact.adapters._oracle import Oracle, Site, joint_space
from elbo_exact.space import LatentSpace

__all__ = ["from_callable", "from_jax", "from_torch"]

BLOCK = 4096  # states of one call


def from_callable(
    log_joint: Callable[[Any], Any],
    space: LatentSpace,
    *,
    block_size: int = BLOCK,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
) -> Oracle:
    """Enumerate a function that computes log p(x, z) for a batch of states.

    Parameters
    ----------
    log_joint : callable
        Takes categories 0 ... K - 1, an int64 array of shape (n, n_variables), and returns n log densities in nats, finite or -inf.
    space : LatentSpace
        Variables without names are called ``z0``, ``z1`` ...
    block_size : int, optional
        States of one call.
    max_bytes, max_seconds : optional
        Budgets; memory is predicted before the first call, time from the second.

    Returns
    -------
    Oracle

    Raises
    ------
    EnumerationTooLarge
        The table would exceed ``max_bytes``, or the calls ``max_seconds``.
    LogTableError
        NaN, +inf, or a result of another shape.

    Notes
    -----
    O(S) calls / block_size. The numbers are as precise as the function computes them: prefer float64.

    Examples
    --------
    >>> import numpy as np
    >>> import elbo_exact as ee
    >>> oracle = ee.adapters.from_callable(lambda z: np.log([0.3, 0.1])[z[:, 0]], ee.LatentSpace((2,)))
    >>> oracle.posterior.round(15).tolist()
    [0.75, 0.25]
    """
    names = space.names or tuple(f"z{number}" for number in range(space.n_variables))
    space.check(max_bytes)
    sites = tuple(Site(name, (), np.arange(size)) for name, size in zip(names, space.sizes, strict=True))
    table = enumerated(log_joint, space, block_size=block_size, max_bytes=max_bytes, max_seconds=max_seconds)
    return Oracle(table, joint_space(sites), sites)


def from_torch(log_joint: Callable[[Any], Any], space: LatentSpace, **budget: Any) -> Oracle:
    """`from_callable` for a function of a LongTensor of shape (n, n_variables) that returns a tensor of shape (n,).

    Called without gradients; ``block_size``, ``max_bytes``, ``max_seconds``, errors and cost are those of `from_callable`.
    """
    import torch

    def evaluate(states: Any) -> Any:
        with torch.no_grad():
            return log_joint(torch.from_numpy(states))

    return from_callable(evaluate, space, **budget)


def from_jax(log_joint: Callable[[Any], Any], space: LatentSpace, **budget: Any) -> Oracle:
    """`from_callable` for a function of a JAX integer array of shape (n, n_variables) that returns an array of shape (n,).

    Without ``jax_enable_x64`` JAX computes in float32, and so is the table. Errors and cost as in `from_callable`.
    """
    import jax.numpy as jnp

    return from_callable(lambda states: log_joint(jnp.asarray(states)), space, **budget)
