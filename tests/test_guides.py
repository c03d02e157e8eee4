"""Guides against sums over all states, exact derivatives of the ELBO, and PyTorch's automatic ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.guides import Amortized, Autoregressive, Factors, Free, MeanField, Perceptron, Structured

torch = pytest.importorskip("torch")
U = 2.0**-53
SPACE = ee.LatentSpace((2, 3, 2))
TORCH = {"tanh": torch.tanh, "relu": torch.relu, "softplus": torch.nn.functional.softplus}
RNG = np.random.default_rng(5)
X = RNG.normal(size=(6, 4))
LOG_JOINT = RNG.normal(size=(6, SPACE.size)) * 3.0

FACTORS = {
    "free": Factors.free(SPACE),
    "mean field": Factors.mean_field(SPACE),
    "blocks": Factors.blocks(SPACE, [[2, 0], [1]]),
    "chain": Factors.chain(SPACE),
    "tree": Factors.tree(SPACE, [1, None, 1]),
    "tables": Factors.autoregressive(SPACE),
    "linear": Factors.autoregressive(SPACE, linear=True),
}
GUIDES = {
    "free": Free(RNG.normal(size=6 * SPACE.size), SPACE),
    "mean field": MeanField.random(6, SPACE, rng=1),
    "autoregressive": Autoregressive.random(6, SPACE, rng=1),
    **{f"structured {name}": Structured.random(6, factors, rng=1) for name, factors in FACTORS.items()},
    **{
        f"amortized {activation} {hidden} {name}": Amortized.random(
            4, FACTORS[name], hidden=hidden, activation=activation, rng=2
        )
        for activation, hidden, name in itertools.product(TORCH, [(), (7,), (6, 5)], ["free", "mean field"])
    },
    **{f"amortized {name}": Amortized.random(4, factors, hidden=(5,), rng=2) for name, factors in FACTORS.items()},
}
everything = pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)


def torch_log_q(guide, params):
    """The same table by PyTorch's own functions, from the definition."""
    if isinstance(guide, Amortized):
        y, layers = torch.tensor(X), guide.network.views(params)
        for i, (weight, bias) in enumerate(layers):
            y = y @ weight + bias
            y = TORCH[guide.network.activation](y) if i + 1 < len(layers) else y
    else:
        y = params.reshape(6, -1)
    columns = [sum(torch_conditionals(guide.factors, y, state)) for state in itertools.product(*map(range, SPACE.sizes))]
    return torch.stack(columns, dim=1)


def torch_conditionals(factors, logits, state):
    """log q of each group of variables at a state, given its parents there: the definition, one state at a time."""
    start = 0
    for variables, parents in factors.groups:
        sizes, above = [SPACE.sizes[i] for i in variables], [SPACE.sizes[j] for j in parents]
        width, place = math.prod(sizes), 0
        for i, size in zip(variables, sizes, strict=True):
            place = place * size + state[i]
        if factors.linear:
            block, start = logits[:, start : start + width], start + width
            for j, size in zip(parents, above, strict=True):
                row = start + state[j] * width
                block, start = block + logits[:, row : row + width], start + size * width
        else:
            context = 0
            for j, size in zip(parents, above, strict=True):
                context = context * size + state[j]
            block = logits[:, start + context * width : start + (context + 1) * width]
            start += math.prod(above) * width
        yield torch.log_softmax(block, -1)[:, place]


def torch_gradient(guide, number):
    params = torch.tensor(np.array(guide.params), requires_grad=True)
    number(torch_log_q(guide, params)).backward()
    return params.grad.numpy()


def total_elbo(guide):
    return math.fsum(np.asarray(ee.elbo(LOG_JOINT, guide.log_q(X))).tolist())


@everything
def test_tables_are_normalized_and_those_of_torch(guide):
    table = guide.log_q(X)
    # exp, log and a sum of S terms, per variable; logits here are below 10
    np.testing.assert_allclose(np.exp(table).sum(axis=1), 1.0, rtol=0, atol=100 * SPACE.size * U)
    theirs = torch_log_q(guide, torch.tensor(np.array(guide.params))).numpy()
    np.testing.assert_allclose(table, theirs, rtol=1e-13, atol=1e-13)


@everything
def test_blocks_are_columns_of_the_table(guide):
    table = guide.log_q(X)
    for first, last in [(0, 1), (3, 8), (11, 12)]:
        np.testing.assert_array_equal(guide.log_q(X, slice(first, last)), table[:, first:last])


