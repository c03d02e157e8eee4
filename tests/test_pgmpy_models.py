"""Networks of pgmpy against its own variable elimination, and tables that are no distributions."""

from __future__ import annotations

import numpy as np
import pytest

from elbo_exact.adapters import from_pgmpy
from elbo_exact.fit import fit_em

models = pytest.importorskip("pgmpy.models")
TabularCPD = pytest.importorskip("pgmpy.factors.discrete").TabularCPD
VariableElimination = pytest.importorskip("pgmpy.inference").VariableElimination


def weather():
    """Rain with three kinds, a sprinkler that depends on it, wet grass of both; one structural zero."""
    network = models.DiscreteBayesianNetwork([("rain", "sprinkler"), ("rain", "wet"), ("sprinkler", "wet")])
    names = {"rain": ["none", "some", "much"], "sprinkler": ["off", "on"], "wet": ["no", "yes"]}
    network.add_cpds(
        TabularCPD("rain", 3, [[0.6], [0.3], [0.1]], state_names=names),
        TabularCPD("sprinkler", 2, [[0.5, 0.8, 0.99], [0.5, 0.2, 0.01]], ["rain"], [3], state_names=names),
        TabularCPD(
            "wet",
            2,
            [[1.0, 0.2, 0.3, 0.1, 0.05, 0.01], [0.0, 0.8, 0.7, 0.9, 0.95, 0.99]],
            ["rain", "sprinkler"],
            [3, 2],
            state_names=names,
        ),
    )
    return network


@pytest.mark.parametrize("evidence", [{}, {"wet": "yes"}, {"wet": "no", "rain": "some"}, {"sprinkler": "on"}])
def test_marginals_are_those_of_variable_elimination(evidence):
    network = weather()
    ours, theirs = from_pgmpy(network).marginals(evidence), VariableElimination(network)
    for node in set(network.nodes()) - set(evidence):
        found = theirs.query([node], evidence=evidence, show_progress=False)
        order = [found.state_names[node].index(state) for state in from_pgmpy(network).states[node]]
        np.testing.assert_allclose(ours[node], found.values[order], rtol=0, atol=1e-15 * 8)  # a few sums of probabilities


def test_names_order_and_parents_are_kept():
    network = from_pgmpy(weather())
    assert network.states["rain"] == ("none", "some", "much") and network.parents["wet"] == ("rain", "sprinkler")
    assert np.exp(network.log_tables["wet"][0, 0]).tolist() == [1.0, 0.0]
    assert np.exp(network.log_tables["sprinkler"][2]).round(15).tolist() == [0.99, 0.01]


def test_tables_that_are_missing_or_no_distributions():
    network = models.DiscreteBayesianNetwork([("a", "b")])
    network.add_cpds(TabularCPD("a", 2, [[0.5], [0.5]]))
    with pytest.raises(ValueError, match="node 'b' must have a table; add a TabularCPD for it"):
        from_pgmpy(network)
    table = TabularCPD("b", 2, [[0.5, 0.1], [0.5, 0.9]], ["a"], [2])
    network.add_cpds(table)
    table.values = table.values * 0.9
    with pytest.raises(ValueError, match=r"table of 'b' must have columns that sum to 1 within 0.02; got 0.9"):
        from_pgmpy(network)


@pytest.mark.parametrize("steps", [1, 7])
def test_em_of_a_hidden_node_is_that_of_pgmpy(steps):
    pandas, estimators = pytest.importorskip("pandas"), pytest.importorskip("pgmpy.parameter_estimator")
    names = {"season": ["dry", "wet"], "kind": [0, 1], "size": ["s", "m", "l"], "colour": ["red", "blue"]}
    edges = [("season", "kind"), ("season", "size"), ("kind", "size"), ("kind", "colour")]
    network, rng = models.DiscreteBayesianNetwork(edges, latents={"kind"}), np.random.default_rng(0)
    starts = {
        "season": TabularCPD("season", 2, [[0.5], [0.5]], state_names=names),
        "kind": TabularCPD("kind", 2, rng.dirichlet([2, 2], 2).T, ["season"], [2], state_names=names),
        "size": TabularCPD("size", 3, rng.dirichlet([2, 2, 2], 4).T, ["season", "kind"], [2, 2], state_names=names),
        "colour": TabularCPD("colour", 2, rng.dirichlet([2, 2], 2).T, ["kind"], [2], state_names=names),
    }
    network.add_cpds(*starts.values())
    ours = from_pgmpy(network)
    rows = {name: rng.integers(0, len(names[name]), 60) for name in ("season", "size", "colour")}
    x = np.column_stack([rows.get(name, np.full(60, np.nan)) for name in ours.states])
    fit = fit_em(ours, x, max_iter=steps, tolerance=0.0)
    data = pandas.DataFrame({name: np.array(names[name])[codes] for name, codes in rows.items()})
    estimator = estimators.DiscreteEM(names, {"kind": 2}, max_iter=steps, atol=0.0, init_cpds=starts, show_progress=False)
    found = models.DiscreteBayesianNetwork(edges)
    found.add_cpds(*estimator.fit(network, data).parameters_)
    theirs = from_pgmpy(found)
    for name, expected in theirs.log_tables.items():
        parents = theirs.parents.get(name, ())
        order = [parents.index(parent) for parent in ours.parents.get(name, ())]
        aligned = np.exp(expected).transpose(*order, len(parents))
        np.testing.assert_allclose(np.exp(fit.model.log_tables[name]), aligned, rtol=0, atol=1e-9)
