"""Models: parameters to log tables, weight tables back to parameters."""

from elbo_exact.models.bayesian_network import BayesianNetwork, NetworkPosterior, NetworkStatistics
from elbo_exact.models.hidden_markov import HiddenMarkov, HiddenMarkovStatistics
from elbo_exact.models.mixture import Mixture, MixtureStatistics
from elbo_exact.models.monomial import Monomial

__all__ = [
    "BayesianNetwork",
    "HiddenMarkov",
    "HiddenMarkovStatistics",
    "Mixture",
    "MixtureStatistics",
    "Monomial",
    "NetworkPosterior",
    "NetworkStatistics",
]
