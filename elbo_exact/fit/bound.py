"""The exact ELBO of a model and a guide over a data set, with its rounding bound and both gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import pair_results
from elbo_exact._validate import FloatArray
from elbo_exact.errors import LogTableError
from elbo_exact.fit.expectation import checked_counts, weighted_sum
from elbo_exact.fit.parameters import parameter_arrays, probability_tables, with_arrays
from elbo_exact.kernels.rows import OUT_ELBO, OUT_NORMALIZER
from elbo_exact.variational import gradient_results

__all__ = ["Bound", "Gradients", "LogParameters", "Rows", "bound", "elbo_gradients", "rows"]

U = 2.0**-53
LIBM = 8.0 * U  # assumed of NumPy's exp: 4 ulp, the largest error NumPy accepts in its own tests


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations with counts."""

    x: Any
    counts: FloatArray
    prior: Any = None


@dataclass(frozen=True, eq=False)
class Bound:
    """A model, a guide, and the exact ELBO of both; what `loop.climb` walks over."""

    model: Any
    guide: Any
    log_joint: FloatArray
    log_q: FloatArray
    q_error: float  # relative error of exp(log_q) as probabilities
    objective: float
    objective_error: float


def rows(model: Any, x: npt.ArrayLike, weights: npt.ArrayLike | None, prior: Any = None) -> Rows:
    """Data and counts, checked; a row without weight stays, because a guide may have parameters for it."""
    own = getattr(model, "observations", None)
    data = np.asarray(x) if own is None else own(x)
    if len(data) == 0:
        raise LogTableError("x must hold at least one observation; got 0.", "x", (0,))
    counts = checked_counts(weights, len(data))
    if not counts.any():
        raise LogTableError("weights must hold at least one positive count; got only zeros.", "weights")
    return Rows(data, counts, prior)


def bound(model: Any, guide: Any, data: Rows, table: tuple[FloatArray, FloatArray] | None = None) -> Bound:
    """The exact ELBO, sum_n count_n E_q[log p(x_n, z) - log q(z)], plus the log prior.

    Bounds: that of the engine for each row, and q's mean of the bounds of the log table, which the ELBO is linear in.
    """
    log_joint, table_error = model.log_joint_and_error(data.x) if table is None else table
    log_q = guide.log_q(data.x)
    results, _ = pair_results(log_joint, log_q, False, False, "raise", None)
    with np.errstate(under="ignore"):
        spread = 1.01 * (np.exp(log_q) * table_error).sum(axis=1)
    elbo, error = results[:, OUT_ELBO].copy(), results[:, OUT_ELBO + 1] + spread
    used = data.counts > 0.0  # a row of weight 0 adds nothing, not even an infinity
    total, total_error = weighted_sum(data.counts[used], elbo[used], error[used])
    if data.prior is not None:
        log_prior, prior_error = model.log_prior(data.prior)
        total += log_prior
        total_error += prior_error + U * abs(total)
    normalizer = float((np.abs(results[:, OUT_NORMALIZER]) + results[:, OUT_NORMALIZER + 1]).max())
    return Bound(model, guide, log_joint, log_q, 1.01 * normalizer + LIBM, total, total_error)


class Gradients(NamedTuple):
    """The total ELBO in nats and its derivatives.

    Attributes
    ----------
    elbo : float
    guide : ndarray
        In ``guide.params``.
    model : ndarray
        In the model's parameters, in the order of its ``pullback``.
    """

    elbo: float
    guide: FloatArray
    model: FloatArray


def elbo_gradients(model: Any, guide: Any, x: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> Gradients:
    """The exact ELBO of a data set and its gradients in the parameters of the guide and of the model.

    Parameters
    ----------
    model : Mixture, or any model with log_joint and pullback
    guide : Free, MeanField, Amortized, or any guide with forward
    x : array_like, N observations
    weights : array_like, shape (N,), optional
        How often each observation was seen.

    Returns
    -------
    Gradients

    Raises
    ------
    LogTableError
        Bad observations or weights.

    Notes
    -----
    The cotangent of log q is `~elbo_exact.elbo_gradient`, that of the log joint is q itself; each is pulled back once. O(N S) and the cost of the
    guide. NaN where the ELBO is -inf, which has no gradient.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> model = ee.models.Mixture.random(2, [2, 2], rng=0)
    >>> x = [[0, 1], [1, 1]]
    >>> found = elbo_gradients(model, ee.guides.Free.optimum(model.log_joint(x)), x)
    >>> bool(abs(found.guide).max() < 1e-15), found.model.shape  # at the posterior
    (True, (10,))
    """
    data = rows(model, x, weights)
    log_q, back = guide.forward(data.x)
    results, slope, _, _ = gradient_results(model.log_joint(data.x), log_q, False)
    used = data.counts > 0.0
    total, _ = weighted_sum(data.counts[used], results[used, OUT_ELBO], results[used, OUT_ELBO + 1])
    scale = data.counts[:, None]
    cotangent = np.where(used[:, None], scale * slope, 0.0)
    return Gradients(total, back(cotangent), model.pullback(data.x, scale * np.exp(log_q)))


class LogParameters:
    """A model whose parameters are all logarithms, as one flat vector in the order of its ``pullback``.

    Probabilities are renormalized on the way back, so any finite vector is a model; -inf stays -inf.
    """

    def __init__(self, model: Any) -> None:
        arrays, tables = parameter_arrays(model), probability_tables(model)
        other = [place for place in arrays if place not in tables and not place.endswith("log_rates")]
        if other or not hasattr(model, "pullback"):
            reason = f"{other[0]} is no table of logarithms" if other else f"{type(model).__name__} has no pullback"
            raise TypeError(f"training must be 'alternating' for this model: {reason}.")
        self.model, self.shapes = model, {place: array.shape for place, array in arrays.items()}
        self.params = np.concatenate([array.ravel() for array in arrays.values()])

    def at(self, params: FloatArray) -> Any:
        """The model with these parameters."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        parts = np.split(params, np.cumsum(sizes)[:-1])
        arrays = {place: part.reshape(shape) for (place, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return with_arrays(self.model, arrays, renormalize=True)
