"""The documented wrong answer of pyro.contrib.funsor 1.9.2: factors outside a plate are counted once per element; run by test_funsor.py."""

from __future__ import annotations

import math

import pyro.contrib.funsor
import pytest
import torch
from pyroapi import distributions as dist
from pyroapi import infer, pyro, pyro_backend

from elbo_exact.adapters import from_pyro
from elbo_exact.testing import assert_every_particle

DATA = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)


torch.set_default_dtype(torch.float64)


def model():
    e = pyro.sample("e", dist.Bernoulli(0.3))
    with pyro.plate("i", 3):
        pyro.sample("x", dist.Bernoulli(0.2 + 0.5 * e), obs=DATA)


def main():
    with pyro_backend("pyro"):
        oracle = from_pyro(model)
    p_e = float(oracle.posterior[1])

    def guide():
        pyro.sample("e", dist.Bernoulli(p_e))

    for backend, extra in (("pyro", 0), ("contrib.funsor", 2)):
        with pyro_backend(backend):
            particles = [-infer.Trace_ELBO(max_plate_nesting=1).loss(model, guide) for _ in range(10)]
        if not extra:
            assert_every_particle(particles, oracle)
            continue
        with pytest.raises(AssertionError):
            assert_every_particle(particles, oracle)
        log_ratios = [math.log(p / q) for p, q in zip((0.7, 0.3), oracle.posterior, strict=True)]
        wrong = [
            oracle.log_evidence + extra * log_ratio for log_ratio in log_ratios
        ]  # log p(e) - log q(e), three times for once
        assert all(min(abs(particle - value) for value in wrong) < 1e-12 for particle in particles)


if __name__ == "__main__":
    main()
