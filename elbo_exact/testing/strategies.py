"""Hypothesis strategies for small problems with nasty corners, which shrink to small tables of short numbers.

Entries are multiples of 1/8 before normalization, so that a shrunk example can be read. Finite entries of log q stay above -85: every
weight is then a normal number also in float32, and "q is zero" means the same in every precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from elbo_exact._validate import FloatArray
from elbo_exact.evidence import log_evidence
from elbo_exact.families import Categorical
from elbo_exact.guides import Autoregressive, Factors, Free, MeanField, Structured
from elbo_exact.models import BayesianNetwork, HiddenMarkov, Mixture
from elbo_exact.space import LatentSpace
from elbo_exact.testing._problem import Problem
from elbo_exact.testing._shown import shown
from elbo_exact.testing._warm import warm_up

__all__ = [
    "Problem",
    "bayesian_networks",
    "guides",
    "hidden_markov_models",
    "latent_spaces",
    "log_simplices",
    "log_tables",
    "mixtures",
    "problems",
]

EIGHTH = 0.125
WIDEST = 640  # 80 in eighths: with at most 64 states log q >= -80 - log 64 > -85
CORNERS = ("loose", "tight", "zeros", "ties", "near_determinism", "offset", "one_state", "disconnected")
MAX_STATES = 64


def log_tables(
    *, min_states: int = 1, max_states: int = 6, n_rows: int | None = None, zeros: bool = True
) -> st.SearchStrategy[FloatArray]:
    """Tables of log p(x, z), in nats: multiples of 1/8 in [-10, 10], with impossible states, ties and huge offsets.

    Parameters
    ----------
    min_states, max_states : int
        1 <= min_states <= max_states <= 64.
    n_rows : int, optional
        Number of rows; by default one row without a batch axis.
    zeros : bool
        Allow -inf; at least one state of every row stays possible.

    Returns
    -------
    strategy of ndarray, shape (S,) or (n_rows, S)

    Examples
    --------
    >>> from hypothesis import find
    >>> find(log_tables(min_states=2, zeros=False), lambda table: bool(table[0] < table[1]))
    array([0.   , 0.125])
    """
    warm_up()
    sizes = st.integers(*_sizes(min_states, max_states))
    if n_rows is None:
        return shown(sizes.flatmap(lambda n: _row(n, zeros)))
    return shown(sizes.flatmap(lambda n: st.lists(_row(n, zeros), min_size=n_rows, max_size=n_rows).map(np.array)))


def log_simplices(*, min_states: int = 1, max_states: int = 6, zeros: bool = True) -> st.SearchStrategy[FloatArray]:
    """Rows of log probabilities, normalized up to rounding, with zeros and near-determinism.

    Parameters
    ----------
    min_states, max_states, zeros
        As in `log_tables`.

    Returns
    -------
    strategy of ndarray, shape (S,)

    Examples
    --------
    >>> from hypothesis import find
    >>> find(log_simplices(min_states=2), lambda row: True).round(4)
    array([-0.6931, -0.6931])
    """
    warm_up()
    return shown(st.integers(*_sizes(min_states, max_states)).flatmap(lambda n: _logits(n, zeros).map(_normalized)))


@st.composite
def _drawn_problem(draw: Any, smallest: int, largest: int, corners: tuple[str, ...]) -> Problem:
    corner = draw(st.sampled_from(corners))
    n = 1 if corner == "one_state" else draw(st.integers(max(smallest, 2 if corner == "disconnected" else 1), largest))
    a = draw(_row(n, corner == "zeros"))
    if corner == "ties":
        a, logits = np.full(n, a[0]), draw(st.sampled_from([np.zeros(n), np.arange(n) * EIGHTH]))
    elif corner == "tight":
        logits = a + np.array(draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))) * 2.0**-20
    elif corner == "near_determinism":
        logits = np.full(n, -EIGHTH * draw(st.integers(160, WIDEST)))
        logits[draw(st.integers(0, n - 1))] = 0.0
    else:
        logits = draw(_logits(n, corner == "zeros"))
    if corner == "disconnected":
        split = draw(st.integers(1, n - 1))
        a, logits = np.where(np.arange(n) < split, a, -np.inf), np.where(np.arange(n) < split, -np.inf, 0.0)
    if corner == "offset":
        a = a + draw(st.sampled_from([1024.0, -1024.0, 1e6, -1e6, 1e12, -1e15]))
    return Problem(a, _normalized(logits))


def problems(*, min_states: int = 1, max_states: int = 6, corners: tuple[str, ...] = CORNERS) -> st.SearchStrategy[Problem]:
    """Pairs of log p(x, z) and log q(z), from every corner by default.

    Parameters
    ----------
    min_states, max_states : int
        1 <= min_states <= max_states <= 64; at least 2 for ``max_states`` with "disconnected".
    corners : tuple of str
        Any of "loose", "tight" (q within 2**-18 of the posterior), "zeros" (of p, of q, of both), "ties", "near_determinism" (all but one
        state below e**-20, down to e**-80), "offset" (log p shifted by up to 1e15), "one_state", "disconnected" (no common state:
        the ELBO is -inf).

    Returns
    -------
    strategy of Problem
        Each prints as the code that makes it; p(x) > 0 always.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(problems(corners=("loose",)), lambda problem: problem.n_states == 2)
    Problem([0.0, 0.0], [-0.6931471805599453, -0.6931471805599453])
    """
    smallest, largest = _sizes(min_states, max_states)
    wanted = tuple(corners)
    if not wanted or set(wanted) - set(CORNERS):
        raise ValueError(f"corners must be some of {', '.join(CORNERS)}; got {corners!r}.")
    wanted = tuple(c for c in wanted if (c != "one_state" or smallest == 1) and (c != "disconnected" or largest > 1))
    if not wanted:
        raise ValueError(f"corners {corners!r} need other sizes than {smallest} to {largest} states.")
    warm_up()
    return _drawn_problem(smallest, largest, wanted)


def latent_spaces(*, max_variables: int = 4, max_size: int = 64) -> st.SearchStrategy[LatentSpace]:
    """Products of up to ``max_variables`` finite variables with at most ``max_size`` states together.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(latent_spaces(), lambda space: space.size > 2).sizes
    (3,)
    """
    return _drawn_space(max_variables, max_size)


@st.composite
def _drawn_space(draw: Any, max_variables: int, max_size: int) -> LatentSpace:
    sizes, room = [], max_size
    for _ in range(draw(st.integers(1, max_variables))):
        sizes.append(draw(st.integers(1, min(room, 5))))
        room //= sizes[-1]
    return LatentSpace(tuple(sizes))


@st.composite
def _drawn_mixture(draw: Any, max_components: int, max_columns: int, max_categories: int, zeros: bool) -> Mixture:
    k = draw(st.integers(1, max_components))
    shares = _normalized(draw(_logits(k, False)))
    columns = []
    for _ in range(draw(st.integers(1, max_columns))):
        c = draw(st.integers(1, max_categories))
        columns.append(Categorical(np.array([_normalized(draw(_logits(c, zeros))) for _ in range(k)])))
    return Mixture(shares, tuple(columns))


def mixtures(
    *, max_components: int = 3, max_columns: int = 3, max_categories: int = 3, zeros: bool = True
) -> st.SearchStrategy[Mixture]:
    """Latent class models: ``models.Mixture`` of categorical columns, with impossible categories.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(mixtures(), lambda model: model.n_components == 2).log_weights.round(4)
    array([-0.6931, -0.6931])
    """
    warm_up()
    return _drawn_mixture(max_components, max_columns, max_categories, zeros)


@st.composite
def _drawn_rows(draw: Any, n_rows: int, n_columns: int, zeros: bool) -> FloatArray:
    return np.array([_normalized(draw(_logits(n_columns, zeros))) for _ in range(n_rows)])


@st.composite
def _drawn_chain(draw: Any, max_states: int, max_symbols: int, zeros: bool) -> HiddenMarkov:
    k, c = draw(st.integers(1, max_states)), draw(st.integers(1, max_symbols))
    initial, transition, emission = (draw(_drawn_rows(rows, columns, zeros)) for rows, columns in ((1, k), (k, k), (k, c)))
    return HiddenMarkov(initial[0], transition, (Categorical(emission),))


def hidden_markov_models(*, max_states: int = 3, max_symbols: int = 3, zeros: bool = True) -> st.SearchStrategy[HiddenMarkov]:
    """Chains with one categorical symbol per step: ``models.HiddenMarkov`` with forbidden starts, steps and symbols.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(hidden_markov_models(zeros=False), lambda model: model.n_states == 2).log_initial.round(4)
    array([-0.6931, -0.6931])
    """
    warm_up()
    return _drawn_chain(max_states, max_symbols, zeros)


@st.composite
def _drawn_network(draw: Any, max_nodes: int, max_categories: int, max_parents: int, zeros: bool) -> BayesianNetwork:
    names = [f"n{i}" for i in range(draw(st.integers(1, max_nodes)))]
    states = {name: tuple(map(str, range(draw(st.integers(1, max_categories))))) for name in names}
    parents, tables = {}, {}
    for i, name in enumerate(names):
        chosen = draw(st.sets(st.sampled_from(names[:i]), max_size=max_parents)) if i else set()
        parents[name] = tuple(sorted(chosen))
        shape = [len(states[parent]) for parent in parents[name]]
        rows = draw(_drawn_rows(int(np.prod(shape)), len(states[name]), zeros))
        tables[name] = rows.reshape(*shape, -1)
    return BayesianNetwork(states, parents, tables, tuple(sorted(draw(st.sets(st.sampled_from(names))))))


def bayesian_networks(
    *, max_nodes: int = 4, max_categories: int = 3, max_parents: int = 2, zeros: bool = True
) -> st.SearchStrategy[BayesianNetwork]:
    """Networks of nodes n0, n1, ... with parents among those before, impossible categories, any nodes hidden.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(bayesian_networks(zeros=False), lambda network: bool(network.parents["n0"] == () and len(network.nodes) == 2)).sizes
    (1, 1)
    """
    warm_up()
    return _drawn_network(max_nodes, max_categories, max_parents, zeros)


@st.composite
def _drawn_guide(draw: Any, max_variables: int, max_size: int, max_rows: int, zeros: bool) -> Structured:
    space, n_rows = draw(latent_spaces(max_variables=max_variables, max_size=max_size)), draw(st.integers(1, max_rows))
    kind: Any = draw(st.sampled_from([MeanField, Free, Autoregressive, Structured]))
    given = Factors.chain(space) if kind is Structured else space
    width = kind._factors(given).n_logits
    rows = [draw(_logits(width, False)) for _ in range(n_rows)]
    if zeros and kind is Free:
        rows = [draw(_logits(width, True)) for _ in range(n_rows)]
    guide: Structured = kind(np.concatenate(rows), given)
    return guide


def guides(
    *, max_variables: int = 3, max_size: int = 16, max_rows: int = 3, zeros: bool = True
) -> st.SearchStrategy[Structured]:
    """Guides with logits of their own for up to ``max_rows`` observations: mean field, free (with zeros), autoregressive, chains.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(guides(), lambda guide: guide.space.size == 2 and bool(guide.params[0] < guide.params[1]))
    MeanField([0.0, 0.125], LatentSpace(sizes=(2,), names=None))
    """
    warm_up()
    return _drawn_guide(max_variables, max_size, max_rows, zeros)


def _sizes(min_states: int, max_states: int) -> tuple[int, int]:
    if not 1 <= min_states <= max_states <= MAX_STATES:
        raise ValueError(f"1 <= min_states <= max_states <= {MAX_STATES} must hold; got {min_states} and {max_states}.")
    return min_states, max_states


def _row(n: int, zeros: bool) -> st.SearchStrategy[FloatArray]:
    return _with_zeros(st.lists(st.integers(-80, 80), min_size=n, max_size=n), n, zeros)


def _logits(n: int, zeros: bool) -> st.SearchStrategy[FloatArray]:
    near = st.lists(st.integers(-40, 40), min_size=n, max_size=n)
    far = st.lists(st.integers(-WIDEST // 2, WIDEST // 2), min_size=n, max_size=n)
    return _with_zeros(near | far, n, zeros)


def _with_zeros(entries: st.SearchStrategy[list[int]], n: int, zeros: bool) -> st.SearchStrategy[FloatArray]:
    rows = entries.map(lambda row: np.array(row, np.float64) * EIGHTH)
    if not zeros:
        return rows
    dead = st.sets(st.integers(0, n - 1), max_size=n - 1)
    return st.tuples(rows, dead).map(lambda pair: np.where(np.isin(np.arange(n), list(pair[1])), -np.inf, pair[0]))


def _normalized(logits: FloatArray) -> FloatArray:
    return np.asarray(logits - log_evidence(logits) + 0.0)  # + 0.0: no -0.0 in what is printed
