"""First-order optimizers of one flat vector, learning-rate schedules and gradient clipping.

Settings are frozen; what changes from step to step is an explicit `OptimizerState` of plain arrays and one count. Copy it, store it, and a
run goes on to the same bits. Every optimizer minimizes: pass the gradient of a loss. ``update`` works in place, because a second copy of
parameters and moments would cost as much time as the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import integer
from elbo_exact.errors import LogTableError
from elbo_exact.kernels.descent import adam_double, adam_single

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Exponential",
    "NaturalGradient",
    "Optimizer",
    "OptimizerState",
    "Schedule",
    "checked_optimizer",
    "clip",
]

Array = npt.NDArray[np.floating[Any]]


class Schedule(Protocol):
    """Factor of the learning rate at a step, counted from 0."""

    def __call__(self, step: int) -> float:
        """The factor."""


@dataclass(frozen=True)
class Constant:
    """Factor 1 at every step."""

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        return 1.0


@dataclass(frozen=True)
class Exponential:
    """Factor ``decay ** (step / every)``; with ``staircase``, only whole multiples of ``every`` count.

    Examples
    --------
    >>> Exponential(0.5, every=10)(20)
    0.25
    """

    decay: float
    every: int = 1
    staircase: bool = False

    def __post_init__(self) -> None:
        _between(self.decay, "decay", 0.0, 1.0)
        integer(self.every, "every", 1)

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        return float(self.decay ** (step // self.every if self.staircase else step / self.every))


@dataclass(frozen=True)
class Cosine:
    """Linear rise over ``warm_up`` steps, then half a cosine down to ``final`` at step ``total`` (Loshchilov & Hutter 2017, ICLR).

    Examples
    --------
    >>> [round(Cosine(total=8, warm_up=2)(step), 3) for step in (0, 1, 2, 5, 8, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    total: int
    warm_up: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        integer(self.warm_up, "warm_up", 0)
        integer(self.total, "total", self.warm_up + 1)
        _between(self.final, "final", 0.0, 1.0)

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        share = min(1.0, (step - self.warm_up) / (self.total - self.warm_up))
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(eq=False)
class OptimizerState:
    """What an optimizer remembers: steps taken, and one array like the parameters per moment."""

    count: int
    moments: tuple[Array, ...]

    def copy(self) -> OptimizerState:
        """A state that shares no memory with this one."""
        return OptimizerState(self.count, tuple(moment.copy() for moment in self.moments))


class Optimizer(Protocol):
    """Settings of a first-order method."""

    def start(self, params: Array) -> OptimizerState:
        """The state before the first step."""

    def update(self, params: Array, gradient: Array, state: OptimizerState) -> None:
        """One step, in place."""


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum: b = momentum b + g, then p = p - rate b (Polyak 1964); ``nesterov`` looks ahead.

    Examples
    --------
    >>> params = np.array([1.0]); descent = SGD(0.1, momentum=0.5); state = descent.start(params)
    >>> for _ in range(2):
    ...     descent.update(params, 2.0 * params, state)  # the loss is p squared
    >>> params.round(12).tolist()
    [0.54]
    """

    learning_rate: float = 1e-2
    momentum: float = 0.0
    nesterov: bool = False
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        _between(self.learning_rate, "learning_rate", 0.0, math.inf)
        _between(self.momentum, "momentum", 0.0, 1.0, open_end=True)

    def start(self, params: Array) -> OptimizerState:
        """The state before the first step."""
        return OptimizerState(0, (np.zeros_like(params),) if self.momentum else ())

    def update(self, params: Array, gradient: Array, state: OptimizerState) -> None:
        """One step, in place."""
        rate = self.learning_rate * self.schedule(state.count)
        if state.moments:
            (velocity,) = state.moments
            velocity *= self.momentum
            velocity += gradient
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        params -= rate * gradient
        state.count += 1


@dataclass(frozen=True)
class NaturalGradient(SGD):
    """Gradient descent in the geometry of the guide's own distributions, for `Free`, `MeanField` and `Structured` guides.

    The gradient in the logits of a categorical distribution is divided by its probabilities. At rate 1 one step of the ELBO lands on the
    posterior of a `Free` guide, and on the coordinate optima of a product of independent posteriors (Hoffman et al. 2013, JMLR 14:1303).
    """

    learning_rate: float = 1.0


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, ICLR): steps of the running mean of gradients over the root of their running square.

    Examples
    --------
    The first step has the length of the learning rate, whatever the gradient:

    >>> params = np.array([1.0, 1.0]); adam = Adam(0.1); state = adam.start(params)
    >>> adam.update(params, np.array([1e-3, 1e3]), state)
    >>> params.round(5).tolist(), state.count
    ([0.9, 0.9], 1)
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        _between(self.learning_rate, "learning_rate", 0.0, math.inf)
        _between(self.beta1, "beta1", 0.0, 1.0, open_end=True)
        _between(self.beta2, "beta2", 0.0, 1.0, open_end=True)
        _between(self.epsilon, "epsilon", 0.0, math.inf)

    def start(self, params: Array) -> OptimizerState:
        """The state before the first step."""
        return OptimizerState(0, (np.zeros_like(params), np.zeros_like(params)))

    def update(self, params: Array, gradient: Array, state: OptimizerState) -> None:
        """One step, in place."""
        rate = self.learning_rate * self.schedule(state.count)
        self._move(params, gradient, state, rate, 1.0)

    def _move(self, params: Array, gradient: Array, state: OptimizerState, rate: float, keep: float) -> None:
        state.count += 1
        corrected = rate / (1.0 - self.beta1**state.count)
        root = math.sqrt(1.0 - self.beta2**state.count)
        step: Any = adam_single if params.dtype == np.float32 else adam_double
        step(params, gradient, *state.moments, corrected, self.beta1, self.beta2, root, self.epsilon, keep)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: p also shrinks by rate * weight_decay * p (Loshchilov & Hutter 2019, ICLR)."""

    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self.weight_decay, "weight_decay", 0.0, math.inf)

    def update(self, params: Array, gradient: Array, state: OptimizerState) -> None:
        """One step, in place."""
        rate = self.learning_rate * self.schedule(state.count)
        self._move(params, gradient, state, rate, 1.0 - rate * self.weight_decay)


def checked_optimizer(optimizer: Any) -> Optimizer | None:
    """An optimizer, or None; not its name."""
    if optimizer is not None and not callable(getattr(optimizer, "update", None)):
        name = type(optimizer).__name__
        raise TypeError(f"optimizer must be one of elbo_exact.fit.optimizers, as Adam(1e-3), or None; got {name}.")
    chosen: Optimizer | None = optimizer
    return chosen


def clip(gradient: Array, max_norm: float) -> float:
    """Shrink a gradient in place to the Euclidean norm ``max_norm`` if it is longer; its norm before is returned.

    Examples
    --------
    >>> gradient = np.array([3.0, 4.0])
    >>> clip(gradient, 1.0), gradient.round(12).tolist()
    (5.0, [0.6, 0.8])
    """
    norm = float(np.linalg.norm(gradient))
    if max_norm < norm < math.inf:
        gradient *= max_norm / norm
    return norm


def _between(value: float, name: str, low: float, high: float, open_end: bool = False) -> None:
    if not (low <= value <= high and value < math.inf) or (open_end and value == high):
        limit = f">= {low:g}" if high == math.inf else f"in {low:g} <= {name} {'<' if open_end else '<='} {high:g}"
        raise LogTableError(f"{name} must be a finite number {limit}; got {value!r}.", name, value)
