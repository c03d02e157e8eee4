"""Bayesian networks against brute force in 40 digits, against another library, and EM against its definition."""

import importlib.metadata
import itertools
import math
import pickle
import sys
import time

import mpmath
import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.adapters import from_bif
from elbo_exact.models import BayesianNetwork

BURGLARY = BayesianNetwork.from_probabilities(
    {name: ("no", "yes") for name in ("burglary", "earthquake", "alarm", "john", "mary")},
    {"alarm": ["burglary", "earthquake"], "john": ["alarm"], "mary": ["alarm"]},
    {
        "burglary": [0.999, 0.001],
        "earthquake": [0.998, 0.002],
        "alarm": [[[0.999, 0.001], [0.71, 0.29]], [[0.06, 0.94], [0.05, 0.95]]],
        "john": [[0.95, 0.05], [0.1, 0.9]],
        "mary": [[0.99, 0.01], [0.3, 0.7]],
    },
)
EVIDENCE = [
    {},
    {"john": "yes", "mary": "yes"},
    {"john": 1, "alarm": [0.2, 3.0]},
    {"burglary": "yes", "mary": [1.0, 0.0], "earthquake": [0.3, 0.3]},
]


def bundled(name):
    """A network that comes with pgmpy, read without importing it."""
    files = importlib.metadata.distribution("pgmpy").files
    return from_bif(next(file for file in files if file.name == f"{name}.bif.gz").locate())


def random_network(seed, n_nodes=6, n_parents=2, zeros=False):
    rng = np.random.default_rng(seed)
    names = [f"n{i}" for i in range(n_nodes)]
    states = {name: [f"c{k}" for k in range(rng.integers(1, 4))] for name in names}
    parents = {name: list(rng.permutation(names[:i])[:n_parents]) for i, name in enumerate(names)}
    tables = {}
    for name in names:
        table = rng.standard_exponential([len(states[node]) for node in (*parents[name], name)])
        if zeros:
            table[..., 1:] *= rng.random(table[..., 1:].shape) < 0.7
        tables[name] = table / table.sum(axis=-1, keepdims=True)
    order = list(rng.permutation(names))  # children may stand before their parents
    return BayesianNetwork.from_probabilities({name: states[name] for name in order}, parents, tables)


def brute_force(network, evidence):
    """log p(evidence) and all marginals: every joint state, in 40 digits."""
    mpmath.mp.dps = 40
    tables = {}
    for name, table in network.log_tables.items():
        p = np.vectorize(lambda value: mpmath.exp(mpmath.mpf(float(value))), otypes=[object])(table)
        tables[name] = p / p.sum(axis=-1, keepdims=True)
    marginals = {name: [mpmath.mpf(0)] * len(of_node) for name, of_node in network.states.items()}
    total = mpmath.mpf(0)
    for values in itertools.product(*(range(size) for size in network.sizes)):
        state = dict(zip(network.nodes, values, strict=True))
        p = mpmath.mpf(1)
        for name in network.nodes:
            p *= tables[name][(*(state[parent] for parent in network.parents[name]), state[name])]
        for name, seen in evidence.items():
            if isinstance(seen, (str, int)):
                p *= state[name] == (network.states[name].index(seen) if isinstance(seen, str) else seen)
            else:
                p *= mpmath.mpf(seen[state[name]])
        total += p
        for name in network.nodes:
            marginals[name][state[name]] += p
    return total, marginals


def assert_equals_brute_force(network, evidence, method):
    found = network.infer(evidence, method=method)
    total, marginals = brute_force(network, evidence)
    assert abs(mpmath.mpf(found.log_evidence) - mpmath.log(total)) <= found.log_evidence_error < 1e-12
    assert found.marginal_error < 1e-12
    for name, parts in marginals.items():
        for got, expected in zip(found.marginals[name].tolist(), parts, strict=True):
            assert abs(got - expected / total) <= found.marginal_error * (expected / total)


