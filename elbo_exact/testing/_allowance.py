"""How far a correct implementation may be off in the caller's precision: derived, to first order, for any order of summation.

Model: every operation has relative error u (2**-53 or 2**-24), exp and log have 4 ulp = 8u, the tables were first rounded to the caller's
dtype, and S terms are summed in any order (Higham 2002, section 4.2: at most (S - 1) u times the sum of sizes). With T = S + 16 (two
casts, difference, product, exp, log, a division; the rest is room for a shift by the maximum) a term of size t contributes T u t.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, broadcast_rows, log_table, same_states
from elbo_exact.evidence import posterior

__all__ = [
    "UNITS",
    "Pair",
    "elbo_allowance",
    "evidence_allowance",
    "gradient_allowance",
    "kl_allowance",
    "posterior_allowance",
    "precision",
]

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24}
OPERATIONS = 16.0
SECOND_ORDER = 1.01  # products of two rounding errors, as long as T u is below 1 %


def precision(values: Any, dtype: str | None = None) -> tuple[str, float]:
    """Name and unit roundoff of the dtype in which the caller computed; Python floats and integers count as float64."""
    name = dtype or str(getattr(values, "dtype", "float64")).rpartition(".")[2]
    if "float" not in name and dtype is None:
        name = "float64"
    if name not in UNITS:
        raise ValueError(
            f"actual and dtype must be {' or '.join(UNITS)}; got {name!r}, whose rounding leaves nothing to compare."
        )
    return name, UNITS[name]


class Pair:
    """Two tables over one batch, with the sums that every allowance needs."""

    def __init__(self, log_joint: npt.ArrayLike, log_q: npt.ArrayLike) -> None:
        a, b = log_table(log_joint, "log_joint"), log_table(log_q, "log_q")
        self.batch = same_states(a, "log_joint", b, "log_q")
        shape = (*self.batch, a.shape[-1])
        n_rows = int(np.prod(self.batch, dtype=np.int64))
        self.a = np.broadcast_to(broadcast_rows(a, self.batch), (n_rows, shape[-1])).reshape(shape)
        self.b = np.broadcast_to(broadcast_rows(b, self.batch), (n_rows, shape[-1])).reshape(shape)
        self.q = posterior(self.b)
        self.n_states = shape[-1]

    def mean_size(self, weights: FloatArray, table: FloatArray) -> FloatArray:
        """sum w |table| over the states with weight where the table is finite."""
        sizes = np.where((weights > 0.0) & np.isfinite(table), np.abs(table), 0.0)
        return np.asarray((weights * sizes).sum(-1))


def evidence_allowance(table: FloatArray, u: float) -> FloatArray:
    """Of log sum exp(a): casting a moves it by u sum p |a| <= u (|L| + log S); max + log(sum) then costs T u (|max| + log S + 1)."""
    n_states = table.shape[-1]
    top = np.abs(np.where(np.isfinite(table.max(-1)), table.max(-1), 0.0))
    return np.asarray(SECOND_ORDER * u * (n_states + OPERATIONS) * (top + np.log(n_states) + 1.0))


def elbo_allowance(pair: Pair, elbo: FloatArray, normalizer: FloatArray, u: float) -> FloatArray:
    """Of sum q (a - b), of sum q a + H(q), of L - KL, and of each after renormalizing q.

    Terms: T u sum q (|a| + |b|) for either sum; T u (|L| + log S + 1) for the evidence; a rounded b changes a weight by the factor
    1 + u |b|, so u sum q |b| (|a| + |b|); a recomputed normalizer, or none at all where sum exp(b) = W, moves all weights
    by the same factor: (|log W| + u (T + sum q |b|)) (|elbo| + 1). Flushed subnormal weights: S tiny max |a - b|.
    """
    size_a, size_b = pair.mean_size(pair.q, pair.a), pair.mean_size(pair.q, pair.b)
    a, b = (np.where(np.isfinite(table), np.abs(table), 0.0) for table in (pair.a, pair.b))
    t = pair.n_states + OPERATIONS
    value = np.where(np.isfinite(elbo), np.abs(elbo), 0.0)
    rounding = u * (t * (size_a + size_b) + (pair.q * b * (a + b)).sum(-1) + (t + size_b) * (value + 1.0))
    scale = np.abs(normalizer) * (value + 1.0)
    flushed = pair.n_states * (2.0**-126 if u > UNITS["float64"] else 2.0**-1022) * (a.max(-1) + b.max(-1))
    return np.asarray(SECOND_ORDER * (rounding + scale + flushed) + evidence_allowance(pair.a, u))


def kl_allowance(pair: Pair, elbo: FloatArray, normalizer: FloatArray, u: float) -> FloatArray:
    """Of KL(q || p): the ELBO's sum, and the normalizer of p, once in every term: twice the evidence's allowance."""
    return np.asarray(elbo_allowance(pair, elbo, normalizer, u) + evidence_allowance(pair.a, u))


def gradient_allowance(pair: Pair, elbo: FloatArray, normalizer: FloatArray, u: float) -> FloatArray:
    """Of q_z (a_z - b_z - elbo), entry by entry: q_z times (T u (|a_z| + |b_z| + |elbo|) + u |b_z| e_z + the ELBO's own allowance)."""
    a, b = (np.where(np.isfinite(table), np.abs(table), 0.0) for table in (pair.a, pair.b))
    value = np.where(np.isfinite(elbo), elbo, 0.0)
    e = a + b + np.abs(value)[..., None]
    own = np.asarray(elbo_allowance(pair, elbo, normalizer, u))[..., None]
    moved = np.abs(normalizer)[..., None] + u * (pair.n_states + OPERATIONS + b + pair.mean_size(pair.q, pair.b)[..., None])
    t = pair.n_states + OPERATIONS
    return np.asarray(SECOND_ORDER * pair.q * ((t * u + moved) * e + own))


def posterior_allowance(p: FloatArray, table: FloatArray, evidence: FloatArray, u: float) -> FloatArray:
    """Of exp(a_z - L), entry by entry: p_z times (u |a_z| + T u (1 + |a_z - L|) + the evidence's allowance), and flushed subnormals."""
    level = np.where(np.isfinite(evidence), evidence, 0.0)[..., None]
    a = np.where(np.isfinite(table), table, level)
    relative = (
        u * (np.abs(a) + (table.shape[-1] + OPERATIONS) * (1.0 + np.abs(a - level))) + evidence_allowance(table, u)[..., None]
    )
    tiny = 2.0**-126 if u > UNITS["float64"] else 2.0**-1022
    return np.asarray(np.where(np.isfinite(table), SECOND_ORDER * p * relative + tiny, 0.0))
