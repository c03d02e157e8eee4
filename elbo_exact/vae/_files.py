"""Models and runs as npz files of plain arrays: settings are JSON in bytes, and nothing is ever unpickled."""

from __future__ import annotations

import errno
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._npz import read_arrays

__all__ = ["load_model", "packed", "read_settings", "save_model", "write"]

FORMAT = 1
Array = npt.NDArray[Any]


def packed(settings: dict[str, Any]) -> Array:
    """A dictionary as the bytes of its JSON text."""
    return np.frombuffer(json.dumps(settings).encode(), np.uint8)


def read_settings(array: Array, path: Any, kind: str) -> dict[str, Any]:
    """The dictionary back, with the kind of file checked."""
    try:
        settings = json.loads(array.astype(np.uint8).tobytes().decode())
        found = (settings.get("kind"), settings.get("format"))
    except (ValueError, AttributeError):
        found = (None, None)
    if found != (kind, FORMAT):
        raise ValueError(
            f"{os.fspath(path)} must hold a {kind} of format {FORMAT}; got kind {found[0]!r}, format {found[1]!r}."
        )
    return dict(settings)


def write(path: str | os.PathLike[str], kind: str, settings: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write by an atomic rename, so that a crash leaves the old file or the new one."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder does not exist; create it first", str(target))
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            members: dict[str, Any] = {"settings": packed({"kind": kind, "format": FORMAT, **settings}), **arrays}
            np.savez(file, **members)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Settings and parameters of a model."""
    write(path, "GaussianVAE", {**model.settings(), "hidden": list(model.hidden)}, {"params": model.params})


def load_model(kind: type, path: str | os.PathLike[str]) -> Any:
    """The model that ``save_model`` wrote."""
    arrays = read_arrays(path, ("params", "settings"))
    settings = read_settings(arrays["settings"], path, "GaussianVAE")
    return built(kind, arrays["params"], settings, path)


def built(kind: type, params: Array, settings: dict[str, Any], path: Any) -> Any:
    """A model of stored settings; whatever does not fit together names the file."""
    chosen = {key: value for key, value in settings.items() if key not in ("kind", "format")}
    try:
        return kind(params=params, **{**chosen, "hidden": tuple(chosen.get("hidden", ()))})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} does not describe a model: {error}") from None
