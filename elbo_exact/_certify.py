"""Correctly rounded values through ball arithmetic (python-flint), with proof.

Ziv's loop (1991, ACM Trans. Math. Softw. 17:410): evaluate the definitions at 128 bits, double the precision until both ends of
the ball round to the same double. Equal distributions are recognized exactly first: their gap of 0 would never end the loop.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.kernels.reduce import OK, OVERFLOW, ZERO_EVIDENCE

__all__ = ["arb_library", "certified_rows", "definitions", "proportional"]

FIRST_BITS, LAST_BITS = 128, 2**20


def certified_rows(
    a: FloatArray, b: FloatArray, status: FloatArray, values: dict[str, FloatArray], errors: dict[str, FloatArray]
) -> None:
    """Replace values and bounds of every row in place; infinities and NaN keep what the corner table says."""
    flint = arb_library('certify="arb" needs python-flint; install it with: pip install "elbo_exact[certify]"')
    for i, code in enumerate(status):
        if code in (OK, OVERFLOW, ZERO_EVIDENCE):
            rounded = _certified_row(flint, a[i if len(a) > 1 else 0], b[i if len(b) > 1 else 0])
            for name, (value, bound) in rounded.items():
                values[name][i], errors[name][i] = value, bound


def arb_library(message: str) -> Any:
    """python-flint, or an ImportError of these words."""
    try:
        import flint
    except ImportError:
        raise ImportError(message) from None
    return flint


def proportional(a: FloatArray, b: FloatArray) -> bool:
    """Whether a - b is one constant on a common support, in exact arithmetic: then p = q."""
    support = a > -np.inf
    if not (support == (b > -np.inf)).all():
        return False
    differences = {Fraction(x) - Fraction(y) for x, y in zip(a[support].tolist(), b[support].tolist(), strict=True)}
    return len(differences) == 1


def _certified_row(flint: Any, a: FloatArray, b: FloatArray) -> dict[str, tuple[float, float]]:
    """Correctly rounded quantities of one row, with their bounds."""
    pending = ["log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy", "log_q_normalizer"]
    done: dict[str, tuple[float, float]] = {}
    bits = FIRST_BITS
    while pending and bits <= LAST_BITS:
        with flint.ctx.workprec(bits):
            balls = definitions(flint, a, b)
            for name in list(pending):
                value = _rounded(balls[name])
                if value is not None:
                    done[name] = value
                    pending.remove(name)
        bits *= 2
    return done | {name: _nearest(balls[name]) for name in pending}


def _nearest(ball: Any) -> tuple[float, float]:
    """The double at the middle of a ball that straddles two roundings: a tie that only weights below 2**-2**20 could break."""
    value = float(ball.mid())
    return value, float(np.nextafter(float(abs(ball - value).upper()), np.inf))


def _rounded(ball: Any) -> tuple[float, float] | None:
    """(the double that every point of the ball rounds to, half a unit in its last place), or None; floats are exact."""
    if isinstance(ball, float):
        return ball, (np.inf if math.isnan(ball) else 0.0)
    if not ball.is_finite():
        return None
    lower, upper = float(ball.lower()), float(ball.upper())
    if lower != upper:
        return None
    bound = max(0.5 * float(np.spacing(abs(lower))), 2.0**-1074) if np.isfinite(lower) else np.inf
    return lower + 0.0, bound  # + 0.0 turns -0.0 into 0.0


def definitions(flint: Any, a: FloatArray, b: FloatArray) -> dict[str, Any]:
    """The definitions, literally, as balls; floats for what the corner table decides."""
    arb = flint.arb
    charged, missed = bool(((a == -np.inf) & (b > -np.inf)).any()), bool(((b == -np.inf) & (a > -np.inf)).any())
    q, w, log_w = _weights(arb, b)
    entropy = log_w - sum((weight * x for weight, x in q.values()), arb(0)) / w if len(q) > 1 else arb(0)
    result: dict[str, Any] = {"log_q_normalizer": log_w, "entropy": entropy if len(q) > 1 else 0.0}
    if not (a > -np.inf).any():
        return result | {"log_evidence": -np.inf, "elbo": -np.inf} | dict.fromkeys(("gap", "forward_kl", "eubo"), np.nan)
    p, total, log_a = _weights(arb, a)
    constant = log_a - log_w
    same = proportional(a, b)
    if charged:
        gap: Any = np.inf
    else:
        gap = 0.0 if same else sum((weight * (x - p[z][1]) for z, (weight, x) in q.items()), arb(0)) / w + constant
    if missed:
        forward: Any = np.inf
    else:
        forward = 0.0 if same else sum((weight * (x - q[z][1]) for z, (weight, x) in p.items()), arb(0)) / total - constant
    elbo = -np.inf if charged else (log_a if same else log_a - gap)
    eubo = np.inf if missed else (log_a if same else log_a + forward)
    return result | {"log_evidence": log_a, "gap": gap, "forward_kl": forward, "elbo": elbo, "eubo": eubo}


def _weights(arb: Any, table: FloatArray) -> tuple[dict[int, tuple[Any, Any]], Any, Any]:
    """({state: (exp(x - top), x)}, sum of the weights, log of the sum of exp(x))."""
    top = arb(float(table.max()))
    weights = {z: ((arb(float(x)) - top).exp(), arb(float(x))) for z, x in enumerate(table) if x > -np.inf}
    total = sum((weight for weight, _ in weights.values()), arb(0))
    return weights, total, top + total.log()
