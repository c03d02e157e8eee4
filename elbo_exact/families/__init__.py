"""Families: distributions of one observed variable given a latent state, with closed-form maximum likelihood."""

from elbo_exact.families.categorical import Categorical

__all__ = ["Categorical"]
