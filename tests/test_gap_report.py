"""Gap reports, recomputed from sums over all states with fsum."""

from __future__ import annotations

import math

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.families import Bernoulli
from elbo_exact.fit.optimizers import Adam
from elbo_exact.guides import Amortized, Factors
from elbo_exact.models import Mixture


def log_sum(row):
    top = max(row)
    return top + math.log(math.fsum(math.exp(v - top) for v in row))


def expected(q, row, log_q):
    return math.fsum(p * (a - b) for p, a, b in zip(q, row, log_q, strict=True) if p > 0.0)


def recomputed(log_joint, log_q, best):
    """Every number of the report, one row at a time."""
    out = {name: [] for name in ee.GapReport.NAMES}
    for row, mine, top in zip(log_joint, log_q, best, strict=True):
        evidence = log_sum(row)
        elbo, best_elbo = (expected(np.exp(q), row, q) for q in (mine, top))
        posterior = np.exp(row - evidence)
        values = evidence, elbo, best_elbo, evidence - elbo, evidence - best_elbo, best_elbo - elbo
        for name, value in zip(out, (*values, expected(posterior, row - evidence, mine)), strict=True):
            out[name].append(value)
    return {name: np.array(values) for name, values in out.items()}


def assert_recomputed(report, model, guide, x):
    again = recomputed(model.log_joint(x), guide.log_q(x), report.log_q_best)
    total = report.total()
    for name, values in again.items():
        # the log tables are of size 1 to 100, so 1e-12 is some hundred roundings of them
        scale = max(1.0, np.abs(again["log_evidence"]).max())
        np.testing.assert_allclose(getattr(report, name), values, rtol=0, atol=1e-12 * scale, err_msg=name)
        assert math.isclose(
            getattr(total, name), math.fsum(values.tolist()), rel_tol=1e-12, abs_tol=1e-12 * scale * len(values)
        )
    assert (report.amortization >= -report.error.amortization).all()


class Spins:
    """Three spins, coupled and pulled by the three numbers of a row."""

    space = ee.LatentSpace((2, 2, 2))

    def log_joint(self, x):
        spins = 2.0 * self.space.states() - 1.0
        return np.asarray(x) @ spins.T + 0.9 * (spins[:, 0] * spins[:, 1] + spins[:, 1] * spins[:, 2])


FAMILIES = {
    "free": Factors.free(Spins.space),
    "mean field": Factors.mean_field(Spins.space),
    "blocks": Factors.blocks(Spins.space, [[0, 2], [1]]),
    "chain": Factors.chain(Spins.space),
    "autoregressive": Factors.autoregressive(Spins.space, linear=True),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_report_is_its_definition(family):
    x = np.random.default_rng(0).normal(size=(12, 3))
    guide = Amortized.random(3, FAMILIES[family], hidden=(4,), rng=1)
    report = ee.gap_report(Spins(), guide, x, rng=2)
    assert_recomputed(report, Spins(), guide, x)
    if family in ("mean field", "blocks"):
        assert (report.approximation > 1e-3).all()
    else:  # the posterior of a chain is a chain; what is left is where L-BFGS-B stops, below its ftol of 2e-9 times the objective
        assert (report.approximation <= (1e-13 if family == "free" else 1e-8)).all()
    assert (report.amortization >= -report.error.amortization).all()
    for name in report.NAMES:
        assert name in str(report) and len(report.to_dict()[name]) == 12


def test_an_amortized_fit_of_the_digits_comes_within_one_percent_of_em():
    data = pytest.importorskip("sklearn.datasets").load_digits().data
    x = (data >= 8).astype(int)
    seeds = np.random.default_rng(1).choice(len(x), 10, replace=False)
    start = Mixture(np.log(np.full(10, 0.1)), [Bernoulli.from_probabilities(0.25 + 0.5 * x[seeds])])
    em = ee.fit_em(start, x, tolerance=0.1)
    guide = Amortized.random(64, start.space, hidden=(64,), rng=0)
    fit = ee.fit_vi(start, guide, x, optimizer=Adam(5e-3), batch_size=64, inner_iter=10, max_iter=8, rng=0)
    reached = math.fsum(ee.log_evidence(fit.model.log_joint(x)).tolist())
    assert reached >= 1.01 * em.objective  # both are negative
    assert_recomputed(ee.gap_report(fit.model, fit.guide, x), fit.model, fit.guide, x)
