"""Marginals of all nodes of a Bayesian network, ours beside pyAgrum's and pgmpy's, from the same tables and evidence.

``python -m benchmarks.network_rivals`` prints medians; pgmpy brings the networks and is imported only to be measured.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import time
import warnings

import numpy as np

from elbo_exact.adapters import from_bif

__all__ = ["bundled", "pgmpy_marginals", "pyagrum_marginals", "table"]

NETWORKS = ("asia", "sachs", "insurance", "alarm", "hepar2")


def bundled(name):
    """A network among pgmpy's package files."""
    files = importlib.metadata.distribution("pgmpy").files
    return from_bif(next(file for file in files if file.name == f"{name}.bif.gz").locate())


def pyagrum_marginals(network, evidence):
    """Lazy propagation in C++: a callable that builds the junction tree and asks for every node."""
    import pyagrum as gum

    theirs = gum.BayesNet()
    for node, categories in network.states.items():
        theirs.add(gum.LabelizedVariable(node, node, list(categories)))
    for node, parents in network.parents.items():
        for parent in parents:
            theirs.addArc(parent, node)
    for node, parents in network.parents.items():
        axes = [list(reversed(theirs.cpt(node).names)).index(each) for each in (*parents, node)]
        theirs.cpt(node).fillWith(np.exp(network.log_tables[node]).transpose(np.argsort(axes)).ravel().tolist())

    def run():
        engine = gum.LazyPropagation(theirs)
        engine.setEvidence(evidence)
        engine.makeInference()
        return {node: engine.posterior(node).toarray() for node in network.nodes}

    return run


def pgmpy_marginals(network, evidence):
    """Variable elimination in pgmpy, one query for each node that was not observed."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination
    from pgmpy.models import DiscreteBayesianNetwork

    theirs = DiscreteBayesianNetwork([(parent, node) for node, of_node in network.parents.items() for parent in of_node])
    theirs.add_nodes_from(network.nodes)
    for node, parents in network.parents.items():
        table = np.exp(network.log_tables[node])
        flat = np.moveaxis(table, -1, 0).reshape(table.shape[-1], -1)
        names = {each: list(network.states[each]) for each in (node, *parents)}
        cards = [len(network.states[parent]) for parent in parents]
        theirs.add_cpds(TabularCPD(node, table.shape[-1], flat, list(parents) or None, cards or None, state_names=names))
    given = {node: network.states[node][k] for node, k in evidence.items()}

    def run():
        engine = VariableElimination(theirs)
        asked = [node for node in network.nodes if node not in given]
        return {node: engine.query([node], given, show_progress=False).values for node in asked}

    return run


def median_time(run, repeats):
    """Median seconds of a few runs after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table():
    """One row per network: states, our milliseconds, and the ratios of the rivals' to ours."""
    print(f"{'network':10s} {'states':>10s} {'ours ms':>9s} {'method':>12s} {'pyAgrum':>9s} {'pgmpy':>9s}")
    for name in NETWORKS:
        network = bundled(name)
        case = network.sample(1, rng=0)[0]
        evidence = {node: int(case[j]) for j, node in list(enumerate(network.nodes))[::5]}
        ours = median_time(lambda: network.infer(evidence), 9)  # noqa: B023 - called at once
        rivals = [median_time(pyagrum_marginals(network, evidence), 9), median_time(pgmpy_marginals(network, evidence), 3)]
        method = network.infer(evidence).method
        ratios = " ".join(f"{rival / ours:8.1f}x" for rival in rivals)
        print(f"{name:10s} {np.prod([float(size) for size in network.sizes]):10.3g} {1e3 * ours:9.2f} {method:>12s} {ratios}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    table()
