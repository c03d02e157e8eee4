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
