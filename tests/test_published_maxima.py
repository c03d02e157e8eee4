"""Published maxima of classic data sets, found from fifty random starts."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from elbo_exact.families import Poisson
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.models import Mixture

# Four questions on cheating, 319 students (Dayton 1998, Latent Class Scaling Analysis).
CHEATING = [207, 46, 7, 5, 13, 4, 1, 2, 10, 3, 1, 2, 11, 4, 1, 2]
# Membership and attitude of 3398 schoolboys, asked twice (Coleman 1964; Goodman 1974, Biometrika 61:215).
COLEMAN = [458, 140, 110, 49, 171, 182, 56, 87, 184, 75, 531, 281, 85, 97, 338, 554]
# Seven pathologists on 118 slides: their answers and how often each was given (Agresti 2002, Categorical Data Analysis, table 13.1).
CARCINOMA = {
    "0000000": 34, "0000100": 2, "0100000": 6, "0100001": 1, "0100100": 4, "0100101": 5, "1000000": 2, "1010101": 1, "1100000": 2,
    "1100001": 1, "1100100": 2, "1100101": 7, "1100111": 1, "1101001": 1, "1101101": 2, "1101111": 3, "1110101": 13, "1110111": 5,
    "1111101": 10, "1111111": 16,
}  # fmt: skip
# Colds of 602 Thai children (Boehning et al. 1992, Biometrics 48:283).
COLDS = [120, 64, 69, 72, 54, 35, 36, 25, 25, 19, 18, 18, 13, 4, 3, 6, 6, 5, 1, 3, 1, 2, 0, 1, 2]


def answers(counts: list[int]) -> tuple[Any, list[int]]:
    return np.array(list(product((0, 1), repeat=4))), counts


def pathologists() -> tuple[Any, list[int]]:
    return np.array([[int(answer) for answer in slide] for slide in CARCINOMA]), list(CARCINOMA.values())


@pytest.mark.parametrize(
    ("data", "n_classes", "published"),
    [
        pytest.param(answers(CHEATING), 2, "-440.0271", id="cheating"),
        pytest.param(pathologists(), 2, "-317.2568", id="carcinoma, 2"),
        pytest.param(pathologists(), 3, "-293.7050", id="carcinoma, 3"),
    ],
)
def test_latent_classes(data: tuple[Any, list[int]], n_classes: int, published: str) -> None:
    x, counts = data
    start = Mixture.random(n_classes, [2] * x.shape[1], rng=0)
    fit = fit_em(start, x, weights=counts, restarts=50, rng=1, acceleration="squarem")
    assert f"{fit.objective:.4f}" == published and fit.outcome is Outcome.CONVERGED
    assert sum(optimum.count for optimum in fit.optima) <= 51 and fit.optima[0].count >= 10


def test_schoolboys() -> None:
    """Goodman's likelihood ratio of two classes is 249.50."""
    x, counts = answers(COLEMAN)
    fit = fit_em(Mixture.random(2, [2] * 4, rng=0), x, weights=counts, restarts=50, rng=1, acceleration="squarem")
    observed = np.array(counts, dtype=float)
    assert round(2.0 * (float((observed * np.log(observed / observed.sum())).sum()) - fit.objective), 2) == 249.50


def test_colds() -> None:
    start = Mixture(np.full(4, -np.log(4.0)), [Poisson(np.log(np.linspace(1.0, 15.0, 4))[:, None])])
    fit = fit_em(start, np.arange(25.0)[:, None], weights=COLDS, restarts=50, rng=1, acceleration="squarem")
    assert f"{fit.objective:.3f}" == "-1553.810" and [optimum.count for optimum in fit.optima] == [51]
    assert np.sort(np.exp(fit.model.components[0].log_rates.ravel())).round(4).tolist() == [0.1434, 2.8173, 8.1642, 16.1558]
