"""One sentence that says what is tight and what is loose, from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elbo_exact._study.result import Approximation
from elbo_exact._validate import FloatArray

__all__ = ["sentence"]

TITLES = {"prior": "the prior", "blurred": "the blurred posterior", "amortized": "the network", "exact": "the exact posterior"}


def sentence(parts: Sequence[Approximation], counts: FloatArray, rows: Sequence[str]) -> str:
    """What each q lacks in total, tight ones first, and how log p(x) = ELBO + KL came out."""
    tight = [part for part in parts if part.is_tight]
    loose = sorted((part for part in parts if not part.is_tight), key=lambda part: float(part.total.gap))
    clauses = [_tight(tight)] if tight else []
    clauses += [_loose(part, counts, rows) for part in loose]
    return f"{'; '.join(clauses)}; {_residuals(parts)}."


def _tight(parts: Sequence[Approximation]) -> str:
    names = " and ".join(TITLES[part.name] for part in parts)
    worst = max(float(part.total.gap + part.total.error.gap) for part in parts)
    resolution = max(float(part.total.error.log_evidence) for part in parts)
    amount = "nothing at all" if worst == 0.0 else f"at most {worst:.1e} nats in total"
    verb = "is tight: its ELBO lacks" if len(parts) == 1 else "are tight: their ELBO lacks"
    return f"{names[0].upper()}{names[1:]} {verb} {amount}, which log p(x), known to {resolution:.0e}, cannot show"


def _loose(part: Approximation, counts: FloatArray, rows: Sequence[str]) -> str:
    title, total = TITLES[part.name], part.total
    if total.gap == np.inf:
        return f"{title} charges an impossible state, so its ELBO is -inf"
    shares = counts * part.audit.gap
    place = f", most of it in {rows[int(np.argmax(shares))]!r}" if shares.max() > 0.5 * total.gap and len(rows) > 1 else ""
    return f"{title} is loose by {total.gap:.6g} nats below and {total.forward_kl:.6g} above{place}"


def _residuals(parts: Sequence[Approximation]) -> str:
    ratios = [np.abs(part.audit.residual) - part.audit.residual_bound for part in parts]
    broken = sum(int((ratio > 0.0).sum()) for ratio in ratios)
    largest = max(float(np.max(np.abs(part.audit.residual))) for part in parts)
    if broken:
        return f"log p(x) = ELBO + KL fails beyond its bound in {broken} rows"
    return f"log p(x) = ELBO + KL holds within its rounding bound in every row (largest residual {largest:.1e})"
