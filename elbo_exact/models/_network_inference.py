"""Evidence and marginals of a Bayesian network, by enumeration of every state or by variable elimination, with error bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elbo_exact._evidence_rows import evidence_of_rows
from elbo_exact._validate import FloatArray
from elbo_exact.errors import EnumerationTooLarge, ZeroEvidence
from elbo_exact.families._simplex import LIBM, LogSimplex, U
from elbo_exact.models._elimination import Factor, eliminate
from elbo_exact.space import LatentSpace, count_text

__all__ = ["METHODS", "NetworkPosterior", "Problem", "answer", "by_elimination", "by_enumeration", "reduced"]

METHODS = ("auto", "enumeration", "elimination")
FLAT_STATES = 2**22  # enumerated in a fraction of a second
MOST_STATES = 2**30  # in a few minutes
BLOCK = 2**18  # states of a block: 2 MiB, which stays in the cache of one core


@dataclass(frozen=True, eq=False)
class NetworkPosterior:
    """What the evidence says.

    Parameters
    ----------
    log_evidence, log_evidence_error : float
        Log probability of the evidence in nats, and a bound on its rounding error; infinite where no bound holds.
    marginals : dict
        Posterior probabilities of the categories of every node asked for.
    marginal_error : float
        Bound on the relative error of every one of them.
    method : str
        ``"enumeration"`` or ``"elimination"``.
    """

    log_evidence: float
    log_evidence_error: float
    marginals: dict[str, FloatArray]
    marginal_error: float
    method: str


@dataclass(frozen=True, eq=False)
class Problem:
    """Tables left by hard evidence: axes of open nodes only, numbered; soft evidence is one more table."""

    tables: list[FloatArray]  # logarithms
    errors: list[FloatArray]
    scopes: list[tuple[int, ...]]
    names: list[str]  # of the open nodes, in the order of their numbers
    sizes: dict[int, int]
    hard: dict[str, FloatArray]  # marginals of nodes observed


def answer(problem: Problem, asked: Sequence[str], method: str, max_bytes: int) -> NetworkPosterior:
    """Log evidence and marginals by the method asked for, or by the one that fits."""
    space = LatentSpace(tuple(problem.sizes.values()))
    flat = method == "enumeration" or (method == "auto" and space.size <= FLAT_STATES)
    if flat and space.size > MOST_STATES:
        text = f"enumeration needs {count_text(space.sizes)} states > 2**30; use method='elimination' or give more evidence"
        raise EnumerationTooLarge(text, space.size, 8 * space.size, 8 * MOST_STATES)
    number = {name: i for i, name in enumerate(problem.names)}
    targets = [number[name] for name in asked if name in number]
    found = by_enumeration(problem, targets) if flat else by_elimination(problem, targets, max_bytes)
    value, error, parts, relative = found
    if value == -math.inf and error == math.inf:
        raise ValueError("evidence is below the range of doubles in an elimination; use method='enumeration'.")
    if asked and value == -math.inf:
        raise ZeroEvidence("evidence is impossible under the network: its probability is 0; drop or correct part of it.")
    tables = problem.hard | dict(zip((name for name in asked if name in number), parts, strict=True))
    used = "enumeration" if flat else "elimination"
    return NetworkPosterior(value, error, {name: tables[name] for name in asked}, relative, used)


def reduced(
    tables: Mapping[str, LogSimplex],
    parents: Mapping[str, Sequence[str]],
    relevant: Sequence[str],
    hard: Mapping[str, int],
    soft: Mapping[str, FloatArray],
) -> Problem:
    """The tables of the relevant nodes with hard evidence put in."""
    open_nodes = [name for name in relevant if name not in hard]
    number = {name: i for i, name in enumerate(open_nodes)}
    n_categories = {name: tables[name].given.shape[-1] for name in relevant}
    observed = {name: np.eye(n_categories[name])[value] for name, value in hard.items()}
    problem = Problem([], [], [], open_nodes, {i: n_categories[name] for name, i in number.items()}, observed)
    for name in relevant:
        scope = (*parents[name], name)
        index = tuple(hard.get(node, slice(None)) for node in scope)
        problem.tables.append(np.asarray(tables[name].normalized[index]))
        problem.errors.append(np.asarray(tables[name].error[index]))
        problem.scopes.append(tuple(number[node] for node in scope if node not in hard))
    for name, weights in soft.items():
        with np.errstate(divide="ignore"):
            logs = np.log(weights)
        problem.tables.append(logs)
        problem.errors.append(np.where(logs > -np.inf, LIBM * np.abs(logs), 0.0))
        problem.scopes.append((number[name],))
    return problem


def by_enumeration(problem: Problem, asked: Sequence[int]) -> tuple[float, float, list[FloatArray], float]:
    """Log evidence, its error, the marginals of the open nodes asked for, and their relative error: two passes over the blocks.

    A sum over one axis after the other of a block adds at most (sum of the sizes) u; the blocks are added one by one.
    """
    sizes = tuple(problem.sizes.values())
    n_leading = next((k for k in range(len(sizes)) if math.prod(sizes[k:]) <= BLOCK), len(sizes))
    leading = LatentSpace(sizes[:n_leading]).states()
    parts = [(*_log_sum(table), error) for table, error in _blocks(problem, leading)]
    values = np.array([part[0] for part in parts])
    top = _log_sum(values[None, :])
    log_evidence, table_error = float(top[0]), max(part[2] for part in parts)
    error = 1.01 * (float(top[1]) + max(float(part[1]) for part in parts) + table_error)
    if log_evidence == -math.inf:
        return log_evidence, 0.0, [], 0.0
    sums = [np.zeros(sizes[i]) for i in asked]
    if asked:
        for first, (table, _) in zip(leading.tolist(), _blocks(problem, leading), strict=True):
            weights = np.exp(table - log_evidence).reshape(sizes[n_leading:])
            _add_marginals(sums, asked, first, weights)
    # exp, its argument, the sums, the division; a state that underflows is below 2**-1022, of weight S 2**-1022 at most
    depth = sum(sizes[n_leading:]) + len(leading) + max(sizes, default=0) + 2
    difference = 2.0 * U * 745.0  # arguments beyond are 0
    relative = 1.01 * (2.0 * (table_error + LIBM + depth * U + difference))
    return log_evidence, error, [total / total.sum() for total in sums], relative


def _log_sum(row: FloatArray) -> tuple[float, float]:
    """Log of the sum of exp of one row, and its error bound."""
    out = evidence_of_rows(row)
    return float(out[0, 0]), float(out[0, 1])


def _add_marginals(sums: list[FloatArray], asked: Sequence[int], first: Sequence[int], weights: FloatArray) -> None:
    """Add a block's weights to the marginals: cut the axes in two halves until one is left, so each is summed log D times."""

    def split(table: FloatArray, axes: list[int]) -> None:
        if len(axes) == 1:
            for total, node in zip(sums, asked, strict=True):
                if node == axes[0]:
                    total += table
            return
        half = len(axes) // 2
        low, high = table, table
        for _ in axes[half:]:
            low = low.sum(axis=-1)
        for _ in axes[:half]:
            high = high.sum(axis=0)
        split(low, axes[:half])
        split(high, axes[half:])

    n_leading = len(first)
    whole = weights
    while whole.ndim:
        whole = whole.sum(axis=-1)
    for total, node in zip(sums, asked, strict=True):
        if node < n_leading:
            total[first[node]] += float(whole)
    if weights.ndim:
        split(weights, list(range(n_leading, n_leading + weights.ndim)))


