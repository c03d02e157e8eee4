"""Oracles out of PyTorch and JAX functions, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import elbo_exact as ee
from elbo_exact.adapters import from_callable, from_jax, from_torch
from elbo_exact.testing import Problem, assert_elbo, assert_every_particle, assert_unbiased
from elbo_exact.testing.strategies import problems

TABLE = np.random.default_rng(0).normal(size=(2, 3, 2)) * 3.0
TABLE[0, 1, 1] = -np.inf
SPACE = ee.LatentSpace(TABLE.shape, ("a", "b", "c"))


def test_torch_and_jax_give_the_table():
    tensor = torch.from_numpy(TABLE)
    for block_size in (1, 5, 4096):
        found = from_torch(lambda z: tensor[z[:, 0], z[:, 1], z[:, 2]], SPACE, block_size=block_size)
        np.testing.assert_array_equal(found.log_joint, TABLE.ravel())
    with jax.enable_x64(True):
        array = jnp.asarray(TABLE)
        found = from_jax(lambda z: array[z[:, 0], z[:, 1], z[:, 2]], SPACE, block_size=5)
    np.testing.assert_array_equal(found.log_joint, TABLE.ravel())


def test_posterior_of_torch_has_particles_without_variance():
    oracle = from_callable(lambda z: TABLE[tuple(z.T)], SPACE)
    q = oracle.as_torch_distribution()
    torch.manual_seed(0)
    states = q.sample((50,))
    particles = torch.from_numpy(TABLE)[tuple(states.T)] - q.log_prob(states)
    assert_every_particle(particles, oracle)
    np.testing.assert_array_equal(q.log_prob(q.enumerate_support()).numpy(), oracle.log_posterior)


def test_posterior_of_torch_draws_with_its_probabilities():
    oracle = from_callable(lambda z: TABLE[tuple(z.T)], SPACE)
    q, p = oracle.as_torch_distribution(), oracle.marginals()["b"][2]
    torch.manual_seed(0)
    assert_unbiased(lambda size: (q.sample((size,))[:, 1] == 2).double().numpy(), p, variance=p * (1.0 - p))


def test_elbo_in_single_precision_is_accepted():
    oracle = from_callable(lambda z: np.where(np.isneginf(TABLE), -5.0, TABLE)[tuple(z.T)], SPACE)
    logits = torch.zeros(SPACE.size).log_softmax(0)
    value = (logits.exp() * (torch.tensor(oracle.log_joint, dtype=torch.float32) - logits)).sum()
    assert_elbo(value, oracle, np.full(SPACE.size, -np.log(SPACE.size)))


def test_a_function_of_one_state_is_refused():
    with pytest.raises(ee.LogTableError, match=r"one number per state, shape \(12,\)"):
        from_torch(lambda z: torch.zeros(3), SPACE)


@jax.jit
def jax_elbo(log_joint, log_q):
    q = jnp.exp(log_q)
    return jnp.sum(jnp.where(q > 0, q * (log_joint - jnp.where(q > 0, log_q, 0)), 0))


def torch_elbo(log_joint, log_q):
    q = log_q.exp()
    return torch.where(q > 0, q * (log_joint - torch.where(q > 0, log_q, 0)), 0).sum()


@settings(max_examples=2000)
@given(problems())
def test_correct_elbos_raise_no_alarm_in_two_thousand_problems(problem: Problem):
    a, b = problem.log_joint, problem.log_q
    assert_elbo(np.asarray(torch_elbo(torch.tensor(a), torch.tensor(b))), a, b)
    single = torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)
    assert_elbo(torch_elbo(*single), a, b)
    with jax.enable_x64(True):
        assert_elbo(np.asarray(jax_elbo(jnp.asarray(a), jnp.asarray(b))), a, b)
    assert_elbo(np.asarray(jax_elbo(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))), a, b, dtype="float32")
