"""The orders between bounds that are theorems; nothing else is ever asserted.

Values are compared relative to log p(x), as signed gaps, so that nothing is lost at tight bounds; the slack is the sum of the errors.
Orders between families that are not listed here are false in general: CUBO_2 against EUBO, perturbative bounds of different
orders, Renyi or thermodynamic bounds against K-sample bounds, and schedules that are not nested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from elbo_exact._validate import FloatArray, temperatures

__all__ = ["Check", "verified"]

U = 2.0**-53
_TOTALS = {"value": "total", "error": "total_error", "gap": "total_gap", "gap_error": "total_gap_error"}


class Check(NamedTuple):
    """One inequality over all rows."""

    statement: str
    slack: float
    holds: bool


class Place(NamedTuple):
    """Where a bound lies relative to log p(x), with its error; and a parameter to sort by."""

    key: Any
    label: str
    offset: Any
    error: Any


def verified(rungs: Sequence[Any]) -> tuple[Check, ...]:
    """Every theorem that speaks of these rungs."""
    places = {id(rung): _place(rung) for rung in rungs}
    exact = next(rung for rung in rungs if rung.side == "exact")
    checks = [_side(rung, exact) for rung in rungs if rung.side in ("lower", "upper")]
    by_name: dict[str, list[Any]] = {}
    for rung in rungs:
        by_name.setdefault(rung.name, []).append(rung)
    for low, high in _orders(by_name, places):
        checks.append(_ordered(low, high))
    for statement, low, high in _bounded(by_name, places):
        checks.append(_ordered(low, high)._replace(statement=statement))
    return tuple(checks)


def _place(rung: Any) -> Place:
    sign = -1.0 if rung.side == "lower" else 1.0
    return Place(None, rung.label, sign * np.ravel(rung.gap), np.ravel(rung.gap_error))


def _side(rung: Any, exact: Any) -> Check:
    """On its side of log p(x) without any tolerance, by its gap and by its value, which agree; and so do the totals."""
    sign = -1.0 if rung.side == "lower" else 1.0
    value, error, gap, gap_error = (_with_total(rung, name) for name in _TOTALS)
    evidence, evidence_error = (_with_total(exact, name) for name in ("value", "error"))
    holds = _sided(sign, value, error, gap, gap_error, evidence, evidence_error)
    gaps = np.ravel(rung.gap)
    slack = float(gaps[~np.isnan(gaps)].min(initial=np.inf))
    return Check(f"{rung.label} {'<=' if sign < 0.0 else '>='} log p(x)", slack, holds)


def _with_total(rung: Any, name: str) -> FloatArray:
    return np.append(np.ravel(getattr(rung, name)), getattr(rung, _TOTALS[name]))


@np.errstate(all="ignore")
def _sided(sign: float, value: Any, error: Any, gap: Any, gap_error: Any, evidence: Any, evidence_error: Any) -> bool:
    """The rows, and their totals last, whose order may be off by rounding; rows without a posterior say nothing."""
    errors = error + gap_error + evidence_error
    allowed = 1.01 * errors + 4.0 * U * (np.abs(value) + np.abs(evidence) + gap)
    room = np.where(np.arange(value.size) < value.size - 1, 0.0, np.where(errors < np.inf, allowed, 0.0))
    ordered = (gap >= 0.0) & (sign * (value - evidence) >= -room)
    ordered |= value == evidence
    difference = np.abs(evidence + sign * gap - value)
    agree = (difference <= allowed) | (evidence + sign * gap == value) | ~(errors < np.inf)
    silent = ~(evidence > -np.inf)  # no posterior, or NaN
    return bool(((ordered & agree) | silent).all())


@np.errstate(all="ignore")
def _ordered(low: Place, high: Place) -> Check:
    """low <= high in every row; rows without a posterior and values without a bound say nothing."""
    room = np.where(low.offset == high.offset, 0.0, high.offset - low.offset)
    errors = low.error + high.error
    allowed = errors + 2.0 * U * (np.abs(low.offset) + np.abs(high.offset))
    silent = np.isnan(room) | ~(errors < np.inf)  # an infinity with a bound of 0 is exact, one without a bound is unknown
    holds = bool(((room >= -np.where(allowed < np.inf, allowed, 0.0)) | silent).all())
    known = room[~np.isnan(room)]
    return Check(f"{low.label} <= {high.label}", float(known.min(initial=np.inf)), holds)


def _orders(by_name: dict[str, list[Any]], places: dict[int, Place]) -> Iterator[tuple[Place, Place]]:
    """Neighbors of every chain, the lower first."""
    chains: list[list[Place]] = []
    first, last = ([places[id(r)] for r in by_name.get(name, [])] for name in ("elbo", "eubo"))
    ends = {"lower": first, "upper": last}
    limits, sampled = ([r for r in by_name.get("renyi", []) if ("num_samples" in r.parameters) == k] for k in (False, True))
    orders = [places[id(r)]._replace(key=-r.parameters["alpha"]) for r in limits]
    orders += [places[id(r)]._replace(key=r.parameters["n"] - 1.0) for r in by_name.get("cubo", [])]
    orders += [place._replace(key=-1.0) for place in first]
    chains.append(sorted(orders, key=lambda place: place.key))
    for name, end, sign in (("iwae", first, 1), ("iwae_upper", last, -1)):
        samples = [places[id(r)]._replace(key=sign * r.parameters["num_samples"]) for r in by_name.get(name, [])]
        samples += [place._replace(key=sign) for place in end]
        chains.append(sorted(samples, key=lambda place: place.key))
    for alpha in {r.parameters["alpha"] for r in sampled}:
        chains.append(_sampled_chain(alpha, first, limits, sampled, places))
    for chain in chains:
        yield from ((a, b) for a, b in pairwise(chain))
        yield from ((b, a) for a, b in pairwise(chain) if a.key == b.key)
    for order in by_name.get("perturbative", []):
        for place in first if order.parameters["order"] == 1 else []:
            yield from ((place, places[id(order)]), (places[id(order)], place))
    for annealed in by_name.get("ais", []):
        if temperatures(annealed.parameters["betas"]).size == 2:  # one step has no kernel
            for place in ends[annealed.side]:
                yield from ((place, places[id(annealed)]), (places[id(annealed)], place))
    yield from _nested(by_name.get("tvo", []), ends, places)


def _sampled_chain(
    alpha: float, elbos: list[Place], limits: list[Any], sampled: list[Any], places: dict[int, Place]
) -> list[Place]:
    """The ELBO, Renyi bounds of more and more samples, and their limit: rising for alpha below 1, falling above."""
    sign = 1.0 if alpha < 1.0 else -1.0
    here = [places[id(r)]._replace(key=sign * r.parameters["num_samples"]) for r in sampled if r.parameters["alpha"] == alpha]
    here += [places[id(r)]._replace(key=sign * np.inf) for r in limits if r.parameters["alpha"] == alpha]
    return sorted(here + [place._replace(key=sign) for place in elbos], key=lambda place: place.key)


def _nested(sums: list[Any], ends: dict[str, list[Place]], places: dict[int, Place]) -> Iterator[tuple[Place, Place]]:
    """Thermodynamic sums lie inside ELBO and EUBO, which they are on {0, 1}, and inside those of any coarser schedule."""
    known = [(set(temperatures(r.parameters["betas"]).tolist()), r.parameters["side"], places[id(r)]) for r in sums]
    known += [({0.0, 1.0}, side, place) for side, found in ends.items() for place in found]
    for coarse, side, outer in known:
        for fine, other, inner in known:
            if outer is not inner and side == other and coarse <= fine:
                yield (outer, inner) if side == "lower" else (inner, outer)


def _bounded(by_name: dict[str, list[Any]], places: dict[int, Place]) -> Iterator[tuple[str, Place, Place]]:
    """EUBO gap <= n/(n - 1) CUBO_n gap, and U_K gap <= log(1 + chi2/K) with chi2 = expm1(2 CUBO_2 gap)."""
    for chi in by_name.get("cubo", []):
        n, place = chi.parameters["n"], places[id(chi)]
        for top in by_name.get("eubo", []):
            factor = n / (n - 1.0)
            with np.errstate(all="ignore"):
                error = 1.01 * factor * place.error + 4.0 * U * place.offset
                larger = place._replace(offset=factor * place.offset, error=error)
            yield f"gap of {top.label} <= {factor:g} times that of {chi.label}", places[id(top)], larger
        for top in by_name.get("iwae_upper", []) if n == 2.0 else []:
            k = top.parameters["num_samples"]
            with np.errstate(all="ignore"):
                chi2 = np.expm1(2.0 * place.offset)
                value = np.where(chi2 < np.inf, np.log1p(chi2 / k), np.inf)
                error = 2.02 * place.error + 16.0 * U * (value + 1.0) * np.minimum(1.0, value)
                larger = place._replace(offset=value, error=error)
            yield f"gap of {top.label} <= log(1 + chi2/{k})", places[id(top)], larger
