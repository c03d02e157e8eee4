"""Variable elimination of products of non-negative tables: one pass up a contraction tree, one pass down for all marginals.

The path is opt_einsum's (Smith & Gray 2018, JOSS 3:753); the pass down is the derivative of the sum in every table, which is the joint
marginal of its variables divided by the table (Darwiche 2003, JACM 50:280). Everything is a sum of products of non-negative numbers,
so relative errors add up: a contraction over n terms adds (n + 1) u to those of its two tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.space import refuse_above

__all__ = ["Factor", "contraction_path", "eliminate"]

U = 2.0**-53
SAFE = 2.0**-1000  # a product of two numbers whose product is above this is a normal double


@dataclass(frozen=True, eq=False)
class Factor:
    """exp(log_scale) * table over the variables of scope; relative error bound of every entry, its largest entry near 1."""

    table: FloatArray
    scope: tuple[int, ...]
    log_scale: float
    error: float


ONE = Factor(np.ones(()), (), 0.0, 0.0)


def contraction_path(scopes: Sequence[tuple[int, ...]], sizes: Mapping[int, int], max_bytes: int) -> list[tuple[int, ...]]:
    """A path that sums out every variable; refused before anything is allocated if a step exceeds the budget."""
    try:
        import opt_einsum
    except ImportError:
        raise ImportError("variable elimination needs opt_einsum; install elbo_exact[networks].") from None
    symbols = {variable: opt_einsum.get_symbol(i) for i, variable in enumerate(sorted(sizes))}
    equation = ",".join("".join(symbols[variable] for variable in scope) for scope in scopes) + "->"
    shapes = [tuple(sizes[variable] for variable in scope) for scope in scopes]
    path: list[tuple[int, ...]] = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="greedy")[0]
    waiting = [set(scope) for scope in scopes]
    for step in path:
        joined = set().union(*(waiting[i] for i in step))
        waiting = [scope for i, scope in enumerate(waiting) if i not in step]
        refuse_above(
            math.prod(sizes[variable] for variable in joined),
            8,
            max_bytes,
            f"a table of {len(joined)} variables for variable elimination, that is {math.prod(sizes[v] for v in joined)}",
            "give more evidence",
        )
        waiting.append(joined & set().union(*waiting) if waiting else set())
    return path


def eliminate(
    factors: Sequence[Factor], sizes: Mapping[int, int], targets: Sequence[int], max_bytes: int
) -> tuple[Factor, list[Factor]]:
    """The sum over all variables of the product of the factors, and its derivative in each factor numbered in ``targets``.

    Derivatives have an arbitrary scale: normalize them.
    """
    path = contraction_path([factor.scope for factor in factors], sizes, max_bytes)
    one = len(factors)  # a step on one table alone multiplies by 1
    nodes, pairs, waiting = [*factors, ONE], [], list(range(len(factors)))
    for step in path:
        chosen = [waiting[i] for i in step]
        waiting = [node for node in waiting if node not in chosen]
        left = chosen[0]
        for k, right in enumerate(chosen[1:] or [one], start=2):
            alive: set[int] = set().union(*(nodes[i].scope for i in waiting + chosen[k:]))
            scope = tuple(v for v in dict.fromkeys(nodes[left].scope + nodes[right].scope) if v in alive)
            nodes.append(_contract(nodes[left], nodes[right], scope, sizes))
            pairs.append((left, right, len(nodes) - 1))
            left = len(nodes) - 1
        waiting.append(left)
    return nodes[-1], _derivatives(nodes, pairs, targets, sizes) if targets else []


def _derivatives(
    nodes: list[Factor], pairs: list[tuple[int, int, int]], targets: Sequence[int], sizes: Mapping[int, int]
) -> list[Factor]:
    """Down the tree: the derivative in one operand is the derivative in the result times the other operand, summed."""
    derivative = {len(nodes) - 1: ONE}
    needed = set(targets)
    for left, right, result in pairs:
        if needed & {left, right}:
            needed.add(result)
    for left, right, result in reversed(pairs):
        above = derivative.get(result)
        if above is not None:
            for operand, other in ((left, right), (right, left)):
                if operand in needed:
                    derivative[operand] = _contract(above, nodes[other], nodes[operand].scope, sizes)
    return [derivative[target] for target in targets]


def _contract(a: Factor, b: Factor, scope: tuple[int, ...], sizes: Mapping[int, int]) -> Factor:
    """Product of two factors, summed over what is not in the scope; constant along what neither has."""
    label = {variable: i for i, variable in enumerate(dict.fromkeys(a.scope + b.scope))}
    kept = tuple(variable for variable in scope if variable in label)
    operands: list[Any] = [a.table, [label[v] for v in a.scope], b.table, [label[v] for v in b.scope], [label[v] for v in kept]]
    table = np.asarray(np.einsum(*operands, optimize=False))
    if kept != scope:
        table = np.expand_dims(table, tuple(i for i, variable in enumerate(scope) if variable not in label))
        table = np.broadcast_to(table, tuple(sizes[variable] for variable in scope))
    n_terms = math.prod(sizes[variable] for variable in label if variable not in scope)
    error = 1.01 * (n_terms + 1) * U + a.error + b.error
    if _smallest(a.table) * _smallest(b.table) < SAFE:
        error = math.inf  # a product may have lost digits below the normal doubles, or all of them
    largest = float(table.max())
    if not 0.0 < largest:
        return Factor(table, scope, -math.inf, error)
    exponent = math.frexp(largest)[1]
    # a power of 2 scales without rounding; log 2 of many steps is summed by one product at the end
    return Factor(np.ldexp(table, -exponent), scope, a.log_scale + b.log_scale + exponent, error)


def _smallest(table: FloatArray) -> float:
    positive = table[table > 0.0]
    return float(positive.min()) if positive.size else 1.0
