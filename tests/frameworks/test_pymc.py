"""PyMC models against densities written by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pymc
import pytest

from elbo_exact.adapters import from_pymc
from elbo_exact.errors import EnumerationTooLarge
from elbo_exact.testing import assert_log_evidence

DATA = [0.1, 1.4, 2.9]
SINGLE = (
    2.0**-24
)  # PyMC 5.28 takes logarithms of small integer constants (sigma = 1, the 3 of log 3) in float32, whatever floatX


def program():
    with pymc.Model() as model:
        mean = pymc.Normal("mean", 0.0, 1.0)
        e = pymc.Bernoulli("e", 0.3)
        kind = pymc.Categorical("kind", p=[0.2, 0.3, 0.5])
        z = pymc.Bernoulli("z", 0.2 + 0.5 * e, shape=3)
        pymc.Normal("x", mean + z + kind, 1.0, observed=DATA)
    return model


def normal(x, mean):
    return -0.5 * (x - mean) ** 2 - 0.5 * math.log(2.0 * math.pi)


def test_every_state_has_the_density_of_its_definition():
    oracle = from_pymc(program(), fixed={"mean": 0.5})
    assert oracle.names == ("e", "kind", "z[0]", "z[1]", "z[2]") and oracle.space.sizes == (2, 3, 2, 2, 2)
    expected = []
    for e, kind, *z in itertools.product((0, 1), (0, 1, 2), (0, 1), (0, 1), (0, 1)):
        p = 0.2 + 0.5 * e
        terms = [math.log((0.7, 0.3)[e]), math.log((0.2, 0.3, 0.5)[kind]), normal(0.5, 0.0)]
        terms += [math.log(p if cell else 1.0 - p) for cell in z]
        terms += [normal(x, 0.5 + cell + kind) for x, cell in zip(DATA, z, strict=True)]
        expected.append(math.fsum(terms))
    np.testing.assert_allclose(oracle.log_joint, expected, rtol=0, atol=4 * SINGLE)  # four normal densities, constants below 1
    assert_log_evidence(np.logaddexp.reduce(expected), oracle, dtype="float32")
    assert oracle.marginals()["z"].shape == (3, 2)


def test_bounded_counts_are_enumerated():
    with pymc.Model() as model:
        n = pymc.Binomial("n", 4, 0.3)
        u = pymc.DiscreteUniform("u", 1, 3)
        pymc.Poisson("x", 1.0 + n + u, observed=3)
    oracle = from_pymc(model)
    assert oracle.space.sizes == (5, 3)
    assert oracle.values([2, 0])["u"] == 1
    rate = [1.0 + n + u for n in range(5) for u in (1, 2, 3)]
    prior = [math.comb(4, n) * 0.3**n * 0.7 ** (4 - n) / 3.0 for n in range(5) for _ in range(3)]
    exact = math.fsum(p * math.exp(-r) * r**3 / 6.0 for p, r in zip(prior, rate, strict=True))
    assert abs(float(oracle.log_evidence) - math.log(exact)) < 4 * SINGLE  # log 3, log 6


def test_what_cannot_be_enumerated_says_so():
    with pytest.raises(ValueError, match=r"site 'mean' is Normal, which has no finite support; pass a value in fixed=\{'mean'"):
        from_pymc(program())
    with pytest.raises(ValueError, match="fixed must name sites of the model"):
        from_pymc(program(), fixed={"sigma": 1.0})
    with pymc.Model() as model:
        n = pymc.DiscreteUniform("n", 1, 3)
        pymc.Binomial("k", n, 0.5)
    with pytest.raises(ValueError, match="site 'k' must have a support of its own"):
        from_pymc(model)
    with pymc.Model() as wide:
        pymc.Bernoulli("z", 0.5, shape=40)
    with pytest.raises(EnumerationTooLarge):
        from_pymc(wide)
