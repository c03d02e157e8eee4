"""scikit-learn estimators over `models.Mixture`, `models.HiddenMarkov` and `fit_em`; needs the extra ``sklearn``."""

from elbo_exact.sklearn.discrete import BernoulliMixture, CategoricalMixture, PoissonMixture
from elbo_exact.sklearn.gaussian import GaussianMixture
from elbo_exact.sklearn.hidden_markov import CategoricalHMM

__all__ = ["BernoulliMixture", "CategoricalHMM", "CategoricalMixture", "GaussianMixture", "PoissonMixture"]
