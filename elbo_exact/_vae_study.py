"""A VAE trained before one's eyes: at chosen epochs the ELBO of held-out rows beside their exact log p(x), and what the gap is then."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from elbo_exact._npz import read_arrays
from elbo_exact._validate import FloatArray, integer
from elbo_exact.fit.optimizers import Adam, Cosine
from elbo_exact.grid import MAX_DIMENSIONS
from elbo_exact.vae import GaussianVAE, TrainingResult, TrainingState, fit_vae
from elbo_exact.vae._truth import VAEAudit

__all__ = ["Snapshot", "VAEStudy", "load_data", "vae_study"]

HELD_OUT = 10  # one row of ten
MARKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # epochs that are audited, besides the last
LEARNING_RATE, BATCH = 3e-3, 64
TOLERANCE, MAX_NODES = 1e-6, 60_000  # of the quadrature: the picture of a gap needs no more
DECODER = {"variance": "shared"}  # smooth in z; the floor of pixels has kinks, for which quadrature needs many nodes


@dataclass(frozen=True)
class Snapshot:
    """One audited epoch; means over the audited rows, in nats.

    ``discretization`` is the largest estimate of any row, for log p(x) and the ELBO together.
    """

    epoch: int
    elbo: float
    log_evidence: float
    gap: float
    forward_kl: float
    discretization: float


@dataclass(frozen=True, eq=False)
class VAEStudy:
    """What the command shows: the run, its snapshots, and the rows that were held out and audited."""

    name: str
    x: FloatArray
    labels: Any
    held_out: FloatArray
    snapshots: tuple[Snapshot, ...]
    run: TrainingResult
    audit: VAEAudit

    @property
    def holds(self) -> bool:
        """Whether no ELBO lies above log p(x) by more than the estimates of both."""
        slack = self.audit.discretization.log_evidence + self.audit.discretization.elbo
        return bool((self.audit.elbo <= self.audit.log_evidence + slack).all())

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, floats and strings, without the parameters."""
        run = {key: value for key, value in self.run.to_dict().items() if key not in ("model", "history")}
        return {
            "data": self.name,
            "rows": len(self.x),
            "features": self.x.shape[1],
            "model": {**self.run.model.settings(), "hidden": list(self.run.model.hidden)},
            "epochs": [vars(snapshot) for snapshot in self.snapshots],
            "run": run,
        }


def load_data(source: str) -> tuple[FloatArray, Any]:
    """Rows and labels (or None): "digits" of scikit-learn on the unit scale, or the array ``x`` of an npz file."""
    if source.endswith(".npz"):
        return np.asarray(read_arrays(source, ("x",))["x"], np.float64), None
    if source != "digits":
        raise ValueError(f"the data must be 'digits' or a file FILE.npz with the array x; got {source!r}.")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError('the digits need scikit-learn; install it with: pip install "elbo_exact[data]"') from None
    digits = load_digits()
    return digits.data / 16.0, digits.target


def vae_study(
    source: str | os.PathLike[str] = "digits",
    *,
    n_latent: int = 2,
    hidden: int = 64,
    epochs: int = 100,
    n_audited: int = 32,
    seed: int = 0,
    progress: bool = False,
    on_snapshot: Callable[[Snapshot], None] | None = None,
) -> VAEStudy:
    """Train on nine rows of ten, and audit some of the others while it learns.

    Parameters
    ----------
    source : "digits" or path
        As in `load_data`.
    n_latent : int
        1 to 3, where the integral over z can be done.
    hidden : int
        Units of the one hidden layer.
    epochs : int
    n_audited : int
        Held-out rows that are audited, each some hundredths of a second.
    seed : int
        Of the start, the shuffles and the noise.
    progress : bool
        Show a bar on stderr.
    on_snapshot : callable, optional
        Called with each snapshot as soon as it is there.
    """
    integer(n_latent, "n_latent", 1, MAX_DIMENSIONS)
    x, labels = load_data(os.fspath(source))
    start = GaussianVAE.random(
        x.shape[-1] if x.ndim == 2 else 1, n_latent, hidden=(integer(hidden, "hidden", 1),), rng=seed, **DECODER
    )
    x = start.observations(x)
    if len(x) < 2:
        raise ValueError(f"x must hold at least 2 rows, one to learn from and one to judge by; got {len(x)}.")
    chosen = np.arange(len(x)) % HELD_OUT == 1
    held_out, learned = x[chosen], x[~chosen]
    start = _at_the_scale(start, learned)
    audited = held_out[: integer(n_audited, "n_audited", 1)]
    snapshots: list[Snapshot] = []
    last: list[VAEAudit] = []

    def look(state: TrainingState) -> None:
        if len(state.history) in MARKS or len(state.history) == epochs:
            last[:] = [state.model.audit(audited, tolerance=TOLERANCE, max_nodes=MAX_NODES)]
            snapshots.append(_snapshot(len(state.history), last[0]))
            if on_snapshot is not None:
                on_snapshot(snapshots[-1])

    n_steps = integer(epochs, "epochs", 1) * -(-len(learned) // BATCH)
    optimizer = Adam(LEARNING_RATE, schedule=Cosine(n_steps, warm_up=min(50, n_steps - 1), final=0.02))
    settings: dict[str, Any] = {"max_floor_share": 0.9, "max_norm": 1000.0, "warm_up": min(5, epochs - 1)}
    run = fit_vae(start, learned, epochs=epochs, batch_size=BATCH, optimizer=optimizer, rng=seed, on_epoch=look,
                  progress=progress, **settings)  # fmt: skip
    if not snapshots or snapshots[-1].epoch != run.n_epochs:  # the run ended early
        last[:] = [run.model.audit(audited, tolerance=TOLERANCE, max_nodes=MAX_NODES)]
        snapshots.append(_snapshot(run.n_epochs, last[0]))
    return VAEStudy(os.fspath(source), x, labels, audited, tuple(snapshots), run, last[0])


def _at_the_scale(vae: GaussianVAE, x: FloatArray) -> GaussianVAE:
    """The decoder's log variance starts at that of the data, from where the network can only lower it."""
    params = vae.params.copy()
    params[vae.own_slice] = np.log(max(float(x.var(axis=0).mean()), np.exp(vae.min_log_variance)))
    return vae.with_params(params)


def _snapshot(epoch: int, audit: VAEAudit) -> Snapshot:
    means = {name: float(getattr(audit, name).mean()) for name in ("elbo", "log_evidence", "gap", "forward_kl")}
    worst = max(float(audit.discretization.log_evidence.max()), float(audit.discretization.elbo.max()))
    return Snapshot(epoch, **means, discretization=worst)
