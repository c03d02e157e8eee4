"""Families: distributions of one observed variable given a latent state, with closed-form maximum likelihood."""

from elbo_exact.families._gaussian_statistics import GaussianStatistics, NormalInverseWishart
from elbo_exact.families.bernoulli import Bernoulli
from elbo_exact.families.binomial import Binomial
from elbo_exact.families.categorical import Categorical
from elbo_exact.families.gaussian import Gaussian
from elbo_exact.families.multinomial import Multinomial
from elbo_exact.families.poisson import Poisson

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Gaussian",
    "GaussianStatistics",
    "Multinomial",
    "NormalInverseWishart",
    "Poisson",
]