@pytest.mark.parametrize("method", ["enumeration", "elimination"])
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_infer_is_within_its_bounds_of_brute_force(evidence, method):
    assert_equals_brute_force(BURGLARY, evidence, method)


@pytest.mark.parametrize("method", ["enumeration", "elimination"])
@pytest.mark.parametrize("seed", range(12))
def test_infer_on_random_networks(seed, method):
    network = random_network(seed, zeros=seed % 2 == 1)
    case = network.sample(1, rng=seed)[0]
    last = len(network.nodes) - 1
    evidence = {network.nodes[0]: int(case[0]), network.nodes[last]: [0.5 + k for k in range(network.sizes[last])]}
    assert_equals_brute_force(network, evidence, method)


def test_enumeration_in_blocks(monkeypatch):
    monkeypatch.setattr("elbo_exact.models._network_inference.BLOCK", 4)
    for evidence in EVIDENCE:
        assert_equals_brute_force(BURGLARY, evidence, "enumeration")


def test_published_answer():
    found = BURGLARY.infer({"john": "yes", "mary": "yes"})
    assert found.marginals["burglary"][1] == pytest.approx(0.284171835364393, abs=5e-16)  # Russell & Norvig: 0.284
    assert found.log_evidence == pytest.approx(-6.173418056920, abs=5e-13)


@pytest.mark.parametrize("name", ["asia", "cancer", "sachs", "survey", "insurance", "alarm", "hepar2"])
def test_marginals_equal_another_solver(name):
    gum = pytest.importorskip("pyagrum")
    network = bundled(name)
    theirs = gum.BayesNet()
    for node, categories in network.states.items():
        theirs.add(gum.LabelizedVariable(node, node, list(categories)))
    for node, parents in network.parents.items():
        for parent in parents:
            theirs.addArc(parent, node)
    for node, parents in network.parents.items():
        table = np.exp(network.log_tables[node])
        scope = [*parents, node]
        wanted = [list(reversed(theirs.cpt(node).names)).index(each) for each in scope]
        theirs.cpt(node).fillWith(table.transpose(np.argsort(wanted)).ravel().tolist())
    case = network.sample(1, rng=3)[0]
    for evidence in ({}, {node: int(case[j]) for j, node in list(enumerate(network.nodes))[::4]}):
        engine = gum.LazyPropagation(theirs)
        engine.setEvidence({node: network.states[node][k] for node, k in evidence.items()})
        engine.makeInference()
        found = network.infer(evidence)
        for node in network.nodes:
            np.testing.assert_allclose(found.marginals[node], engine.posterior(node).toarray(), rtol=0.0, atol=1e-12)
        assert found.log_evidence == pytest.approx(math.log(engine.evidenceProbability()), abs=1e-12)


def test_two_methods_agree_and_177147_states_take_less_than_a_second():
    network = bundled("sachs")
    assert math.prod(network.sizes) == 177_147
    evidence = {"Akt": [0.2, 0.3, 0.5]}
    network.infer(evidence)  # loads kernels
    start = time.perf_counter()
    flat = network.infer(evidence)
    assert time.perf_counter() - start < 1.0
    tree = network.infer(evidence, method="elimination")
    assert (flat.method, tree.method) == ("enumeration", "elimination")
    assert abs(flat.log_evidence - tree.log_evidence) <= flat.log_evidence_error + tree.log_evidence_error
    for name in network.nodes:
        np.testing.assert_allclose(
            flat.marginals[name], tree.marginals[name], rtol=flat.marginal_error + tree.marginal_error, atol=0
        )


def test_too_large_is_refused_before_allocation():
    names = [f"n{i}" for i in range(40)]
    network = BayesianNetwork.from_probabilities({n: ["a", "b"] for n in names}, {}, {n: [0.5, 0.5] for n in names})
    with pytest.raises(ee.EnumerationTooLarge, match=r"enumeration needs 2\*\*40 states"):
        network.infer(method="enumeration")
    assert network.infer().marginals["n7"].tolist() == [0.5, 0.5]
    with pytest.raises(ee.EnumerationTooLarge, match="for variable elimination"):
        bundled("link").infer(max_bytes=2**20)


