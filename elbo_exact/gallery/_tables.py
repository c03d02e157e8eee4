"""Problems that are one formula: the Ising model on a torus, and a Gaussian latent variable on a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray, integer
from elbo_exact.space import LatentSpace

__all__ = ["gaussian_tables", "ising_tables"]

MAX_BYTES = 2**27  # a problem file of a few hundred bytes must not ask for gigabytes


def ising_tables(sides: Sequence[int], couplings: Sequence[Any]) -> tuple[FloatArray, FloatArray, LatentSpace]:
    """log weight K sum s_i s_j over the edges of a torus for every coupling K, equal weight, and the spins as a space.

    Parameters
    ----------
    sides : two integers >= 3
        A side of 2 would join the same two spins twice.
    couplings : sequence of float
        One case each.

    Returns
    -------
    log_joint, log_prior, space
        Tables of shape (cases, 2**spins); state 0 of a spin is up.
    """
    rows, columns = (integer(side, "sides", 3) for side in sides)
    names = tuple(f"spin_{i}_{j}" for i in range(rows) for j in range(columns))
    space = LatentSpace((2,) * len(names), names)
    space.check(MAX_BYTES)
    spins = (1.0 - 2.0 * space.states()).reshape(-1, rows, columns)
    aligned = sum((spins * np.roll(spins, 1, axis)).sum(axis=(1, 2)) for axis in (1, 2))
    log_joint = np.array([_finite(k, "couplings") * aligned for k in couplings])
    return log_joint, np.full_like(log_joint, -math.log(space.size)), space


def gaussian_tables(fields: Mapping[str, Any]) -> tuple[FloatArray, FloatArray, LatentSpace, FloatArray]:
    """p(z) = N(mu, 1), p(x | z) = N(z, 1) and q = N(a x + b, 2/3) on equally spaced nodes around the mean of q.

    Returns
    -------
    log_joint, log_q, space, nodes
        Tables (1, S) with the weights of the nodes folded in, so that q sums to 1 on the grid.
    """
    x, mu, a, b, reach = (_finite(fields[name], name) for name in ("x", "mu", "a", "b", "reach"))
    n = integer(fields["n_nodes"], "n_nodes", 2)
    if not reach > 0.0 or n > 10**6:
        raise ValueError(f"reach must be > 0 and n_nodes at most 10**6; got {reach!r} and {n!r}")
    eps = np.linspace(-reach, reach, n)
    log_q = -0.5 * eps * eps
    log_q -= math.log(math.fsum(np.exp(log_q)))
    scale = math.sqrt(2.0 / 3.0)
    z = a * x + b + scale * eps
    log_step = math.log(scale * 2.0 * reach / (n - 1))
    log_joint = -0.5 * ((z - mu) ** 2 + (x - z) ** 2) - math.log(2.0 * math.pi) + log_step
    return log_joint[None], log_q[None], LatentSpace((n,), ("z",)), z


def _finite(value: Any, name: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite; got {value!r}")
    return number
