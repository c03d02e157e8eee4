"""A fit that survives its process: every start's path so far, in one npz file that is whole at any moment and holds no pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from elbo_exact._npz import read_arrays
from elbo_exact._validate import FloatArray
from elbo_exact.fit.loop import Walk
from elbo_exact.fit.parameters import parameter_arrays, with_arrays

__all__ = ["Checkpoint", "Journal", "feed", "flat_arrays", "open_journal", "open_path", "restored", "write_whole"]

MEMBERS = ("fingerprint", "gain_errors", "gains", "lengths", "parameters", "trace")  # in alphabetical order


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit keeps its state, and how often.

    Parameters
    ----------
    path : path
        An npz file; one that exists is continued, if it belongs to this fit.
    seconds : float
        Shortest time between two writes; 0 writes after every step.

    Examples
    --------
    >>> Checkpoint("fit.npz").seconds
    10.0
    """

    path: str | os.PathLike[str]
    seconds: float = 10.0


@dataclass(eq=False)
class Journal:
    """The paths of all starts, shared by the threads that walk them."""

    path: Path
    seconds: float
    fingerprint: bytes
    models: list[Any]
    walks: list[Walk | None]
    steps: list[int]  # of each path when it was last noted: its thread may be adding to the lists
    written: float = 0.0
    lock: Any = field(default_factory=threading.Lock)

    def note(self, start: int, walk: Walk, *, last: bool = False) -> None:
        """Take over a path that has grown, and write the file if it is time or the path's end."""
        with self.lock:
            self.walks[start], self.steps[start] = walk, len(walk.gains)
            if last or time.monotonic() - self.written >= self.seconds:
                _check_kept(self.models[start], walk.model)
                self._write()
                self.written = time.monotonic()

    def _write(self) -> None:
        walks = [
            Walk(model, [], [], []) if walk is None else Walk(walk.model, walk.trace[: n + 1], walk.gains[:n], walk.errors[:n])
            for walk, model, n in zip(self.walks, self.models, self.steps, strict=True)
        ]
        write_whole(
            self.path,
            fingerprint=np.frombuffer(self.fingerprint, np.uint8),
            lengths=np.array([len(walk.trace) for walk in walks], np.int64),
            trace=_joined([walk.trace for walk in walks]),
            gains=_joined([walk.gains for walk in walks]),
            gain_errors=_joined([walk.errors for walk in walks]),
            parameters=_joined([flat_arrays(walk.model) for walk in walks]),
        )


def write_whole(path: Path, **arrays: Any) -> None:
    """An npz file that is whole at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_path(given: Checkpoint) -> Path:
    """The file of a checkpoint, in a folder that exists.

    Raises
    ------
    ValueError
        No such folder, a folder where a file is wanted, or negative seconds.
    """
    if not given.seconds >= 0.0:
        raise ValueError(f"seconds must be >= 0; got {given.seconds!r}.")
    path = Path(given.path)
    if not path.parent.is_dir():
        raise ValueError(f"the folder of the checkpoint must exist; got {os.fspath(path)!r}; create it first.")
    if path.is_dir():
        raise ValueError(f"checkpoint must name a file; got the folder {os.fspath(path)!r}.")
    return path


def open_journal(checkpoint: Any, models: Sequence[Any], settings: Sequence[Any]) -> Journal:
    """The journal of a fit from these starting models; what the file knows of it is taken over.

    Raises
    ------
    ValueError
        A file that is no checkpoint, or that belongs to other data, starts or settings.
    """
    given = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    path = open_path(given)
    digest = hashlib.sha256(b"elbo_exact checkpoint 1")
    for part in (*models, *settings):
        feed(digest, part)
    journal = Journal(path, given.seconds, digest.digest(), list(models), [None] * len(models), [0] * len(models))
    if path.exists():
        journal.walks = _read(path, journal)
        journal.steps = [0 if walk is None else len(walk.gains) for walk in journal.walks]
    return journal


def _read(path: Path, journal: Journal) -> list[Walk | None]:
    arrays = read_arrays(path, MEMBERS, what="checkpoint")
    if arrays["fingerprint"].tobytes() != journal.fingerprint:
        raise ValueError(
            f"{os.fspath(path)} belongs to a fit of other data, starts or settings; remove it or name another file."
        )
    lengths, sizes = arrays["lengths"], np.array([flat_arrays(model).size for model in journal.models])
    steps = np.maximum(lengths - 1, 0)
    wanted = {"trace": lengths.sum(), "gains": steps.sum(), "gain_errors": steps.sum(), "parameters": sizes.sum()}
    sound = lengths.dtype == np.int64 and lengths.shape == sizes.shape and (lengths >= 0).all()
    if not sound or any(arrays[name].shape != (int(size),) for name, size in wanted.items()):
        raise ValueError(f"{os.fspath(path)} is not a valid checkpoint: its arrays do not have the lengths that it declares.")
    parts = [
        np.split(np.asarray(arrays[name], np.float64), np.cumsum(pieces)[:-1])
        for name, pieces in (("trace", lengths), ("gains", steps), ("gain_errors", steps), ("parameters", sizes))
    ]
    walks: list[Walk | None] = []
    for model, length, trace, gains, errors, flat in zip(journal.models, lengths, *parts, strict=True):
        try:
            walks.append(Walk(restored(model, flat), trace.tolist(), gains.tolist(), errors.tolist()) if length else None)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} is not a valid checkpoint: {error}") from None
    return walks


def restored(model: Any, flat: FloatArray) -> Any:
    """The model with the parameters of ``flat``, in the order of ``flat_arrays``."""
    arrays, first = {}, 0
    for place, array in parameter_arrays(model).items():
        arrays[place] = flat[first : first + array.size].reshape(array.shape)
        first += array.size
    return with_arrays(model, arrays)


def _check_kept(start: Any, model: Any) -> None:
    """A model is kept as its arrays of floating-point numbers: nothing else may have changed since the start."""
    found, rest = hashlib.sha256(), hashlib.sha256()
    for digest, node in ((found, with_arrays(start, parameter_arrays(model))), (rest, model)):
        feed(digest, node)
    if found.digest() != rest.digest():
        raise TypeError(
            f"model must keep all that changes in arrays of float64 for a checkpoint; {type(model).__name__} has other parameters."
        )


def flat_arrays(model: Any) -> FloatArray:
    """Every parameter of a model, one array after the other."""
    return _joined([array.ravel() for array in parameter_arrays(model).values()])


def _joined(parts: Sequence[Any]) -> FloatArray:
    return np.concatenate([np.asarray(part, np.float64) for part in parts]) if parts else np.zeros(0)


def feed(digest: Any, node: Any) -> None:
    """The content of a model, of data or of a setting; what is derived in a dataclass is left out."""
    if isinstance(node, np.ndarray) and node.dtype != object:
        digest.update(f"{node.dtype.str}{node.shape}".encode())
        digest.update(np.ascontiguousarray(node).tobytes())
    elif isinstance(node, (list, tuple, np.ndarray)):
        digest.update(f"{len(node)}".encode())
        for part in node:
            feed(digest, part)
    elif isinstance(node, Mapping):
        feed(digest, tuple(node.items()))
    elif dataclasses.is_dataclass(node):
        digest.update(type(node).__qualname__.encode())
        for entry in dataclasses.fields(node):
            if entry.init:
                feed(digest, getattr(node, entry.name))
    else:
        digest.update(repr(node).encode())
