"""Pyro's estimators and the oracle judge each other."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import COIN, DATA, RAIN, SEEN, log_joints
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate

from elbo_exact.adapters import from_pyro
from elbo_exact.errors import EnumerationTooLarge
from elbo_exact.testing import assert_every_particle, assert_log_evidence


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(torch.float32)


def model(mask=(True, True, True), scale=1.0):
    e = pyro.sample("e", dist.Bernoulli(RAIN))
    with pyro.plate("i", 3), poutine.mask(mask=torch.tensor(mask)), poutine.scale(scale=scale):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(COIN)[e.long()]))
        pyro.sample("x", dist.Bernoulli(torch.tensor(SEEN)[z.long()]), obs=torch.tensor(DATA))


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, True)])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_table_is_that_of_the_loops(mask, scale):
    oracle = from_pyro(model, mask, scale=scale)
    assert oracle.names == ("e", "z[0]", "z[1]", "z[2]")
    np.testing.assert_allclose(oracle.log_joint, log_joints(mask, scale), rtol=0, atol=40 * 2**-53 * 20)


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, True)])
def test_every_particle_of_the_exact_guide_is_the_evidence(mask):
    oracle = from_pyro(model, mask)
    guide = oracle.as_pyro_guide()
    assert_every_particle([-Trace_ELBO().loss(model, guide, mask) for _ in range(10)], oracle)
    enumerated = config_enumerate(guide, "sequential")
    assert_log_evidence(-TraceEnum_ELBO(max_plate_nesting=1).loss(model, enumerated, mask), oracle)


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, True)])
def test_enumerated_evidence_agrees(mask):
    oracle = from_pyro(model, mask)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(model), lambda mask: None, mask)
    assert_log_evidence(-loss, oracle)


def test_masked_cell_that_others_need_is_refused():
    def half_masked():
        with poutine.mask(mask=False):
            z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Bernoulli(0.2 + 0.5 * z), obs=torch.tensor(1.0))

    with pytest.raises(ValueError, match="'z' has masked cells"):
        from_pyro(half_masked)


def test_continuous_site_needs_a_value():
    def normal():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        pyro.sample("x", dist.Normal(mu + z, 1.0), obs=torch.tensor(1.5))

    with pytest.raises(ValueError, match=r"^site 'mu' is Normal, which has no finite support; pass a value in fixed="):
        from_pyro(normal)
    oracle = from_pyro(normal, fixed={"mu": 0.25})
    normals = dist.Normal(0.25 + torch.arange(3.0), 1.0).log_prob(torch.tensor(1.5)) + dist.Normal(0.0, 1.0).log_prob(
        torch.tensor(0.25)
    )
    expected = (torch.tensor([0.2, 0.3, 0.5]).log() + normals).numpy()
    np.testing.assert_allclose(oracle.log_joint, expected, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="fixed must name sites"):
        from_pyro(normal, fixed={"nu": 0.0})


def test_dependent_chain_with_vectors_of_events_and_nested_plates():
    transition = torch.tensor([[0.9, 0.1], [0.3, 0.7]])

    def chain():
        x = 0
        for t in pyro.markov(range(3)):
            x = pyro.sample(f"x_{t}", dist.Categorical(transition[x]))
        with pyro.plate("a", 2, dim=-2), pyro.plate("b", 2, dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.2 + 0.3 * x))
            pyro.sample("s", dist.Normal(y, 1.0), obs=torch.tensor([[0.0, 1.0], [2.0, -1.0]]))
        pyro.sample("v", dist.Bernoulli(torch.tensor([0.25, 0.5])).to_event(1))

    oracle = from_pyro(chain)
    assert oracle.names[:4] == ("x_0", "x_1", "x_2", "y[0,0]") and oracle.names[-1] == "v[1]"
    guide = oracle.as_pyro_guide()
    assert_every_particle([-Trace_ELBO().loss(chain, guide) for _ in range(10)], oracle)
    np.testing.assert_allclose(oracle.marginals()["v"], [[0.75, 0.25], [0.5, 0.5]], rtol=0, atol=1e-13)


def test_one_hot_values_are_values():
    def one_hot():
        pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.5, 0.25, 0.25])))

    oracle = from_pyro(one_hot)
    assert oracle.space.sizes == (3,) and oracle.values([1])["z"].tolist() == [0.0, 1.0, 0.0]


def test_site_in_some_states_only_is_refused():
    def branch():
        if pyro.sample("z", dist.Bernoulli(0.5)):
            pyro.sample("w", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="site 'w' must exist"):
        for seed in range(5):  # the first run finds the sites
            pyro.set_rng_seed(seed)
            from_pyro(branch)


def test_subsampling_is_refused():
    def part():
        with pyro.plate("i", 10, subsample_size=3):
            pyro.sample("z", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="plate 'i' must use all of its 10 elements"):
        from_pyro(part)


def test_budgets_are_checked_first():
    def wide():
        with pyro.plate("i", 40):
            pyro.sample("z", dist.Bernoulli(0.5))

    with pytest.raises(EnumerationTooLarge, match=r"2\*\*40 states"):
        from_pyro(wide)
    with pytest.raises(EnumerationTooLarge, match="16 states and about .* s > max_seconds=0"):
        from_pyro(model, max_seconds=0.0)


def test_random_numbers_are_left_alone():
    pyro.set_rng_seed(0)
    expected = torch.rand(1)
    pyro.set_rng_seed(0)
    from_pyro(model)
    assert torch.rand(1) == expected
