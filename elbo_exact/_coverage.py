"""Which posterior mass q misses: where it is zero or too small, and around each mode; `anatomy` publishes the names."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import evidence_results, pair_results, shaped
from elbo_exact._mean_field import table_over
from elbo_exact._validate import FloatArray, broadcast_rows, log_table, real_array, same_states
from elbo_exact.errors import LogTableError
from elbo_exact.evidence import log_posterior, posterior
from elbo_exact.space import LatentSpace

__all__ = ["MissedMass", "ModeCoverage", "missed_mass", "mode_coverage"]

U, ETA = 2.0**-53, 2.0**-1074
POSTERIOR_ERROR = 8.0 * U
DEFAULT_THRESHOLDS = (1e-3, 1e-2, 1e-1, 0.5)


@dataclass(frozen=True)
class MissedMass:
    """Posterior mass where q is zero, or too small; ``error`` holds the bound of ``missed`` and of ``curve``.

    Attributes
    ----------
    missed : float or ndarray, shape (...)
        p({z : q(z) = 0}).
    thresholds : ndarray, shape (T,)
        The t of the curve.
    curve : ndarray, shape (..., T)
        p({z : q(z) < t p(z)}); falls to ``missed`` as t falls to 0.
    error : namespace
        Bounds. That of the curve includes the states whose ratio lies so near t that doubles cannot tell on which side.
    """

    missed: Any
    thresholds: FloatArray
    curve: FloatArray
    error: SimpleNamespace

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and floats."""
        values = {name: np.asarray(getattr(self, name)).tolist() for name in ("missed", "thresholds", "curve")}
        return values | {"error": {name: np.asarray(getattr(self.error, name)).tolist() for name in ("missed", "curve")}}


@np.errstate(all="ignore")
def missed_mass(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    thresholds: npt.ArrayLike | None = None,
    *,
    unnormalized: bool = False,
) -> MissedMass:
    """Posterior mass of the states that q misses, and of those that it underrates by more than a factor.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    thresholds : array_like, shape (T,), optional
        Positive factors t; 0.001, 0.01, 0.1 and 0.5 by default.
    unnormalized : bool
        Accept logits.

    Returns
    -------
    MissedMass
        NaN where p(x) = 0.

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized, thresholds that are not positive.

    Notes
    -----
    O(S T).

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> result = ee.anatomy.missed_mass(np.log([0.5, 0.3, 0.2]), [np.log(0.98), np.log(0.02), -np.inf], [0.1, 0.5])
    >>> result.missed.round(12), result.curve.round(12)
    (np.float64(0.2), array([0.5, 0.5]))
    """
    levels = real_array(DEFAULT_THRESHOLDS if thresholds is None else thresholds, "thresholds")
    if levels.ndim != 1 or not ((levels > 0.0) & (levels < np.inf)).all():
        raise LogTableError(f"thresholds must be a list of positive numbers; got {thresholds!r}.", "thresholds", thresholds)
    pair_results(log_joint, log_q, False, unnormalized, "raise", None)
    target, q = log_table(log_joint, "log_joint"), log_table(log_q, "log_q")
    batch = same_states(target, "log_joint", q, "log_q")
    (a, a_error), (b, b_error) = _normalized(broadcast_rows(target, batch)), _normalized(broadcast_rows(q, batch))
    ratio, slack = b - a, a_error + b_error + U * np.abs(b - a)
    unmet = (b == -np.inf) & (a > -np.inf)
    missed, missed_error = _mass(a, a_error, unmet)
    curve, curve_error = np.empty((2, len(ratio), levels.size))
    for k, level in enumerate(levels):
        here, cut = np.log(level), 4.0 * U * abs(np.log(level))
        below = unmet | (ratio < here)
        near = (np.abs(ratio - here) <= 1.01 * slack + cut) & ~unmet
        curve[:, k], curve_error[:, k] = _mass(a, a_error, below)
        curve_error[:, k] += sum(_mass(a, a_error, near))
    shape = (*batch, levels.size)
    errors = SimpleNamespace(missed=shaped(missed_error, batch), curve=curve_error.reshape(shape))
    return MissedMass(shaped(missed, batch), levels, curve.reshape(shape), errors)


