"""The exact objective of a model and a guide over a data set, with its rounding bound and both gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import pair_results
from elbo_exact._validate import FloatArray, unmasked
from elbo_exact.errors import LogTableError
from elbo_exact.families import Gaussian
from elbo_exact.fit.expectation import checked_counts, weighted_sum
from elbo_exact.fit.objectives import Elbo, Objective
from elbo_exact.fit.parameters import owner_of, parameter_arrays, probability_tables, with_arrays
from elbo_exact.kernels.rows import OUT_ELBO, OUT_GAP, OUT_NORMALIZER

__all__ = ["Bound", "FlatParameters", "Gradients", "Rows", "bound", "gradients", "rows"]

U = 2.0**-53
LIBM = 8.0 * U  # assumed of NumPy's exp: 4 ulp, the largest error NumPy accepts in its own tests


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations with counts, and what is to be maximized on them."""

    x: Any
    counts: FloatArray
    prior: Any = None
    objective: Objective = field(default_factory=Elbo)


@dataclass(frozen=True, eq=False)
class Bound:
    """A model, a guide, and the exact objective of both; what `loop.climb` walks over."""

    model: Any
    guide: Any
    log_joint: FloatArray
    log_q: FloatArray
    weights: FloatArray  # (N, S), derivative of each row's objective in log p(x, z): q for the ELBO
    weights_error: float  # their relative error; inf where there is no bound
    objective: float
    objective_error: float
    counts: FloatArray

    @property
    def status(self) -> str:
        """For a progress bar: the objective, and how far the ELBO of all rows lies below their log evidence."""
        used = self.counts > 0.0
        results, _ = pair_results(self.log_joint[used], self.log_q[used], False, False, "raise", None)
        return f"objective {self.objective:.6f}, gap {float(self.counts[used] @ results[:, OUT_GAP]):.3g}"


def rows(
    model: Any, x: npt.ArrayLike, weights: npt.ArrayLike | None, prior: Any = None, objective: Objective | None = None
) -> Rows:
    """Data and counts, checked; a row without weight stays, because a guide may have parameters for it."""
    own = getattr(model, "observations", None)
    data = unmasked(x, "x") if own is None else own(x)
    if len(data) == 0:
        raise LogTableError("x must hold at least one observation; got 0.", "x", (0,))
    counts = checked_counts(weights, len(data))
    if not counts.any():
        raise LogTableError("weights must hold at least one positive count; got only zeros.", "weights")
    return Rows(data, counts, prior, Elbo() if objective is None else objective)


def bound(model: Any, guide: Any, data: Rows, table: tuple[FloatArray, FloatArray] | None = None) -> Bound:
    """The exact objective, sum_n count_n value_n, plus the log prior.

    Bounds: that of the engine for each row, and the mean of the bounds of the log table under the weights: all of it for the ELBO, which is
    linear in the table, the first order for others.
    """
    log_joint, table_error = model.log_joint_and_error(data.x) if table is None else table
    log_q = guide.log_q(data.x)
    value, error, weights, weights_error = _valued(log_joint, log_q, data.objective)
    with np.errstate(under="ignore", invalid="ignore"):
        spread = 1.01 * np.where(weights == 0.0, 0.0, np.abs(weights) * table_error).sum(axis=1)
    used = data.counts > 0.0  # a row of weight 0 adds nothing, not even an infinity
    total, total_error = weighted_sum(data.counts[used], value[used], (error + spread)[used])
    if data.prior is not None:
        log_prior, prior_error = model.log_prior(data.prior)
        total += log_prior
        total_error += prior_error + U * abs(total)
    return Bound(model, guide, log_joint, log_q, weights, weights_error, total, total_error, data.counts)