def test_evidence_alone_leaves_out_what_does_not_matter():
    network = bundled("munin1")  # its full tree is refused
    node = next(name for name in network.nodes if not network.parents[name])
    assert network.log_evidence({node: 0}) == pytest.approx(float(network.log_tables[node][0]), abs=1e-12)


def test_zero_evidence():
    network = BayesianNetwork.from_probabilities({"a": ["x", "y"]}, {}, {"a": [1.0, 0.0]})
    for method in ("enumeration", "elimination"):
        assert network.log_evidence({"a": "y"}, method=method) == -math.inf
        assert network.log_evidence({"a": [0.0, 1.0]}, method=method) == -math.inf
        with pytest.raises(ee.ZeroEvidence, match="evidence is impossible under the network"):
            network.infer({"a": "y"}, method=method)
    assert network.marginals({"a": [1e-300, 1.0]})["a"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("states", "parents", "tables", "message"),
    [
        ({}, {}, {}, "states must map at least one node"),
        ({"a": "xy"}, {}, {"a": [0.5, 0.5]}, "states of 'a' must be at least one distinct string per category"),
        ({"a": ["x", "x"]}, {}, {"a": [0.5, 0.5]}, "states of 'a' must be at least one distinct string"),
        ({"a": ["x", "y"]}, {"b": []}, {"a": [0.5, 0.5]}, "parents names 'b', which is not a node; nodes are a."),
        ({"a": ["x", "y"]}, {"a": ["a"]}, {"a": [0.5, 0.5]}, "parents of 'a' must be distinct other nodes"),
        ({"a": ["x", "y"]}, {}, {}, "log_tables must have a table of 'a', as of every node; got none."),
        ({"a": ["x", "y"]}, {}, {"b": [1.0]}, "log_tables names 'b', which is not a node."),
        ({"a": ["x", "y"]}, {}, {"a": [0.5, 0.25, 0.25]}, r"table of 'a' must have shape \(2,\), the axes a; got \(3,\)."),
        ({"a": ["x", "y"]}, {}, {"a": [0.5, 0.6]}, "table of 'a' sums to 1.1; expected 1"),
    ],
)
def test_bad_networks(states, parents, tables, message):
    with pytest.raises(ValueError, match=message):
        BayesianNetwork.from_probabilities(states, parents, tables)


def test_a_cycle_is_named():
    names = ["free", "a", "b", "c", "below"]
    parents = {"a": ["c"], "b": ["a"], "c": ["b", "free"], "below": ["a"]}
    tables = {name: np.full([2] * (len(parents.get(name, [])) + 1), 0.5) for name in names}
    with pytest.raises(ValueError, match="parents must not form a cycle; got a <- c <- b <- a."):
        BayesianNetwork.from_probabilities({name: ["x", "y"] for name in names}, parents, tables)


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ({"bob": "yes"}, "evidence names 'bob', which is not a node"),
        ({"john": "maybe"}, "evidence of 'john' must be one of no, yes; got 'maybe'."),
        ({"john": 2}, r"evidence of 'john' must be in 0 ... 1; got 2."),
        ({"john": [1.0, -1.0]}, "evidence of 'john' must be a category or 2 likelihoods, finite and >= 0"),
        ({"john": [1.0, math.nan]}, "evidence of 'john' must be a category or 2 likelihoods"),
    ],
)
def test_bad_evidence(evidence, message):
    with pytest.raises(ValueError, match=message):
        BURGLARY.infer(evidence)


