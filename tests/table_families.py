"""Forty families of hard pairs (log_joint, log_q): each a function of a NumPy generator that returns two rows.

The rows are logits: neither need be normalized. Families named in ``UNDERFLOW`` may have a value below 1e-290 or an exact gap
of 0, those in ``OVERFLOW`` a quantity beyond the range of doubles; everywhere else the accuracy floor applies too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pair = tuple[Array, Array]
INF = np.inf
SIZES = (1, 2, 2, 3, 3, 4, 5, 6, 8, 10, 12, 16, 20, 33, 63, 64, 65, 100, 129)

FAMILIES: dict[str, Callable[[np.random.Generator], Pair]] = {}
UNDERFLOW = frozenset(
    {
        "all_but_equal_2e-16", "ulp_apart", "ulp_apart_tiny", "posterior_rounded", "posterior_rounded_offset", "missing_mass_760",
        "one_state", "skewed_pair", "subnormal_weights", "logits_tiny", "logits_micro", "ties", "evidence_near_zero", "offset_1e15",
        "offset_-1e15", "tiny_q_huge_loss", "magnitudes", "shared_zeros", "random_300",
    }
)  # fmt: skip
OVERFLOW = frozenset({"overflow_target", "overflow_both", "magnitudes"})


def family(function: Callable[[np.random.Generator], Pair]) -> Callable[[np.random.Generator], Pair]:
    """Register under the function's name."""
    FAMILIES[function.__name__] = function
    return function


def _named(name: str, function: Callable[[np.random.Generator], Pair]) -> None:
    FAMILIES[name] = function


def size(rng: np.random.Generator) -> int:
    """Mostly small, sometimes around the lengths at which a summation tree or a memory layout changes."""
    return int(rng.choice(SIZES))


def normal(rng: np.random.Generator, scale: float) -> Array:
    return rng.normal(0.0, scale, size(rng))


def log_sum(a: Array) -> float:
    """A plain rounded log-sum-exp: what a user would subtract."""
    top = float(a.max())
    return top + float(np.log(np.exp(a - top).sum()))


def with_zeros(rng: np.random.Generator, a: Array, share: float = 0.3) -> Array:
    """-inf at random places, but not everywhere."""
    hit = rng.random(a.size) < share
    hit[rng.integers(a.size)] = False
    return np.where(hit, -INF, a)


# 1-3: random tables of three scales
def _random(scale: float) -> Callable[[np.random.Generator], Pair]:
    def make(rng: np.random.Generator) -> Pair:
        a = normal(rng, scale)
        return a, rng.normal(0.0, scale, a.size)

    return make


_named("random_3", _random(3.0))
_named("random_300", _random(300.0))


@family
def magnitudes(rng: np.random.Generator) -> Pair:
    n = size(rng)
    a, b = (rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-300.0, 300.0, n) for _ in range(2))
    return a, b


# 4-8: q near the posterior
def _tight(eps: float) -> Callable[[np.random.Generator], Pair]:
    def make(rng: np.random.Generator) -> Pair:
        a = normal(rng, 2.0)
        return a, a - log_sum(a) + eps * rng.normal(size=a.size)

    return make


for _eps in (1e-3, 1e-6, 1e-9, 1e-12):
    _named(f"tight_{_eps:g}", _tight(_eps))
_named("all_but_equal_2e-16", _tight(2e-16))


# 9-10: logits that differ by units in the last place
def _ulp_apart(scale: float) -> Callable[[np.random.Generator], Pair]:
    def make(rng: np.random.Generator) -> Pair:
        a = scale * rng.uniform(0.5, 2.0, size(rng)) * rng.choice([-1.0, 1.0])
        return a, a + rng.integers(-1, 2, a.size) * np.spacing(a)

    return make


_named("ulp_apart", _ulp_apart(1.0))
_named("ulp_apart_tiny", _ulp_apart(1e-7))


# 11-15: a large constant in the log joint
def _offset(offset: float, eps: float) -> Callable[[np.random.Generator], Pair]:
    def make(rng: np.random.Generator) -> Pair:
        a = normal(rng, 2.0)
        return a + offset, a + eps * rng.normal(size=a.size)

    return make


for _size, _eps in ((1e3, 1e-3), (1e6, 1e-6), (1e9, 1e-2), (1e15, 1.0), (-1e15, 1.0)):
    _named(f"offset_{_size:g}".replace("+", ""), _offset(_size, _eps))


# 16-18: the user's own rounding of the posterior, and logits with a large constant
@family
def posterior_rounded(rng: np.random.Generator) -> Pair:
    a = normal(rng, 5.0)
    return a, a - log_sum(a)


@family
def posterior_rounded_offset(rng: np.random.Generator) -> Pair:
    a = rng.normal(-1e5, 3.0, size(rng))
    return a, a - log_sum(a)


@family
def logits_shifted(rng: np.random.Generator) -> Pair:
    a = normal(rng, 2.0)
    return a, a + 1e-3 * rng.normal(size=a.size) + 1e6


# 19-25: zeros and near zeros
@family
def zeros_of_q(rng: np.random.Generator) -> Pair:
    a, b = _random(3.0)(rng)
    return a, with_zeros(rng, b)


@family
def zeros_of_p(rng: np.random.Generator) -> Pair:
    a, b = _random(3.0)(rng)
    return with_zeros(rng, a), b


