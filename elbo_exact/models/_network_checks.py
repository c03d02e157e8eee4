"""What a Bayesian network is asked before it is believed: names, parents without a cycle, the shape of every table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families._simplex import LogSimplex, log_simplex

__all__ = [
    "ancestors",
    "checked_parents",
    "checked_states",
    "checked_tables",
    "node_index",
    "split_evidence",
    "topological_order",
]


def checked_states(states: Any) -> dict[str, tuple[str, ...]]:
    """Category names of every node."""
    if not isinstance(states, Mapping) or not states:
        raise ValueError("states must map at least one node to the names of its categories; got none.")
    checked = {}
    for name, categories in states.items():
        listed = () if isinstance(categories, str) else tuple(categories)
        strings = isinstance(name, str) and all(isinstance(category, str) for category in listed)
        if not strings or not listed or len(set(listed)) < len(listed):
            raise ValueError(f"states of {name!r} must be at least one distinct string per category; got {categories!r}.")
        checked[name] = listed
    return checked


def checked_parents(parents: Mapping[str, Sequence[str]], names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parents of every node, none where none are given."""
    known = set(names)
    if not isinstance(parents, Mapping):
        raise TypeError(f"parents must map nodes to sequences of nodes; got {type(parents).__name__}; {{}} for no edges.")
    for node in parents:
        node_index(known, node, "parents")
    checked = {}
    for name in names:
        listed = parents.get(name, ())
        if isinstance(listed, str) or len(set(listed)) < len(tuple(listed)) or name in listed:
            raise ValueError(f"parents of {name!r} must be distinct other nodes in a sequence; got {listed!r}.")
        for parent in listed:
            node_index(known, parent, f"parents of {name!r}")
        checked[name] = tuple(listed)
    return checked


def checked_tables(
    tables: Mapping[str, Any], states: Mapping[str, Sequence[str]], parents: Mapping[str, Sequence[str]]
) -> dict[str, LogSimplex]:
    """Log conditional tables, parents' axes first and the node last, each row summing to 1."""
    unknown = sorted(set(tables) - set(states))
    if unknown:
        raise ValueError(f"log_tables names {unknown[0]!r}, which is not a node.")
    checked = {}
    for name in states:
        if name not in tables:
            raise ValueError(f"log_tables must have a table of {name!r}, as of every node; got none.")
        table = real_array(tables[name], f"table of {name!r}")
        scope = (*parents[name], name)
        expected = tuple(len(states[node]) for node in scope)
        if table.shape != expected:
            raise LogTableError(
                f"table of {name!r} must have shape {expected}, the axes {', '.join(scope)}; got {table.shape}.",
                "log_tables",
                table.shape,
            )
        checked[name] = log_simplex(table, f"table of {name!r}", len(scope))
    return checked


def topological_order(parents: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Nodes, parents before children; nodes ready at the same time in the order given. A cycle is named.  O(nodes + edges)."""
    waiting = {name: len(of_node) for name, of_node in parents.items()}
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, of_node in parents.items():
        for parent in of_node:
            children[parent].append(name)
    order = [name for name, count in waiting.items() if count == 0]
    for name in order:  # grows while it is read
        for child in children[name]:
            waiting[child] -= 1
            if waiting[child] == 0:
                order.append(child)
    if len(order) < len(parents):
        done = set(order)
        node, path = next(name for name in parents if name not in done), []
        while node not in path:
            path.append(node)
            node = next(parent for parent in parents[node] if parent not in done)
        cycle = [*path[path.index(node) :], node]
        raise ValueError(f"parents must not form a cycle; got {' <- '.join(cycle)}.")
    return tuple(order)


def ancestors(nodes: Iterable[str], parents: Mapping[str, Sequence[str]]) -> set[str]:
    """The nodes and all their ancestors."""
    found, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(parents[node])
    return found


def node_index(names: Any, node: Any, argument: str) -> None:
    """Refuse what is not a node."""
    if node not in names:
        shown = sorted(names)[:8]
        raise ValueError(
            f"{argument} names {node!r}, which is not a node; nodes are {', '.join(shown)}{', ...' * (len(names) > 8)}."
        )


def split_evidence(
    states: Mapping[str, Sequence[str]], evidence: Mapping[str, Any] | None, argument: str
) -> tuple[dict[str, int], dict[str, FloatArray]]:
    """Hard evidence as category numbers, and soft evidence as likelihoods."""
    hard: dict[str, int] = {}
    soft: dict[str, FloatArray] = {}
    if evidence is not None and not isinstance(evidence, Mapping):
        raise TypeError(f"{argument} must map nodes to what was seen; got {type(evidence).__name__}.")
    for name, value in ({} if evidence is None else evidence).items():
        node_index(states, name, argument)
        seen = _likelihood(value, name, states[name])
        if isinstance(seen, int):
            hard[name] = seen
        else:
            soft[name] = seen
    return hard, soft


def _likelihood(value: Any, name: str, categories: Sequence[str]) -> FloatArray | int:
    """Evidence about one node: the index of a category observed, or a likelihood for each category."""
    if isinstance(value, str):
        if value not in categories:
            shown = ", ".join(categories)
            raise ValueError(f"evidence of {name!r} must be one of {shown}; got {value!r}.")
        return list(categories).index(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        if not 0 <= value < len(categories):
            raise ValueError(f"evidence of {name!r} must be in 0 ... {len(categories) - 1}; got {value}.")
        return int(value)
    weights = real_array(value, f"evidence of {name!r}")
    if weights.shape != (len(categories),) or not all(0.0 <= weight < math.inf for weight in weights.tolist()):
        raise ValueError(
            f"evidence of {name!r} must be a category or {len(categories)} likelihoods, finite and >= 0; got {value!r}."
        )
    return weights
