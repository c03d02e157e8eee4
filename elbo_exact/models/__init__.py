"""Models: parameters to log tables, weight tables back to parameters."""

from elbo_exact.models._causes import CauseMarginals
from elbo_exact.models.bayesian_network import BayesianNetwork, NetworkPosterior, NetworkStatistics
from elbo_exact.models.dawid_skene import DawidSkene, RatingCounts
from elbo_exact.models.hidden_markov import HiddenMarkov, HiddenMarkovStatistics
from elbo_exact.models.mixture import Mixture, MixtureStatistics
from elbo_exact.models.monomial import Monomial
from elbo_exact.models.noisy_or import NoisyOr, NoisyOrStatistics
from elbo_exact.models.sigmoid_belief import BeliefStatistics, SigmoidBelief

__all__ = [
    "BayesianNetwork",
    "BeliefStatistics",
    "CauseMarginals",
    "DawidSkene",
    "HiddenMarkov",
    "HiddenMarkovStatistics",
    "Mixture",
    "MixtureStatistics",
    "Monomial",
    "NetworkPosterior",
    "NetworkStatistics",
    "NoisyOr",
    "NoisyOrStatistics",
    "RatingCounts",
    "SigmoidBelief",
]
