"""A zoo of broken implementations in plain NumPy, each with the real bug that it stands for.

Every function takes (log_joint, log_q), one row each or with leading axes, and returns what a user's code with that bug returns. Run a test
suite against them (``elbo-exact check module:function --mutants tests/test_it.py``): a mutant that passes shows what the suite cannot see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray

__all__ = ["QUANTITIES", "Mutant", "by_name", "mutants"]

QUANTITIES = ("elbo", "reverse_kl", "log_evidence", "iwae", "em")


@dataclass(frozen=True)
class Mutant:
    """A broken implementation.

    Parameters
    ----------
    name : str
        Its number in the zoo and what is broken.
    quantity : str
        What it pretends to compute: one of ``QUANTITIES``.
    bug : str
        Where such a bug is met.
    fingerprint : str or None
        Name that ``fingerprint`` should find, where a closed form exists.
    function : callable
        (log_joint, log_q) to numbers; "iwae": (log_joint, log_q, num_samples, rng) to one sample of the bound; "em":
        (x, n_steps) to the trace of the log likelihood of a two-class Bernoulli mixture.
    """

    name: str
    quantity: str
    bug: str
    fingerprint: str | None
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def mutants(quantity: str | None = None) -> tuple[Mutant, ...]:
    """All mutants, or those of one quantity.

    Examples
    --------
    >>> len(mutants()) >= 20
    True
    >>> mutants("elbo")[0].name
    'negative ELBO'
    """
    return tuple(m for m in _ZOO if quantity in (None, m.quantity))


def by_name(name: str) -> Mutant:
    """The mutant of that name.

    Raises
    ------
    KeyError
        No such mutant.

    Examples
    --------
    >>> by_name("missing entropy").quantity
    'elbo'
    """
    return {m.name: m for m in _ZOO}[name]


def _times(weights: FloatArray, table: FloatArray) -> FloatArray:
    return np.asarray(np.where(weights > 0.0, weights * np.where(weights > 0.0, table, 0.0), 0.0))


def _elbo(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(_times(np.exp(b), a - b).sum(-1))


def _lse(a: npt.ArrayLike) -> FloatArray:
    return np.asarray(np.logaddexp.reduce(np.asarray(a, np.float64), axis=-1))


def _kl(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    return -_elbo(np.asarray(a) - _lse(a)[..., None], b)


def _entropy(b: npt.ArrayLike) -> FloatArray:
    return -np.asarray(_times(np.exp(b), np.asarray(b)).sum(-1))


def _clamped(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    q = np.maximum(np.exp(b), np.finfo(np.float64).eps)
    q = q / q.sum(-1, keepdims=True)
    return np.asarray((q * (np.maximum(a, math.log(np.finfo(np.float64).eps)) - np.log(q))).sum(-1))


def _shifted(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    q = np.exp(b)
    return np.asarray((q * (np.log(np.exp(a) + 1e-8) - np.log(q + 1e-8))).sum(-1))


def _in_float32(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    x, y = np.asarray(a, np.float32), np.asarray(b, np.float32)
    q = np.exp(y)
    with np.errstate(invalid="ignore"):
        terms = np.where(q > 0, q * np.where(q > 0, x - y, np.float32(0)), np.float32(0))
    return np.asarray(terms.sum(-1), np.float64)


def _rolled(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    return _elbo(a, np.roll(b, 1, -1))


def _possible_only(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    q, terms = np.exp(b), np.asarray(a) - np.where(np.isfinite(b), b, 0.0)
    return np.asarray(np.where(np.isfinite(a), q * np.where(np.isfinite(a), terms, 0.0), 0.0).sum(-1))


def _iwae(a: npt.ArrayLike, b: npt.ArrayLike, k: int, rng: Any, reduce: Callable[[FloatArray, int], Any]) -> Any:
    q = np.exp(b)
    z = rng.choice(q.size, size=k, p=q / q.sum())
    return reduce((np.asarray(a) - np.asarray(b))[z], k)


def _iwae_of(reduce: Callable[[FloatArray, int], Any]) -> Callable[..., Any]:
    return lambda a, b, k, rng: _iwae(a, b, k, rng, reduce)


def _iwae_self_normalized(a: npt.ArrayLike, b: npt.ArrayLike, k: int, rng: Any) -> Any:
    return _iwae(a, b, k, rng, lambda w, _: (np.exp(w - _lse(w)) * w).sum())


def _iwae_from_prior(a: npt.ArrayLike, b: npt.ArrayLike, k: int, rng: Any) -> Any:
    z = rng.choice(np.size(b), size=k)
    return _lse((np.asarray(a) - np.asarray(b))[z]) - math.log(k)


def _em(x: npt.ArrayLike, n_steps: int, step: Callable[..., Any]) -> FloatArray:
    """Log likelihood of a two-class Bernoulli mixture before each step."""
    x = np.asarray(x, np.float64)
    shares, rates, trace = np.array([0.8, 0.2]), np.array([[0.9] * x.shape[1], [0.1] * x.shape[1]]), []
    for _ in range(n_steps):
        log_joint = np.log(shares) + x @ np.log(rates).T + (1.0 - x) @ np.log1p(-rates).T
        trace.append(float(_lse(log_joint).sum()))
        shares, rates = step(x, np.exp(log_joint - _lse(log_joint)[:, None]), shares, rates)
        rates = np.clip(rates, 1e-9, 1.0 - 1e-9)
    return np.array(trace)


def _unnormalized_step(x: FloatArray, r: FloatArray, shares: FloatArray, rates: FloatArray) -> Any:
    return r.mean(0), (r.T @ x) / len(x)


def _swapped_step(x: FloatArray, r: FloatArray, shares: FloatArray, rates: FloatArray) -> Any:
    return r.mean(0)[::-1], (r.T @ x) / r.sum(0)[:, None]


def _wrong_axis_step(x: FloatArray, r: FloatArray, shares: FloatArray, rates: FloatArray) -> Any:
    r = r / r.sum(0)
    return r.mean(0), r.T @ x


def _em_of(step: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, n_steps: _em(x, n_steps, step)


_ZOO = (
    Mutant("negative ELBO", "elbo", "a loss returned where the bound is documented", "sign", lambda a, b: -_elbo(a, b)),
    Mutant(
        "mean over states",
        "elbo",
        "reduction='mean' of a loss module",
        "mean for sum",
        lambda a, b: _elbo(a, b) / np.shape(b)[-1],
    ),
    Mutant(
        "missing entropy",
        "elbo",
        "the expected log joint alone, as in a MAP objective",
        "missing entropy",
        lambda a, b: _elbo(a, b) - _entropy(b),
    ),
    Mutant(
        "entropy subtracted",
        "elbo",
        "log q added instead of subtracted",
        "entropy subtracted",
        lambda a, b: _elbo(a, b) - 2.0 * _entropy(b),
    ),
    Mutant(
        "reversed KL",
        "elbo",
        "kl_div(input, target) with its arguments exchanged",
        "KL reversed",
        lambda a, b: _lse(a) - _kl(b, np.asarray(a) - _lse(a)[..., None]),
    ),
    Mutant(
        "base-2 ELBO", "elbo", "bits per dimension reported as nats", "base-2 logs", lambda a, b: _elbo(a, b) / math.log(2.0)
    ),
    Mutant(
        "log-mean for mean-log",
        "elbo",
        "logsumexp over samples or states before the expectation",
        "log-mean for mean-log",
        lambda a, b: _lse(np.where(np.exp(b) > 0.0, a, -np.inf)),
    ),
    Mutant(
        "scaled by plate",
        "elbo",
        "factors outside a plate counted once per element (Trace_ELBO of pyro.contrib.funsor, pyro-ppl 1.9.2)",
        "scaled by plate",
        lambda a, b: 3.0 * _elbo(a, b),
    ),
    Mutant(
        "clamped probabilities",
        "elbo",
        "torch.distributions.Categorical clamps probabilities to 2.2e-16",
        "zero probability clamped",
        _clamped,
    ),
    Mutant("1e-8 inside logs", "elbo", "log(p + 1e-8) against log(0)", "zero probability clamped", _shifted),
    Mutant("float32 inside", "elbo", "a default dtype of 32 bits", "float32", _in_float32),
    Mutant("rolled labels", "elbo", "labels of q from another run: label switching", "label permutation", _rolled),
    Mutant(
        "uniform prior left out",
        "elbo",
        "log p(x | z) where log p(x, z) belongs",
        "constant dropped",
        lambda a, b: _elbo(a, b) + math.log(np.shape(b)[-1]),
    ),
    Mutant(
        "last state skipped",
        "elbo",
        "a loop to S - 1",
        "missing last state",
        lambda a, b: _elbo(np.asarray(a)[..., :-1], np.asarray(b)[..., :-1]),
    ),
    Mutant("impossible states skipped", "elbo", "nansum or a mask over -inf", "missing states", _possible_only),
    Mutant(
        "posterior weights",
        "elbo",
        "expectation under p: the EUBO",
        "expectation under p",
        lambda a, b: _lse(a) + _kl(b, np.asarray(a) - _lse(a)[..., None]),
    ),
    Mutant(
        "equal weights", "elbo", "terms summed without q", "unweighted", lambda a, b: (np.asarray(a) - np.asarray(b)).sum(-1)
    ),
    Mutant("evidence left out", "elbo", "-KL(q || posterior) as the bound", "missing evidence", lambda a, b: -_kl(a, b)),
    Mutant(
        "0 log 0",
        "elbo",
        "q * log q without a mask (masked logits in torch: value and gradient NaN)",
        "nan",
        lambda a, b: (np.exp(b) * (np.asarray(a) - np.asarray(b))).sum(-1),
    ),
    Mutant(
        "forward KL",
        "reverse_kl",
        "directions exchanged",
        "KL reversed",
        lambda a, b: _kl(b, np.asarray(a) - _lse(a)[..., None]),
    ),
    Mutant(
        "unnormalized p", "reverse_kl", "log p(x, z) as if it were log p(z | x)", "unnormalised p", lambda a, b: -_elbo(a, b)
    ),
    Mutant("negative KL", "reverse_kl", "log(p/q) for log(q/p)", "sign", lambda a, b: -_kl(a, b)),
    Mutant(
        "batchmean", "reverse_kl", "F.kl_div with reduction='mean'", "mean for sum", lambda a, b: _kl(a, b) / np.shape(b)[-1]
    ),
    Mutant(
        "cross entropy",
        "reverse_kl",
        "the entropy of q left out",
        "missing entropy",
        lambda a, b: _kl(a, b) + _entropy(b),
    ),
    Mutant(
        "no shift",
        "log_evidence",
        "log(sum(exp(a))) without the maximum",
        "no shift by the maximum",
        lambda a, b=None: np.log(np.exp(a).sum(-1)),
    ),
    Mutant(
        "mean of states",
        "log_evidence",
        "logmeanexp for logsumexp",
        "mean for sum",
        lambda a, b=None: _lse(a) - math.log(np.shape(a)[-1]),
    ),
    Mutant("largest term", "log_evidence", "the joint at the mode", "largest term", lambda a, b=None: np.max(a, -1)),
    Mutant("IWAE: mean of logs", "iwae", "mean before logsumexp: the ELBO", None, _iwae_of(lambda w, k: w.mean())),
    Mutant("IWAE: no log K", "iwae", "logsumexp without - log K", None, _iwae_of(lambda w, k: _lse(w))),
    Mutant("IWAE: max weight", "iwae", "the best of K samples", None, _iwae_of(lambda w, k: w.max())),
    Mutant(
        "IWAE: weights twice", "iwae", "self-normalized weights times log weights as the bound", None, _iwae_self_normalized
    ),
    Mutant("IWAE: samples not from q", "iwae", "uniform samples weighted as if from q", None, _iwae_from_prior),
    Mutant("EM: M-step not normalized", "em", "divided by N, not by the class's mass", None, _em_of(_unnormalized_step)),
    Mutant("EM: shares swapped", "em", "labels permuted between E- and M-step", None, _em_of(_swapped_step)),
    Mutant("EM: wrong axis", "em", "responsibilities normalized over observations", None, _em_of(_wrong_axis_step)),
)