def test_log_joint_over_hidden_nodes_gives_the_same_posterior():
    network = BURGLARY.hide("earthquake", "burglary")
    assert network.space.names == ("burglary", "earthquake")
    x = network.encode(
        [{"alarm": "yes", "john": "yes", "mary": "no"}, {"burglary": "yes", "alarm": "no", "john": "no", "mary": "no"}]
    )
    table, error = network.log_joint_and_error(x)
    assert table.shape == (2, 4) and table[1, :2].tolist() == [-math.inf] * 2
    for row, case in enumerate(x):
        evidence = {name: int(value) for name, value in zip(network.nodes, case, strict=True) if value >= 0}
        assert abs(ee.log_evidence(table)[row] - mpmath.log(brute_force(network, evidence)[0])) <= error[row].max() + 2.0**-50
    np.testing.assert_array_equal(network.log_joint(x, slice(1, 3)), table[:, 1:3])
    assert (ee.audit(table, np.log(np.full((2, 4), 0.25))).gap[0]) > 0.0


def test_log_joint_of_each_rows_own_missing_cells():
    x = np.array([[0, np.nan, 1, 1, np.nan], [1, 0, 0, 1, 0], [-1, -1, -1, -1, 1]])
    table = BURGLARY.log_joint(x)
    assert table.shape == (3, 16) and (table[0, 4:] == -math.inf).all() and (table[1, 1:] == -math.inf).all()
    for row, case in enumerate(x):
        evidence = {n: int(v) for n, v in zip(BURGLARY.nodes, case, strict=True) if v >= 0}
        assert ee.log_evidence(table)[row] == pytest.approx(BURGLARY.log_evidence(evidence), abs=1e-14)


def test_rows_do_not_depend_on_their_batch():
    x = BURGLARY.sample(40, rng=1).astype(float)
    x[np.random.default_rng(2).random(x.shape) < 0.3] = np.nan
    table = BURGLARY.log_joint(x)
    for row in range(len(x)):
        alone = BURGLARY.log_joint(x[row : row + 1])
        np.testing.assert_array_equal(table[row, : alone.shape[1]], alone[0])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[0, 1]], r"x must have shape \(N, 5\), one column per node; got \(1, 2\)."),
        ([[0, 0, 2, 0, 0]], "x must hold categories 0 ... 1 of 'alarm', or NaN; got 2"),
        ([[0, 0, 0.5, 0, 0]], "x must hold categories 0 ... 1 of 'alarm', or NaN; got 0.5"),
        ([[0, 0, np.inf, 0, 0]], "x must hold categories 0 ... 1 of 'alarm', or NaN; got inf"),
    ],
)
def test_bad_rows(x, message):
    with pytest.raises(ee.LogTableError, match=message):
        BURGLARY.log_joint(x)


def test_a_missing_cell_beside_hidden_nodes_is_refused():
    with pytest.raises(ee.LogTableError, match="x misses node 'john' in row 0; hide that node too, or hide none."):
        BURGLARY.hide("alarm").log_joint([[0, 0, -1, -1, 0]])


def naive_em_step(network, x):
    """Expected counts by definition: every completion of every row, exact sums."""
    terms = {name: {} for name in network.nodes}
    log_evidence = 0.0
    for row in x:
        free = [range(size) if math.isnan(value) else [int(value)] for value, size in zip(row, network.sizes, strict=True)]
        weights = []
        for values in itertools.product(*free):
            state = dict(zip(network.nodes, values, strict=True))
            index = {name: (*(state[parent] for parent in network.parents[name]), state[name]) for name in network.nodes}
            weights.append((index, math.prod(math.exp(network.log_tables[name][index[name]]) for name in network.nodes)))
        total = math.fsum(weight for _, weight in weights)
        log_evidence += math.log(total)
        for index, weight in weights:
            for name, cell in index.items():
                terms[name].setdefault(cell, []).append(weight / total)
    tables = {}
    for name in network.nodes:
        counts = np.zeros(network.log_tables[name].shape)
        for cell, parts in terms[name].items():
            counts[cell] = math.fsum(parts)
        total = counts.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            tables[name] = np.where(total > 0, counts / total, np.exp(network.log_tables[name]))
    return BayesianNetwork.from_probabilities(network.states, network.parents, tables), log_evidence


