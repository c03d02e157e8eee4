"""Categorical columns for the fused E-step: one table of log probabilities for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families import Categorical
from elbo_exact.families._simplex import LogSimplex, U
from elbo_exact.kernels.mixture import categorical_densities, categorical_sums
from elbo_exact.models import _mixture_statistics

__all__ = ["parts"]

MOST = 8  # categories; each is a pass over its column


def parts(shares: LogSimplex, components: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What ``_fused.Plan`` holds.

    Error of a log joint: that of the share, the largest of each column, and D additions, whose partial sums do not exceed the total
    because all terms have one sign (up to their own errors).
    """
    simplexes = [family._simplex for family in components]
    n_categories = max(simplex.given.shape[-1] for simplex in simplexes)
    if n_categories > MOST:
        return None
    n_states = shares.given.size
    logs, errors = (
        np.concatenate([_padded(getattr(s, name), n_categories, n_states) for s in simplexes], axis=1)
        for name in ("normalized", "error")
    )
    n_columns = logs.shape[1]
    fixed = 1.01 * (shares.error + errors.max(axis=2).sum(axis=1))
    bounds = np.stack([fixed, np.full(n_states, 1.01 * (n_columns + 1) * U)])
    constants = np.ascontiguousarray(logs.reshape(n_states, -1)), np.ascontiguousarray(shares.normalized)

    def finish(sums: list[FloatArray], relative: float) -> tuple[Any, float]:
        table = sums[1].reshape(n_states, n_columns, n_categories)
        counted, first = [], 0
        for family, simplex in zip(components, simplexes, strict=True):
            size, last = simplex.given.shape[-1], first + family.n_columns
            own = table[:, first:last, :size]
            counted.append(np.ascontiguousarray(own[:, 0] if isinstance(family, Categorical) else own))
            first = last
        return _mixture_statistics.MixtureStatistics(sums[0], tuple(counted)), relative

    return _densities, _sums, constants, bounds, ((n_states,), (n_states, n_columns * n_categories)), finish


def _padded(table: FloatArray, n_categories: int, n_states: int) -> FloatArray:
    """As (K, D, C), with zeros for categories that a column does not have."""
    own = table.reshape(n_states, -1, table.shape[-1])
    return np.pad(own, ((0, 0), (0, 0), (0, n_categories - own.shape[2])))


def _densities(columns: FloatArray, constants: Any, table: FloatArray) -> None:
    categorical_densities(columns, *constants, table)


def _sums(columns: FloatArray, constants: Any, table: FloatArray, sums: list[FloatArray]) -> None:
    categorical_sums(columns, table, *sums)
