"""Compile what the assertions call, once in a process: a first call inside a test would miss Hypothesis' deadline of 200 ms."""

from __future__ import annotations

import functools

import numpy as np

from elbo_exact._audit import audit
from elbo_exact.evidence import log_evidence, log_posterior, posterior
from elbo_exact.variational import elbo_gradient

__all__ = ["warm_up"]


@functools.cache
def warm_up() -> None:
    """Call every quantity on a row and on a table."""
    row = np.log([0.25, 0.75])
    for table in (row, row[None, :]):
        audit(table, table)
        elbo_gradient(table, table)
        posterior(table)
        log_posterior(table)
        log_evidence(table)
