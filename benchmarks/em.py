"""EM beside the libraries that fit the same models: one iteration, and a whole fit, on the same data from the same start, one thread.

Every contender takes a number of iterations and runs that many; an iteration is the difference of two runs, so that checks, copies and starts of
a fit cancel. ``python benchmarks/em.py`` prints the table, ``--quick`` a smoke run; `write_models_page.py` writes it into docs.
"""

from __future__ import annotations

import logging
import os
import warnings

THREADS = int(os.environ.get("BENCHMARK_THREADS", "1"))  # of everybody
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ELBO_EXACT_NUM_THREADS"):
    os.environ[variable] = str(THREADS)  # before NumPy is imported
if THREADS == 1:
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from elbo_exact.families import Bernoulli, Categorical, Gaussian
from elbo_exact.fit import fit_em
from elbo_exact.models import HiddenMarkov, Mixture

__all__ = ["CASES", "THREADS", "Case", "contenders"]

Runs = dict[str, Callable[[int], Any]]  # library -> a fit of so many iterations


class Case(NamedTuple):
    """A model on data: how to make the fits, how many iterations apart, and what is promised beside whom."""

    name: str
    make: Callable[[bool], Runs]
    iterations: tuple[int, int]
    promised: dict[str, float]


def bernoulli_digits(quick: bool) -> Runs:
    """scikit-learn's digits, binarized, ten classes."""
    from sklearn.datasets import load_digits

    x = (load_digits().data >= 8).astype(float)[: 200 if quick else None]
    seeds = np.random.default_rng(1).choice(len(x), 10, replace=False)
    start = Mixture(np.log(np.full(10, 0.1)), [Bernoulli.from_probabilities(0.25 + 0.5 * x[seeds])])
    runs: Runs = {"elbo_exact": lambda n: fit_em(start, x, max_iter=n, tolerance=0.0)}
    if find_spec("stepmix"):
        from stepmix.stepmix import StepMix

        options = {"measurement": "binary", "abs_tol": 0, "rel_tol": 0, "n_init": 1, "progress_bar": 0, "verbose": 0}
        runs["StepMix"] = lambda n: StepMix(n_components=10, max_iter=n, random_state=0, **options).fit(x)
    if find_spec("pomegranate"):
        import torch
        from pomegranate.distributions import Bernoulli as Rival
        from pomegranate.gmm import GeneralMixtureModel

        torch.set_num_threads(THREADS)
        rows, means = torch.tensor(x, dtype=torch.float32), np.exp(start.components[0].log_probabilities[:, :, 1])

        def pomegranate(n: int) -> Any:
            parts = [Rival(torch.tensor(mean, dtype=torch.float32)) for mean in means]
            return GeneralMixtureModel(parts, max_iter=n, tol=0, verbose=False).fit(rows)

        runs["pomegranate (float32)"] = pomegranate
    return runs


def gaussian(n_rows: int, n_columns: int, n_components: int, kind: Any, spread: float) -> Callable[[bool], Runs]:
    """Clusters around random centers, close enough to go on gaining; kind as here and as in scikit-learn."""
    ours, theirs = kind

    def make(quick: bool) -> Runs:
        rng = np.random.default_rng(0)
        centers = rng.normal(size=(n_components, n_columns)) * spread
        x = centers[rng.integers(n_components, size=n_rows // 8 if quick else n_rows)]
        x = x + rng.normal(size=x.shape)
        means = centers + 0.5 * rng.normal(size=centers.shape)  # rows as means would be collapsed components in 64 dimensions
        eye = np.eye(n_columns)
        scales = np.tile(eye, (n_components, 1, 1)) if ours == "full" else np.ones((n_components, n_columns))
        start = Mixture(np.full(n_components, -np.log(n_components)), [Gaussian(means, scales, ours)])
        runs: Runs = {"elbo_exact": lambda n: fit_em(start, x, max_iter=n, tolerance=0.0)}
        if find_spec("sklearn"):
            from sklearn.mixture import GaussianMixture

            options = {"reg_covar": 0.0, "tol": 0.0, "means_init": means, "precisions_init": scales}
            weights = np.full(n_components, 1.0 / n_components)
            runs["scikit-learn"] = lambda n: GaussianMixture(
                n_components, covariance_type=theirs, weights_init=weights, max_iter=n, **options
            ).fit(x)
        return runs

    return make


def categorical_chain(quick: bool) -> Runs:
    """A hidden Markov model of 100,000 steps, five states, six symbols; hmmlearn's default works in logarithms."""
    rng = np.random.default_rng(0)
    start, rows, seen = np.full(5, 0.2), rng.dirichlet(np.full(5, 2.0), 5), rng.dirichlet(np.ones(6), 5)
    model = HiddenMarkov(np.log(start), np.log(rows), (Categorical(np.log(seen)),))
    x, _ = model.sample(2_000 if quick else 100_000, rng=0)
    runs: Runs = {"elbo_exact": lambda n: fit_em(model, [x], max_iter=n, tolerance=0.0)}
    if find_spec("hmmlearn"):
        from hmmlearn import hmm

        logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)

        def rival(implementation: str) -> Callable[[int], Any]:
            def fit(n: int) -> Any:
                other = hmm.CategoricalHMM(5, n_iter=n, tol=-np.inf, init_params="", implementation=implementation)
                other.startprob_, other.transmat_, other.emissionprob_ = start, rows, seen
                return other.fit(x)

            return fit

        runs |= {"hmmlearn": rival("log"), "hmmlearn, scaling": rival("scaling")}
    return runs


CASES = (
    Case(
        "Bernoulli mixture, digits 1797 x 64, K = 10",
        bernoulli_digits,
        (4, 24),
        {"StepMix": 3.0, "pomegranate (float32)": 12.0},
    ),
    Case(
        "Gaussian mixture, 10^5 x 8, K = 16, full", gaussian(10**5, 8, 16, ("full", "full"), 1.0), (1, 4), {"scikit-learn": 5.0}
    ),
    Case(
        "Gaussian mixture, 10^5 x 8, K = 16, diagonal",
        gaussian(10**5, 8, 16, ("diagonal", "diag"), 1.0),
        (1, 4),
        {"scikit-learn": 3.0},
    ),
    Case(
        "Gaussian mixture, 20,000 x 64, K = 10, full",
        gaussian(20_000, 64, 10, ("full", "full"), 0.2),
        (1, 4),
        {"scikit-learn": 1.3},
    ),
    Case("categorical HMM, 10^5 steps, 5 states", categorical_chain, (1, 4), {"hmmlearn": 4.0}),
)


def contenders(case: Case, quick: bool) -> Runs:
    """The fits of a case, silenced."""
    warnings.simplefilter("ignore")
    return case.make(quick)