def damaged_sample(network, n, seed, share=0.25):
    x = network.sample(n, rng=seed).astype(float)
    x[np.random.default_rng(seed + 1).random(x.shape) < share] = np.nan
    return x


@pytest.mark.parametrize("zeros", [False, True])
def test_em_with_missing_cells_equals_its_definition(zeros):
    truth = random_network(5, zeros=zeros)
    x = damaged_sample(truth, 60, seed=3)
    start = truth.randomize(np.random.default_rng(4))
    fit = ee.fit_em(start, x, max_iter=6, tolerance=0.0)
    model, trace = start, []
    for _ in range(6):
        model, log_evidence = naive_em_step(model, x)
        trace.append(log_evidence)
    np.testing.assert_allclose(fit.trace[:6], trace, rtol=0.0, atol=1e-9)
    for name in model.nodes:
        np.testing.assert_allclose(np.exp(fit.model.log_tables[name]), np.exp(model.log_tables[name]), rtol=0.0, atol=1e-9)


def test_em_on_alarm_with_cells_missing_at_random():
    truth = bundled("alarm")
    x = damaged_sample(truth, 200, seed=8, share=0.08)
    fit = ee.fit_em(truth, x, prior=1.0, max_iter=5)
    assert (np.diff(fit.trace) > 0.0).all()
    assert x.shape[1] == 37 and BayesianNetwork(*pickle.loads(pickle.dumps(fit.model)).__reduce__()[1]).nodes == truth.nodes


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_em_of_a_network_goes_on_to_the_same_bits_and_never_loses(tmp_path, acceleration):
    truth = random_network(3, zeros=True)
    x, start = damaged_sample(truth, 60, seed=1, share=0.3), truth.randomize(np.random.default_rng(5))
    arguments = {"tolerance": 0.0, "acceleration": acceleration, "prior": 0.1}
    whole = ee.fit_em(start, x, max_iter=9, **arguments)
    assert (whole.gains >= -whole.gain_errors).all() and whole.trace[-1] > whole.trace[0]
    file = tmp_path / "fit.npz"
    ee.fit_em(start, x, max_iter=4, checkpoint=file, **arguments)
    resumed = ee.fit_em(start, x, max_iter=9, checkpoint=file, **arguments)
    assert np.array_equal(resumed.trace, whole.trace)
    for name, table in whole.model.log_tables.items():
        assert np.array_equal(resumed.model.log_tables[name], table)
        assert np.array_equal(table == -np.inf, truth.log_tables[name] == -np.inf)
    renamed = BayesianNetwork(
        {name: [f"{category}!" for category in categories] for name, categories in start.states.items()},
        start.parents,
        start.log_tables,
        start.hidden,
    )
    with pytest.raises(ValueError, match="belongs to a fit of other data, starts or settings"):
        ee.fit_em(renamed, x, max_iter=9, checkpoint=file, **arguments)


def test_em_of_a_naive_bayes_network_is_a_latent_class_mixture():
    rng = np.random.default_rng(0)
    mixture = ee.models.Mixture.random(2, [3, 2, 2], rng=rng)
    x, _ = mixture.sample(100, rng=rng)
    tables = {"class": mixture.log_weights, **{f"q{j}": part.log_probabilities for j, part in enumerate(mixture.components)}}
    states = {"class": ["0", "1"], "q0": ["0", "1", "2"], "q1": ["0", "1"], "q2": ["0", "1"]}
    network = BayesianNetwork(states, {f"q{j}": ["class"] for j in range(3)}, tables, hidden=["class"])
    both = [ee.fit_em(mixture, x, max_iter=20), ee.fit_em(network, np.column_stack([np.full(100, -1), x]), max_iter=20)]
    np.testing.assert_allclose(both[1].trace, both[0].trace, rtol=0.0, atol=1e-10)


