"""Mixtures of `Bernoulli` and `Categorical` columns as one matrix product: log joint = zeros and ones of the data times log probabilities.

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
from elbo_exact.families import Bernoulli, Categorical
from elbo_exact.models._fused_categorical import IMPOSSIBLE, MOST, stacked
from elbo_exact.models.mixture import Mixture

__all__ = ["LinearMixture", "linear_mixture"]


@dataclass(frozen=True, eq=False)
class LinearMixture:
    """The data of a mixture, ready for products; parameters come as one flat vector in the order of `Mixture.pullback`.

    Parameters
    ----------
    components : tuple of families
        Their shapes; parameters are not read.
    seen : ndarray, shape (N, categories * columns)
        1 where a column has a category; a missing value has none.
    """

    components: tuple[Any, ...]
    seen: FloatArray
    _shapes: list[tuple[int, ...]] = field(init=False)
    _ends: list[int] = field(init=False)

    def __post_init__(self) -> None:
        shapes = [(self.components[0].n_states,), *(family.log_probabilities.shape for family in self.components)]
        object.__setattr__(self, "_shapes", shapes)
        object.__setattr__(self, "_ends", np.cumsum([math.prod(shape) for shape in shapes]).tolist())

    def log_joint(self, params: FloatArray, rows: Any = None) -> tuple[FloatArray, Any]:
        """log p(x_n, z = k), (N, K), and the way back: from its cotangent to the gradient in ``params``."""
        tables = [log_softmax(part) for part in self._split(params)]
        values = [np.maximum(value, IMPOSSIBLE) for value, _ in tables]
        logs = stacked(self.components, values[1:])
        seen = self.seen if rows is None else self.seen[rows]

        def pullback(cotangent: FloatArray) -> FloatArray:
            counts = (cotangent.T @ seen).reshape(cotangent.shape[1], -1, sum(family.n_columns for family in self.components))
            parts, first = [cotangent.sum(axis=0)], 0
            for family, value in zip(self.components, values[1:], strict=True):
                size, last = value.shape[-1], first + family.n_columns
                parts.append(counts[:, :size, first:last].swapaxes(1, 2).reshape(value.shape))
                first = last
            back = [pull(part) for (_, pull), part in zip(tables, parts, strict=True)]
            return np.where(params > -np.inf, np.concatenate([part.ravel() for part in back]), 0.0)

        return values[0] + seen @ logs.T, pullback

    def _split(self, params: FloatArray) -> list[FloatArray]:
        starts = [0, *self._ends]
        return [params[start:end].reshape(shape) for start, end, shape in zip(starts, self._ends, self._shapes, strict=False)]


def linear_mixture(model: Any, x: npt.NDArray[Any]) -> LinearMixture | None:
    """The form of a model on checked rows, or None where it has none."""
    if not isinstance(model, Mixture) or not all(isinstance(family, Bernoulli | Categorical) for family in model.components):
        return None
    n_categories = max(family.log_probabilities.shape[-1] for family in model.components)
    if n_categories > MOST:
        return None
    rows = np.asarray(x, np.float64)
    seen = np.concatenate([rows == category for category in range(n_categories)], axis=1)
    return LinearMixture(model.components, np.ascontiguousarray(seen, np.float64))
