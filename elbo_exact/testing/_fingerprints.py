"""Why a number is wrong: closed-form explanations, each computed, and the one named that closes the difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._audit import Audit, audit
from elbo_exact._validate import FloatArray
from elbo_exact.testing._allowance import UNITS, Pair, elbo_allowance, kl_allowance

__all__ = ["Fingerprint", "explanations", "fingerprint"]

EPSILONS = (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-16, 1e-20, 1e-30, 2.0**-23, 2.0**-52, 2.0**-126, 1e-300)


@dataclass(frozen=True)
class Fingerprint:
    """An explanation that closes the difference in every row.

    Parameters
    ----------
    name : str
        A short identifier, as in "missing entropy".
    words : str
        One sentence: what the code computes instead, and where to look.
    value : ndarray
        What such code returns, shape (...).
    """

    name: str
    words: str
    value: FloatArray

    def __str__(self) -> str:
        return f"{self.name}: {self.words}"


@dataclass(frozen=True)
class _Facts:
    """A pair of tables with everything that candidates are made of."""

    a: FloatArray
    b: FloatArray
    q: FloatArray
    p: FloatArray
    exact: Audit
    quantity: str

    @property
    def value(self) -> FloatArray:
        return np.asarray(
            {"elbo": self.exact.elbo, "reverse_kl": self.exact.gap, "log_evidence": self.exact.log_evidence}[self.quantity]
        )

    def mean(self, weights: FloatArray, table: FloatArray) -> FloatArray:
        """sum w * table over the states that have weight."""
        return np.asarray(np.where(weights > 0.0, weights * np.where(weights > 0.0, table, 0.0), 0.0).sum(-1))


def fingerprint(
    actual: npt.ArrayLike,
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    quantity: str = "elbo",
    log_prior: npt.ArrayLike | None = None,
    scales: Mapping[str, float] | None = None,
) -> Fingerprint | None:
    """The first known bug that explains all wrong numbers, or None.

    Parameters
    ----------
    actual : array_like, shape (...)
        What the code under test returned for every row.
    log_joint, log_q : array_like, shape (..., S)
        The tables that it was given. log_q may be logits: then one candidate is that they were not normalized.
    quantity : {"elbo", "reverse_kl", "log_evidence"}
        What it should have been.
    log_prior : array_like, shape (..., S), optional
        log p(z), for "missing prior" and "factors outside" a plate of ``scales``.
    scales : mapping of str to float, optional
        Sizes that may have become factors: {"N": 1000, "plate": 10, "K": 5}.

    Returns
    -------
    Fingerprint or None

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support.

    Notes
    -----
    A candidate must reproduce every row within the rounding that float64 code of this conditioning may commit, and must differ from the
    right answer in one row at least. Simple explanations come first. O(S) per candidate, about 130 of them.

    Examples
    --------
    >>> import numpy as np
    >>> log_joint, log_q = np.log([0.3, 0.1]), np.log([0.5, 0.5])
    >>> print(fingerprint(np.sum(0.5 * log_joint), log_joint, log_q))
    missing entropy: E_q[log p(x, z)] alone; subtract E_q[log q]
    """
    found = explanations(actual, log_joint, log_q, quantity=quantity, log_prior=log_prior, scales=scales)
    return found[0] if found else None


def explanations(
    actual: npt.ArrayLike,
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    quantity: str = "elbo",
    log_prior: npt.ArrayLike | None = None,
    scales: Mapping[str, float] | None = None,
) -> list[Fingerprint]:
    """All that `fingerprint` knows to explain the numbers, the most plausible first: in a small table bugs coincide."""
    pair = Pair(log_joint, log_q)
    exact = audit(pair.a, pair.b, unnormalized=True)
    p = np.exp(pair.a - np.where(np.isfinite(exact.log_evidence), exact.log_evidence, 0.0)[..., None])
    facts = _Facts(pair.a, pair.b, pair.q, p, exact, quantity)
    got = np.broadcast_to(np.asarray(actual, np.float64), pair.batch)
    rule = kl_allowance if quantity == "reverse_kl" else elbo_allowance
    allowed = {name: rule(pair, np.asarray(exact.elbo), np.zeros(pair.batch), unit) for name, unit in UNITS.items()}
    with np.errstate(all="ignore"):
        if _agree(got, facts.value, allowed["float64"]):
            return []
        found = []
        for name, words, value in _candidates(facts, log_prior, scales or {}):
            room = allowed["float64"] * (1.0 + np.abs(value) / (1.0 + np.abs(facts.value)))  # a scaled sum has scaled rounding
            room = np.where(np.isfinite(room), room, allowed["float64"])
            if not _agree(value, facts.value, 2.0 * allowed["float64"]) and _agree(got, value, room):
                found.append(Fingerprint(name, words, np.asarray(value)))
        if not found and _agree(got, facts.value, allowed["float32"]):
            found.append(Fingerprint("float32", "the difference is what single precision rounds away; compute in float64", got))
    return found


def _agree(x: FloatArray, y: FloatArray, allowed: FloatArray) -> bool:
    """The same within ``allowed``, infinity by infinity, NaN by NaN."""
    return bool(np.all((x == y) | (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= allowed)))


def _candidates(
    facts: _Facts, log_prior: npt.ArrayLike | None, scales: Mapping[str, float]
) -> Iterator[tuple[str, str, FloatArray]]:
    """(name, sentence, value), the most plausible first."""
    value, n_states, n_rows = facts.value, facts.a.shape[-1], facts.value.size
    yield "sign", "the negative of the right number (a loss?)", -value
    yield "mean for sum", f"a mean over the {n_states} states where their sum belongs", value / n_states
    yield from _LISTS[facts.quantity](facts, log_prior, scales)
    yield "base-2 logs", "bits instead of nats; multiply by log 2", value / math.log(2.0)
    yield "base-10 logs", "decimal logarithms instead of natural ones; multiply by log 10", value / math.log(10.0)
    for limit in (np.finfo(np.float64).max, np.finfo(np.float32).max, 0.0):
        words = f"an infinite answer is replaced by a finite number, {limit:.3g} in size, as nan_to_num does"
        yield "infinity replaced", words, np.where(np.isfinite(value), value, np.copysign(limit, value))
    for name, size in scales.items():
        yield (
            f"scaled by {name}",
            f"multiplied by {name} = {size:g}: a factor inside a plate is counted once per element",
            value * size,
        )
        yield f"divided by {name}", f"divided by {name} = {size:g}: a mean where a sum belongs", value / size
    yield "scaled by S", f"multiplied by the number of states, {n_states}", value * n_states
    if n_rows > 1:
        yield (
            "sum over rows",
            f"the sum over all {n_rows} rows where each row has its own number",
            np.full(value.shape, value.sum()),
        )
        yield "mean over rows", f"the mean over all {n_rows} rows", np.full(value.shape, value.mean())
        yield "scaled by N", f"multiplied by the number of rows, {n_rows}", value * n_rows
        yield "mean for sum over rows", f"divided by the number of rows, {n_rows}", value / n_rows
    for factor in range(2, 11):
        yield f"scaled by {factor}", f"multiplied by {factor}: a repeated sum, a plate or a number of samples", value * factor
        yield f"divided by {factor}", f"divided by {factor}: a mean where a sum belongs", value / factor
    for words, constant in (("log S", math.log(n_states)), ("log(2 pi)/2", 0.5 * math.log(2.0 * math.pi)), ("1", 1.0)):
        yield "constant dropped", f"too large by {words}", value + constant
        yield "constant dropped", f"too small by {words}", value - constant


def _elbo_candidates(
    facts: _Facts, log_prior: npt.ArrayLike | None, scales: Mapping[str, float]
) -> Iterator[tuple[str, str, FloatArray]]:
    exact, log_q = facts.exact, facts.b - np.asarray(facts.exact.log_q_normalizer)[..., None]
    log_p = facts.mean(facts.q, facts.a)
    yield "missing entropy", "E_q[log p(x, z)] alone; subtract E_q[log q]", log_p
    yield "entropy subtracted", "the entropy of q enters with the wrong sign", log_p - exact.entropy
    yield "entropy twice", "the entropy of q is added twice", log_p + 2.0 * np.asarray(exact.entropy)
    yield "base-2 logs", "log q in bits, log p(x, z) in nats", log_p + exact.entropy / math.log(2.0)
    for factor in (2.0, 0.5):
        words = f"KL(q || posterior) counted {factor:g} times, as under a weight left over from annealing"
        yield f"KL scaled by {factor:g}", words, exact.log_evidence - factor * np.asarray(exact.gap)
    if log_prior is not None:
        outside = facts.mean(facts.q, np.asarray(log_prior)) + exact.entropy
        for name, size in scales.items():
            words = (
                f"log p(z) - log q(z), which stand outside {name}, are counted {size:g} times, once for each of its elements"
            )
            yield f"factors outside {name}", words, exact.elbo + (size - 1.0) * outside
        yield "missing prior", "E_q[log p(x | z)] + H(q): add log p(z)", exact.elbo - facts.mean(facts.q, np.asarray(log_prior))
        yield "prior twice", "log p(z) is counted twice", exact.elbo + facts.mean(facts.q, np.asarray(log_prior))
    yield (
        "unnormalised q",
        "weights exp(logits) that do not sum to 1; use log_softmax",
        facts.mean(np.exp(facts.b), facts.a - facts.b),
    )
    yield "unnormalised log q", "normalized weights, but logits where log q belongs", facts.mean(facts.q, facts.a - facts.b)
    yield "KL reversed", "log p(x) - KL(p || q); the ELBO is log p(x) - KL(q || p)", exact.log_evidence - exact.forward_kl
    yield "log-mean for mean-log", "log E_q[p/q], the evidence; the ELBO is E_q[log(p/q)]", exact.log_evidence
    supported = np.where(facts.q > 0.0, facts.a, -np.inf)
    yield "log-mean for mean-log", "log E_q[p/q] over the support of q", np.logaddexp.reduce(supported, axis=-1)
    yield "expectation under p", "E_p[log(p/q)], the EUBO: weights of the posterior instead of q", exact.eubo
    yield "missing evidence", "minus KL(q || posterior): add log p(x)", -np.asarray(exact.gap)
    yield "unweighted", "log(p/q) summed over the states without the weights q", (facts.a - log_q).sum(-1)
    yield "unweighted mean", "log(p/q) averaged over the states with equal weights", (facts.a - log_q).mean(-1)
    yield "entropy of p", "E_q[log p] + H(posterior)", log_p - facts.mean(facts.p, np.log(facts.p))
    yield (
        "missing states",
        "impossible states are skipped; a charged one makes the ELBO -inf",
        facts.mean(np.where(np.isfinite(facts.a), facts.q, 0.0), facts.a - log_q),
    )
    yield (
        "nan",
        "0 times log 0 is NaN here; mask the states that q does not charge",
        np.where((facts.q == 0.0).any(-1), np.nan, exact.elbo),
    )
    yield from _moved(facts, lambda p, q: _sum(q, p - q), log_q)
    yield from _clamped(facts, log_q)


def _sum(log_weights: FloatArray, table: FloatArray) -> FloatArray:
    weights = np.exp(log_weights)
    return np.asarray(np.where(weights > 0.0, weights * np.where(weights > 0.0, table, 0.0), 0.0).sum(-1))


def _moved(
    facts: _Facts, quantity: Callable[[FloatArray, FloatArray], FloatArray], log_q: FloatArray
) -> Iterator[tuple[str, str, FloatArray]]:
    a, n_states = facts.a, facts.a.shape[-1]
    yield "label permutation", "the states of q run backwards against those of p", quantity(a, log_q[..., ::-1])
    for shift in range(1, min(n_states, 8)):
        yield "label permutation", f"q is shifted by {shift} states against p", quantity(a, np.roll(log_q, shift, -1))
    if n_states > 1:
        yield "missing last state", "the loop stops one state early", quantity(a[..., :-1], log_q[..., :-1])
        yield "missing first state", "the loop starts at the second state", quantity(a[..., 1:], log_q[..., 1:])


def _clamped(facts: _Facts, log_q: FloatArray) -> Iterator[tuple[str, str, FloatArray]]:
    a, q = facts.a, facts.q
    joint = np.exp(a)
    for eps in EPSILONS:
        words = f"probabilities are clamped or shifted by {eps:.3g}; zeros must stay zero"
        tables = [
            (np.maximum(a, math.log(eps)), log_q),
            (np.log(joint + eps), np.log(q + eps)),
            (np.log(joint + eps), log_q),
            (a, np.log(q + eps)),
            (a, np.log(np.maximum(q, eps))),
            (np.log(np.maximum(joint, eps)), np.log(np.maximum(q, eps))),
        ]
        for target, own in tables:
            yield "zero probability clamped", words, facts.mean(q, target - own)
        clipped = np.maximum(q, eps)
        yield "zero probability clamped", words, facts.mean(clipped, a - np.log(clipped))


def _kl_candidates(facts: _Facts, *_: Any) -> Iterator[tuple[str, str, FloatArray]]:
    exact = facts.exact
    log_q = facts.b - np.asarray(exact.log_q_normalizer)[..., None]
    log_p = facts.a - np.asarray(exact.log_evidence)[..., None]
    yield "KL reversed", "KL(p || q) where KL(q || p) is meant", np.asarray(exact.forward_kl)
    yield "unnormalised p", "sum q log(q/p) with a p that does not sum to 1", -np.asarray(exact.elbo)
    yield "missing entropy", "the cross entropy -E_q[log p] alone; subtract H(q)", -facts.mean(facts.q, log_p)
    yield "symmetrized", "KL(q || p) + KL(p || q)", np.asarray(exact.gap + exact.forward_kl)
    yield (
        "missing states",
        "states with p = 0 and q > 0 are skipped; they make KL(q || p) infinite",
        facts.mean(np.where(np.isfinite(facts.a), facts.q, 0.0), log_q - log_p),
    )
    yield (
        "nan",
        "0 times log 0 is NaN here; mask the states that q does not charge",
        np.where((facts.q == 0.0).any(-1), np.nan, exact.gap),
    )
    yield "unweighted mean", "an average of log(q/p) with equal weights", (log_q - log_p).mean(-1)
    yield from ((n, w, -v) for n, w, v in _moved(facts, lambda p, q: _sum(q, p - q), log_q))
    for eps in EPSILONS:
        words = f"probabilities are clamped or shifted by {eps:.3g}; zeros must stay zero"
        p, q = np.exp(log_p), facts.q
        for target, own in (
            (np.maximum(p, eps), q),
            (np.maximum(p, eps), np.maximum(q, eps)),
            (p + eps, q + eps),
            (p + eps, q),
        ):
            yield "zero probability clamped", words, facts.mean(own, np.log(own) - np.log(target))
            yield "zero probability clamped", words, facts.mean(q, np.log(own) - np.log(target))


def _evidence_candidates(facts: _Facts, *_: Any) -> Iterator[tuple[str, str, FloatArray]]:
    n_states, evidence = facts.a.shape[-1], np.asarray(facts.exact.log_evidence)
    yield "mean for sum", "log of the mean over the states: log S is missing", evidence - math.log(n_states)
    yield "largest term", "the largest term alone: the rest of log-sum-exp is missing", facts.a.max(-1)
    yield "mean-log for log-mean", "a mean of logs where the log of a sum belongs", facts.a.mean(-1)
    yield (
        "no shift by the maximum",
        "exp under- or overflows; subtract the largest entry first",
        np.log(np.exp(facts.a).sum(-1)),
    )
    yield "missing log", "the evidence itself; take its log", np.exp(evidence)
    for eps in EPSILONS:
        words = f"probabilities are clamped or shifted by {eps:.3g}; zeros must stay zero"
        yield "zero probability clamped", words, np.log(np.exp(facts.a).sum(-1) + eps)
        yield "zero probability clamped", words, np.log((np.exp(facts.a) + eps).sum(-1))


_LISTS = {"elbo": _elbo_candidates, "reverse_kl": _kl_candidates, "log_evidence": _evidence_candidates}
