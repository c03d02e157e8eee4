"""Derivatives of Bayesian networks: with the cell of table j that state s of a row points to, its score is that cell minus its row's p."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._derivatives import simplex_coordinates, simplex_curvature
from elbo_exact.families._simplex import LogSimplex
from elbo_exact.models._information import InformationSums, JointDerivatives, Posteriors, block_diagonal, outer_sum
from elbo_exact.models._network_table import Pattern, add_counts
from elbo_exact.models.bayesian_network import BayesianNetwork

__all__ = ["network_derivatives"]

BLOCK = 2**20  # entries of a block of expected counts


def network_derivatives(model: BayesianNetwork) -> JointDerivatives:
    """Coordinates: every cell of every table, in the order of the nodes."""
    tables = list(model._tables.values())
    parts = [simplex_coordinates(table) for table in tables]

    def sums(x: Any, counts: FloatArray, posterior: Posteriors) -> InformationSums:
        size = sum(table.given.size for table in tables)
        weighted = counts[:, None] * posterior(model.log_joint(x))
        expected = model.statistics(x, weighted).tables.values()
        complete = block_diagonal([simplex_curvature(table, seen) for table, seen in zip(tables, expected, strict=True)])
        spread = np.zeros((size, size))
        for pattern in model._patterns(x)[1]:
            _add_spread(spread, pattern, weighted[pattern.rows, : pattern.n_states], counts[pattern.rows], tables)
        gradient = _centred(np.concatenate([seen.ravel() for seen in expected]), tables)
        return InformationSums(gradient, complete, _centred(_centred(spread, tables).T, tables))

    names = [f"{name}[{','.join(map(str, c))}]" for name, t in model._tables.items() for c in np.ndindex(t.given.shape)]
    return JointDerivatives(
        tuple(names),
        np.concatenate([part[0] for part in parts]),
        lambda: block_diagonal([part[1]() for part in parts]),
        np.concatenate([part[2] for part in parts]),
        sums,
    )


def _add_spread(
    spread: FloatArray, pattern: Pattern, weighted: FloatArray, counts: FloatArray, tables: list[LogSimplex]
) -> None:
    """Add the posterior covariances of the cells used: E[cell cell'] of every pair of tables, minus the products of means."""
    firsts = np.cumsum([0, *(table.given.size for table in tables)]).tolist()
    pairs = [(i, j) for i in range(len(tables)) for j in range(i + 1)]
    for i, j in pairs:
        cell = pattern.cells[i] * tables[j].given.size + pattern.cells[j]
        together = np.zeros(tables[i].given.size * tables[j].given.size)
        add_counts(Pattern(pattern.rows, pattern.n_states, [cell], pattern.possible), weighted, [together])
        block = together.reshape(tables[i].given.size, -1)
        spread[firsts[i] : firsts[i + 1], firsts[j] : firsts[j + 1]] += block
        if i != j:
            spread[firsts[j] : firsts[j + 1], firsts[i] : firsts[i + 1]] += block.T
    step = max(1, BLOCK // firsts[-1])
    for first in range(0, len(counts), step):
        rows = slice(first, first + step)
        means = [_expected(cell, weighted, rows, t.given.size) for cell, t in zip(pattern.cells, tables, strict=True)]
        spread -= outer_sum(1.0 / counts[rows], np.concatenate(means, axis=1))


def _expected(cell: Any, weighted: FloatArray, rows: slice, size: int) -> FloatArray:
    """Expected use of every cell of one table by each row, (n, size)."""
    weights = weighted[rows]
    own = cell[rows] if len(cell) > 1 else cell
    place = np.arange(len(weights))[:, None] * size + own
    weights = weights.sum(axis=1, keepdims=True) if own.shape[1] == 1 else weights
    found = np.bincount(place.ravel(), weights=np.broadcast_to(weights, place.shape).ravel(), minlength=len(weights) * size)
    return np.asarray(found.reshape(-1, size))


def _centred(counts: FloatArray, tables: list[LogSimplex]) -> FloatArray:
    """Counts minus their totals times p, in each row of each table; along the first axis."""
    out, first = [], 0
    for table in tables:
        seen = counts[first : first + table.given.size].reshape(-1, table.given.shape[-1], *counts.shape[1:])
        p = np.exp(table.normalized).reshape(seen.shape[:2] + (1,) * (counts.ndim - 1))
        out.append((seen - seen.sum(axis=1, keepdims=True) * p).reshape(-1, *counts.shape[1:]))
        first += table.given.size
    return np.concatenate(out)