@everything
def test_pullback_is_autograd(guide):
    cotangent = np.random.default_rng(3).normal(size=(6, SPACE.size))
    theirs = torch_gradient(guide, lambda log_q: (log_q * torch.tensor(cotangent)).sum())
    ours = guide.pullback(X, cotangent)
    assert np.linalg.norm(ours - theirs) <= 1e-10 * np.linalg.norm(theirs)


@everything
def test_gradient_of_the_elbo_is_autograd(guide):
    target = torch.tensor(LOG_JOINT)
    theirs = torch_gradient(guide, lambda log_q: (torch.exp(log_q) * (target - log_q)).sum())
    ours = guide.pullback(X, ee.elbo_gradient(LOG_JOINT, guide.log_q(X)))
    assert np.linalg.norm(ours - theirs) <= 1e-10 * np.linalg.norm(theirs)


@everything
def test_gradient_of_the_elbo_is_its_central_difference(guide):
    """Along a direction v, (f(h) - f(-h)) / 2h with h and h/2: their difference bounds what the step leaves, rounding is U |f| / h."""
    rng = np.random.default_rng(4)
    gradient = guide.pullback(X, ee.elbo_gradient(LOG_JOINT, guide.log_q(X)))
    for _ in range(3):
        v = rng.normal(size=guide.params.size)
        v /= np.linalg.norm(v)
        slopes = [
            (total_elbo(guide.with_params(guide.params + h * v)) - total_elbo(guide.with_params(guide.params - h * v)))
            / (2 * h)
            for h in (2.0**-12, 2.0**-13)
        ]
        rounding = 1000 * U * np.abs(LOG_JOINT).sum() / 2.0**-13
        assert abs(gradient @ v - slopes[1]) <= abs(slopes[1] - slopes[0]) + rounding


@everything
def test_guides_are_frozen_and_remade(guide):
    with pytest.raises(ValueError, match="read-only"):
        guide.params[0] = 1.0
    again = guide.with_params(guide.params)
    np.testing.assert_array_equal(again.log_q(X), guide.log_q(X))
    assert guide.to_dict()["params"] == guide.params.tolist()
    with pytest.raises(ee.LogTableError, match="params"):
        guide.with_params(guide.params[1:])


def test_free_optimum_is_the_posterior():
    guide = Free.optimum(LOG_JOINT, SPACE)
    audit = ee.audit(LOG_JOINT, guide.log_q(X))
    assert (audit.gap <= SPACE.size * 16 * U).all()
    assert np.abs(guide.pullback(X, ee.elbo_gradient(LOG_JOINT, guide.log_q(X)))).max() <= 100 * U * np.abs(LOG_JOINT).max()


def test_structural_zeros_stay_zero():
    table = LOG_JOINT.copy()
    table[:, [0, 5]] = -np.inf
    guide = Free.uniform(table, SPACE)
    assert (guide.log_q(X)[:, [0, 5]] == -np.inf).all()
    gradient = guide.pullback(X, ee.elbo_gradient(table, guide.log_q(X))).reshape(6, -1)
    assert (gradient[:, [0, 5]] == 0.0).all() and np.isfinite(gradient).all()
    product = MeanField(np.tile([0.0, -np.inf, 0.0, 0.0, 0.0, 0.0, 0.0], 6), SPACE)
    assert (product.log_q(X)[:, 6:] == -np.inf).all()
    assert np.isfinite(product.pullback(X, np.ones((6, SPACE.size)))).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Free([0.0, np.nan], ee.LatentSpace((2,))), "NaN|nan"),
        (lambda: Free([0.0, np.inf], ee.LatentSpace((2,))), r"\+inf"),
        (lambda: Free([0.0, 0.0, 0.0], ee.LatentSpace((2,))), "2 logits for each"),
        (lambda: Free([0.0, 0.0, -np.inf, -np.inf], ee.LatentSpace((2,))), r"observation 1, variables \(0,\)"),
        (lambda: MeanField(np.zeros((2, 2)), ee.LatentSpace((2, 2))), "one flat vector"),
        (lambda: GUIDES["free"].log_q(X[:3]), "6 observations"),
        (lambda: GUIDES["free"].pullback(X, np.ones((6, 3))), "cotangent must have shape"),
        (lambda: Amortized(np.zeros(6), Perceptron((2, 2)), ee.LatentSpace((3,))), "3 outputs"),
        (lambda: Amortized([0.0, 0.0, 0.0, -np.inf], Perceptron((1, 2)), ee.LatentSpace((2,))), "finite numbers"),
        (lambda: Amortized.random(4, SPACE, rng=0).log_q(X[:, :2]), r"shape \(N, 4\)"),
        (lambda: Amortized.random(4, SPACE, rng=0).log_q(np.where(X > 2.0 * X.max(), X, np.nan)), "row 0 is not"),
        (lambda: Free.uniform(LOG_JOINT, ee.LatentSpace((5,))), r"shape \(N, 5\)"),
        (lambda: Factors(SPACE, (((0,), ()), ((0, 1), ()), ((2,), ()))), "every variable once"),
        (lambda: Factors(SPACE, (((0,), ()), ((1,), ()))), "variables 0 to 2 once"),
        (lambda: Factors(SPACE, (((0,), (1,)), ((1,), ()), ((2,), ()))), "parents in earlier groups"),
        (lambda: Factors.tree(SPACE, [1, 0, None]), "without a cycle"),
        (lambda: Factors.tree(SPACE, [None, 0]), "one for each of 3 variables"),
        (
            lambda: Structured([0.0] * 6 + [-np.inf] * 3, Factors.chain(ee.LatentSpace((3, 2)))),
            r"observation 0, variables \(1,\)",
        ),
        (lambda: Structured.random(6, SPACE), "Factors.chain"),
        (lambda: Amortized.random(4, (3,), rng=0), "factors must be Factors or a LatentSpace"),
        (lambda: Amortized.random(4, SPACE, hidden=8, rng=0), "hidden must be a sequence of layer sizes"),
    ],
)
def test_bad_input_is_one_sentence(make, words):
    with pytest.raises((ee.LogTableError, ValueError, TypeError), match=words):
        make()


