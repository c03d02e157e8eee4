"""The numbers of the figures of guides: what each part of a gap costs row by row, and what training does to the parts of the ELBO."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact._figures.data import Columns
from elbo_exact._gap_report import gap_report
from elbo_exact._validate import FloatArray
from elbo_exact.anatomy import surgery
from elbo_exact.fit import fit_vi
from elbo_exact.fit.ascent import by_lbfgs
from elbo_exact.fit.bound import Rows
from elbo_exact.fit.objectives import Elbo
from elbo_exact.fit.steps import guide_slope
from elbo_exact.gallery import load
from elbo_exact.guides import Amortized, Factors
from elbo_exact.importance import curve
from elbo_exact.models import Mixture
from elbo_exact.space import LatentSpace

__all__ = ["gap_parts", "surgery_in_training"]

SAMPLES = (1, 10, 100)
COUPLING, N_PULLS, RESTARTS = 1.0, 12, 2
HIDDEN = (6,)  # few units, so that amortization costs something
CLASSES, EPOCHS = 3, 120
SHOWN = ("elbo", "reconstruction", "mutual_information", "kl_to_prior")


class Ring:
    """Four spins in a ring, each pulled by a number: the posterior is neither a product nor a chain."""

    space = LatentSpace((2, 2, 2, 2))

    def log_joint(self, x: FloatArray) -> FloatArray:
        """Weights of the 16 states for pulls (N, 4)."""
        s = 2.0 * self.space.states() - 1.0
        return np.asarray(x @ s.T + COUPLING * (s * np.roll(s, 1, axis=1)).sum(axis=1))


def gap_parts() -> Columns:
    """K-sample gaps of the best q of each family and of an amortized one, for every observation."""
    columns: Columns = {name: [] for name in ("family", "samples", "observation", "approximation", "gap")}
    ring, x = Ring(), np.random.default_rng(4).normal(size=(N_PULLS, 4))
    families = {
        "mean field": Factors.mean_field(ring.space),
        "chain": Factors.chain(ring.space),
        "free": Factors.free(ring.space),
    }
    for name, factors in families.items():
        guide = _trained(Amortized.random(4, factors, hidden=HIDDEN, rng=0), ring, x)
        best = gap_report(ring, guide, x, restarts=RESTARTS, rng=0).log_q_best
        tables = [curve(ring.log_joint(x), log_q, SAMPLES).lower_gap for log_q in (best, guide.log_q(x))]
        for k, samples in enumerate(SAMPLES):
            for n, (own, reached) in enumerate(zip(tables[0][:, k], tables[1][:, k], strict=True)):
                for key, value in zip(columns, (name, samples, n, float(own), float(reached)), strict=True):
                    columns[key].append(value)
    return columns


def _trained(guide: Amortized, model: Any, x: FloatArray) -> Amortized:
    potential = Elbo().potential(model.log_joint(x), guide.log_q(x))
    return guide.with_params(by_lbfgs(guide_slope(guide, potential, Rows(x, np.ones(len(x)))), guide.params, 500))


def surgery_in_training() -> Columns:
    """Parts of the ELBO after every epoch of joint training, from a random start and from classes that are all alike."""
    columns: Columns = {name: [] for name in ("start", "epoch", *SHOWN)}
    problem = load("stouffer-toby")
    assert problem.x is not None
    sizes = [len(names) for names in problem.categories]
    for start, spread in (("random classes", 1.0), ("classes alike", 0.0)):
        model = _spread(Mixture.random(CLASSES, sizes, rng=3), spread)
        guide = Amortized.random(problem.x.shape[1], model.space, hidden=(8,), rng=0)
        for epoch in range(EPOCHS):
            if epoch:
                fit = fit_vi(model, guide, problem.x, weights=problem.counts, training="joint", inner_iter=1, max_iter=1)
                model, guide = fit.model, fit.guide
            log_prior = model.log_weights
            parts = surgery(model.log_joint(problem.x) - log_prior, log_prior, guide.log_q(problem.x), weights=problem.counts)
            for key, value in zip(columns, (start, epoch, *(float(getattr(parts, name)) for name in SHOWN)), strict=True):
                columns[key].append(value)
    return columns


def _spread(model: Mixture, factor: float) -> Mixture:
    """Classes moved towards the first one; 0 makes them all alike."""
    families = []
    for family in model.components:
        first = np.exp(family.log_probabilities[:1])
        mixed = factor * np.exp(family.log_probabilities) + (1.0 - factor) * first
        families.append(type(family)(np.log(mixed)))
    return Mixture(model.log_weights, tuple(families))
