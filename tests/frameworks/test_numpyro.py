"""NumPyro's estimators and the oracle judge each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.funsor import config_enumerate
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO
from programs import COIN, DATA, RAIN, SEEN, log_joints

from elbo_exact.adapters import from_numpyro
from elbo_exact.testing import assert_every_particle, assert_log_evidence

MASKS = [(True, True, True), (True, False, True)]


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def model(mask=(True, True, True), scale=1.0):
    e = numpyro.sample("e", dist.Bernoulli(RAIN))
    with numpyro.plate("i", 3), handlers.mask(mask=jnp.array(mask)), handlers.scale(scale=scale):
        z = numpyro.sample("z", dist.Bernoulli(jnp.array(COIN)[e]))
        numpyro.sample("x", dist.Bernoulli(jnp.array(SEEN)[z]), obs=jnp.array(DATA))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_table_is_that_of_the_loops(mask, scale):
    oracle = from_numpyro(model, mask, scale=scale)
    assert oracle.names == ("e", "z[0]", "z[1]", "z[2]")
    np.testing.assert_allclose(oracle.log_joint, log_joints(mask, scale), rtol=0, atol=40 * 2**-53 * 20)


@pytest.mark.parametrize("mask", MASKS)
def test_every_particle_of_the_exact_guide_is_the_evidence(mask):
    oracle = from_numpyro(model, mask)
    guide = oracle.as_numpyro_guide()
    particles = [-Trace_ELBO().loss(jax.random.PRNGKey(seed), {}, model, guide, mask) for seed in range(10)]
    assert_every_particle(jnp.stack(particles), oracle)


@pytest.mark.parametrize("mask", MASKS)
def test_enumerated_evidence_agrees(mask):
    oracle = from_numpyro(model, mask)
    loss = TraceEnum_ELBO().loss(jax.random.PRNGKey(0), {}, config_enumerate(model), lambda mask: None, mask)
    assert_log_evidence(-loss, oracle)