def _blocks(problem: Problem, leading: npt.NDArray[np.int64]) -> Iterator[tuple[FloatArray, float]]:
    """For each state of the leading nodes: log table of the others, flat, and the largest error of its possible entries."""
    n_leading, n_all = leading.shape[1], len(problem.sizes)
    shape = tuple(problem.sizes[i] for i in range(n_leading, n_all))
    ordered = []
    for table, error, scope in zip(problem.tables, problem.errors, problem.scopes, strict=True):
        order = sorted(range(len(scope)), key=scope.__getitem__)
        ordered.append((table.transpose(order), float(error.max(initial=0.0)), tuple(sorted(scope))))
    factor_error = math.fsum(part[1] for part in ordered)
    for state in leading.tolist():
        total, size = np.zeros(shape), 0.0
        for logs, _, nodes in ordered:
            part = logs[tuple(state[i] for i in nodes if i < n_leading)]
            part = part.reshape([problem.sizes[i] if i in nodes else 1 for i in range(n_leading, n_all)])
            total += part
            size += float(np.abs(part, where=part > -np.inf, out=np.zeros(part.shape)).max(initial=0.0))
        # partial sums of possible entries never exceed the sum of the largest sizes
        yield total.reshape(1, -1), 1.01 * (factor_error + len(ordered) * U * size)


def by_elimination(problem: Problem, asked: Sequence[int], max_bytes: int) -> tuple[float, float, list[FloatArray], float]:
    """As `by_enumeration`, by a contraction tree; the table of every node asked for gets a factor of ones to differentiate."""
    factors = []
    for table, error, scope in zip(problem.tables, problem.errors, problem.scopes, strict=True):
        largest = float(table.max())
        if largest == -math.inf:
            return -math.inf, 0.0, [], 0.0
        shift = round(largest / math.log(2.0))
        log_size = np.where(table > -np.inf, np.abs(table), 0.0)
        scaled = np.ldexp(np.exp(table), -shift)
        lost = bool(((scaled < 2.0**-1022) & (table > -np.inf)).any())
        bound = math.inf if lost else 1.01 * (float(error.max(initial=0.0)) + LIBM)
        factors.append(Factor(scaled, scope, float(shift), bound if log_size.max() < 700.0 else math.inf))
    targets = list(range(len(factors), len(factors) + len(asked)))
    factors += [Factor(np.ones(problem.sizes[i]), (i,), 0.0, 0.0) for i in asked]
    total, derivatives = eliminate(factors, problem.sizes, targets, max_bytes)
    if total.log_scale == -math.inf:
        return -math.inf, 0.0 if total.error < math.inf else math.inf, [], 0.0
    high, low = total.log_scale * math.log(2.0), math.log(float(total.table))
    log_evidence = high + low
    # log of a double LIBM; the product with a rounded log 2 two units, the sum one
    value_error = 1.01 * (total.error + LIBM * abs(low) + 2.0 * U * abs(high) + U * abs(log_evidence))
    if not all(part.table.any() for part in derivatives):  # the sum is positive, so this is an underflow
        return -math.inf, math.inf, [], math.inf
    marginals = [part.table / part.table.sum() for part in derivatives]
    relative = max((2.0 * part.error + (part.table.size + 2) * 1.01 * U for part in derivatives), default=0.0)
    return log_evidence, value_error, marginals, relative
