"""Guides with logits of their own for every observation: products, trees, chains, or any categorical distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from elbo_exact._layers import log_softmax
from elbo_exact._plain import AsCode, code
from elbo_exact._validate import FloatArray, integer, log_table
from elbo_exact.errors import LogTableError
from elbo_exact.guides.factors import Factors, Pullback, checked_cotangent, flat_params
from elbo_exact.space import LatentSpace

__all__ = ["Autoregressive", "Free", "MeanField", "Structured"]


@dataclass(frozen=True, eq=False, repr=False)
class Structured(AsCode):
    """q(z | x_n) with logits of its own for each of N observations and a factorization of your choice: blocks, chains, trees.

    Parameters
    ----------
    params : array_like, shape (N * factors.n_logits,)
        Logits, observation by observation, group by group. -inf is a structural zero: gradients leave it alone.
    factors : Factors

    Raises
    ------
    LogTableError
        NaN, +inf, a length that is no multiple of the number of logits, or a factor without support.

    Notes
    -----
    Observation n is row n of x: the guide says nothing about others. O(N S groups) a table.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> pair = ee.guides.Factors.chain(ee.LatentSpace((2, 2)))
    >>> guide = Structured(np.log([0.5, 0.5, 0.9, 0.1, 0.2, 0.8]), pair)  # q(z_0), q(z_1 | z_0 = 0), q(z_1 | z_0 = 1)
    >>> np.exp(guide.log_q([0])).round(4)
    array([[0.45, 0.05, 0.1 , 0.4 ]])
    """

    params: FloatArray
    factors: Factors
    _logits: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        params, width = flat_params(self.params), self.factors.n_logits
        if params.size % width:
            raise LogTableError(
                f"params must hold {width} logits for each observation; got {params.size} numbers.", "params", params.size
            )
        logits = params.reshape(-1, width)
        empty = self.factors.without_support(logits)
        if empty is not None:
            where = f"observation {empty[0]}, variables {self.factors.groups[empty[1]][0]}"
            raise LogTableError(f"params must leave every factor at least one value; {where} have none.", "params")
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "_logits", logits)

    def __repr__(self) -> str:
        """Code that makes the same guide."""
        return f"{type(self).__name__}({code(self.params)}, {self.factors if type(self) is Structured else self.space})"

    @classmethod
    def random(cls, n_observations: int, factors: Any, *, rng: np.random.Generator | int | None = None) -> Self:
        """Standard normal logits.

        Parameters
        ----------
        n_observations : int
        factors : Factors
            For guides with one factorization, the LatentSpace.
        rng : numpy.random.Generator or seed, optional

        Examples
        --------
        >>> MeanField.random(3, LatentSpace((2, 4)), rng=0).params.shape
        (18,)
        """
        shape = integer(n_observations, "n_observations", 1), cls._factors(factors).n_logits
        return cls(np.random.default_rng(rng).standard_normal(shape).ravel(), factors)

    @staticmethod
    def _factors(given: Any) -> Factors:
        if not isinstance(given, Factors):
            raise TypeError(f"factors must be Factors, as Factors.chain(space) makes them; got {type(given).__name__}.")
        return given

    @property
    def space(self) -> LatentSpace:
        """The variables."""
        return self.factors.space

    def with_params(self, params: npt.ArrayLike) -> Self:
        """A guide of the same shape with other parameters."""
        if np.shape(params) != self.params.shape:
            raise LogTableError(f"params must have shape {self.params.shape}; got {np.shape(params)}.", "params")
        other = object.__new__(type(self))
        Structured.__init__(other, np.asarray(params), self.factors)
        return other

    def logits(self, x: npt.ArrayLike) -> FloatArray:
        """Logits of every observation, (N, factors.n_logits)."""
        return self._rows(x)

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
        return self.factors.log_table(self._rows(x), states)[0]

    def forward(self, x: npt.ArrayLike) -> tuple[FloatArray, Pullback]:
        """`log_q` and its pullback, cotangent (N, S) to gradient, without computing the table again."""
        table, back = self.factors.log_table(self._rows(x))
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
        return {"guide": type(self).__name__, "params": self.params.tolist(), **self.factors.to_dict()}

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


class MeanField(Structured):
    """q(z | x_n) = product over variables i of softmax(logits_ni)[z_i]: logits of its own for each of N observations.

    Parameters
    ----------
    params : array_like, shape (N * sum(space.sizes),)
        Logits, observation by observation, variable by variable. -inf is a structural zero.
    space : LatentSpace
        The variables.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> guide = MeanField(np.log([0.25, 0.75, 0.5, 0.5]), ee.LatentSpace((2, 2)))
    >>> np.exp(guide.log_q([0])).round(4)
    array([[0.125, 0.125, 0.375, 0.375]])
    """

    def __init__(self, params: npt.ArrayLike, space: LatentSpace) -> None:
        super().__init__(np.asarray(params), self._factors(space))

    @staticmethod
    def _factors(given: Any) -> Factors:
        return Factors.mean_field(given)


class Autoregressive(Structured):
    """q(z | x_n) = product over variables i of a softmax regression of z_i on the variables before it.

    Parameters
    ----------
    params : array_like, shape (N * number of logits,)
        For each variable i: biases (sizes[i],), then weights (sizes[j], sizes[i]) for every j < i.
    space : LatentSpace
        The variables, in the order in which they are drawn.

    Notes
    -----
    Between `MeanField` (all weights 0) and `Free`: two variables already give every distribution. A logit for every state of all
    variables before is ``Structured`` with ``Factors.autoregressive(space)``. Larochelle & Murray (2011), AISTATS.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> guide = Autoregressive([0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 2.0], ee.LatentSpace((2, 2)))
    >>> np.exp(guide.log_q([0])).round(4)
    array([[0.4404, 0.0596, 0.0596, 0.4404]])
    """

    def __init__(self, params: npt.ArrayLike, space: LatentSpace) -> None:
        super().__init__(np.asarray(params), self._factors(space))

    @staticmethod
    def _factors(given: Any) -> Factors:
        return Factors.autoregressive(given, linear=True)


class Free(Structured):
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

    def __init__(self, params: npt.ArrayLike, space: LatentSpace) -> None:
        super().__init__(np.asarray(params), self._factors(space))

    @staticmethod
    def _factors(given: Any) -> Factors:
        return Factors.free(given)

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


def _space_of(table: FloatArray, space: LatentSpace | None) -> LatentSpace:
    own = LatentSpace((table.shape[-1],)) if space is None else space
    if table.ndim != 2 or table.shape[1] != own.size:
        raise LogTableError(f"log_joint must have shape (N, {own.size}); got {table.shape}.", "log_joint", table.shape)
    return own
