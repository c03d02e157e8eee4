"""The result of a study: everything the report prints and the plot draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from elbo_exact._audit import Audit
from elbo_exact._ladder import Ladder
from elbo_exact._plain import plain
from elbo_exact._study.checks import Check
from elbo_exact._study.fits import ModelFit
from elbo_exact._validate import FloatArray
from elbo_exact.gallery import Problem

__all__ = ["Approximation", "Study", "bounds_hold"]


def bounds_hold(audit: Audit) -> bool:
    """Whether elbo <= log p(x) <= eubo, and log p(x) = elbo + gap within its bound, in every row that has a posterior."""
    ordered = (audit.elbo <= audit.log_evidence) & (audit.log_evidence <= audit.eubo)
    kept = ordered & (np.abs(audit.residual) <= audit.residual_bound)
    return bool(np.all(kept | (np.asarray(audit.status) == "zero_evidence")))


@dataclass(frozen=True, eq=False)
class Approximation:
    """One q and its audit.

    Parameters
    ----------
    name, meaning : str
        What q is.
    log_q : ndarray, shape (N, S)
        Its log table.
    audit : Audit
        Every quantity of every row, with error bounds.
    total : namespace
        ``audit.total(counts)``.
    """

    name: str
    meaning: str
    log_q: FloatArray
    audit: Audit
    total: SimpleNamespace

    @property
    def is_tight(self) -> bool:
        """Whether the total gap cannot be seen at the precision of log p(x): at most its error bound."""
        return bool(self.total.gap <= self.total.error.log_evidence)

    @property
    def holds(self) -> bool:
        """Whether `bounds_hold` in every row."""
        return bounds_hold(self.audit)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, floats and strings."""
        total = {**vars(self.total), "error": dict(vars(self.total.error))}
        return {"name": self.name, "meaning": self.meaning, **self.audit.to_dict(), "total": total}


@dataclass(frozen=True, eq=False)
class Study:
    """What is known about one problem of the gallery.

    Parameters
    ----------
    problem : Problem
        The problem.
    fits : tuple of ModelFit
        Maximum-likelihood fits; empty for a network, whose tables are given.
    chosen : ModelFit or None
        The fit that the rows below belong to: the smallest BIC.
    rows : tuple of str
        Name of each distinct observation: answer pattern, row, or evidence.
    counts : ndarray, shape (N,)
        How often each was seen.
    log_joint : ndarray, shape (N, S)
        log p(x, z).
    marginals : dict of ndarray, shapes (N, size)
        p(z_k | x) of each latent variable by name.
    states : dict of tuple of str
        State names of each latent variable.
    approximations : tuple of Approximation
        The prior, a blurred posterior, and the exact posterior, each with an `Audit` and its total.
    checks : tuple of Check
        Each reference number of the problem beside the value found here.
    ladder : Ladder
        Every bound on the total log p(x) that the prior as q gives, sorted.
    sentence : str
        What is tight and what is loose.
    """

    problem: Problem
    fits: tuple[ModelFit, ...]
    chosen: ModelFit | None
    rows: tuple[str, ...]
    counts: FloatArray
    log_joint: FloatArray
    marginals: Mapping[str, FloatArray]
    states: Mapping[str, tuple[str, ...]]
    approximations: tuple[Approximation, ...]
    checks: tuple[Check, ...]
    ladder: Ladder
    sentence: str

    @property
    def holds(self) -> bool:
        """Whether all checks agree, every bound holds in every row, and so do the theorems between the bounds of the ladder."""
        ordered = all(check.holds for check in self.ladder.verify())
        return ordered and all(check.agrees for check in self.checks) and all(part.holds for part in self.approximations)

    def to_dict(self) -> dict[str, Any]:
        """The study for a strict JSON parser; infinities are the strings "Infinity" and "-Infinity".

        Examples
        --------
        >>> import json, elbo_exact as ee
        >>> result = json.loads(json.dumps(ee.study("sprinkler").to_dict(), allow_nan=False))
        >>> result["approximations"][0]["elbo"]
        ['-Infinity']
        """
        value = {
            "problem": self.problem.to_dict(),
            "fits": [fit.to_dict() for fit in self.fits],
            "chosen": None if self.chosen is None else self.fits.index(self.chosen),
            "rows": self.rows,
            "counts": self.counts,
            "states": self.states,
            "marginals": self.marginals,
            "approximations": [part.to_dict() for part in self.approximations],
            "checks": [check.to_dict() for check in self.checks],
            "ladder": [{k: v for k, v in rung.items() if k != "seconds"} for rung in self.ladder.to_dict()["rungs"]],
            "holds": self.holds,
            "sentence": self.sentence,
        }
        result: dict[str, Any] = plain(value)
        return result
