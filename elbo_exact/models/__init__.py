"""Models: parameters to log tables, weight tables back to parameters."""

from elbo_exact.models.dawid_skene import DawidSkene, RatingCounts
from elbo_exact.models.mixture import Mixture, MixtureStatistics
from elbo_exact.models.monomial import Monomial

__all__ = ["DawidSkene", "Mixture", "MixtureStatistics", "Monomial", "RatingCounts"]
