"""Fitting: one loop, expectation-maximization, and results that say how they ended."""

from elbo_exact.fit import objectives
from elbo_exact.fit.bound import Gradients, gradients
from elbo_exact.fit.checkpoint import Checkpoint
from elbo_exact.fit.em import fit_em
from elbo_exact.fit.information import Information, information
from elbo_exact.fit.online import fit_em_online
from elbo_exact.fit.result import Criteria, FitResult, Optimum, Outcome, Restart
from elbo_exact.fit.vi import fit_vi

__all__ = [
    "Checkpoint",
    "Criteria",
    "FitResult",
    "Gradients",
    "Information",
    "Optimum",
    "Outcome",
    "Restart",
    "fit_em",
    "fit_em_online",
    "fit_vi",
    "gradients",
    "information",
    "objectives",
]
