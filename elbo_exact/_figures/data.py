"""The numbers of each figure, as columns that become its CSV file; no sampling anywhere, so there are no error bars to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from elbo_exact import bounds
from elbo_exact._annealing import ais
from elbo_exact._validate import FloatArray
from elbo_exact.divergence import chi2_divergence
from elbo_exact.gallery import Problem, load
from elbo_exact.importance import curve, gradient_moments
from elbo_exact.variational import elbo, eubo

__all__ = ["annealing", "integrand", "k_samples", "sandwich", "tighter_is_not_better"]

Columns = dict[str, list[Any]]
SANDWICH = (("asia", 0), ("ising-torus", 1))
SAMPLES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
STEPS = (1, 2, 4, 8, 16, 32, 64)
DECADES = tuple(round(10 ** (k / 4)) for k in range(37))  # 1 to 1e9
SWEEPS = (1, 2, 4)
ENDS = 5  # steps of the sums that are shaded under the integrand


def sandwich() -> Columns:
    """Every bound minus log p(x), against the samples or steps that it is made of."""
    columns: Columns = {name: [] for name in ("problem", "bound", "side", "samples_or_steps", "value", "minus_log_evidence")}
    for name, case in SANDWICH:
        problem = load(name)
        a, b = _tables(problem, case)
        found = curve(a, b, SAMPLES)
        for side, values, gaps in (("lower", found.lower, -found.lower_gap), ("upper", found.upper, found.upper_gap)):
            _extend(columns, name, f"importance, {side}", side, SAMPLES, values, gaps)
        for side in ("lower", "upper"):
            ladders = {
                "thermodynamic": np.array([bounds.tvo(a, b, steps, side) for steps in STEPS]),
                "annealed": np.array([ais(a, b, steps, space=problem.space, side=side) for steps in STEPS]),
            }
            for bound, values in ladders.items():
                _extend(columns, name, f"{bound}, {side}", side, STEPS, values, values - found.log_evidence)
        single = {
            ("ELBO", "lower"): elbo(a, b),
            ("Rényi 1/2", "lower"): bounds.renyi(a, b, 0.5),
            ("perturbative 3", "lower"): bounds.perturbative(a, b, 3),
            ("CUBO 2", "upper"): bounds.cubo(a, b, 2.0),
            ("EUBO", "upper"): eubo(a, b),
        }
        for (bound, side), value in single.items():
            _extend(columns, name, bound, side, (1,), np.array([value]), np.array([value - found.log_evidence]))
    return columns


def k_samples() -> Columns:
    """Both K-sample gaps, their limit chi2/(2K), and the standard deviation of a single estimate."""
    a, b = _tables(load("rainforth"), 0)
    found, chi2 = curve(a, b, DECADES), float(chi2_divergence(a, b))
    return {
        "samples": list(DECADES),
        "lower_gap": found.lower_gap.tolist(),
        "lower_gap_error": found.error.lower_gap.tolist(),
        "upper_gap": found.upper_gap.tolist(),
        "upper_gap_error": found.error.upper_gap.tolist(),
        "limit": [chi2 / (2.0 * k) for k in DECADES],
        "standard_deviation": np.sqrt(found.variance).tolist(),
    }


def tighter_is_not_better() -> Columns:
    """Signal-to-noise ratio, mean and standard deviation of K-sample gradient estimators."""
    columns: Columns = {name: [] for name in ("estimator", "samples", "mean", "standard_deviation", "snr")}
    samples = DECADES[4:21:2]
    for estimator, (a, b, gradient, kind) in _estimators().items():
        found = gradient_moments(a, b, gradient, samples, estimator=kind)
        columns["estimator"] += [estimator] * len(samples)
        columns["samples"] += list(samples)
        columns["mean"] += found.mean.tolist()
        columns["standard_deviation"] += np.sqrt(found.variance).tolist()
        columns["snr"] += found.snr.tolist()
    return columns


def integrand() -> Columns:
    """The thermodynamic integrand of asia and its slope; log p(x) is the area."""
    a, b = _tables(load("asia"), 0)
    points = np.linspace(0.0, 1.0, 20 * ENDS + 1)
    found = bounds.thermodynamic(a, b, points)
    return {
        "b": points.tolist(),
        "integrand": found.integrand.tolist(),
        "integrand_error": found.error.integrand.tolist(),
        "slope": found.variance.tolist(),
        "slope_error": found.error.variance.tolist(),
    }


def annealing() -> Columns:
    """Annealed importance sampling minus the thermodynamic sum with the same steps: what imperfect mixing costs."""
    columns: Columns = {name: [] for name in ("side", "sweeps", "steps", "annealed", "thermodynamic", "difference")}
    problem = load("ising-torus")
    a, b = _tables(problem, 1)
    for side in ("lower", "upper"):
        for steps in STEPS[1:]:
            perfect = bounds.tvo(a, b, steps, side)
            for sweeps in SWEEPS:
                value = ais(a, b, steps, space=problem.space, sweeps=sweeps, side=side)
                for name, entry in zip(columns, (side, sweeps, steps, value, perfect, value - perfect), strict=True):
                    columns[name].append(entry if isinstance(entry, (str, int)) else float(entry))
    return columns


def _estimators() -> dict[str, tuple[FloatArray, FloatArray, FloatArray, str]]:
    """Name to (log joint, log q, gradient per state, kind of estimator)."""
    toy = load("rainforth")
    a, b = _tables(toy, 0)
    assert toy.nodes is not None
    z, x, mean = toy.nodes, toy.constants["x"], toy.constants["a"] * toy.constants["x"] + toy.constants["b"]
    pathwise = (x - z) - (z - toy.constants["mu"])
    sticking = pathwise + (z - mean) * 1.5
    discrete, proposal = _tables(load("asia"), 0)
    score = np.where(np.arange(discrete.size) == int(np.argmax(proposal)), 1.0, 0.0) - np.exp(proposal.max())
    return {
        "decoder": (a, b, z - toy.constants["mu"], "self_normalized"),
        "pathwise": (a, b, pathwise, "self_normalized"),
        "sticking the landing": (a, b, sticking, "self_normalized"),
        "doubly reparameterized": (a, b, sticking, "doubly_reparameterized"),
        "score (asia)": (discrete, proposal, score, "score"),
    }


def _tables(problem: Problem, case: int) -> tuple[FloatArray, FloatArray]:
    assert problem.log_joint is not None and problem.log_prior is not None
    return problem.log_joint[case], problem.log_prior[case]


def _extend(
    columns: Columns, problem: str, bound: str, side: str, sizes: Sequence[int], values: FloatArray, gaps: FloatArray
) -> None:
    for size, value, gap in zip(sizes, values.tolist(), gaps.tolist(), strict=True):
        for name, entry in zip(columns, (problem, bound, side, size, value, gap), strict=True):
            columns[name].append(entry)
