"""Answers to 30 digits: the definitions as balls (python-flint), until both ends of each ball print the same digits."""

from __future__ import annotations

import decimal
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from elbo_exact._certify import arb_library, definitions, proportional
from elbo_exact._validate import FloatArray

__all__ = ["DIGITS", "answers"]

DIGITS = 30
FIRST_BITS, LAST_BITS = 256, 2**14  # what is then still not told apart from 0, below 2**-15900, is written as 0
NUM_SAMPLES = (1, 2, 3, 4, 8)
MOST_TERMS = 3000  # multisets of a K-sample bound, states of a posterior
QUANTITIES = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy")


def answers(log_joint: FloatArray, log_q: FloatArray) -> dict[str, Any]:
    """Every quantity of one row as text: 30 correctly rounded digits, "inf", "-inf", or None where it is not defined.

    ``log_q`` is renormalized exactly. ``gradient`` is that of the ELBO in the logits of q. ``lower`` and ``upper`` are the expected
    bounds of K samples, sums over all multisets of states; only those K are there that leave at most 3000 of them. Answers of one number
    for each state are left out, None, with more than 3000 states.
    """
    flint = arb_library('the export needs python-flint; install it with: pip install "elbo_exact[certify]".')
    possible = bool((log_joint > -np.inf).any())
    charged = bool(((log_joint == -np.inf) & (log_q > -np.inf)).any())
    support = int((log_q > -np.inf).sum())
    samples = [k for k in NUM_SAMPLES if math.comb(support + k - 1, k) <= MOST_TERMS]
    found: dict[str, Any] = dict(zip(QUANTITIES, _texts(flint, partial(_quantities, flint, log_joint, log_q)), strict=True))
    listed = possible and len(log_joint) <= MOST_TERMS
    found["posterior"] = _texts(flint, partial(_posterior, flint, log_joint)) if listed else None
    found["gradient"] = _texts(flint, partial(_gradient, flint, log_joint, log_q)) if listed and not charged else None
    bounds = [_texts(flint, partial(_k_sample, flint, log_joint, log_q, k)) if possible else ["-inf", None] for k in samples]
    return found | {"num_samples": samples, "lower": [pair[0] for pair in bounds], "upper": [pair[1] for pair in bounds]}


def _texts(flint: Any, evaluate: Callable[[], Sequence[Any]]) -> list[str | None]:
    """The texts that all points of the balls are rounded to; precision doubles until there is one for each."""
    found: dict[int, str | None] = {}
    bits = FIRST_BITS
    while bits <= LAST_BITS:
        with flint.ctx.workprec(bits):
            balls = list(evaluate())
            for i, ball in enumerate(balls):
                texts = {_text(end) for end in _ends(ball)} if i not in found else set()
                if len(texts) == 1:
                    found[i] = texts.pop()
        if len(found) == len(balls):
            break
        bits *= 2
    return [found.get(i, "0") for i in range(len(balls))]


def _ends(ball: Any) -> tuple[Any, ...]:
    if isinstance(ball, float):
        return (ball,)
    return (ball.lower(), ball.upper()) if ball.is_finite() else ()


def _text(point: Any) -> str | None:
    if isinstance(point, float):
        return None if math.isnan(point) else f"{point:.0f}"
    mantissa, exponent = (int(part) for part in point.man_exp())
    if mantissa == 0:
        return "0"
    top, bottom = (mantissa << exponent, 1) if exponent >= 0 else (mantissa, 1 << -exponent)
    context = decimal.Context(prec=DIGITS, Emin=-(10**9), Emax=10**9)
    return format(context.divide(decimal.Decimal(top), decimal.Decimal(bottom)), "e")


def _quantities(flint: Any, a: FloatArray, b: FloatArray) -> list[Any]:
    found = definitions(flint, a, b)
    return [found[name] for name in QUANTITIES]


def _masses(flint: Any, row: FloatArray) -> list[Any]:
    """exp of a row, normalized; zeros and ones are exact."""
    alone = int((row > -np.inf).sum()) == 1
    top = flint.arb(float(row.max()))
    sizes = [(flint.arb(float(x)) - top).exp() if x > -np.inf else flint.arb(0) for x in row]
    total = flint.arb(1) if alone else sum(sizes, flint.arb(0))
    return [size / total for size in sizes]


def _posterior(flint: Any, a: FloatArray) -> list[Any]:
    return _masses(flint, a)


def _gradient(flint: Any, a: FloatArray, b: FloatArray) -> list[Any]:
    """q(z) (log p(x, z) - log q(z) - ELBO), from differences of the tables."""
    if proportional(a, b) or int((b > -np.inf).sum()) == 1:
        return [0.0] * len(b)
    q = _masses(flint, b)
    ratio = [flint.arb(float(x)) - flint.arb(float(y)) if y > -np.inf else flint.arb(0) for x, y in zip(a, b, strict=True)]
    mean = sum((weight * r for weight, r in zip(q, ratio, strict=True)), flint.arb(0))
    return [weight * (r - mean) for weight, r in zip(q, ratio, strict=True)]


def _k_sample(flint: Any, a: FloatArray, b: FloatArray, k: int) -> list[Any]:
    """Expected lower and upper bound of k samples: every multiset with its multinomial probability."""
    log_evidence = definitions(flint, a, b)["log_evidence"]
    if proportional(a, b):
        return [log_evidence, log_evidence]
    p, q = _masses(flint, a), _masses(flint, b)
    states = np.flatnonzero(b > -np.inf).tolist()
    lower, upper, never = flint.arb(0), flint.arb(0), False
    for drawn in itertools.combinations_with_replacement(states, k):
        counts = Counter(drawn)
        mean = sum((n * p[z] / q[z] for z, n in counts.items()), flint.arb(0)) / k
        if mean.is_zero():
            never = True
            continue
        ways = math.factorial(k) // math.prod(math.factorial(n) for n in counts.values())
        probability = math.prod((q[z] ** n for z, n in counts.items()), start=flint.arb(ways))
        lower += probability * mean.log()
        upper += probability * mean * mean.log()
    missed = bool(((b == -np.inf) & (a > -np.inf)).any())
    return [-math.inf if never else log_evidence + lower, math.inf if missed else log_evidence + upper]
