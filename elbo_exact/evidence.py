"""Log evidence and posterior of a log table: log p(x) = log sum_z p(x, z), and what follows from p(z | x)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import check_arithmetic, evidence_results, shaped
from elbo_exact._parallel import row_ranges, run
from elbo_exact._validate import FloatArray, at_index, integer, log_table, one_of, raise_bad_entry
from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.kernels.posterior import log_posterior_rows, posterior_rows
from elbo_exact.kernels.reduce import BAD_TARGET, ZERO_EVIDENCE
from elbo_exact.space import LatentSpace

__all__ = [
    "TopStates",
    "log_evidence",
    "log_posterior",
    "map_state",
    "posterior",
    "posterior_marginals",
    "sample_posterior",
    "top_states",
]

IntArray = npt.NDArray[np.int64]


def log_evidence(log_joint: npt.ArrayLike, *, nan_policy: str = "raise", executor: Any = None) -> Any:
    """log p(x) = log sum_z exp(log_joint[..., z]), in nats.

    Parameters
    ----------
    log_joint : array_like, shape (..., S)
        log p(x, z) for every state z of the latent space; finite or -inf.
    nan_policy : {"raise", "propagate"}
        What a NaN does: raise, or make its row NaN.
    executor : concurrent.futures.Executor, optional
        Where the work runs; by default threads. The bits do not depend on it.

    Returns
    -------
    float or ndarray, shape (...)
        -inf where no state is possible. The error bound of each value is ``audit(...).error.log_evidence``.

    Raises
    ------
    LogTableError
        NaN, +inf, or no states.

    Notes
    -----
    The maximal states are counted and the rest is summed, so that log p = max + log1p(rest). O(S), one pass over memory.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> ee.log_evidence([0.0, -40.0])
    np.float64(4.248354255291589e-18)
    """
    results, batch = evidence_results(log_joint, nan_policy, executor)
    return shaped(results[:, 0], batch)


def posterior(log_joint: npt.ArrayLike, *, impossible: str = "raise", executor: Any = None) -> FloatArray:
    """p(z | x) = exp(log_joint - log p(x)), relative error below 8 units of rounding.

    Parameters
    ----------
    log_joint : array_like, shape (..., S)
        log p(x, z).
    impossible : {"raise", "nan"}
        What a row without any possible state does.
    executor : concurrent.futures.Executor, optional
        Where the work runs.

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ZeroEvidence
        p(x) = 0, unless ``impossible="nan"``.

    Notes
    -----
    O(S), two passes over memory.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> ee.posterior([[0.0, 0.0, -float("inf")]])
    array([[0.5, 0.5, 0. ]])
    """
    return _posterior_table(_posterior_task, log_joint, impossible, executor)


def log_posterior(log_joint: npt.ArrayLike, *, impossible: str = "raise", executor: Any = None) -> FloatArray:
    """log p(z | x) = log_joint - log p(x), in nats, absolute error about one rounding of its largest part.

    Parameters
    ----------
    log_joint : array_like, shape (..., S)
        log p(x, z).
    impossible : {"raise", "nan"}
        What a row without any possible state does.
    executor : concurrent.futures.Executor, optional
        Where the work runs.

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ZeroEvidence
        p(x) = 0, unless ``impossible="nan"``.

    Notes
    -----
    O(S), two passes over memory.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> ee.log_posterior([7.0, 7.0])
    array([-0.69314718, -0.69314718])
    """
    return _posterior_table(_log_posterior_task, log_joint, impossible, executor)


def posterior_marginals(log_joint: npt.ArrayLike, space: LatentSpace) -> list[FloatArray]:
    """p(z_k | x) of every variable of a latent space.

    Parameters
    ----------
    log_joint : array_like, shape (..., S)
        log p(x, z) over ``space`` in C order.
    space : LatentSpace
        The variables and their sizes.

    Returns
    -------
    list of ndarray, shapes (..., sizes[k])

    Raises
    ------
    LogTableError
        The table does not have ``space.size`` states.
    ZeroEvidence
        p(x) = 0.

    Notes
    -----
    O(S) for each variable.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> ee.posterior_marginals([0.0, 0.0, 0.0, -float("inf")], ee.LatentSpace((2, 2)))[0].round(4)
    array([0.6667, 0.3333])
    """
    if not isinstance(space, LatentSpace):
        raise TypeError(f"space must be a LatentSpace; got {type(space).__name__}; write LatentSpace(sizes).")
    table = posterior(_table_over(log_joint, space))
    cube = table.reshape(*table.shape[:-1], *space.sizes)
    lead, n_variables = table.ndim - 1, len(space.sizes)
    return [
        np.asarray(cube.sum(axis=tuple(lead + other for other in range(n_variables) if other != k))) for k in range(n_variables)
    ]


def map_state(log_joint: npt.ArrayLike, space: LatentSpace | None = None) -> Any:
    """The most probable state, the first one of several.

    Parameters
    ----------
    log_joint : array_like, shape (..., S)
        log p(x, z).
    space : LatentSpace, optional
        Return the state's values instead of its flat index.

    Returns
    -------
    int64 or ndarray, shape (...) or (..., n_variables)

    Raises
    ------
    ZeroEvidence
        p(x) = 0.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> ee.map_state([-3.0, -1.0, -2.0])
    np.int64(1)
    """
    check_arithmetic()
    return _unravelled(np.argmax(_possible(_table_over(log_joint, space)), axis=-1).astype(np.int64), space)


class TopStates(NamedTuple):
    """The most probable states and their posterior probabilities, in falling order."""

    states: Any
    probabilities: FloatArray


def top_states(log_joint: npt.ArrayLike, k: int, space: LatentSpace | None = None) -> TopStates:
    """The k most probable states in falling order; equals keep the order of the states.

    Parameters
    ----------
    log_joint : array_like, shape (..., S)
        log p(x, z).
    k : int
        How many, at most S.
    space : LatentSpace, optional
        Return the states' values instead of their flat indices.

    Returns
    -------
    TopStates
        ``states`` (..., k) or (..., k, n_variables) and ``probabilities`` (..., k).

    Raises
    ------
    ValueError
        k is not between 1 and S.
    ZeroEvidence
        p(x) = 0.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> ee.top_states([-3.0, -1.0, -2.0], 2).states
    array([1, 2])
    """
    table = _possible(_table_over(log_joint, space))
    if integer(k, "k", 1) > table.shape[-1]:
        raise ValueError(f"k must be at most the number of states {table.shape[-1]}; got {k}.")
    order = np.argsort(-table, axis=-1, kind="stable")[..., :k].astype(np.int64)
    return TopStates(_unravelled(order, space), np.take_along_axis(posterior(table), order, axis=-1))


def sample_posterior(
    log_joint: npt.ArrayLike,
    size: int,
    space: LatentSpace | None = None,
    *,
    rng: np.random.Generator | int | None = None,
) -> Any:
    """Independent draws from p(z | x), by inversion of its exact cumulative sums.

    Parameters
    ----------
    log_joint : array_like, shape (..., S)
        log p(x, z).
    size : int
        Draws for each row.
    space : LatentSpace, optional
        Return the states' values instead of their flat indices.
    rng : numpy.random.Generator or seed, optional
        Passed once through ``numpy.random.default_rng``.

    Returns
    -------
    ndarray of int64, shape (..., size) or (..., size, n_variables)
        States of probability zero are never drawn.

    Raises
    ------
    ZeroEvidence
        p(x) = 0.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> ee.sample_posterior([-float("inf"), 0.0], 3, rng=0)
    array([1, 1, 1])
    """
    count, generator = integer(size, "size", 0), np.random.default_rng(rng)
    table = posterior(_table_over(log_joint, space))
    rows = table.reshape(-1, table.shape[-1])
    draws = np.empty((len(rows), count), np.int64)
    for row, result in zip(rows, draws, strict=True):
        cumulative = np.cumsum(row)
        last = int(np.flatnonzero(row)[-1])  # rounding up of u * total must not reach a state beyond it
        result[:] = np.minimum(np.searchsorted(cumulative, generator.random(count) * cumulative[-1], side="right"), last)
    return _unravelled(draws.reshape(*table.shape[:-1], count), space)


def _posterior_task(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    return _run_rows(posterior_rows, rows)


def _log_posterior_task(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    return _run_rows(log_posterior_rows, rows)


@np.errstate(all="ignore")
def _run_rows(kernel: Any, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    check_arithmetic()
    out, status = np.empty(rows.shape), np.empty(len(rows))
    kernel(rows, 0, len(rows), out, status)
    return out, status


def _posterior_table(task: Any, log_joint: npt.ArrayLike, impossible: str, executor: Any) -> FloatArray:
    one_of(impossible, "impossible", ("raise", "nan"))
    table = log_table(log_joint, "log_joint")
    rows = table.reshape(-1, table.shape[-1])
    calls = [(rows[first:last],) for first, last in row_ranges(len(rows), table.shape[-1])]
    results = run(task, calls, executor)
    if not results:
        return np.empty(table.shape)
    status = np.concatenate([part for _, part in results])
    if (status == BAD_TARGET).any():
        raise_bad_entry(table, "log_joint")
    if impossible == "raise":
        _raise_impossible(status == ZERO_EVIDENCE, table.shape[:-1])
    return np.concatenate([part for part, _ in results]).reshape(table.shape)


def _raise_impossible(impossible: npt.NDArray[np.bool_], batch: tuple[int, ...]) -> None:
    if impossible.any():
        index = tuple(int(i) for i in np.unravel_index(int(impossible.argmax()), batch)) if batch else ()
        raise ZeroEvidence(
            f"log_joint has no possible state{at_index(index)}: p(x) = 0 has no posterior; "
            'pass impossible="nan" to posterior() for NaN rows.',
            index,
        )


def _possible(table: FloatArray) -> FloatArray:
    """The same table, after refusing NaN, +inf and impossible rows."""
    if not (table < np.inf).all():
        raise_bad_entry(table, "log_joint")
    _raise_impossible((table == -np.inf).all(axis=-1).reshape(-1), table.shape[:-1])
    return table


def _table_over(log_joint: npt.ArrayLike, space: LatentSpace | None) -> FloatArray:
    table = log_table(log_joint, "log_joint")
    if space is not None and table.shape[-1] != math.prod(space.sizes):
        raise LogTableError(
            f"log_joint must have the {space.size} states of space along axis=-1; got {table.shape[-1]}.",
            "log_joint",
            table.shape,
        )
    return table


def _unravelled(flat: Any, space: LatentSpace | None) -> Any:
    if space is None:
        return flat[()]
    return np.stack(np.unravel_index(flat, space.sizes), axis=-1).astype(np.int64)
