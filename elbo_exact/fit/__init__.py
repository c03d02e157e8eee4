"""Fitting: one loop, expectation-maximization, and results that say how they ended."""

from elbo_exact.fit.em import fit_em
from elbo_exact.fit.result import FitResult, Outcome, Restart

__all__ = ["FitResult", "Outcome", "Restart", "fit_em"]