def _valued(log_joint: FloatArray, log_q: FloatArray, objective: Objective) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Value and error of every row, weights and their relative error; the ELBO without its slope."""
    if not isinstance(objective, Elbo):
        found = objective(log_joint, log_q)
        return found.value, found.error, found.model, np.inf
    results, _ = pair_results(log_joint, log_q, False, False, "raise", None)
    with np.errstate(under="ignore"):
        weights = np.exp(log_q)
    normalizer = float((np.abs(results[:, OUT_NORMALIZER]) + results[:, OUT_NORMALIZER + 1]).max())
    return results[:, OUT_ELBO].copy(), results[:, OUT_ELBO + 1].copy(), weights, 1.01 * normalizer + LIBM


class Gradients(NamedTuple):
    """The total objective in nats and its derivatives.

    Attributes
    ----------
    value : float
    guide : ndarray
        In ``guide.params``.
    model : ndarray
        In the model's parameters, in the order of its ``pullback``.
    """

    value: float
    guide: FloatArray
    model: FloatArray


def gradients(
    model: Any, guide: Any, x: npt.ArrayLike, *, weights: npt.ArrayLike | None = None, objective: Objective | None = None
) -> Gradients:
    """The exact objective of a data set and its gradients in the parameters of the guide and of the model.

    Parameters
    ----------
    model : Mixture, or any model with log_joint and pullback
    guide : Free, MeanField, Amortized, or any guide with forward
    x : array_like, N observations
    weights : array_like, shape (N,), optional
        How often each observation was seen.
    objective : optional
        One of ``elbo_exact.fit.objectives``; the ELBO by default.

    Returns
    -------
    Gradients

    Raises
    ------
    LogTableError
        Bad observations or weights.

    Notes
    -----
    For the ELBO the cotangent of log q is `~elbo_exact.elbo_gradient`, that of the log joint is q itself; each is pulled back once. O(N S) and
    the cost of the guide. NaN where the objective is -inf, which has no gradient.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> model = ee.models.Mixture.random(2, [2, 2], rng=0)
    >>> x = [[0, 1], [1, 1]]
    >>> found = gradients(model, ee.guides.Free.optimum(model.log_joint(x)), x)
    >>> bool(abs(found.guide).max() < 1e-15), found.model.shape  # at the posterior
    (True, (10,))
    """
    data = rows(model, x, weights, None, objective)
    log_q, back = guide.forward(data.x)
    if guide.params.dtype != np.float64:
        log_q = guide.log_q(data.x)
    found = data.objective(model.log_joint(data.x), log_q)
    used = data.counts > 0.0
    total, _ = weighted_sum(data.counts[used], found.value[used], found.error[used])
    cotangents = (np.where(used[:, None], data.counts[:, None] * slope, 0.0) for slope in (found.guide, found.model))
    return Gradients(total, back(next(cotangents)), model.pullback(data.x, next(cotangents)))


class FlatParameters:
    """The parameters of a model as one flat vector of any real numbers, in the order of its ``pullback``.

    Logarithms and means stand for themselves: probabilities are renormalized on the way back, -inf stays -inf. Standard deviations, and
    the diagonals of Cholesky factors, are taken by their logarithms.
    """

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "pullback"):
            raise TypeError(f"training must be 'alternating' for this model: {type(model).__name__} has no pullback.")
        self.model, self.arrays = model, parameter_arrays(model)
        tables = probability_tables(model)
        coordinates = [_coordinates(model, place, array, tables) for place, array in self.arrays.items()]
        self.entries = [entries for entries, _ in coordinates]
        self.by_log = np.concatenate([by_log for _, by_log in coordinates])
        own = [array.ravel()[entries] for array, entries in zip(self.arrays.values(), self.entries, strict=True)]
        self.params = np.concatenate(own)
        self.params[self.by_log] = np.log(self.params[self.by_log])

    @property
    def has_scales(self) -> bool:
        """Whether a component can collapse."""
        return bool(self.by_log.any())

    def at(self, params: FloatArray) -> Any:
        """The model with these parameters."""
        values = self._values(params)
        parts = np.split(values, np.cumsum([entries.size for entries in self.entries])[:-1])
        arrays = {}
        for (place, array), entries, part in zip(self.arrays.items(), self.entries, parts, strict=True):
            flat = array.ravel().copy()
            flat[entries] = part
            arrays[place] = flat.reshape(array.shape)
        return with_arrays(self.model, arrays, renormalize=True)

    def pulled(self, params: FloatArray, gradient: FloatArray) -> FloatArray:
        """The gradient in these parameters from that of ``pullback``."""
        return np.where(self.by_log, gradient * self._values(params), gradient) if self.has_scales else gradient

    def _values(self, params: FloatArray) -> FloatArray:
        values = params.copy()
        values[self.by_log] = np.exp(params[self.by_log])
        return values


def _coordinates(model: Any, place: str, array: FloatArray, tables: set[str]) -> tuple[Any, Any]:
    """Entries of an array that can move, and which of them by their logarithm."""
    every, none = np.arange(array.size), np.zeros(array.size, bool)
    owner = owner_of(model, place)
    if place in tables or place.endswith("log_rates") or (isinstance(owner, Gaussian) and place.endswith("means")):
        return every, none
    if not isinstance(owner, Gaussian):
        raise TypeError(f"training must be 'alternating' for this model: {place} is no table of logarithms.")
    if owner.covariance in ("spherical", "diagonal"):
        return every, ~none
    square = array.shape[-2:]
    masks = np.tri(*square) > 0.0, np.eye(*square) > 0.0
    moving, diagonal = (np.broadcast_to(mask, array.shape).ravel() for mask in masks)
    return np.flatnonzero(moving), diagonal[moving]