def test_families_hold_what_they_should():
    """A posterior that is a chain, a tree, a product, or anything: the family that holds it has no gap at its conditionals."""
    rng = np.random.default_rng(9)
    for name, factors in FACTORS.items():
        truth = Structured.random(6, factors, rng=rng).log_q(X)
        for other_name in {"free", "tables", name}:
            other = FACTORS[other_name]
            if other.linear:
                continue
            guide = Structured(conditionals(other, truth), other)
            assert (ee.gap(truth, guide.log_q(X)) <= (100 * SPACE.size * U) ** 2 + 100 * U).all(), (name, other_name)


def conditionals(factors, log_p):
    """The logits of the conditionals of a table: sums over the other variables, in the order of the groups."""
    cube, rows = np.exp(log_p).reshape(len(log_p), *SPACE.sizes), []
    for variables, parents in factors.groups:
        for row, table in enumerate(cube):
            kept = [*parents, *variables]
            out = np.zeros([SPACE.sizes[i] for i in kept])
            for state in itertools.product(*map(range, SPACE.sizes)):
                out[tuple(state[i] for i in kept)] += table[state]
            if len(rows) <= row:
                rows.append([])
            rows[row] += np.log(out).ravel().tolist()
    return np.array(rows).ravel()


def test_single_groups_are_mean_field_and_free_to_the_bit():
    params = RNG.normal(size=6 * 7)
    one, two = MeanField(params, SPACE), Structured(params, Factors.blocks(SPACE, [[0], [1], [2]]))
    np.testing.assert_array_equal(one.log_q(X), two.log_q(X))
    params = RNG.normal(size=6 * SPACE.size)
    np.testing.assert_array_equal(Free(params, SPACE).log_q(X), Structured(params, Factors.blocks(SPACE, [[0, 1, 2]])).log_q(X))
    zero = Autoregressive(np.zeros(6 * FACTORS["linear"].n_logits), SPACE)
    np.testing.assert_allclose(zero.log_q(X), -math.log(SPACE.size), rtol=8 * U)


def test_which_families_hold_everything():
    held = {name: factors.is_free for name, factors in FACTORS.items()}
    assert held == {"free": True, "tables": True, **dict.fromkeys(("mean field", "blocks", "chain", "tree", "linear"), False)}
    assert Factors.autoregressive(ee.LatentSpace((2, 3)), linear=True).is_free
    assert [name for name, factors in FACTORS.items() if factors.is_product] == ["mean field"]


def test_a_fit_in_any_family_raises_the_elbo():
    class Model:
        space = SPACE

        def log_joint(self, x):
            return LOG_JOINT

    gaps = {}
    for name, factors in FACTORS.items():
        report = ee.gap_report(Model(), Structured.random(6, factors, rng=3), X, rng=4)
        gaps[name] = float(report.total().approximation)
    assert gaps["free"] <= 1e-12 and gaps["tables"] <= 1e-12
    assert gaps["chain"] < gaps["mean field"] and gaps["tree"] < gaps["mean field"] and gaps["linear"] < gaps["mean field"]
