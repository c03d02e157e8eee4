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
from elbo_exact.models import Mixture
from elbo_exact.space import LatentSpace
from elbo_exact.testing._problem import Problem
from elbo_exact.testing._warm import warm_up

__all__ = ["Problem", "latent_spaces", "log_simplices", "log_tables", "mixtures", "problems"]

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
        return sizes.flatmap(lambda n: _row(n, zeros))
    return sizes.flatmap(lambda n: st.lists(_row(n, zeros), min_size=n_rows, max_size=n_rows).map(np.array))


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
    return st.integers(*_sizes(min_states, max_states)).flatmap(lambda n: _logits(n, zeros).map(_normalized))


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
