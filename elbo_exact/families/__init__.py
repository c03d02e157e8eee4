"""Families: distributions of one observed variable given a latent state, with closed-form maximum likelihood."""

from elbo_exact.families.bernoulli import Bernoulli
from elbo_exact.families.categorical import Categorical
from elbo_exact.families.poisson import Poisson

__all__ = ["Bernoulli", "Categorical", "Poisson"]
