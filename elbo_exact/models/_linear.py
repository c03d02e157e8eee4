"""Mixtures of `Bernoulli` and `Categorical` columns for training steps: log joints as sums over joint values of groups of columns.

What an optimizer asks for thousands of times, without objects, checks and error bounds: those come from `Mixture` at the end of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._layers import log_softmax
from elbo_exact._validate import FloatArray
from elbo_exact.kernels.patterns import pattern_sums, pattern_totals
from elbo_exact.models._patterns import Patterns, patterns
from elbo_exact.models.mixture import Mixture

__all__ = ["LinearMixture", "linear_mixture"]

IMPOSSIBLE = -1e8  # in place of -inf, of which no gradient leads away


@dataclass(frozen=True, eq=False)
class LinearMixture:
    """The data of a mixture, ready for sums; parameters come as one flat vector in the order of `Mixture.pullback`.

    Parameters
    ----------
    coded : Patterns
        The rows.
    n_states : int
    """

    coded: Patterns
    n_states: int
    _shapes: list[tuple[int, ...]] = field(init=False)
    _ends: list[int] = field(init=False)

    def __post_init__(self) -> None:
        shapes = [(self.n_states,), *(family.log_probabilities.shape for family in self.coded.components)]
        object.__setattr__(self, "_shapes", shapes)
        object.__setattr__(self, "_ends", np.cumsum([math.prod(shape) for shape in shapes]).tolist())

    def log_joint(self, params: FloatArray, rows: Any = None) -> tuple[FloatArray, Any]:
        """log p(x_n, z = k), (N, K), and the way back: from its cotangent to the gradient in ``params``."""
        tables = [log_softmax(part) for part in self._split(params)]
        values = [np.maximum(value, IMPOSSIBLE) for value, _ in tables]
        lines = self.coded.lines(values[1:])
        codes = self.coded.codes if rows is None else self.coded.codes[rows]
        table = np.empty((len(codes), self.n_states))
        pattern_totals(codes, lines, values[0], table)

        def pullback(cotangent: FloatArray) -> FloatArray:
            sums = np.zeros_like(lines)
            pattern_sums(codes, np.ascontiguousarray(cotangent), sums)
            parts = [cotangent.sum(axis=0), *self.coded.counts(sums)]
            back = [pull(part) for (_, pull), part in zip(tables, parts, strict=True)]
            return np.where(params > -np.inf, np.concatenate([part.ravel() for part in back]), 0.0)

        return table, pullback

    def _split(self, params: FloatArray) -> list[FloatArray]:
        starts = [0, *self._ends]
        return [params[start:end].reshape(shape) for start, end, shape in zip(starts, self._ends, self._shapes, strict=False)]


def linear_mixture(model: Any, x: npt.NDArray[Any], batch_size: int | None = None) -> LinearMixture | None:
    """The form of a model on checked rows, for batches of this size; None where it has none."""
    if not isinstance(model, Mixture):
        return None
    coded = patterns(model.components, np.asarray(x), batch_size)
    return None if coded is None else LinearMixture(coded, model.n_components)
