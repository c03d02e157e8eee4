"""The definitions in ball arithmetic (Arb through python-flint; Johansson 2017, IEEE Trans. Computers 66:1281).

The doubles are loaded exactly and the textbook formula is evaluated as it stands, at 420 bits, or more where a verdict
needs them: the answer is a ball that provably contains the exact value. Infinities are plain floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from flint import arb, ctx

PRECISIONS = (420, 1400, 5200)  # the last resolves weights and gaps down to exp(-1500) and the square of the smallest subnormal
COMPARISON_BITS = 1200
INF = math.inf


def exact_sum(balls: Any) -> arb:
    """Sum of balls."""
    result = arb(0)
    for ball in balls:
        result += ball
    return result


def _softplus(x: arb) -> arb:
    """log(1 + exp(x)); the larger part is taken out, so that exp cannot overflow."""
    return x + (-x).exp().log1p() if x.mid() > 0 else x.exp().log1p()


def verdict(value: float, bound: float, ball: Any) -> str:
    """Whether |value - exact| <= bound: "inside" and "outside" are proofs, "undecided" means that the ball is too wide."""
    value, bound = float(value), float(bound)
    if isinstance(ball, float):  # an infinity or NaN must be met exactly
        return "inside" if (value == ball or (value != value and ball != ball)) else "outside"
    if bound == INF:
        return "inside"
    if not (math.isfinite(value) and bound >= 0.0):
        return "outside"
    bits, ctx.prec = ctx.prec, max(COMPARISON_BITS, ctx.prec)
    try:
        distance = abs(arb(value) - ball)
        if distance.upper() <= arb(bound):
            return "inside"
        return "outside" if distance.lower() > arb(bound) else "undecided"
    finally:
        ctx.prec = bits


def correctly_rounded(ball: arb) -> float | None:
    """The double that the whole ball rounds to, or None."""
    if isinstance(ball, float):
        return ball
    low, high = float(ball.lower()), float(ball.upper())
    return low if low == high else None


class Row:
    """The quantities of one pair of rows at one precision."""

    def __init__(self, a: Sequence[float], b: Sequence[float], bits: int) -> None:
        self.a, self.b, self.bits = [float(x) for x in a], [float(x) for x in b], bits
        self.charged = any(x == -INF and y > -INF for x, y in zip(self.a, self.b, strict=True))
        self.missed = any(y == -INF and x > -INF for x, y in zip(self.a, self.b, strict=True))
        self.possible = max(self.a) > -INF

    def get(self, name: str, *arguments: float) -> Any:
        """A quantity by its public name."""
        bits, ctx.prec = ctx.prec, self.bits
        try:
            return getattr(self, name)(*arguments)
        finally:
            ctx.prec = bits

    @staticmethod
    def _normalized(row: list[float]) -> tuple[list[arb | None], arb]:
        """(probabilities, log of the sum of exp); None is an impossible state."""
        top = arb(max(row))
        weights = [(arb(x) - top).exp() if x > -INF else None for x in row]
        norm = exact_sum(w for w in weights if w is not None)
        return [None if w is None else w / norm for w in weights], top + norm.log()

    @cached_property
    def _target(self) -> tuple[list[arb | None], arb]:
        return self._normalized(self.a)

    @cached_property
    def _q(self) -> tuple[list[arb | None], arb]:
        return self._normalized(self.b)

    def _pairs(self) -> list[tuple[arb, arb]]:
        zero = arb(0)
        return [(zero if p is None else p, zero if q is None else q) for p, q in zip(self._target[0], self._q[0], strict=True)]

    def _mean_difference(self, weights: list[arb | None]) -> arb:
        """Sum of weight (a - b)."""
        return exact_sum(w * (arb(x) - arb(y)) for w, x, y in zip(weights, self.a, self.b, strict=True) if w is not None)

    def log_evidence(self) -> Any:
        return self._target[1] if self.possible else -INF

    def log_q_normalizer(self) -> Any:
        return self._q[1]

    def elbo(self) -> Any:
        if self.charged or not self.possible:
            return -INF
        return self._mean_difference(self._q[0]) + self._q[1]

    def eubo(self) -> Any:
        if not self.possible:
            return math.nan
        return INF if self.missed else self._mean_difference(self._target[0]) + self._q[1]

    def gap(self) -> Any:
        """sum q log(q/p), with log q and log p from the tables, not from rounded probabilities."""
        if not self.possible:
            return math.nan
        return INF if self.charged else self._target[1] - self._q[1] - self._mean_difference(self._q[0])

    reverse_kl = gap

    def forward_kl(self) -> Any:
        if not self.possible:
            return math.nan
        return INF if self.missed else self._mean_difference(self._target[0]) - self._target[1] + self._q[1]

    def jeffreys(self) -> Any:
        gap, forward = self.gap(), self.forward_kl()
        if isinstance(gap, float) or isinstance(forward, float):
            return float(gap if isinstance(gap, float) else 0.0) + float(forward if isinstance(forward, float) else 0.0)
        return gap + forward

    def entropy(self) -> arb:
        return self._q[1] - exact_sum(q * arb(y) for q, y in zip(self._q[0], self.b, strict=True) if q is not None)

    def cross_entropy(self) -> Any:
        if self.charged:
            return INF
        return -exact_sum(q * arb(x) for q, x in zip(self._q[0], self.a, strict=True) if q is not None)

    def chi2_divergence(self) -> Any:
        if not self.possible or self.missed:
            return INF if self.possible else math.nan
        return exact_sum((p - q) * (p - q) / q for (p, q), y in zip(self._pairs(), self.b, strict=True) if y > -INF)

    def total_variation(self) -> Any:
        return exact_sum(abs(p - q) for p, q in self._pairs()) / 2 if self.possible else math.nan

    def hellinger(self) -> Any:
        if not self.possible:
            return math.nan
        square = exact_sum((r := p.sqrt() - q.sqrt()) * r for p, q in self._pairs()) / 2
        return square.nonnegative_part().sqrt()

    def jensen_shannon(self) -> Any:
        """(KL(p||m) + KL(q||m))/2, with log ratios taken as exp of differences of logs where both are possible."""
        if not self.possible:
            return math.nan
        result, shift = arb(0), self._target[1] - self._q[1]
        for x, y, (p, q) in zip(self.a, self.b, self._pairs(), strict=True):
            if x > -INF and y > -INF:
                log_ratio = arb(x) - arb(y) - shift  # log p/q
                result += p * (arb(2).log() - _softplus(-log_ratio)) + q * (arb(2).log() - _softplus(log_ratio))
            else:
                result += (p + q) * arb(2).log()
        return result / 2

    def renyi_divergence(self, alpha: float) -> Any:
        """D_alpha(q || p); its limits at 0, 1 and +inf; skew symmetry makes negative orders alpha/(1-alpha) D_(1-alpha)(p || q)."""
        if not self.possible:
            return math.nan
        if alpha == 1.0:
            return self.gap()
        common = [
            (arb(x) - self._target[1], arb(y) - self._q[1]) for x, y in zip(self.a, self.b, strict=True) if min(x, y) > -INF
        ]
        if (alpha > 1.0 and self.charged) or (alpha >= 0.0 and not common):
            return INF
        if alpha < 0.0 and self.missed:
            return -INF
        if alpha == INF:
            largest = common[0][1] - common[0][0]
            for log_p, log_q in common[1:]:
                largest = largest.max(log_q - log_p)
            return largest
        if alpha == 0.0:
            return -exact_sum(log_p.exp() for log_p, _ in common).log() if self.missed else arb(0)
        order = arb(alpha)
        return exact_sum((order * log_q + (1 - order) * log_p).exp() for log_p, log_q in common).log() / (order - 1)

    def elbo_gradient(self) -> list[Any]:
        """q_z (a_z - b_z - sum q (a - b)) for each state; NaN where the ELBO is -inf."""
        if self.charged or not self.possible:
            return [math.nan] * len(self.a)
        mean = self._mean_difference(self._q[0])
        pairs = zip(self._q[0], self.a, self.b, strict=True)
        return [arb(0) if q is None else q * (arb(x) - arb(y) - mean) for q, x, y in pairs]


class Reference:
    """A pair of rows whose quantities are evaluated with as many bits as a verdict needs."""

    def __init__(self, a: Sequence[float], b: Sequence[float]) -> None:
        self._a, self._b, self.n_states = a, b, len(a)
        self._rows: dict[int, Row] = {}
        self._balls: dict[tuple[Any, ...], Any] = {}

    def ball(self, name: str, *arguments: float, bits: int = PRECISIONS[0]) -> Any:
        """A quantity at the given precision."""
        key = (name, *arguments, bits)
        if key not in self._balls:
            row = self._rows.setdefault(bits, Row(self._a, self._b, bits))
            self._balls[key] = row.get(name, *arguments)
        return self._balls[key]

    def verdict(self, name: str, value: float, bound: float, *arguments: float) -> str:
        """Compare, with more bits until it is decided."""
        result = "undecided"
        for bits in PRECISIONS:
            result = verdict(value, bound, self.ball(name, *arguments, bits=bits))
            if result != "undecided":
                break
        return result

    def sharp(self, name: str, *arguments: float) -> Any:
        """A ball with at least 100 correct bits, or the best there is."""
        ball: Any = None
        for bits in PRECISIONS:
            ball = self.ball(name, *arguments, bits=bits)
            if isinstance(ball, float) or ball.rel_accuracy_bits() > 100:
                break
        return ball

    def ulps(self, name: str, value: float, *arguments: float) -> float:
        """|value - exact| in units in the last place of the exact result."""
        ball = self.sharp(name, *arguments)
        unit = math.ulp(float(ball.mid()))
        bits, ctx.prec = ctx.prec, COMPARISON_BITS
        try:
            return float(abs(arb(value) - ball).upper() / arb(unit))
        finally:
            ctx.prec = bits
