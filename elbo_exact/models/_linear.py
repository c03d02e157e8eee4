"""Mixtures of `Bernoulli` and `Categorical` columns, and networks on them, for training steps: sums over joint values of groups of columns.

What an optimizer asks for thousands of times, without objects, checks and error bounds: those come from `Mixture` and the guide at
the end of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._layers import Perceptron, activate
from elbo_exact._validate import FloatArray
from elbo_exact.guides import Amortized
from elbo_exact.kernels.entries import entries_pullback, normalized_entries, number_entries, number_pullback
from elbo_exact.kernels.patterns import pattern_totals
from elbo_exact.kernels.softmax import elbo_layer
from elbo_exact.kernels.tiles import SHORT
from elbo_exact.models._patterns import Patterns, patterns
from elbo_exact.models.mixture import Mixture

__all__ = ["LinearMixture", "LinearNetwork", "linear_mixture", "linear_network"]

Codes = npt.NDArray[np.int32]


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
    _shares: npt.NDArray[np.int64] = field(init=False)  # columns as in kernels.entries: the states, of one state
    _columns: npt.NDArray[np.int64] = field(init=False)  # and those of the data

    def __post_init__(self) -> None:
        columns: list[tuple[int, ...]] = []
        place = self.n_states
        entry = np.cumsum([0, *self.coded.sizes])
        for family in self.coded.components:
            shape = family.log_probabilities.shape
            apart, n_categories = math.prod(shape[1:]), shape[-1]
            for start in range(place, place + apart, n_categories):
                columns.append((start, apart, n_categories, entry[len(columns)]))
            place += self.n_states * apart
        object.__setattr__(self, "_shares", np.array([[0], [0], [self.n_states], [0]]))
        object.__setattr__(self, "_columns", np.array(columns).T.copy())

    def log_joint(self, params: FloatArray, codes: Codes) -> tuple[FloatArray, Any]:
        """log p(x_n, z = k), (N, K), and the way back: from its cotangent to the gradient in ``params``, new or in ``out``."""
        start, entries = np.empty((self.n_states, 1)), np.zeros((self.coded.n_entries, self.n_states))
        normalized_entries(params, self._shares, start)
        normalized_entries(params, self._columns, entries)
        lines = self.coded.expand(entries)
        table = np.empty((len(codes), self.n_states))
        pattern_totals(codes, lines, start.ravel(), table)

        def pullback(cotangent: FloatArray, out: FloatArray | None = None) -> FloatArray:
            gradient = np.empty(params.size) if out is None else out
            of_entries, of_start = self.coded.sums(codes, cotangent)
            entries_pullback(params, self._shares, start, of_start.reshape(-1, 1), gradient)
            entries_pullback(params, self._columns, entries, of_entries, gradient)
            return gradient

        return table, pullback


@dataclass(frozen=True, eq=False)
class LinearNetwork:
    """An `Amortized` guide on such rows: the products of its first layer are sums over tables too.

    Parameters
    ----------
    coded : Patterns
    guide : Amortized
        Its shape; parameters are not read.
    """

    coded: Patterns
    guide: Any
    _rest: Perceptron | None = field(init=False)  # all maps but the first
    _middle: Perceptron | None = field(init=False)  # all but the first and the last

    def __post_init__(self) -> None:
        sizes, activation = self.guide.network.sizes, self.guide.network.activation
        for name, part in {"_rest": sizes[1:], "_middle": sizes[1:-1]}.items():
            object.__setattr__(self, name, Perceptron(part, activation) if len(part) > 1 else None)

    def log_q(self, params: FloatArray, codes: Codes) -> tuple[FloatArray, Any]:
        """log q(z | x_n), (N, S), and the way back, as ``guide.forward``."""
        outputs, back = self._forward(self._rest, params, codes)
        table, to_outputs = self.guide.factors.log_table(outputs)

        def pullback(cotangent: FloatArray) -> FloatArray:
            gradient = np.empty(params.size)
            back(to_outputs(cotangent), gradient)
            return gradient

        return table, pullback

    @property
    def has_elbo(self) -> bool:
        """Whether `elbo` applies: a hidden layer, and outputs whose softmax is q."""
        return self._rest is not None and self.guide.factors.is_softmax and max(self.guide.network.sizes[-2:]) <= SHORT

    def elbo(
        self, params: FloatArray, codes: Codes, log_joint: FloatArray, counts: FloatArray, gradient: FloatArray
    ) -> tuple[float, FloatArray]:
        """Sum of the rows' ELBO times counts, and its derivative in ``log_joint``, q times counts; fills that in ``params``."""
        network, n_rows = self.guide.network, len(codes)
        width, n_states = network.sizes[-2:]
        outputs, back = self._forward(self._middle, params, codes)
        hidden, to_outputs = activate(network.activation, outputs)
        q, slopes, total = np.empty((n_rows, n_states)), np.empty((n_rows, width)), np.empty(1)
        last, d_last = (flat[-(width + 1) * n_states :].reshape(width + 1, n_states) for flat in (params, gradient))
        elbo_layer(log_joint, hidden, last, counts, np.empty((n_states, width)), q, slopes, d_last, total)
        back(to_outputs(slopes), gradient)
        return float(total[0]), q

    def _forward(self, rest: Perceptron | None, params: FloatArray, codes: Codes) -> tuple[FloatArray, Any]:
        """Outputs of the first map and of some that follow, and the way back, which fills their part of a gradient."""
        inputs, width = self.guide.network.sizes[:2]
        end = (inputs + 1) * width
        layer = params[:end].reshape(inputs + 1, width)  # the bias is the last row
        entries, outputs = np.empty((self.coded.n_entries, width)), np.empty((len(codes), width))
        number_entries(self.coded.sizes, layer, entries)
        pattern_totals(codes, self.coded.expand(entries), layer[inputs], outputs)
        if rest is not None:
            hidden, to_first = activate(rest.activation, outputs)
            outputs, to_rest = rest.forward(params[end : end + rest.n_params], hidden)

        def pullback(slopes: FloatArray, gradient: FloatArray) -> None:
            if rest is not None:
                slopes = to_first(np.asarray(to_rest(slopes, gradient[end : end + rest.n_params])))
            of_entries, of_bias = self.coded.sums(codes, slopes)
            own = gradient[:end].reshape(inputs + 1, width)
            number_pullback(self.coded.sizes, of_entries, own)
            own[inputs] = of_bias

        return outputs, pullback


def linear_mixture(model: Any, x: npt.NDArray[Any], batch_size: int | None = None) -> LinearMixture | None:
    """The form of a model on checked rows, for batches of this size; None where it has none."""
    if not isinstance(model, Mixture):
        return None
    coded = patterns(model.components, np.asarray(x), batch_size)
    return None if coded is None else LinearMixture(coded, model.n_components)


def linear_network(guide: Any, model: LinearMixture | None) -> LinearNetwork | None:
    """The form of a guide on the rows of such a model; None where it has none."""
    has_form = isinstance(guide, Amortized) and guide.params.dtype == np.float64
    return LinearNetwork(model.coded, guide) if model is not None and has_form else None
