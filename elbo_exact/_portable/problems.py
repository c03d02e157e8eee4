"""What is exported: the log tables of the gallery with two q's, and small tables that break programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from elbo_exact._study.rows import approximations, rows_of
from elbo_exact._validate import FloatArray
from elbo_exact.evidence import log_evidence
from elbo_exact.gallery import Problem, load

__all__ = ["MOST_STATES", "Case", "adversarial", "gallery_cases"]

MOST_STATES = 1024  # a file stays readable; larger tables are in the problem file as the formula that makes them
RESTARTS = 20
INF = math.inf


class Case(NamedTuple):
    """One row of log p(x, z) and one of log q."""

    name: str
    log_joint: FloatArray
    log_q: FloatArray


def gallery_cases(name: str) -> Iterator[Case]:
    """Every row with its prior and with its blurred posterior as q; a latent-class problem at its largest fitted model.

    Tables that are not written out have their prior alone: their reader makes them again, and a blurred posterior only to rounding.
    """
    problem = load(name)
    rows = rows_of(problem, _model(problem))
    for label, (_, log_q) in approximations(problem.kind, rows).items():
        if label == "prior" or (label == "blurred" and rows.log_joint.shape[-1] <= MOST_STATES):
            for row, a, b in zip(rows.names, rows.log_joint, log_q, strict=True):
                yield Case(f"{row}; q: {label}", a, b)


def _model(problem: Problem) -> Any:
    from elbo_exact._study.fits import latent_class_fits  # only here is something fitted

    if problem.kind != "latent-class":
        return problem.model
    fits = latent_class_fits(problem, RESTARTS, np.random.default_rng(0), lambda calls, label: calls, None)
    return fits[-1].result.model


def adversarial() -> dict[str, tuple[str, tuple[Case, ...]]]:
    """File name to (what it is for, cases)."""
    steps = np.arange(6.0)
    even = np.zeros(6)
    return {
        "one-state": ("One state: every quantity is the log joint, every divergence 0.", (_case("alone", [-3.25], [0.0]),)),
        "zeros": (
            "Zero probabilities of p, of q, of both, and nothing in common: infinities are answers.",
            (
                _case("zero of p, charged by q", [-1.0, -INF, -2.0], [0.0, 0.0, 0.0]),
                _case("zero of q, missed mass", [-1.0, -0.5, -2.0], [0.0, -INF, 0.0]),
                _case("zeros of both in one place", [-1.0, -INF, -2.0], [0.0, -INF, 0.5]),
                _case("nothing in common", [-1.0, -INF], [-INF, 0.0]),
                _case("impossible observation", [-INF, -INF], [0.0, 0.0]),
            ),
        ),
        "ties": ("Equal states.", (_case("equal", even - 1.0, even), _case("q not equal", even, steps / 8.0))),
        "huge-offset": (
            "The same table far away: the gap must not feel it.",
            tuple(_case(f"offset {offset:g}", offset - steps, -steps * 0.75) for offset in (0.0, 1e6, -1e9, 1e15)),
        ),
        "wide-range": (
            "Hundreds of nats between states.",
            (
                _case("600 nats in p", -120.0 * steps, -steps),
                _case("600 nats in q", -steps, -120.0 * steps),
                _case("below the smallest double", -1200.0 * steps, -0.5 * steps),
            ),
        ),
        "tight": (
            "q next to the posterior: a difference of two ELBO-sized numbers has no digits left.",
            (
                Case("the same row", _case("", even, -steps / 8.0).log_q, _case("", even, -steps / 8.0).log_q),
                _case("as near as doubles are", -steps / 8.0 - 3.0, -steps / 8.0),
                *(
                    _case(f"moved by 2**-{bits}", -steps / 8.0, -steps / 8.0 + 2.0**-bits * (steps == 2.0))
                    for bits in (10, 25, 45)
                ),
            ),
        ),
        "near-determinism": (
            "Almost all mass in one state.",
            (
                _case("q sure, p not", [-1.0, -1.25, -1.5], [0.0, -80.0, -90.0]),
                _case("p sure, q not", [0.0, -80.0, -90.0], [0.0, -0.25, -0.5]),
            ),
        ),
    }


def _case(name: str, log_joint: Any, logits: Any) -> Case:
    """A case whose q is the doubles nearest to normalized logits; q is what they say, renormalized exactly."""
    a, b = np.asarray(log_joint, float), np.asarray(logits, float)
    return Case(name, a, b if len(b) == 1 else b - log_evidence(b) + 0.0)
