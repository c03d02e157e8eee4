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


def test_continuous_site_needs_a_value():
    def normal():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("x", dist.Normal(mu + z, 1.0), obs=1.5)

    with pytest.raises(ValueError, match=r"^site 'mu' is Normal, which has no finite support; pass a value in fixed="):
        from_numpyro(normal)
    oracle = from_numpyro(normal, fixed={"mu": 0.25})
    log_normal = [-0.5 * (1.5 - 0.25 - z) ** 2 - 0.5 * 0.25**2 - np.log(2 * np.pi) for z in range(3)]
    np.testing.assert_allclose(oracle.log_joint, np.log([0.2, 0.3, 0.5]) + log_normal, rtol=0, atol=1e-14)


def test_dependent_chain_with_vectors_of_events_and_nested_plates():
    transition = jnp.array([[0.9, 0.1], [0.3, 0.7]])

    def chain():
        x = 0
        for t in range(3):
            x = numpyro.sample(f"x_{t}", dist.Categorical(transition[x]))
        with numpyro.plate("a", 2, dim=-2), numpyro.plate("b", 2, dim=-1):
            y = numpyro.sample("y", dist.Bernoulli(0.2 + 0.3 * x))
            numpyro.sample("s", dist.Normal(y, 1.0), obs=jnp.array([[0.0, 1.0], [2.0, -1.0]]))
        numpyro.sample("v", dist.Bernoulli(jnp.array([0.25, 0.5])).to_event(1))

    oracle = from_numpyro(chain)
    assert oracle.names[:4] == ("x_0", "x_1", "x_2", "y[0,0]") and oracle.names[-1] == "v[1]"
    guide = oracle.as_numpyro_guide()
    particles = [-Trace_ELBO().loss(jax.random.PRNGKey(seed), {}, chain, guide) for seed in range(10)]
    assert_every_particle(jnp.stack(particles), oracle)


def test_subsampling_and_masks_that_others_need_are_refused():
    def part():
        with numpyro.plate("i", 10, subsample_size=3):
            numpyro.sample("z", dist.Bernoulli(0.5))

    def half_masked():
        with handlers.mask(mask=False):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Bernoulli(0.2 + 0.5 * z), obs=1)

    with pytest.raises(ValueError, match="plate 'i' must use all of its 10 elements"):
        from_numpyro(part)
    with pytest.raises(ValueError, match="'z' has masked cells"):
        from_numpyro(half_masked)