def test_statistics_add_up_over_batches():
    x = damaged_sample(BURGLARY, 30, seed=2)
    weights = ee.posterior(BURGLARY.log_joint(x))
    parts = [
        BURGLARY.statistics(x[rows], weights[rows][:, : BURGLARY.log_joint(x[rows]).shape[1]])
        for rows in (slice(12), slice(12, 30))
    ]
    whole, added = BURGLARY.statistics(x, weights), parts[0] + parts[1]
    for name in BURGLARY.nodes:
        np.testing.assert_allclose(added.tables[name], whole.tables[name], rtol=0.0, atol=whole.n_terms * 2.0**-53 * 30)
        assert whole.tables[name].sum() == pytest.approx(30.0, abs=1e-12)


def test_change_keeps_the_precision_of_small_steps():
    x = damaged_sample(BURGLARY, 10, seed=6)
    tables = {name: np.array(table) for name, table in BURGLARY.log_tables.items()}
    tables["john"] = tables["john"] + np.array([2.0**-44, 0.0])
    moved = BayesianNetwork(BURGLARY.states, BURGLARY.parents, tables)
    change, error = BURGLARY.log_joint_change_and_error(moved, x)
    difference = moved.log_joint(x) - np.where(np.isinf(BURGLARY.log_joint(x)), 0.0, BURGLARY.log_joint(x))
    possible = BURGLARY.log_joint(x) > -np.inf
    assert error.max() < 1e-12 * np.abs(change).max()
    assert np.abs(change[possible] - difference[possible]).max() < 1e-13 and not change[~possible].any()


def test_sample_follows_the_network():
    x = BURGLARY.sample(200_000, rng=0)
    for name, share in zip(BURGLARY.nodes, x.mean(axis=0), strict=True):
        p = BURGLARY.marginals()[name][1]
        assert abs(share - p) < 5.0 * math.sqrt(p * (1.0 - p) / len(x))  # 5 standard deviations


def test_elimination_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opt_einsum", None)
    with pytest.raises(ImportError, match=r"variable elimination needs opt_einsum; install elbo_exact\[networks\]."):
        BURGLARY.infer(method="elimination")
    assert BURGLARY.infer().method == "enumeration"


def test_an_underflow_is_never_taken_for_impossible():
    copy = [[1.0, 0.0], [0.0, 1.0]]
    names = ["a", "b", "c", "d"]
    network = BayesianNetwork.from_probabilities(
        {name: ["x", "y"] for name in names},
        {name: ["a"] for name in names[1:]},
        {"a": [0.5, 0.5], "b": copy, "c": copy, "d": copy},
    )
    soft = {"a": [1.0, 1e-300], "b": [1.0, 1e-300], "c": [1.0, 1e-300], "d": [0.0, 1.0]}
    log_evidence = math.log(0.5) - 900.0 * math.log(10.0)
    assert network.log_evidence(soft) == pytest.approx(log_evidence, rel=1e-14)
    message = "evidence is below the range of doubles in an elimination; use method='enumeration'."
    with pytest.raises(ValueError, match=message):
        network.infer(soft, method="elimination")
    turned = {**soft, "a": soft["d"], "d": soft["a"]}  # the evidence survives in this order, marginals do not
    assert network.log_evidence(turned, method="elimination") == pytest.approx(log_evidence, rel=1e-14)
    with pytest.raises(ValueError, match=message):
        network.infer(turned, method="elimination")


def test_a_table_of_many_open_cells_is_refused():
    names = [f"n{i}" for i in range(30)]
    network = BayesianNetwork.from_probabilities({n: ["a", "b"] for n in names}, {}, {n: [0.5, 0.5] for n in names})
    with pytest.raises(ee.EnumerationTooLarge, match="1 rows of 1073741824 states"):
        network.log_joint(np.full((1, 30), np.nan))
