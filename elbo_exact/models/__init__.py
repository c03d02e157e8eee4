"""Models: parameters to log tables, weight tables back to parameters."""

from elbo_exact.models.hidden_markov import HiddenMarkov, HiddenMarkovStatistics
from elbo_exact.models.mixture import Mixture, MixtureStatistics
from elbo_exact.models.monomial import Monomial

__all__ = ["HiddenMarkov", "HiddenMarkovStatistics", "Mixture", "MixtureStatistics", "Monomial"]
