"""The arrays that a model is made of, by their places: what acceleration extrapolates and a checkpoint stores.

A model is a frozen dataclass of arrays, of families, and of settings, also in tuples and mappings. Here its arrays are listed with their places and put back.
An array of which the model keeps a normalized copy (``LogSimplex``) is a table of log probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LogSimplex, renormalized

__all__ = ["owner_of", "parameter_arrays", "probability_tables", "with_arrays"]


def parameter_arrays(model: Any) -> dict[str, FloatArray]:
    """Place to array, for every array of floating-point numbers in the model, as stored: bits are kept."""
    return dict(_walk(model, ""))


def probability_tables(model: Any) -> set[str]:
    """Places of the tables of log probabilities."""
    return {place for place, array in _walk(model, "") if _is_table(model, place, array)}


def with_arrays(model: Any, arrays: Mapping[str, FloatArray], *, renormalize: bool = False) -> Any:
    """The model with other arrays at these places; with ``renormalize`` log probabilities need not sum to 1.

    Raises what the model's constructor raises: LogTableError or ValueError outside its domain.
    """
    tables = probability_tables(model) if renormalize else set()
    chosen = {place: renormalized(array) if place in tables else array for place, array in arrays.items()}
    return _put(model, "", chosen)


def _walk(node: Any, place: str) -> Iterator[tuple[str, FloatArray]]:
    if isinstance(node, np.ndarray):
        if node.dtype == np.float64:
            yield place, node
    elif isinstance(node, (tuple, Mapping)) and not isinstance(node, LogSimplex):
        for index, entry in enumerate(_entries(node)):
            yield from _walk(entry, f"{place}[{index}]")
    elif dataclasses.is_dataclass(node):
        for name in _settable(node):
            yield from _walk(getattr(node, name), f"{place}.{name}" if place else name)


def _put(node: Any, place: str, arrays: Mapping[str, FloatArray]) -> Any:
    if isinstance(node, np.ndarray):
        return arrays.get(place, node)
    if isinstance(node, tuple) and not isinstance(node, LogSimplex):
        entries = [_put(entry, f"{place}[{index}]", arrays) for index, entry in enumerate(node)]
        return node._make(entries) if hasattr(node, "_make") else tuple(entries)
    if isinstance(node, Mapping):
        return {key: _put(entry, f"{place}[{index}]", arrays) for index, (key, entry) in enumerate(node.items())}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        changes = {name: _put(getattr(node, name), f"{place}.{name}" if place else name, arrays) for name in _settable(node)}
        return dataclasses.replace(node, **changes)
    return node


def _settable(node: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(node) if field.init]


def _is_table(model: Any, place: str, array: FloatArray) -> bool:
    """Whether the dataclass around the place keeps a normalized copy of this array."""
    owner = owner_of(model, place)
    fields = [getattr(owner, field.name) for field in dataclasses.fields(owner) if not field.init]
    kept = [copy for field in fields for copy in (field.values() if isinstance(field, Mapping) else [field])]
    return any(isinstance(copy, LogSimplex) and copy.given is array for copy in kept)


def owner_of(model: Any, place: str) -> Any:
    """The dataclass, among those the model is made of, that the array at a place belongs to."""
    owner = model
    for part in place.rpartition(".")[0].replace("[", ".[").split("."):
        if part.startswith("["):
            owner = _entries(owner)[int(part[1:-1])]
        elif part:
            owner = getattr(owner, part)
    return owner


def _entries(node: Any) -> tuple[Any, ...]:
    """Of a mapping the values, by their place in it: names may hold dots and brackets."""
    return tuple(node.values() if isinstance(node, Mapping) else node)
