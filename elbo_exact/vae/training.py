"""Training of a Gaussian VAE by mini-batches: every run ends with an outcome, keeps its last good parameters, and can go on.

Whatever a run needs to go on is one `TrainingState` of plain arrays, taken at the end of an epoch: continued from it, in another process
as well, it walks to the same bits as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, integer, one_of
from elbo_exact.errors import LogTableError
from elbo_exact.fit.optimizers import Adam, Optimizer, checked_optimizer, clip
from elbo_exact.vae._objective import GRADIENTS, OBJECTIVES, loss_and_gradient
from elbo_exact.vae.model import GaussianVAE
from elbo_exact.vae.results import COLUMNS, TrainingOutcome, TrainingResult, TrainingState

__all__ = ["fit_vae"]

MONITORS = ("elbo", "evidence")
EVIDENCE_TOLERANCE = 1e-6
RUNAWAY = 1e6  # a loss this many times as large as the first one, plus one nat, has diverged


@dataclass(frozen=True)
class _Plan:
    """Settings of a run that do not change."""

    optimizer: Optimizer
    objective: str
    gradient: str
    num_samples: int
    batch_size: int
    beta: float
    warm_up: int
    max_norm: float | None
    validation_noise: FloatArray | None
    monitor: str
    patience: int | None
    max_floor_share: float


class _Stop(Exception):
    """The run ends here."""

    def __init__(self, outcome: TrainingOutcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome, self.detail = outcome, detail


def fit_vae(
    model: GaussianVAE,
    x: npt.ArrayLike,
    *,
    epochs: int = 100,
    batch_size: int = 64,
    optimizer: Optimizer | None = None,
    objective: str = "elbo",
    gradient: str = "path",
    num_samples: int = 1,
    beta: float = 1.0,
    warm_up: int = 0,
    max_norm: float | None = None,
    validation: npt.ArrayLike | None = None,
    monitor: str = "elbo",
    patience: int | None = None,
    max_floor_share: float = 0.5,
    rng: np.random.Generator | int | None = None,
    resume: TrainingState | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
    progress: bool = False,
) -> TrainingResult:
    """Train by mini-batches.

    Parameters
    ----------
    model : GaussianVAE
        Where to start; its dtype is that of the training.
    x : array_like, shape (N, F)
    epochs : int
        Epochs to do now.
    batch_size : int
        Rows of a step; each epoch shuffles anew, and the last batch may be short.
    optimizer : Optimizer, optional
        ``Adam()`` by default; see ``elbo_exact.fit.optimizers``.
    objective, gradient, num_samples, beta
        As in :meth:`GaussianVAE.loss_and_gradient`; K samples for each row.
    warm_up : int
        Epochs over which the weight of the KL rises linearly to beta (Bowman et al. 2016, CoNLL).
    max_norm : float, optional
        Longer gradients are shrunk to this Euclidean norm.
    validation : array_like, shape (M, F), optional
        Rows that choose the best epoch.
    monitor : {"elbo", "evidence"}
        By their ELBO (beta 1, the same noise in every epoch), or by their exact log evidence (at most three latent dimensions; some
        hundredths of a second for each row and epoch).
    patience : int, optional
        Stop after this many epochs, warm-up over, without a new best.
    max_floor_share : float
        Stop when more than this share of the decoder's log variances, over 256 rows of x, sits at the floor.
    rng : numpy.random.Generator or seed, optional
        Shuffles and noise.
    resume : TrainingState, optional
        Go on from there, with its parameters, moments and random state, instead of starting at ``model``.
    checkpoint : path, optional
        Where to write the state after every epoch.
    on_epoch : callable, optional
        Called with the state after every epoch.
    progress : bool
        Show a bar on stderr.

    Returns
    -------
    TrainingResult

    Raises
    ------
    LogTableError, ValueError
        Data with NaN, or settings out of range, before the first step.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(64, 3)) @ np.array([[1.0, 1.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
    >>> run = fit_vae(GaussianVAE.random(3, 1, hidden=(8,), rng=0), x, epochs=20, optimizer=Adam(1e-2), rng=0)
    >>> run.outcome.name, run.n_epochs, bool(run.history["loss"][-1] < run.history["loss"][0])
    ('MAX_EPOCHS', 20, True)
    """
    rows = model.observations(x)
    if len(rows) == 0:
        raise LogTableError("x must hold at least one observation; got 0.", "x", rows.shape)
    plan = _Plan(
        checked_optimizer(optimizer) or Adam(),
        one_of(objective, "objective", OBJECTIVES),
        one_of(gradient, "gradient", GRADIENTS if objective == "iwae" else ("path",)),
        integer(num_samples, "num_samples", 1),
        integer(batch_size, "batch_size", 1),
        _number(beta, "beta", 0.0),
        integer(warm_up, "warm_up", 0),
        None if max_norm is None else _number(max_norm, "max_norm", 0.0),
        None if validation is None else model.noise(4, len(model.observations(validation)), 0),
        one_of(monitor, "monitor", MONITORS),
        None if patience is None else integer(patience, "patience", 1),
        _number(max_floor_share, "max_floor_share", 0.0),
    )
    if patience is not None and validation is None:
        raise ValueError("patience needs validation rows whose bound can stop rising; pass validation.")
    n_epochs, held_out = integer(epochs, "epochs", 0), None if validation is None else model.observations(validation)
    state = _begin(model, plan, rng)
    if resume is not None:
        _check_fits(resume, state)
        state = resume
    bar = _bar(progress, n_epochs)
    outcome, detail = TrainingOutcome.MAX_EPOCHS, ""
    try:
        for _ in range(n_epochs):
            state = _epoch(state, rows, held_out, plan)
            if bar is not None:
                bar.set_postfix_str(f"loss {state.history[-1, 0]:.4f}", refresh=False)
                bar.update()
            if checkpoint is not None:
                state.save(checkpoint)
            if on_epoch is not None:
                on_epoch(state)
            _check_patience(state, plan)
    except _Stop as stop:
        outcome, detail = stop.outcome, stop.detail
    except KeyboardInterrupt:
        outcome = TrainingOutcome.INTERRUPTED
    finally:
        if bar is not None:
            bar.close()
    done = f"{len(state.history)} epochs" + (
        f", mean loss {state.history[-1, 0]:.6g} in the last" if len(state.history) else ""
    )
    kept = state.model if validation is None else state.model.with_params(state.best)
    return TrainingResult(kept, outcome, f"{detail} {done}." if detail else f"{done}.", state)


def _begin(model: GaussianVAE, plan: _Plan, rng: Any) -> TrainingState:
    start = model.with_params(model.params.copy())
    random = np.random.default_rng(rng).bit_generator.state
    return TrainingState(start, start.params, plan.optimizer.start(start.params), np.empty((0, len(COLUMNS))), _plain(random))


def _check_fits(resume: TrainingState, fresh: TrainingState) -> None:
    """Whether a stored run is one of this model and optimizer."""
    if resume.model.settings() != fresh.model.settings():
        raise ValueError(f"resume must be a run of the same network; got {resume.model.settings()}; pass its own model.")
    counts = len(resume.optimizer.moments), len(fresh.optimizer.moments)
    if counts[0] != counts[1]:
        raise ValueError(f"resume must be a run of the same optimizer, with {counts[1]} moments; got {counts[0]}.")


def _epoch(state: TrainingState, rows: FloatArray, held_out: FloatArray | None, plan: _Plan) -> TrainingState:
    """One pass over the data; nothing of ``state`` is changed."""
    model, history = state.model, state.history
    params, moments = model.params.copy(), state.optimizer.copy()
    rng = _generator(state.random)
    beta = plan.beta * min(1.0, (len(history) + 1) / (plan.warm_up + 1))
    x, order = rows.astype(params.dtype, copy=False), rng.permutation(len(rows))
    slope = np.empty_like(params)
    total = norms = 0.0
    for first in range(0, len(order), plan.batch_size):
        batch = np.ascontiguousarray(x[order[first : first + plan.batch_size]])
        noise = rng.standard_normal((plan.num_samples, len(batch), model.n_latent), dtype=params.dtype.type)
        with np.errstate(all="ignore"):
            loss, _ = loss_and_gradient(
                model, params, batch, noise, objective=plan.objective, gradient=plan.gradient, beta=beta, out=slope
            )
        norm = clip(slope, math.inf if plan.max_norm is None else plan.max_norm)
        if len(history) == first == 0:
            limit = RUNAWAY * (1.0 + abs(loss))
        elif len(history):
            limit = RUNAWAY * (1.0 + abs(float(history[0, 0])))
        if not (math.isfinite(loss) and math.isfinite(norm) and loss <= limit):
            where = f"epoch {len(history) + 1}, step {first // plan.batch_size + 1}"
            raise _Stop(TrainingOutcome.DIVERGED, f"{where}: loss {loss:.3g}, norm of the gradient {norm:.3g}; kept:")
        plan.optimizer.update(params, slope, moments)
        total += loss * len(batch)
        norms += norm
    with np.errstate(all="ignore"):
        return _finish(replace(state, model=model.with_params(params), optimizer=moments, random=_plain(rng.bit_generator.state)),
                       state, rows, held_out, plan, (total / len(x), beta, norms / math.ceil(len(x) / plan.batch_size)))  # fmt: skip


def _finish(
    new: TrainingState,
    old: TrainingState,
    rows: FloatArray,
    held_out: FloatArray | None,
    plan: _Plan,
    measured: tuple[float, float, float],
) -> TrainingState:
    """Judge the parameters after an epoch, and write the line of its history."""
    loss, beta, norm = measured
    epoch = len(old.history) + 1
    if not np.isfinite(new.model.params).all():
        raise _Stop(TrainingOutcome.DIVERGED, f"epoch {epoch}: a parameter is no number; kept:")
    share = _floor_share(new.model, rows[:256])
    if share > plan.max_floor_share:
        raise _Stop(TrainingOutcome.VARIANCE_COLLAPSE, f"epoch {epoch}: {share:.0%} of the log variances at the floor; kept:")
    bound = math.nan
    if held_out is not None:
        bound = _validated(new.model, held_out, plan)
        if not math.isfinite(bound):
            raise _Stop(TrainingOutcome.DIVERGED, f"epoch {epoch}: the validation bound is {bound}; kept:")
    past = old.history[plan.warm_up :, 1]
    better = held_out is None or epoch <= plan.warm_up or not (past >= bound).any()
    line = np.array([[loss, bound, beta, share, norm]])
    return replace(new, best=new.model.params if better else old.best, history=np.concatenate((old.history, line)))


def _validated(model: GaussianVAE, held_out: FloatArray, plan: _Plan) -> float:
    """What the best epoch is chosen by, in nats per row."""
    if plan.monitor == "evidence":
        return float(model.audit(held_out, q=False, tolerance=EVIDENCE_TOLERANCE).log_evidence.mean())
    return float(model.elbo(held_out, noise=plan.validation_noise).mean())


def _floor_share(model: GaussianVAE, rows: FloatArray) -> float:
    """Share of the decoder's log variances at the floor, at the mean of q."""
    log_variance = model.decode(model.encode(rows).mean).log_variance
    return 0.0 if log_variance is None else float((log_variance <= model.min_log_variance).mean())


def _check_patience(state: TrainingState, plan: _Plan) -> None:
    bounds = state.history[plan.warm_up :, 1]
    if plan.patience is not None and len(bounds) and len(bounds) - 1 - int(bounds.argmax()) >= plan.patience:
        best = plan.warm_up + int(bounds.argmax()) + 1
        raise _Stop(TrainingOutcome.EARLY_STOP, f"best validation bound {bounds.max():.6g} at epoch {best};")


def _generator(state: dict[str, Any]) -> np.random.Generator:
    """A generator in a stored state."""
    kinds = {
        kind.__name__: kind
        for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937)
    }
    name = one_of(state.get("bit_generator"), "bit_generator", tuple(kinds))
    generator = kinds[name]()
    generator.state = cast(Any, state)
    return np.random.Generator(generator)


def _plain(state: Any) -> dict[str, Any]:
    """The state of a bit generator as JSON has it."""
    return dict(json.loads(json.dumps(state, default=lambda value: value.tolist())))


def _number(value: float, name: str, low: float) -> float:
    if not low <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= {low:g}; got {value!r}.")
    return float(value)


def _bar(progress: bool, total: int) -> Any:
    if not progress:
        return None
    from tqdm import tqdm

    return tqdm(desc="VAE", total=total, unit="epoch", leave=False)
