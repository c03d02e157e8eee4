"""Log evidence of the rows of a table by the kernel for their length, for quantities and models alike."""

from __future__ import annotations

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.kernels.reduce import UNDECIDED, log_evidence_rows
from elbo_exact.kernels.short import short_log_evidence_rows
from elbo_exact.kernels.tiles import SHORT_EVIDENCE

__all__ = ["evidence_of_rows"]


@np.errstate(all="ignore")
def evidence_of_rows(rows: FloatArray) -> FloatArray:
    """Log evidence, error bound and status of every row of a C-contiguous table, (n, 3)."""
    out = np.empty((len(rows), 3))
    if rows.shape[1] > SHORT_EVIDENCE:
        log_evidence_rows(rows, 0, len(rows), out)
        return out
    short_log_evidence_rows(rows, 0, len(rows), out)
    rest = np.flatnonzero(out[:, 2] == UNDECIDED)
    if rest.size:
        again = np.empty((rest.size, 3))
        log_evidence_rows(rows[rest], 0, rest.size, again)
        out[rest] = again
    return out
