"""Bayesian networks of pgmpy, table by table (tested with pgmpy 1.1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact.adapters._rows import SUM_TOLERANCE, divided_rows
from elbo_exact.models import BayesianNetwork

__all__ = ["from_pgmpy"]


def from_pgmpy(network: Any) -> BayesianNetwork:
    """The same network with exact inference and error bounds.

    Parameters
    ----------
    network : pgmpy.models.DiscreteBayesianNetwork
        With a TabularCPD for every node. Only ``nodes`` and ``get_cpds`` are used, no inference of pgmpy.

    Returns
    -------
    BayesianNetwork
        Nodes in pgmpy's order, categories under their names as text.

    Raises
    ------
    ValueError
        A node without a table, or rows that do not sum to 1 within 0.02; others are divided by their sum.

    Notes
    -----
    O(size of the tables). For evidence, ``network.infer({"node": "category"})``.
    """
    states: dict[str, tuple[str, ...]] = {}
    parents: dict[str, tuple[str, ...]] = {}
    tables: dict[str, Any] = {}
    for node in network.nodes():
        table = network.get_cpds(node)
        if table is None:
            raise ValueError(f"node {node!r} must have a table; add a TabularCPD for it.")
        own, *above = table.variables
        states[str(own)] = tuple(map(str, table.state_names[own]))
        parents[str(own)] = tuple(map(str, above))
        values = np.moveaxis(np.asarray(table.values, np.float64), 0, -1)
        divided, worst = divided_rows(values)
        if divided is None:
            raise ValueError(f"table of {node!r} must have columns that sum to 1 within {SUM_TOLERANCE}; got {worst:.6g}.")
        tables[str(own)] = divided
    return BayesianNetwork.from_probabilities(states, parents, tables)
