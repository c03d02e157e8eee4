"""What Pyro and NumPyro have in common: which sites are enumerated, and the sentences that refuse the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from elbo_exact.adapters._oracle import Site

__all__ = ["STATE", "check_fixed", "latent_site", "refuse_changed", "refuse_subsampling"]

STATE = "elbo_exact_state"  # the auxiliary site of a posterior guide


def latent_site(message: Mapping[str, Any], wrappers: tuple[type, ...]) -> Site:
    """The cells and the support of a latent site of a trace; sites without a finite support are refused."""
    name, distribution = message["name"], message["fn"]
    base = distribution
    while isinstance(base, wrappers):
        base = base.base_dist
    if not getattr(base, "has_enumerate_support", False):
        raise ValueError(
            f"site {name!r} is {type(base).__name__}, which has no finite support; "
            f"pass a value in fixed={{{name!r}: ...}}, or sample it from a Categorical over a grid."
        )
    support = np.asarray(base.enumerate_support(expand=False))
    event = tuple(base.event_shape)
    shape = tuple(message["value"].shape)
    cells = shape[: len(shape) - len(event)]
    plates = ((frame.name, frame.dim, frame.size) for frame in message["cond_indep_stack"] if frame.dim is not None)
    ordered = tuple(sorted(plates, key=lambda plate: plate[1]))
    return Site(name, cells, support.reshape(len(support), *event), distribution.event_dim, ordered)


def check_fixed(fixed: Any, present: Iterable[str]) -> dict[str, Any]:
    """Values by name of the site; a name that the model does not have is refused."""
    values, known = dict(fixed or {}), set(present)
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"fixed must name sites of the model ({', '.join(sorted(known))}); got {unknown[0]!r}.")
    return values


def refuse_subsampling(name: str, size: int, subsample_size: int) -> None:
    """A plate that draws part of its data makes the density random."""
    if subsample_size != size:
        raise ValueError(
            f"plate {name!r} must use all of its {size} elements; got subsample_size={subsample_size}; pass subsample_size=None."
        )


def refuse_changed(expected: Iterable[tuple[Any, ...]], found: Iterable[tuple[Any, ...]]) -> None:
    """Every state must have the same sites with the same cells and the same number of values."""
    changed = sorted({entry[0] for entry in set(expected) ^ set(found)})
    if changed:
        raise ValueError(
            f"site {changed[0]!r} must exist, with one shape and one support, in every state; it depends on the values of others; "
            "sample it always and mask what does not count."
        )
