"""What Pyro and NumPyro have in common: which sites are enumerated, and the sentences that refuse the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact.adapters._oracle import Oracle, Site

__all__ = ["STATE", "check_fixed", "latent_site", "refuse_changed", "refuse_dependence", "refuse_subsampling"]

STATE = "elbo_exact_state"  # the auxiliary site of a posterior guide


def latent_site(message: Mapping[str, Any], wrappers: Any) -> Site:
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
    masked = _masked_cells(message, cells, distribution.event_dim - len(event))
    return Site(name, cells, support.reshape(len(support), *event), distribution.event_dim, ordered, masked)


def _masked_cells(message: Mapping[str, Any], cells: tuple[int, ...], n_event_cells: int) -> tuple[bool, ...]:
    """Masks of handlers and of the distribution, both of the shape of the batch."""
    kept = np.ones(cells, dtype=bool)
    for mask in (message.get("mask"), getattr(message["fn"], "_mask", None)):
        if mask is not None:
            kept &= np.reshape(np.asarray(mask), np.shape(mask) + (1,) * n_event_cells)
    return tuple((~kept).ravel().tolist())


def refuse_dependence(oracle: Oracle, log_density: Callable[[Mapping[str, npt.NDArray[Any]]], float]) -> None:
    """The densities of the first and the last state may not change when all masked cells move to their last value."""
    masked = [site for site in oracle.sites if any(site.masked)]
    for state in (0, -1) if masked else ():
        values = oracle.values(
            np.array(oracle.space.sizes) - 1 if state else np.zeros(oracle.space.n_variables, dtype=np.int64)
        )
        moved = dict(values)
        for site in masked:
            cells = np.where(
                np.reshape(site.masked, (*site.shape, *[1] * (site.support.ndim - 1))), site.support[-1], values[site.name]
            )
            moved[site.name] = cells
        if log_density(values) != log_density(moved):
            raise ValueError(
                f"site {masked[0].name!r} has masked cells, and sites that are not masked depend on masked cells; mask both or none."
            )


def check_fixed(fixed: Any, present: Iterable[str]) -> dict[str, Any]:
    """Values by name of the site; a name that the model does not have is refused."""
    values, known = dict(fixed or {}), set(present)
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"fixed must name sites of the model ({', '.join(sorted(known))}); got {unknown[0]!r}.")
    return values


def refuse_subsampling(name: str, size: int, subsample_size: int | None) -> None:
    """A plate that draws part of its data makes the density random."""
    if subsample_size not in (None, size):
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
