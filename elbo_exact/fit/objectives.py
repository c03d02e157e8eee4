"""What a variational fit may maximize: exact numbers of two log tables, and their derivatives in both.

Every objective turns log p(x, z) and log q(z | x) into a value for each row, the derivative in log p(x, z), which is a weight table, and the
derivative in the logits of q. The model is pulled along the first, the guide along the second.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from elbo_exact._bound_results import Options, renyi_bound_results, tvo_results
from elbo_exact._engine import pair_results
from elbo_exact._validate import FloatArray, integer
from elbo_exact.evidence import posterior
from elbo_exact.importance import curve, gradient_moments, resampling_law
from elbo_exact.kernels.rows import OUT_ELBO, OUT_EVIDENCE
from elbo_exact.kernels.softmax import elbo_slopes
from elbo_exact.kernels.tiles import SHORT
from elbo_exact.variational import gradient_results

__all__ = ["Elbo", "ForwardKL", "ImportanceWeighted", "Objective", "Renyi", "ReweightedWakeSleep", "Slopes", "Thermodynamic"]

Potential = Callable[[FloatArray, Any], tuple[FloatArray, FloatArray]]


class Slopes(NamedTuple):
    """One row for each observation."""

    value: FloatArray  # (N,), nats
    error: FloatArray  # (N,), bound on its rounding
    model: FloatArray  # (N, S), derivative in log p(x, z)
    guide: FloatArray  # (N, S), derivative in the logits of q


class Objective(Protocol):
    """An exact objective.

    ``is_one_function``: whether both derivatives are those of ``value``; if not, the guide climbs a function of its own.
    ``takes_weights``: whether the M-step under the derivative in log p(x, z) cannot lower the value.
    """

    is_one_function: ClassVar[bool]

    @property
    def takes_weights(self) -> bool:
        """Whether an M-step may use these weights."""

    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Value and derivatives of every row."""

    def plain(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """The same for a training step; ``error`` need not be a bound."""

    def potential(self, log_joint: FloatArray, log_q: FloatArray) -> Potential:
        """(log_q, rows) to what the guide climbs and its derivative, while the model, and the weights at ``log_q``, stand still."""


class _OneFunction(ABC):
    """Objectives whose guide climbs the value itself."""

    is_one_function: ClassVar[bool] = True
    takes_weights = True

    @abstractmethod
    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Value and derivatives of every row."""

    def plain(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """The same."""
        return self(log_joint, log_q)

    def potential(self, log_joint: FloatArray, log_q: FloatArray) -> Potential:
        """The value and its derivative in the guide."""

        def climbed(log_q: FloatArray, rows: Any) -> tuple[FloatArray, FloatArray]:
            found = self(log_joint, log_q) if rows is None else self.plain(log_joint[rows], log_q)
            return found.value, found.guide

        return climbed


@dataclass(frozen=True)
class Elbo(_OneFunction):
    """E_q[log p(x, z) - log q(z)]: weights q.

    Examples
    --------
    >>> found = Elbo()(np.log([[0.3, 0.1]]), np.log([[0.5, 0.5]]))
    >>> found.value.round(6), found.model, found.guide.round(6)
    (array([-1.060132]), array([[0.5, 0.5]]), array([[ 0.274653, -0.274653]]))
    """

    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Value and derivatives of every row."""
        results, slope, _, _ = gradient_results(log_joint, log_q, False)
        return Slopes(results[:, OUT_ELBO].copy(), results[:, OUT_ELBO + 1].copy(), _exp(log_q), slope)

    def plain(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Short rows in one pass that bounds nothing, for batches a twentieth of the engine's time."""
        n_rows, n_states = log_q.shape
        if n_states > SHORT:
            return self(log_joint, log_q)
        value, q, slope = np.empty(n_rows), np.empty(log_q.shape), np.empty(log_q.shape)
        elbo_slopes(np.ascontiguousarray(log_joint), np.ascontiguousarray(log_q), value, q, slope)
        return Slopes(value, np.full(n_rows, np.inf), q, slope)


@dataclass(frozen=True)
class Renyi(_OneFunction):
    """log E_q[w**(1 - alpha)] / (1 - alpha) with w = p(x, z)/q(z), alpha >= 0: weights r proportional to q w**(1 - alpha).

    1 is the ELBO, 0 is log p(x) and moves no guide. Li & Turner (2016), NIPS.

    Examples
    --------
    >>> found = Renyi(0.5)(np.log([[0.3, 0.1]]), np.log([[0.5, 0.5]]))
    >>> found.value.round(6), found.guide.round(6)
    (array([-0.985627]), array([[ 0.133975, -0.133975]]))
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha < np.inf:
            raise ValueError(f"alpha must be a finite number >= 0; got {self.alpha!r}.")

    @property
    def takes_weights(self) -> bool:  # type: ignore[override] # a property where the class has a constant
        """Jensen's inequality bounds it from below for alpha <= 1 only."""
        return self.alpha <= 1.0

    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Value and derivatives; alpha/(1 - alpha) (r - q) is q times an expm1, which the limit of alpha = 1 shares.

        r itself comes from one exponential: q may be below every double where r is not.
        """
        if self.alpha == 1.0:
            return Elbo()(log_joint, log_q)
        found = renyi_bound_results(log_joint, log_q, self.alpha, Options())
        q, order = _exp(log_q), 1.0 - self.alpha
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            moved = np.where(log_q > -np.inf, order * (log_joint - log_q - found.value[:, None]), -np.inf)
            model = np.where(log_q > -np.inf, np.exp(log_q + moved), 0.0)
            change = np.where(moved > 1.0, model - q, q * np.expm1(np.minimum(moved, 1.0)))
            guide = np.where(log_q > -np.inf, self.alpha / order * change, 0.0)
        return Slopes(found.value, found.value_error, model, guide)


@dataclass(frozen=True)
class ImportanceWeighted(_OneFunction):
    """E log of the mean of K weights: weights are the law of a state resampled from K draws (Burda, Grosse & Salakhutdinov 2016, ICLR).

    The derivative in the logits of q is the mean of the K-sample score gradient, state by state: O(S**2) a row.

    Examples
    --------
    >>> found = ImportanceWeighted(10)(np.log([[0.3, 0.1]]), np.log([[0.5, 0.5]]))
    >>> found.value.round(6), found.model.round(4)
    (array([-0.929264]), array([[0.7298, 0.2702]]))
    """

    num_samples: int

    def __post_init__(self) -> None:
        integer(self.num_samples, "num_samples", 1)

    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Value and derivatives of every row."""
        found = curve(log_joint, log_q, self.num_samples)
        law = resampling_law(log_joint, log_q, self.num_samples).law
        scores = np.eye(log_q.shape[1])[None] - _exp(log_q)[:, :, None]  # d log q(s) / d logit_z, one row for each z
        slope = gradient_moments(log_joint[:, None], log_q[:, None], scores, self.num_samples, estimator="score").mean
        return Slopes(np.array(found.lower), np.array(found.error.lower), np.asarray(law), np.asarray(slope))


@dataclass(frozen=True)
class Thermodynamic(_OneFunction):
    """The left Riemann sum of E_b[log w] over b, the path q w**b normalized, at T equal steps (Masrani, Le & Wood 2019, NeurIPS).

    Examples
    --------
    >>> Thermodynamic(10)(np.log([[0.3, 0.1]]), np.log([[0.5, 0.5]])).value.round(4)
    array([-0.9301])
    """

    steps: int
    takes_weights = False

    def __post_init__(self) -> None:
        integer(self.steps, "steps", 1)

    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Value and derivatives: with pi_b and d = log w - E_b[log w], pi_b (1 + b d) in log p and pi_b ((1 - b) d - 1) in log q."""
        betas = np.linspace(0.0, 1.0, self.steps + 1)
        found = tvo_results(log_joint, log_q, betas, "lower", False, Options())
        q, model, guide = _exp(log_q), np.zeros_like(log_q), np.zeros_like(log_q)
        with np.errstate(invalid="ignore"):
            log_weight = np.where(log_q > -np.inf, log_joint - log_q, 0.0)
        for low, high in itertools.pairwise(betas):
            path = posterior(np.where(log_q > -np.inf, log_q + low * log_weight, -np.inf))
            with np.errstate(invalid="ignore"):
                mean = np.where(path > 0.0, path * log_weight, 0.0).sum(axis=1, keepdims=True)
                apart = np.where(path > 0.0, path * (log_weight - mean), 0.0)
            model += (high - low) * (path + low * apart)
            guide += (high - low) * ((1.0 - low) * apart - path)
        return Slopes(found.value, found.value_error, model, guide - q * guide.sum(axis=1, keepdims=True))


class _TwoFunctions(ABC):
    """Objectives whose guide climbs sum_z weight(z) log q(z), with weights that stand still meanwhile."""

    is_one_function: ClassVar[bool] = False
    takes_weights = True

    @abstractmethod
    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Value and derivatives of every row."""

    def plain(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """The same."""
        return self(log_joint, log_q)

    def potential(self, log_joint: FloatArray, log_q: FloatArray) -> Potential:
        """Cross entropies to the weights at ``log_q``."""
        weights = self(log_joint, log_q).model

        def climbed(log_q: FloatArray, rows: Any) -> tuple[FloatArray, FloatArray]:
            mine = weights if rows is None else weights[rows]
            with np.errstate(invalid="ignore"):
                value = np.where(mine > 0.0, mine * log_q, 0.0).sum(axis=1)
            return value, mine - _exp(log_q) * mine.sum(axis=1, keepdims=True)

        return climbed


@dataclass(frozen=True)
class ForwardKL(_TwoFunctions):
    """log p(x) for the model, -KL(posterior || q) for the guide: wake-phi, exactly.

    With all possible x as rows, counted by p(x), it is sleep-phi. Hinton, Dayan, Frey & Neal (1995), Science 268:1158.

    Examples
    --------
    >>> found = ForwardKL()(np.log([[0.3, 0.1]]), np.log([[0.5, 0.5]]))
    >>> found.value.round(6), found.model.round(4), found.guide.round(4)
    (array([-0.916291]), array([[0.75, 0.25]]), array([[ 0.25, -0.25]]))
    """

    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """Log evidence and the posterior; the guide's slope is posterior - q."""
        results, _ = pair_results(log_joint, log_q, False, False, "raise", None)
        weights = posterior(log_joint, impossible="nan")
        return Slopes(results[:, OUT_EVIDENCE].copy(), results[:, OUT_EVIDENCE + 1].copy(), weights, weights - _exp(log_q))


@dataclass(frozen=True)
class ReweightedWakeSleep(_TwoFunctions):
    """The K-sample bound for the model, and for the guide a cross entropy to the K-sample resampling law (Bornschein & Bengio 2015, ICLR).

    K = 1 moves no guide, K to infinity is `ForwardKL`.

    Examples
    --------
    >>> ReweightedWakeSleep(10)(np.log([[0.3, 0.1]]), np.log([[0.5, 0.5]])).guide.round(4)
    array([[ 0.2298, -0.2298]])
    """

    num_samples: int

    def __post_init__(self) -> None:
        integer(self.num_samples, "num_samples", 1)

    def __call__(self, log_joint: FloatArray, log_q: FloatArray) -> Slopes:
        """The K-sample bound, the law, and law - q."""
        found = curve(log_joint, log_q, self.num_samples)
        law = np.asarray(resampling_law(log_joint, log_q, self.num_samples).law)
        guide = law - _exp(log_q) * law.sum(axis=1, keepdims=True)
        return Slopes(np.array(found.lower), np.array(found.error.lower), law, guide)


def _exp(log_q: FloatArray) -> FloatArray:
    with np.errstate(under="ignore"):
        return np.exp(log_q)
