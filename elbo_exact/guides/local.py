"""Guides with logits of their own for every observation: any categorical distribution, or any product of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._layers import log_softmax
from elbo_exact._validate import FloatArray, integer, log_table
from elbo_exact.errors import LogTableError
from elbo_exact.guides._factors import Pullback, checked_cotangent, flat_params, log_product
from elbo_exact.space import LatentSpace

__all__ = ["Free", "MeanField"]


@dataclass(frozen=True, eq=False)
class MeanField:
    """q(z | x_n) = product over variables i of softmax(logits_ni)[z_i]: logits of its own for each of N observations.

    Parameters
    ----------
    params : array_like, shape (N * sum(space.sizes),)
        Logits, observation by observation, variable by variable. -inf is a structural zero: gradients leave it alone.
    space : LatentSpace
        The variables.

    Raises
    ------
    LogTableError
        NaN, +inf, a length that is no multiple of the sum of the sizes, or a factor without support.

    Notes
    -----
    Observation n is row n of x: the guide says nothing about others. O(N S n_variables) a table.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> guide = MeanField(np.log([0.25, 0.75, 0.5, 0.5]), ee.LatentSpace((2, 2)))
    >>> np.exp(guide.log_q([0])).round(4)
    array([[0.125, 0.125, 0.375, 0.375]])
    """

    params: FloatArray
    space: LatentSpace
    _logits: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        params, width = flat_params(self.params), sum(self.factors.sizes)
        if params.size % width:
            raise LogTableError(
                f"params must hold {width} logits for each observation; got {params.size} numbers.", "params", params.size
            )
        logits, start = params.reshape(-1, width), 0
        for i, size in enumerate(self.factors.sizes):
            empty = ~(logits[:, start : start + size] > -np.inf).any(axis=1)
            if empty.any():
                where = f"observation {int(empty.argmax())}, variable {i}"
                raise LogTableError(f"params must leave every factor at least one value; {where} has none.", "params")
            start += size
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "_logits", logits)

    @classmethod
    def random(cls, n_observations: int, space: LatentSpace, *, rng: np.random.Generator | int | None = None) -> MeanField:
        """Standard normal logits.

        Examples
        --------
        >>> MeanField.random(3, LatentSpace((2, 4)), rng=0).params.shape
        (18,)
        """
        shape = integer(n_observations, "n_observations", 1), sum(_factors(cls, space).sizes)
        return cls(np.random.default_rng(rng).standard_normal(shape).ravel(), space)

    @property
    def factors(self) -> LatentSpace:
        """The independent variables."""
        return _factors(type(self), self.space)

    def with_params(self, params: npt.ArrayLike) -> MeanField:
        """A guide of the same shape with other parameters."""
        if np.shape(params) != self.params.shape:
            raise LogTableError(f"params must have shape {self.params.shape}; got {np.shape(params)}.", "params")
        return type(self)(np.asarray(params), self.space)

    def log_q(self, x: npt.ArrayLike, states: slice | None = None) -> FloatArray:
        """log q(z | x_n), normalized, in nats.

        Parameters
        ----------
        x : sequence of N observations
            Only their number counts.
        states : slice, optional
            Only these states.

        Returns
        -------
        ndarray, shape (N, S) or (N, stop - start)

        Raises
        ------
        LogTableError
            Another number of observations.
        """
        return log_product(self._rows(x), self.factors, states)[0]

    def forward(self, x: npt.ArrayLike) -> tuple[FloatArray, Pullback]:
        """`log_q` and its pullback, cotangent (N, S) to gradient, without computing the table again."""
        table, back = log_product(self._rows(x), self.factors)
        return table, lambda cotangent: back(cotangent).ravel()

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_q(x)) in ``params``; 0 at structural zeros.

        Examples
        --------
        >>> Free([0.0, 0.0], LatentSpace((2,))).pullback([0], [[1.0, 0.0]])
        array([ 0.5, -0.5])
        """
        table, back = self.forward(x)
        return back(checked_cotangent(cotangent, (len(table), self.space.size)))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        return {"guide": type(self).__name__, "params": self.params.tolist(), "sizes": list(self.space.sizes)}

    def _rows(self, x: npt.ArrayLike) -> FloatArray:
        rows: Any = x
        n_rows = len(rows)
        if n_rows != len(self._logits):
            raise LogTableError(
                f"x must hold the {len(self._logits)} observations of this guide; got {n_rows}; new observations need a new guide "
                "or an Amortized one.",
                "x",
                n_rows,
            )
        return self._logits


class Free(MeanField):
    """Any q(z | x_n) for each of N observations: one categorical distribution over all states; its optimum is the posterior.

    Parameters
    ----------
    params : array_like, shape (N * S,)
        Logits, observation by observation. -inf is a structural zero.
    space : LatentSpace
        The states; variables play no role.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> guide = Free(np.log([0.5, 0.25, 0.125, 0.125]), ee.LatentSpace((2, 2)))
    >>> np.exp(guide.log_q([0])).round(4)
    array([[0.5  , 0.25 , 0.125, 0.125]])
    """

    @classmethod
    def uniform(cls, log_joint: npt.ArrayLike, space: LatentSpace | None = None) -> Free:
        """Equal probabilities of all states that log p(x_n, z), shape (N, S), allows.

        Examples
        --------
        >>> Free.uniform([[-3.0, -float("inf"), -1.0]]).log_q([0]).round(4)
        array([[-0.6931,    -inf, -0.6931]])
        """
        table = log_table(log_joint, "log_joint")
        return cls(np.where(table > -np.inf, 0.0, -np.inf).ravel(), _space_of(table, space))

    @classmethod
    def optimum(cls, log_joint: npt.ArrayLike, space: LatentSpace | None = None) -> Free:
        """The posterior: the guide with the largest ELBO for log p(x_n, z), shape (N, S), in closed form.

        Examples
        --------
        >>> np.exp(Free.optimum(np.log([[0.3, 0.1]])).log_q([0])).round(4)
        array([[0.75, 0.25]])
        """
        table = log_table(log_joint, "log_joint")
        return cls(log_softmax(table)[0].ravel(), _space_of(table, space))


def _factors(kind: type, space: LatentSpace) -> LatentSpace:
    return LatentSpace((space.size,)) if issubclass(kind, Free) else space


def _space_of(table: FloatArray, space: LatentSpace | None) -> LatentSpace:
    own = LatentSpace((table.shape[-1],)) if space is None else space
    if table.ndim != 2 or table.shape[1] != own.size:
        raise LogTableError(f"log_joint must have shape (N, {own.size}); got {table.shape}.", "log_joint", table.shape)
    return own
