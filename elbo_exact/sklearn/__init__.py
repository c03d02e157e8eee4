"""scikit-learn estimators over `models.Mixture` and `fit_em`; needs the extra ``sklearn``."""

from elbo_exact.sklearn.discrete import BernoulliMixture, CategoricalMixture, PoissonMixture
from elbo_exact.sklearn.gaussian import GaussianMixture

__all__ = ["BernoulliMixture", "CategoricalMixture", "GaussianMixture", "PoissonMixture"]