def _normalized(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log posterior and its error: three roundings of itself, log1p of the sum (2u, at most log S), and the sum's own 9u."""
    table = log_posterior(rows, impossible="nan")
    return table, U * (4.0 * np.abs(table) + 4.0 * np.log(rows.shape[1]) + 20.0)


def _mass(log_p: FloatArray, error: FloatArray, states: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Probability of a set of states for every row, and its bound; NaN for rows without a posterior."""
    inside = states & (log_p > -np.inf)
    results, _ = evidence_results(np.where(inside, log_p, -np.inf), "raise", None)
    mass = np.minimum(np.exp(results[:, 0]), 1.0)
    moved = 1.01 * np.sum(np.where(inside, np.exp(log_p) * error, 0.0), axis=1)
    undefined = np.isnan(log_p[:, 0])
    return np.where(undefined, np.nan, mass), np.where(undefined, np.inf, mass * (1.01 * results[:, 1] + 4.0 * U) + moved + ETA)


@dataclass(frozen=True)
class ModeCoverage:
    """The local maxima of log_joint, by falling posterior mass, and what q thinks of them.

    Attributes
    ----------
    states : ndarray of int, shape (M, n_variables)
        States that no change of a single variable makes more probable; every state of a plateau is listed.
    p_mass, q_mass : ndarray, shape (M,)
        Posterior probability and q of each of these states.
    error : namespace
        The bounds of ``p_mass`` and ``q_mass``.
    """

    states: npt.NDArray[np.int64]
    p_mass: FloatArray
    q_mass: FloatArray
    error: SimpleNamespace

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        values = {name: getattr(self, name).tolist() for name in ("states", "p_mass", "q_mass")}
        return values | {"error": {name: getattr(self.error, name).tolist() for name in ("p_mass", "q_mass")}}

    def __str__(self) -> str:
        """One aligned line per mode."""
        width = max(5, 3 * self.states.shape[1])
        lines = [f"{'state':<{width}}  {'p_mass':>12}  {'q_mass':>12}"]
        for state, p, q in zip(self.states, self.p_mass, self.q_mass, strict=True):
            lines.append(f"{' '.join(map(str, state)):<{width}}  {p:>12.6g}  {q:>12.6g}")
        return "\n".join(lines)


def mode_coverage(
    log_joint: npt.ArrayLike, log_q: npt.ArrayLike, space: LatentSpace, *, unnormalized: bool = False
) -> ModeCoverage:
    """Posterior and q-probability of every local maximum of log_joint under changes of one variable.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (S,)
        log p(x, z) and log q(z | x) over ``space``.
    space : LatentSpace
        The variables; for bits a change is a flip.
    unnormalized : bool
        Accept logits.

    Returns
    -------
    ModeCoverage

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized.
    ZeroEvidence
        p(x) = 0.

    Notes
    -----
    O(S n). The masses are those of the states themselves, known to 8 roundings.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> print(ee.anatomy.mode_coverage(np.log([0.4, 0.05, 0.05, 0.5]), np.log([0.1, 0.2, 0.2, 0.5]), ee.LatentSpace((2, 2))))
    state         p_mass        q_mass
    1 1              0.5           0.5
    0 0              0.4           0.1
    """
    target, q = table_over(log_joint, space), table_over(log_q, space, "log_q")
    pair_results(target, q, False, unnormalized, "raise", None)
    p, cube = posterior(target), target.reshape(space.sizes)
    maximal = cube > -np.inf
    for axis in range(cube.ndim):
        maximal &= cube == cube.max(axis=axis, keepdims=True)
    modes = np.flatnonzero(maximal)
    modes = modes[np.argsort(-target[modes], kind="stable")]
    masses = p[modes], posterior(q)[modes]
    errors = (POSTERIOR_ERROR * mass + ETA for mass in masses)
    states = (
        np.stack(np.unravel_index(modes, space.sizes), axis=-1).astype(np.int64) if space.sizes else np.empty((1, 0), np.int64)
    )
    return ModeCoverage(states, *masses, SimpleNamespace(**dict(zip(("p_mass", "q_mass"), errors, strict=True))))
