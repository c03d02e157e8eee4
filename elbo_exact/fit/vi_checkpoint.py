"""A variational fit that survives its process: path, parameters, moments and random numbers in one npz file without a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from elbo_exact._npz import read_arrays
from elbo_exact.fit.checkpoint import Checkpoint, feed, flat_arrays, open_path, restored, write_whole
from elbo_exact.fit.loop import Walk
from elbo_exact.fit.optimizers import OptimizerState
from elbo_exact.fit.validation import Validation

__all__ = ["Record", "Resumed", "open_record"]

MEMBERS = ("best", "best_step", "count", "fingerprint", "gain_errors", "gains", "guide", "model", "moments", "rng", "trace")


class Resumed(NamedTuple):
    """Where a fit had come."""

    model: Any
    guide: Any
    trace: list[float]
    gains: list[float]
    errors: list[float]
    best: tuple[int, Any, Any] | None  # step, model and guide of the highest validation evidence


@dataclass(eq=False)
class Record:
    """The file of one fit."""

    path: Path
    seconds: float
    fingerprint: bytes
    model: Any
    guide: Any
    written: float = 0.0

    def resumed(self, walker: Any) -> Resumed | None:
        """What the file holds, if it is there; moments and random numbers go to the walker."""
        if not self.path.exists():
            return None
        arrays = read_arrays(self.path, MEMBERS, what="checkpoint")
        name = os.fspath(self.path)
        if arrays["fingerprint"].tobytes() != self.fingerprint:
            raise ValueError(f"{name} belongs to a fit of other data, starts or settings; remove it or name another file.")
        lengths = {key: arrays[key].size for key in ("trace", "gains", "gain_errors")}
        sound = lengths["trace"] == lengths["gains"] + 1 == lengths["gain_errors"] + 1
        if not sound or arrays["guide"].shape != self.guide.params.shape:
            raise ValueError(f"{name} is not a valid checkpoint: its arrays do not fit together.")
        try:
            if arrays["count"].size:
                moments = np.array(arrays["moments"])
                walker.state = OptimizerState(
                    int(arrays["count"][0]), tuple(moment.astype(self.guide.params.dtype) for moment in moments)
                )
            walker.plan.rng.bit_generator.state = json.loads(arrays["rng"].tobytes())
            model = restored(self.model, np.asarray(arrays["model"], np.float64))
            guide = self.guide.with_params(np.asarray(arrays["guide"], np.float64))
            best = None
            if arrays["best"].size:
                of_model, of_guide = np.split(np.asarray(arrays["best"], np.float64), [arrays["model"].size])
                best = int(arrays["best_step"][0]), restored(self.model, of_model), self.guide.with_params(of_guide)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ValueError(f"{name} is not a valid checkpoint: {str(error).splitlines()[0]}") from None
        trace, gains, errors = (arrays[key].tolist() for key in ("trace", "gains", "gain_errors"))
        return Resumed(model, guide, trace, gains, errors, best)

    def note(self, walk: Walk, guide: Any, walker: Any, held: Validation) -> None:
        """Write if it is time."""
        if time.monotonic() - self.written >= self.seconds:
            self.finish(walk, guide, walker, held)

    def finish(self, walk: Walk, guide: Any, walker: Any, held: Validation) -> None:
        """Write."""
        state, best = walker.state, np.zeros(0)
        if held.x is not None:
            best = np.concatenate([flat_arrays(held.best.model), held.best.guide.params])
        moments = [] if state is None else list(state.moments)
        write_whole(
            self.path,
            best=best,
            best_step=np.array([held.best_step], np.int64),
            count=np.array([] if state is None else [state.count], np.int64),
            fingerprint=np.frombuffer(self.fingerprint, np.uint8),
            gain_errors=np.array(walk.errors, np.float64),
            gains=np.array(walk.gains, np.float64),
            guide=np.asarray(guide.params, np.float64),
            model=flat_arrays(walk.model),
            moments=np.array(moments, np.float64) if moments else np.zeros((0, 0)),
            rng=np.frombuffer(json.dumps(walker.plan.rng.bit_generator.state).encode(), np.uint8),
            trace=np.array(walk.trace, np.float64),
        )
        self.written = time.monotonic()


def open_record(checkpoint: Any, model: Any, guide: Any, settings: Sequence[Any]) -> Record:
    """The record of a fit from this model and guide.

    Raises
    ------
    ValueError
        No such folder, or a folder where a file is wanted.
    """
    given = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    path = open_path(given)
    digest = hashlib.sha256(b"elbo_exact variational checkpoint 1")
    for part in (model, guide, guide.params, *settings):
        feed(digest, part)
    return Record(path, given.seconds, digest.digest(), model, guide)
