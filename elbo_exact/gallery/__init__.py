"""Named problems with data, source and certified answers, ready to be audited."""

from elbo_exact.gallery._problem import Answer, Problem, load, names, parse

__all__ = ["Answer", "Problem", "load", "names", "parse"]
