"""Factorizations of q: which variables are drawn together and given which others, and how logits become a log table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._layers import log_softmax
from elbo_exact._validate import FloatArray, raise_bad_entry, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.space import LatentSpace

__all__ = ["Factors", "Pullback", "as_factors", "checked_cotangent", "flat_params"]

Pullback = Callable[[FloatArray], FloatArray]
Group = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Factors:
    """q(z) = product over groups of q(z_variables | z_parents), each a softmax of its logits.

    Parameters
    ----------
    space : LatentSpace
    groups : sequence of (variables, parents)
        Positions of variables; every variable is in one group, parents in earlier ones.
    linear : bool
        False: a logit for every state of parents and variables. True: logits are a sum, b[v] + sum_j W_j[z_j, v] over the parents j
        (a softmax regression on their states), whose number grows with the sum of the parents' sizes instead of their product.

    Raises
    ------
    ValueError
        Groups that are no such partition.

    Notes
    -----
    A table takes O(N S groups). Mean field is one group per variable; trees: Chow & Liu (1968), IEEE Trans. Inf. Theory 14:462, and Saul &
    Jordan (1996), NIPS; linear autoregression: Frey (1998), Graphical Models for Machine Learning, and Larochelle & Murray (2011), AISTATS.

    Examples
    --------
    >>> space = LatentSpace((2, 2, 3))
    >>> for factors in (Factors.free(space), Factors.mean_field(space), Factors.chain(space), Factors.autoregressive(space)):
    ...     print(factors.n_logits, factors.groups)
    12 (((0, 1, 2), ()),)
    7 (((0,), ()), ((1,), ()), ((2,), ()))
    12 (((0,), ()), ((1,), (0,)), ((2,), (1,)))
    18 (((0,), ()), ((1,), (0,)), ((2,), (0, 1)))
    """

    space: LatentSpace
    groups: tuple[Group, ...]
    linear: bool = False

    def __post_init__(self) -> None:
        seen: set[int] = set()
        groups = []
        for variables, parents in self.groups:
            group = tuple(map(int, variables)), tuple(map(int, parents))
            if not group[0] or len(set(group[0])) < len(group[0]) or seen & set(group[0]):
                raise ValueError(f"groups must hold every variable once; got {self.groups!r}.")
            if not set(group[1]) <= seen or len(set(group[1])) < len(group[1]):
                raise ValueError(
                    f"groups must name parents in earlier groups, each once; got parents {group[1]} of {group[0]}."
                )
            seen |= set(group[0])
            groups.append(group)
        if seen != set(range(self.space.n_variables)):
            raise ValueError(
                f"groups must hold each of the variables 0 to {self.space.n_variables - 1} once; got {self.groups!r}."
            )
        object.__setattr__(self, "groups", tuple(groups))

    @classmethod
    def free(cls, space: LatentSpace) -> Factors:
        """All variables together: any distribution."""
        return cls.blocks(space, [range(space.n_variables)])

    @classmethod
    def mean_field(cls, space: LatentSpace) -> Factors:
        """Independent variables."""
        return cls.blocks(space, [[i] for i in range(space.n_variables)])

    @classmethod
    def blocks(cls, space: LatentSpace, blocks: Sequence[Sequence[int]]) -> Factors:
        """Independent blocks, any distribution within each."""
        return cls(space, tuple((tuple(block), ()) for block in blocks))

    @classmethod
    def tree(cls, space: LatentSpace, parents: Sequence[int | None]) -> Factors:
        """Every variable given at most one: the position of its parent, or None for a root.

        Examples
        --------
        >>> Factors.tree(LatentSpace((2, 2, 2)), [1, None, 1]).groups
        (((1,), ()), ((0,), (1,)), ((2,), (1,)))
        """
        if len(parents) != space.n_variables:
            raise ValueError(f"parents must name one for each of {space.n_variables} variables; got {len(parents)}.")
        order: list[int] = []
        while len(order) < len(parents):
            ready = [i for i, parent in enumerate(parents) if i not in order and (parent is None or parent in order)]
            if not ready:
                raise ValueError(f"parents must be positions of variables without a cycle; got {list(parents)!r}.")
            order += ready
        return cls(space, tuple(((i,), () if (parent := parents[i]) is None else (parent,)) for i in order))

    @classmethod
    def chain(cls, space: LatentSpace) -> Factors:
        """Every variable given the one before it."""
        return cls.tree(space, [None, *range(space.n_variables - 1)])

    @classmethod
    def autoregressive(cls, space: LatentSpace, *, linear: bool = False) -> Factors:
        """Every variable given all before it: any distribution, or with ``linear`` one softmax regression for each."""
        return cls(space, tuple(((i,), tuple(range(i))) for i in range(space.n_variables)), linear)

    @property
    def is_free(self) -> bool:
        """Whether these logits can give any distribution: every group is given all groups before it."""
        before: set[int] = set()
        for variables, parents in self.groups:
            if set(parents) != before or (self.linear and len(parents) > 1):
                return False
            before |= set(variables)
        return True

    @property
    def is_softmax(self) -> bool:
        """Whether q is the softmax of the logits: one group of all variables in their order."""
        return self.groups == ((tuple(range(self.space.n_variables)), ()),)

    @property
    def is_product(self) -> bool:
        """Whether all variables are independent."""
        return all(len(variables) == 1 and not parents for variables, parents in self.groups)

    @property
    def n_logits(self) -> int:
        """Logits of one observation."""
        return sum(self._width(group) for group in self.groups)

    def log_table(self, logits: FloatArray, states: slice | None = None) -> tuple[FloatArray, Pullback]:
        """log q(z) for logits (N, n_logits), and its pullback, from the cotangent of the whole table (N, S) to (N, n_logits).

        A softmax of logits l turns the cotangents c_v of its log probabilities into c_v - q_v sum c. Logits of -inf stay: 0.
        """
        if states is None and self.is_softmax:
            return self._free_table(logits)
        values = self.space.states(states)
        table, backs = None, []
        for group, conditional, expand_back in self._conditionals(logits):
            log_p, softmax_back = log_softmax(conditional)
            column = log_p.reshape(len(logits), -1)[:, self._places(group, values)]
            table = column if table is None else table + column
            backs.append((group, softmax_back, expand_back))
        assert table is not None

        def pullback(cotangent: FloatArray) -> FloatArray:
            cube = np.where(table > -np.inf, cotangent, 0.0).reshape(len(logits), *self.space.sizes)
            parts = []
            for group, softmax_back, expand_back in backs:
                sums = self._summed(cube, group)
                parts.append(expand_back(softmax_back(sums.reshape(*sums.shape[:1], -1, self._target_size(group)))))
            return np.where(logits > -np.inf, np.concatenate(parts, axis=1), 0.0)

        return np.ascontiguousarray(table), pullback

    def _free_table(self, logits: FloatArray) -> tuple[FloatArray, Pullback]:
        """The softmax is the table."""
        table, back = log_softmax(logits)
        impossible = None if logits.min() > -np.inf else logits == -np.inf

        def pullback(cotangent: FloatArray) -> FloatArray:
            if impossible is None:
                return back(cotangent)
            return np.where(impossible, 0.0, back(np.where(impossible, 0.0, cotangent)))

        return table, pullback

    def natural(self, logits: FloatArray, gradient: FloatArray) -> FloatArray:
        """The gradient (N, n_logits) through the inverse of Fisher's information of each observation's q, not for linear logits.

        In one context of the parents the information is pi (diag(q) - q q^T), with pi the probability of the context, so a gradient whose
        entries sum to 0 becomes gradient / (pi q); 0 where that is 0.
        """
        with np.errstate(under="ignore"):
            cube = np.exp(self.log_table(logits)[0]).reshape(len(logits), *self.space.sizes)
        joint = np.concatenate([self._summed(cube, group).reshape(len(logits), -1) for group in self.groups], axis=1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(joint > 0.0, gradient / joint, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        groups = [[list(variables), list(parents)] for variables, parents in self.groups]
        return {"sizes": list(self.space.sizes), "groups": groups, "linear": self.linear}

    def without_support(self, logits: FloatArray) -> tuple[int, int] | None:
        """The first observation and group with a context of parents in which no value is possible, or None."""
        for i, (_, conditional, _) in enumerate(self._conditionals(logits)):
            empty = ~(conditional > -np.inf).any(axis=-1).all(axis=-1)
            if empty.any():
                return int(empty.argmax()), i
        return None

    def _conditionals(self, logits: FloatArray) -> Iterator[tuple[Group, FloatArray, Pullback]]:
        """Every group, its logits (N, contexts, values), and the way back from their cotangents to those of its columns."""
        start = 0
        for group in self.groups:
            columns = logits[:, start : start + self._width(group)]
            start += self._width(group)
            if self.linear and group[1]:
                yield group, *self._regression(columns, group)
            else:
                shaped = columns.reshape(len(logits), -1, self._target_size(group))
                yield group, shaped, lambda cotangent: cotangent.reshape(len(cotangent), -1)

    def _regression(self, columns: FloatArray, group: Group) -> tuple[FloatArray, Pullback]:
        n_rows, target, sizes = len(columns), self._target_size(group), [self.space.sizes[j] for j in group[1]]
        total = columns[:, :target].reshape(n_rows, *(1 for _ in sizes), target)
        start = target
        for j, size in enumerate(sizes):
            weights = columns[:, start : start + size * target]
            total = total + weights.reshape(n_rows, *(size if i == j else 1 for i in range(len(sizes))), target)
            start += size * target

        def pullback(cotangent: FloatArray) -> FloatArray:
            cube = cotangent.reshape(n_rows, *sizes, target)
            axes = range(1, len(sizes) + 1)
            parts = [cube.sum(axis=tuple(axes))]
            parts += [cube.sum(axis=tuple(i for i in axes if i != axis)).reshape(n_rows, -1) for axis in axes]
            return np.concatenate(parts, axis=1)

        return np.ascontiguousarray(total).reshape(n_rows, -1, target), pullback

    def _summed(self, cube: FloatArray, group: Group) -> FloatArray:
        """The cube (N, *sizes) summed over all variables but the group's; axes in the order parents, variables."""
        kept = [*group[1], *group[0]]
        rest = tuple(i + 1 for i in range(cube.ndim - 1) if i not in kept)
        ranks = np.argsort(np.argsort(kept))
        return np.asarray(cube.sum(axis=rest).transpose(0, *(ranks + 1)))

    def _places(self, group: Group, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where the entry of each state is in the flat (contexts, values) of a group."""
        kept = [*group[1], *group[0]]
        place = np.zeros(len(values), np.int64)
        for variable in kept:
            place = place * self.space.sizes[variable] + values[:, variable]
        return place

    def _target_size(self, group: Group) -> int:
        return math.prod(self.space.sizes[i] for i in group[0])

    def _width(self, group: Group) -> int:
        parents = [self.space.sizes[j] for j in group[1]]
        return self._target_size(group) * (1 + sum(parents) if self.linear else math.prod(parents))


def as_factors(given: LatentSpace | Factors) -> Factors:
    """A space alone stands for any distribution over its states."""
    other: Any = given
    if not isinstance(other, Factors | LatentSpace):
        raise TypeError(f"factors must be Factors or a LatentSpace, as LatentSpace((3,)); got {type(other).__name__}.")
    return given if isinstance(given, Factors) else Factors.free(given)


def flat_params(values: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    """A read-only copy of a flat vector without NaN or +inf."""
    params = real_array(values, "params").astype(dtype)
    if params.ndim != 1 or params.size == 0:
        raise LogTableError(f"params must be one flat vector; got shape {params.shape}.", "params", params.shape)
    if not (params < np.inf).all():
        raise_bad_entry(params, "params")
    params.flags.writeable = False
    return params


def checked_cotangent(cotangent: npt.ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """The derivative of some number in every entry of log q."""
    table: Any = real_array(cotangent, "cotangent")
    if table.shape != shape:
        raise LogTableError(f"cotangent must have shape {shape}, that of log_q; got {table.shape}.", "cotangent", table.shape)
    return np.asarray(table)