@family
def shared_zeros(rng: np.random.Generator) -> Pair:
    a = with_zeros(rng, normal(rng, 3.0))
    return a, np.where(a > -INF, a + rng.normal(0.0, 10.0 ** rng.uniform(-9.0, 0.0), a.size), -INF)


@family
def zeros_of_both(rng: np.random.Generator) -> Pair:
    a, b = _random(3.0)(rng)
    return with_zeros(rng, a), with_zeros(rng, b)


@family
def impossible_but_tiny_q(rng: np.random.Generator) -> Pair:
    a, b = _random(3.0)(rng)
    return np.append(a, -INF), np.append(b, -1e5)


def _missing_mass(depth: float) -> Callable[[np.random.Generator], Pair]:
    def make(rng: np.random.Generator) -> Pair:
        a = normal(rng, 1.0)
        return np.append(a, depth + rng.normal()), np.append(a, -INF)

    return make


_named("missing_mass_300", _missing_mass(-300.0))
_named("missing_mass_760", _missing_mass(-760.0))


# 27-28: weights that underflow where the product need not
@family
def tiny_q_huge_loss(rng: np.random.Generator) -> Pair:
    a, depth = normal(rng, 1.0), rng.uniform(650.0, 800.0)
    return np.append(a, -(10.0 ** rng.uniform(250.0, 308.0))), np.append(a, -depth)


@family
def skewed_pair(rng: np.random.Generator) -> Pair:
    depth = rng.uniform(600.0, 744.0)
    return np.array([0.0, -depth]), np.array([0.0, -depth + rng.normal()])


# 29-31: lengths, and values that came from another precision
@family
def one_state(rng: np.random.Generator) -> Pair:
    return rng.normal(0.0, 300.0, 1), rng.normal(0.0, 300.0, 1)


@family
def float32_valued(rng: np.random.Generator) -> Pair:
    a, b = _random(3.0)(rng)
    return a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)


@family
def many_states(rng: np.random.Generator) -> Pair:
    """Lengths around one, two and three chunks of the summation tree; tight or not, with and without zeros."""
    n = int(rng.choice([300, 3000, 4096, 4097, 4160, 8193, 10_000]))
    a = rng.normal(0.0, rng.choice([1.0, 3.0, 30.0]), n) + np.linspace(0.0, rng.choice([0.0, 50.0, 900.0]), n)
    b = a + 10.0 ** rng.uniform(-12.0, 0.5) * rng.normal(size=n)
    kind = rng.integers(4)
    return (with_zeros(rng, a) if kind == 1 else a), (with_zeros(rng, b) if kind == 2 else b)


# 32-36: small numbers
@family
def subnormal_weights(rng: np.random.Generator) -> Pair:
    n = int(rng.integers(2, 9))
    a, b = (np.append(0.0, -rng.uniform(690.0, 760.0, n)) for _ in range(2))
    return (a, b) if rng.random() < 0.5 else (a, a + rng.normal(0.0, 1e-3, n + 1))


def _small_logits(low: float, high: float) -> Callable[[np.random.Generator], Pair]:
    def make(rng: np.random.Generator) -> Pair:
        n = size(rng)
        a, b = (rng.normal(size=n) * 10.0 ** rng.uniform(low, high, n) for _ in range(2))
        return a, b

    return make


_named("logits_tiny", _small_logits(-30.0, -3.0))
_named("logits_micro", _small_logits(-17.0, -15.0))


@family
def evidence_near_zero(rng: np.random.Generator) -> Pair:
    n = size(rng)
    a = np.append(0.0, -rng.uniform(30.0, 745.0, n))
    return a, rng.normal(0.0, 1.0, n + 1)


@family
def ties(rng: np.random.Generator) -> Pair:
    n = size(rng)
    a, b = (rng.integers(-2, 3, n).astype(np.float64) for _ in range(2))
    return (a, b) if rng.random() < 0.7 else (a, a + 2.0)


# 37-40: large numbers
@family
def elbo_between_giants(rng: np.random.Generator) -> Pair:
    a, b = normal(rng, 1.0), normal(rng, 1.0)
    n = min(a.size, b.size)
    return np.append(10.0 ** rng.uniform(3.0, 9.0), a[:n]), np.append(-rng.uniform(30.0, 60.0), b[:n])


@family
def one_dominant_state(rng: np.random.Generator) -> Pair:
    """Both tables have nearly all their mass in one state, not always the same one."""
    a, b = normal(rng, 1.0), normal(rng, 1.0)
    n = min(a.size, b.size)
    a, b = a[:n].copy(), b[:n].copy()
    a[rng.integers(n)] += rng.uniform(30.0, 60.0)
    b[rng.integers(n)] += rng.uniform(30.0, 60.0)
    return a, b


@family
def range_600(rng: np.random.Generator) -> Pair:
    n = size(rng)
    return rng.uniform(-600.0, 0.0, n), rng.uniform(-600.0, 0.0, n)


@family
def overflow_target(rng: np.random.Generator) -> Pair:
    a, b = normal(rng, 1.0), normal(rng, 1.0)
    n = min(a.size, b.size)
    return np.append(a[:n], rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 1.79) * 1e308), np.append(b[:n], rng.normal())


@family
def overflow_both(rng: np.random.Generator) -> Pair:
    n = int(rng.integers(1, 5))
    a, b = (rng.choice([-1.0, 0.0, 1.0], n) * rng.uniform(0.5, 1.79, n) * 1e308 for _ in range(2))
    return a, b


assert len(FAMILIES) == 40, len(FAMILIES)
