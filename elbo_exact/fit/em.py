"""Expectation-maximization on exact posteriors (Dempster, Laird & Rubin 1977, JRSS-B 39:1), with gains that rounding cannot fake."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import evidence_results
from elbo_exact._parallel import run
from elbo_exact._validate import FloatArray, integer, real_array
from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.evidence import posterior
from elbo_exact.fit.loop import Step, climb
from elbo_exact.fit.result import FitResult, Outcome

__all__ = ["fit_em"]

U, ETA = 2.0**-53, 2.0**-1074
LIBM = 8.0 * U  # assumed of NumPy's expm1 and log1p: 4 ulp, the largest error NumPy accepts in its own tests
POSTERIOR = 8.0 * U  # relative error of `posterior`, given its table
NEGLIGIBLE = 800.0  # exp(-800) is below the smallest double
SMALL = 1e-3  # first-order error terms are trusted below this; the factor 1.01 covers their squares


@dataclass(frozen=True, eq=False)
class Observations:
    """Data with positive counts, and what else the objective needs."""

    x: npt.NDArray[Any]
    counts: FloatArray
    prior: Any
    executor: Any


@dataclass(frozen=True, eq=False)
class Expectation:
    """The E-step at one model; N rows, S states."""

    model: Any
    log_evidence: FloatArray  # (N,)
    error: FloatArray  # (N,), bound on its rounding, that of the log table included
    posterior: FloatArray  # (N, S)
    posterior_error: FloatArray  # (N, S), relative
    objective: float
    objective_error: float


def fit_em(
    model: Any,
    x: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    prior: Any = None,
    max_iter: int = 10_000,
    tolerance: float | None = None,
    restarts: int = 0,
    rng: np.random.Generator | int | None = None,
    progress: bool = False,
    executor: Any = None,
) -> FitResult:
    """Maximum likelihood, or the posterior mode, by expectation-maximization with exact E-steps.

    Parameters
    ----------
    model : Mixture, Monomial, or any model with log_joint_and_error, statistics, maximize and log_joint_change_and_error
        Where to start. Its structural zeros are kept.
    x : array_like, N observations in the model's form
    weights : array_like, shape (N,), optional
        How often each observation was seen; any non-negative number, 0 leaves it out.
    prior : optional
        Pseudo-counts as ``model.maximize`` takes them; the objective is then log evidence plus ``model.log_prior(prior)``.
    max_iter : int
        Most steps of one start.
    tolerance : float, optional
        Stop when a step gains at most this many nats; by default the spacing of doubles at the objective. 0 goes on until the
        gain is no larger than its own rounding bound.
    restarts : int
        Further starts at ``model.randomize``, each with its own spawned random stream; the best end is returned, one without a
        collapsed component if there is any.
    rng : numpy.random.Generator or seed, optional
        Passed once through ``numpy.random.default_rng``.
    progress : bool
        Show a bar on stderr.
    executor : concurrent.futures.Executor, optional
        Where the starts run; with a single start, where its tables run. The bits do not depend on it.

    Returns
    -------
    FitResult

    Raises
    ------
    ZeroEvidence
        An observation that the model cannot produce, by its row.
    LogTableError, ValueError
        Bad observations, weights or settings.

    Notes
    -----
    Each step gains dL = sum_n w_n log1p(sum_z p(z | x_n) expm1(change of log p(x_n, z))), which is never negative; the changes come
    from parameter differences, so the gain keeps its relative precision when two log evidences no longer differ. O(N S) a step.

    Examples
    --------
    Five sets of ten tosses of one of two coins (Do & Batzoglou 2008, Nat. Biotechnol. 26:897):

    >>> import elbo_exact as ee
    >>> coins = ee.gallery.load("coins")
    >>> fit = ee.fit_em(coins.model, coins.x, weights=coins.counts)
    >>> round(fit.objective, 9), fit.outcome.name
    (-31.570200236, 'CONVERGED')
    """
    data = _observations(model, x, weights, prior, executor)
    step_limit, n_restarts = integer(max_iter, "max_iter", 1), integer(restarts, "restarts", 0)
    if tolerance is not None and not 0.0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be a number of nats >= 0, or None; got {tolerance!r}.")
    streams = np.random.default_rng(rng).spawn(n_restarts) if n_restarts else []
    starts = [model, *(model.randomize(stream) for stream in streams)]
    labels = [f"EM start {i + 1}/{len(starts)}" if progress else None for i in range(len(starts))]
    if executor is None or len(starts) == 1:
        fits = [_fit_once(start, data, step_limit, tolerance, label) for start, label in zip(starts, labels, strict=True)]
    else:
        local = dataclasses.replace(data, executor=None)  # a task must not wait for the executor it runs on
        fits = run(_fit_once, [(start, local, step_limit, tolerance) for start in starts], executor)
    # a likelihood on its way to infinity does not make a start the best
    best = max(fits, key=lambda fit: (fit.outcome is not Outcome.DEGENERATE, fit.objective))
    return dataclasses.replace(best, restarts=tuple(end for fit in fits for end in fit.restarts))


def _fit_once(model: Any, data: Observations, max_iter: int, tolerance: float | None, progress: str | None = None) -> FitResult:
    return climb(_expectation(model, data), lambda point: _step(point, data), max_iter, tolerance, progress)


def _step(point: Expectation, data: Observations) -> Step:
    """One M-step and the E-step at the new model."""
    statistics = point.model.statistics(data.x, data.counts[:, None] * point.posterior)
    model = point.model.maximize(statistics, data.prior)
    following = _expectation(model, data)
    gain, error = _gain(point, following, data)
    # A M-step from rounded posteriors misses its maximum by a second-order amount, which may make a true gain negative.
    worst = float(np.max(point.posterior_error)) + (len(data.x) + 2) * U
    return Step(following, gain, error + model.rounding_loss(statistics, data.prior, worst))


def _expectation(model: Any, data: Observations) -> Expectation:
    table, table_error = model.log_joint_and_error(data.x)
    results, _ = evidence_results(table, "raise", data.executor)
    p = posterior(table, impossible="nan", executor=data.executor)
    p[results[:, 0] == -np.inf] = 0.0  # only a wrong M-step gets here; its objective -inf ends the fit
    # a state that is below exp(-NEGLIGIBLE) of the evidence, error included, has weight 0 whatever its error
    table_error = np.where(table + table_error < results[:, :1] - NEGLIGIBLE, 0.0, table_error)
    # log sum exp moves by at most log sum p e^t <= 1.01 sum p t when the table moves by t <= SMALL
    mean_error = 1.02 * (p * table_error).sum(axis=1)
    p_error = 1.01 * (table_error + mean_error[:, None]) + POSTERIOR
    row_error = np.where(table_error.max(axis=1) < SMALL, 1.01 * (results[:, 1] + mean_error), np.inf)
    objective, error = _weighted_sum(data.counts, results[:, 0], row_error)
    if data.prior is not None:
        log_prior, prior_error = model.log_prior(data.prior)
        objective += log_prior
        error += prior_error + U * abs(objective)
    return Expectation(model, results[:, 0].copy(), row_error, p, p_error, objective, error)


def _gain(old: Expectation, new: Expectation, data: Observations) -> tuple[float, float]:
    """What the step added to the objective, and a bound on the rounding of that number."""
    precise, precise_error = _row_gains(old, new.model, data)
    with np.errstate(invalid="ignore"):
        plain = new.log_evidence - old.log_evidence
        plain_error = 1.01 * (old.error + new.error + U * np.where(np.isfinite(plain), np.abs(plain), 0.0))
    closer = precise_error <= plain_error  # differences win at large changes, where expm1 overflows
    gain, error = _weighted_sum(data.counts, np.where(closer, precise, plain), np.where(closer, precise_error, plain_error))
    if data.prior is not None:
        prior_gain, prior_error = old.model.log_prior_change(new.model, data.prior)
        gain += prior_gain
        error += prior_error + U * abs(gain)
    return gain, error


def _row_gains(old: Expectation, model: Any, data: Observations) -> tuple[FloatArray, FloatArray]:
    """log1p(M), M = sum p expm1(change), of every row, with a bound B.

    With f = expm1(d), relative errors rho of p and LIBM of f, and absolute error e of d (which moves f by 1.01 e (1 + |f|)):
    B_M = sum p (|f| (rho + LIBM + (S + 2) u) + 1.01 (1 + |f|) e) + 4 S eta max(1 + |f|), the last for p below the smallest double,
    and B = B_M / (1 + M - B_M) + LIBM |log1p(M)|. Not trusted, that is infinite, where a first-order term exceeds SMALL.
    """
    change, change_error = old.model.log_joint_change_and_error(model, data.x)
    p, rho, n_states = old.posterior, old.posterior_error, change.shape[1]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        f = np.expm1(change)
        possible = p > 0.0
        terms = np.where(possible, p * f, 0.0)
        spread = p * (1.0 + np.abs(f)) * 1.01 * change_error
        spread = np.where(possible, spread + np.abs(terms) * (rho + LIBM + (n_states + 2) * U), 0.0)
        moved = terms.sum(axis=1)
        moved_error = 1.01 * spread.sum(axis=1) + 4.0 * n_states * ETA * (1.0 + np.abs(f).max(axis=1))
        gain = np.log1p(moved)
        error = 1.01 * (moved_error / (1.0 + moved - moved_error) + LIBM * np.abs(gain))
    first_order = np.where(possible, np.maximum(rho, change_error), SMALL * change_error)  # where p = 0, exp(error) < e will do
    trusted = (first_order.max(axis=1) < SMALL) & (moved_error < 0.5 * (1.0 + moved)) & np.isfinite(error)
    return np.where(trusted, gain, 0.0), np.where(trusted, error, np.inf)


def _weighted_sum(counts: FloatArray, values: FloatArray, errors: FloatArray) -> tuple[float, float]:
    """Sum of count * value: one rounding per product and one of the exact sum; -inf is exact."""
    products = counts * values
    total = math.fsum(products.tolist())
    if total == -math.inf:
        return total, 0.0
    spread = math.fsum((counts * errors).tolist()) + U * math.fsum(np.abs(products).tolist())
    return total, 1.01 * (spread + U * abs(total) + len(counts) * ETA)


def _observations(model: Any, x: npt.ArrayLike, weights: npt.ArrayLike | None, prior: Any, executor: Any) -> Observations:
    rows, table = np.asarray(x), model.log_joint(x)
    if len(table) == 0:
        raise LogTableError("x must hold at least one observation; got 0.", "x", rows.shape)
    counts = real_array(weights, "weights") if weights is not None else np.ones(len(table))
    if counts.shape != (len(table),):
        raise LogTableError(f"weights must have shape {(len(table),)}, one per observation; got {counts.shape}.", "weights")
    bad = ~(np.isfinite(counts) & (counts >= 0.0))
    if bad.any():
        raise LogTableError(
            f"weights must be finite and >= 0; got {counts[bad.argmax()]:g} at index {int(bad.argmax())}.", "weights"
        )
    used = counts > 0.0
    if not used.any():
        raise LogTableError("weights must hold at least one positive count; got only zeros.", "weights")
    impossible = used & (table == -np.inf).all(axis=1)
    if impossible.any():
        row = int(impossible.argmax())
        raise ZeroEvidence(f"x is impossible under the model at row {row}: p(x) = 0; drop the row or give it weight 0.", (row,))
    return Observations(rows[used], counts[used], prior, executor)
