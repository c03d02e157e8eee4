"""Discrete Bayesian networks (Pearl 1988): exact evidence and marginals, log tables over hidden nodes, EM with missing cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, integer, one_of, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families._derivatives import n_free
from elbo_exact.families._rounding import PriorTable, log_prior, log_prior_change, rounding_loss
from elbo_exact.families._simplex import (
    LogSimplex,
    U,
    draw,
    maximized,
    pseudo_count_table,
    simplex_change,
    uniform_simplex,
)
from elbo_exact.models._network_checks import (
    ancestors,
    checked_parents,
    checked_states,
    checked_tables,
    node_index,
    split_evidence,
    topological_order,
)
from elbo_exact.models._network_inference import METHODS, NetworkPosterior, answer, reduced
from elbo_exact.models._network_table import (
    MISSING,
    Pattern,
    add_counts,
    checked_rows,
    filled,
    pattern_change,
    pattern_table,
    patterns,
)
from elbo_exact.space import MAX_BYTES, LatentSpace

__all__ = ["BayesianNetwork", "NetworkPosterior", "NetworkStatistics"]


@dataclass(frozen=True, eq=False)
class NetworkStatistics:
    """Expected counts of every table; those of two batches add up.

    Parameters
    ----------
    tables : dict
        Node to counts of the shape of its table.
    n_terms : int
        Most terms added to one count.
    """

    tables: dict[str, FloatArray]
    n_terms: int

    def __add__(self, other: NetworkStatistics) -> NetworkStatistics:
        """The statistics of both batches together."""
        return NetworkStatistics(
            {name: part + other.tables[name] for name, part in self.tables.items()}, self.n_terms + other.n_terms
        )

    def scaled(self, factor: float) -> NetworkStatistics:
        """The statistics of the same rows, each seen ``factor`` times as often."""
        return NetworkStatistics({name: part * factor for name, part in self.tables.items()}, self.n_terms)


@dataclass(frozen=True, eq=False, repr=False)
class BayesianNetwork(AsCode):
    """p(nodes) = product over nodes of p(node | its parents), all discrete.

    Parameters
    ----------
    states : mapping of str to sequence of str
        Names of the categories of every node; its order is the order of the columns of x.
    parents : mapping of str to sequence of str
        Parents of every node; nodes left out have none.
    log_tables : mapping of str to array_like
        log p(node | parents), nats: one axis per parent in the order of ``parents``, the node's own last. Rows sum to 1 within
        1e-6 in log mass and are renormalized exactly where they are used.
    hidden : sequence of str, optional
        Nodes whose joint states are the columns of `log_joint` and make up ``space``. Without them, `log_joint` enumerates in every
        row the cells which that row misses.

    Raises
    ------
    ValueError, LogTableError
        Unknown nodes, a cycle (named), a table of the wrong shape, NaN, or one whose rows do not sum to 1.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> network = ee.models.BayesianNetwork.from_probabilities(
    ...     {"rain": ["no", "yes"], "wet": ["no", "yes"]},
    ...     {"wet": ["rain"]},
    ...     {"rain": [0.8, 0.2], "wet": [[0.9, 0.1], [0.2, 0.8]]},
    ... )
    >>> network.marginals({"wet": "yes"})["rain"].round(4)
    array([0.3333, 0.6667])
    >>> network.marginals({"wet": [1.0, 3.0]})["rain"].round(4)  # seen in fog: three times as likely if wet
    array([0.6486, 0.3514])
    """

    states: Mapping[str, Sequence[str]]
    parents: Mapping[str, Sequence[str]]
    log_tables: Mapping[str, Any]
    hidden: Sequence[str] = ()
    _tables: dict[str, LogSimplex] = field(init=False, repr=False)
    _order: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        states = checked_states(self.states)
        parents = checked_parents(self.parents, states)
        order = topological_order(parents)
        tables = checked_tables(self.log_tables, states, parents)
        if isinstance(self.hidden, str) or len(set(self.hidden)) < len(tuple(self.hidden)):
            raise ValueError(f"hidden must be a sequence of distinct nodes; got {self.hidden!r}.")
        for name in self.hidden:
            node_index(states, name, "hidden")
        object.__setattr__(self, "states", MappingProxyType(states))
        object.__setattr__(self, "parents", MappingProxyType(parents))
        object.__setattr__(self, "log_tables", MappingProxyType({name: table.given for name, table in tables.items()}))
        object.__setattr__(self, "hidden", tuple(name for name in states if name in set(self.hidden)))
        object.__setattr__(self, "_tables", tables)
        object.__setattr__(self, "_order", order)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Read-only mappings do not cross processes; plain ones do."""
        return type(self), (dict(self.states), dict(self.parents), dict(self.log_tables), self.hidden)

    @classmethod
    def from_probabilities(
        cls,
        states: Mapping[str, Sequence[str]],
        parents: Mapping[str, Sequence[str]],
        tables: Mapping[str, npt.ArrayLike],
        hidden: Sequence[str] = (),
    ) -> BayesianNetwork:
        """A network from probabilities instead of their logarithms."""
        given = {name: real_array(table, f"table of {name!r}") for name, table in tables.items()}
        for name, table in given.items():
            wrong = ~((table >= 0.0) & (table < np.inf))
            if wrong.any():
                raise LogTableError(
                    f"table of {name!r} must hold finite probabilities >= 0; got {table[wrong][0]:g}.", "tables"
                )
        with np.errstate(divide="ignore"):
            logs = {name: np.log(table) for name, table in given.items()}
        return cls(states, parents, logs, hidden)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, in the order of the columns of x."""
        return tuple(self.states)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of categories of every node."""
        return tuple(len(categories) for categories in self.states.values())

    @property
    def n_parameters(self) -> int:
        """Free parameters; structural zeros are none."""
        return sum(n_free(table) for table in self._tables.values())

    @property
    def space(self) -> LatentSpace:
        """The hidden nodes, in the order of the nodes."""
        return LatentSpace(tuple(len(self.states[name]) for name in self.hidden), tuple(self.hidden))

    def hide(self, *names: str) -> BayesianNetwork:
        """The same network with these nodes hidden."""
        return dataclasses.replace(self, hidden=names)

    def infer(
        self,
        evidence: Mapping[str, Any] | None = None,
        nodes: Iterable[str] | None = None,
        *,
        method: str = "auto",
        max_bytes: int = MAX_BYTES,
    ) -> NetworkPosterior:
        """Log evidence and posterior marginals, exact up to a bounded rounding error.

        Parameters
        ----------
        evidence : mapping, optional
            Node to the category observed, by name or number, or to a likelihood for every category (soft evidence). Likelihoods
            need not sum to 1: they are p(what was seen | category).
        nodes : iterable of str, optional
            Whose marginals to return; all by default.
        method : {"auto", "enumeration", "elimination"}
            ``"auto"`` enumerates up to 2**22 joint states and eliminates above; elimination needs opt_einsum.
        max_bytes : int
            Largest table of an elimination.

        Returns
        -------
        NetworkPosterior

        Raises
        ------
        ZeroEvidence
            The evidence is impossible and marginals are asked for.
        EnumerationTooLarge
            Neither method fits, or not the one asked for.
        ValueError
            Evidence or nodes that the network does not know.

        Notes
        -----
        Only ancestors of evidence and of the nodes asked for are summed over. Enumeration takes O(states times nodes) time, in
        blocks of 2**18 states; elimination the size of the largest table, with one pass up the tree and one down for all marginals.
        Probabilities below 2**-1000 keep an absolute instead of a relative error.
        """
        one_of(method, "method", METHODS)
        hard, soft = split_evidence(self.states, evidence, "evidence")
        if isinstance(nodes, str):
            raise TypeError(f"nodes must be a sequence of nodes; got the string {nodes!r}; write [{nodes!r}].")
        asked = list(self.states) if nodes is None else list(nodes)
        for name in asked:
            node_index(self.states, name, "nodes")
        needed = ancestors([*hard, *soft, *asked], self.parents)
        problem = reduced(self._tables, self.parents, [name for name in self._order if name in needed], hard, soft)
        return answer(problem, asked, method, max_bytes)

    def log_evidence(
        self, evidence: Mapping[str, Any] | None = None, *, method: str = "auto", max_bytes: int = MAX_BYTES
    ) -> float:
        """Log probability of the evidence in nats, -inf if it is impossible; its error bound is that of `infer`."""
        return self.infer(evidence, (), method=method, max_bytes=max_bytes).log_evidence

    def marginals(self, evidence: Mapping[str, Any] | None = None, nodes: Iterable[str] | None = None) -> dict[str, FloatArray]:
        """Posterior probabilities of the categories of all nodes, or of some; see `infer`."""
        return self.infer(evidence, nodes).marginals

    def encode(self, cases: Iterable[Mapping[str, str]]) -> npt.NDArray[np.int64]:
        """Cases with category names as a table x, one column per node, -1 where a case does not mention the node."""
        rows = []
        for i, case in enumerate(cases):
            hard, soft = split_evidence(self.states, case, f"cases[{i}]")
            if soft:
                raise ValueError(f"cases[{i}] must name one category of {next(iter(soft))!r}; got likelihoods.")
            rows.append([hard.get(name, MISSING) for name in self.states])
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self.states))

    def log_joint(self, x: npt.ArrayLike, states: slice | None = None) -> FloatArray:
        """log p(what a row shows, state of what it hides), in nats.

        Parameters
        ----------
        x : array_like, shape (N, D)
            Category numbers, one column per node in the order of ``nodes``; NaN or -1 is missing.
        states : slice, optional
            Only these columns.

        Returns
        -------
        ndarray, shape (N, S) or (N, stop - start)
            With ``hidden`` nodes the columns are the states of ``space``, -inf where they contradict a hidden cell that was observed
            after all. Without, column s of a row is state s of the cells missing in that row, in the order of the nodes; rows that
            miss less are filled up with -inf.

        Raises
        ------
        LogTableError
            A category that the node does not have, the wrong shape, or a missing cell of a node that is not hidden.
        EnumerationTooLarge
            A table above 2 GiB.
        """
        table = self.log_joint_and_error(x)[0]
        first, last = LatentSpace((table.shape[1],)).span(states)
        return np.ascontiguousarray(table[:, first:last])

    def log_joint_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_joint` and a bound on its rounding error, both (N, S): that of every table, and an addition for each."""
        rows, found = self._patterns(x)
        parts = [pattern_table(pattern, self._tables.values()) for pattern in found]
        values, errors = [part[0] for part in parts], [part[1] for part in parts]
        return filled(found, len(rows), values, -np.inf), filled(found, len(rows), errors, 0.0)

    def log_joint_change(self, other: BayesianNetwork, x: npt.ArrayLike) -> FloatArray:
        """log p_other - log p_self of the entries of `log_joint`, from parameter differences; the same nodes and parents."""
        return self.log_joint_change_and_error(other, x)[0]

    def log_joint_change_and_error(self, other: BayesianNetwork, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_joint_change` and a bound on its rounding error, both (N, S)."""
        rows, found = self._patterns(x)
        pairs = [simplex_change(table.given, other._tables[name].given) for name, table in self._tables.items()]
        parts = [pattern_change(pattern, pairs) for pattern in found]
        values, errors = [part[0] for part in parts], [part[1] for part in parts]
        return filled(found, len(rows), values, 0.0), filled(found, len(rows), errors, 0.0)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> NetworkStatistics:
        """Expected counts of every table under a weight table (N, S) as wide as `log_joint`; additive over batches."""
        rows, found = self._patterns(x)
        table = real_array(weights, "weights")
        expected = (len(rows), max((pattern.n_states for pattern in found), default=1))
        if table.shape != expected:
            raise LogTableError(f"weights must have shape {expected}; got {table.shape}.", "weights", table.shape)
        counts = {name: np.zeros(part.given.size) for name, part in self._tables.items()}
        for pattern in found:
            add_counts(pattern, table[pattern.rows, : pattern.n_states], counts.values())
        shaped = {name: total.reshape(self._tables[name].given.shape) for name, total in counts.items()}
        return NetworkStatistics(shaped, table.size)

    def maximize(self, statistics: NetworkStatistics, prior: Any = None) -> BayesianNetwork:
        """The network whose tables are the counts plus the prior's pseudo-counts, normalized.

        Parameters
        ----------
        statistics : NetworkStatistics
        prior : float or mapping of str to array_like, optional
            Pseudo-counts: one number for every entry, or by node; structural zeros stay zero.
        """
        extra = self._pseudo_counts(prior)
        tables = {}
        for name, table in self._tables.items():
            counts = pseudo_count_table(statistics.tables[name], table.given.shape, f"statistics of {name!r}")
            tables[name] = maximized(table.given, counts + extra[name])
        return dataclasses.replace(self, log_tables=tables)

    def log_prior(self, prior: Any = None) -> tuple[float, float]:
        """Sum of pseudo-counts times log parameters, in nats, and its error bound."""
        return log_prior(self._prior_tables(prior))

    def log_prior_change(self, other: BayesianNetwork, prior: Any = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        return log_prior_change(self._prior_tables(prior), [other._tables[name] for name in self._tables])

    def rounding_loss(self, statistics: NetworkStatistics, prior: Any, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        extra = self._pseudo_counts(prior)
        counts = (part + extra[name] for name, part in statistics.tables.items())
        return rounding_loss(counts, relative_error + statistics.n_terms * U)

    def randomize(self, rng: np.random.Generator) -> BayesianNetwork:
        """Tables drawn uniformly from their simplices, structural zeros kept."""
        return dataclasses.replace(self, log_tables={n: uniform_simplex(table.given, rng) for n, table in self._tables.items()})

    def sample(self, n: int, *, rng: np.random.Generator | int | None = None) -> npt.NDArray[np.int64]:
        """Draw n complete cases, (n, D), parents first."""
        generator, column = np.random.default_rng(rng), {name: j for j, name in enumerate(self.states)}
        x = np.zeros((integer(n, "n", 0), len(column)), dtype=np.int64)
        for name in self._order:
            table = self.log_tables[name]
            row: Any = np.zeros(len(x), dtype=np.int64)
            for parent, size in zip(self.parents[name], table.shape, strict=False):
                row = row * size + x[:, column[parent]]
            x[:, column[name]] = draw(table.reshape(-1, table.shape[-1]), row, generator)
        return x

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        return {
            name: {"states": list(of_node), "parents": list(self.parents[name]), "log_table": self.log_tables[name].tolist()}
            for name, of_node in self.states.items()
        }

    def _patterns(self, x: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], list[Pattern]]:
        column = {name: j for j, name in enumerate(self.states)}
        rows = checked_rows(x, self.sizes, self.nodes)
        if self.hidden:
            open_cells = rows == MISSING
            open_cells[:, [column[name] for name in self.hidden]] = False
            if open_cells.any():
                row, j = map(int, np.argwhere(open_cells)[0])
                raise LogTableError(f"x misses node {self.nodes[j]!r} in row {row}; hide that node too, or hide none.", "x")
        scopes = [tuple(column[node] for node in (*self.parents[name], name)) for name in self.states]
        return rows, patterns(rows, scopes, self.sizes, [column[name] for name in self.hidden], MAX_BYTES)

    def _prior_tables(self, prior: Any) -> list[PriorTable]:
        return list(zip(self._tables.values(), self._pseudo_counts(prior).values(), strict=True))

    def _pseudo_counts(self, prior: Any) -> dict[str, FloatArray]:
        given = prior if isinstance(prior, Mapping) else dict.fromkeys(self.states, prior)
        for name in given:
            node_index(self.states, name, "prior")
        return {name: pseudo_count_table(given.get(name), table.given.shape, "prior") for name, table in self._tables.items()}
