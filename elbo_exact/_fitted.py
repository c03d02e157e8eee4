"""A mixture of a named family on named columns: fitted, kept in an npz file without a pickle, and used on new rows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elbo_exact._csv import Table
from elbo_exact._npz import read_arrays
from elbo_exact._validate import FloatArray, one_of
from elbo_exact.evidence import log_evidence, posterior
from elbo_exact.families import Bernoulli, Categorical, Gaussian, Poisson
from elbo_exact.fit import FitResult, fit_em
from elbo_exact.fit.parameters import parameter_arrays, with_arrays
from elbo_exact.models import Mixture
from elbo_exact.models._seeding import seeded

__all__ = ["KINDS", "LARGEST", "WHOLE", "Fitted", "fit_table", "load", "save"]

GAUSSIANS = {"gaussian": "full", "gaussian-tied": "tied", "gaussian-diagonal": "diagonal", "gaussian-spherical": "spherical"}
KINDS = ("bernoulli", "categorical", "poisson", *GAUSSIANS)
LARGEST = {"bernoulli": 1, "poisson": 2**53 - 1}  # whole numbers that a cell may hold
WHOLE = ("gaussian", "gaussian-tied")  # no cell may be missing
MEMBERS = ("about", "parameters")
MAX_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Fitted:
    """A mixture, the name of its family, and the columns that it was fitted to (``table`` without its rows)."""

    kind: str
    table: Table
    model: Mixture

    def score(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """log p(x) of each row, in nats, and its posterior (N, K), which is NaN for a row that no component can produce."""
        joint = self.model.log_joint(values)
        scores = np.asarray(log_evidence(joint))
        possible = scores > -np.inf
        shares = np.full(joint.shape, np.nan)
        if possible.any():
            shares[possible] = posterior(joint[possible])
        return scores, shares


def fit_table(
    kind: str, table: Table, n_components: int, *, restarts: int, max_iter: int, tolerance: float, seed: int, progress: bool
) -> tuple[Fitted, FitResult]:
    """The best of 1 + ``restarts`` k-means++ starts.

    Raises
    ------
    ValueError
        Values that the family cannot produce.
    """
    one_of(kind, "model", KINDS)
    rng = np.random.default_rng(seed)
    if kind in GAUSSIANS:
        _check_spread(table, n_components)
        family: Any = Gaussian.random(table.values, n_components, GAUSSIANS[kind], rng=rng)  # type: ignore[arg-type] # a value of GAUSSIANS
        template = Mixture(np.full(n_components, -np.log(n_components)), (family,))
    else:
        if n_components > len(table.values):
            raise ValueError(f"components must be at most the {len(table.values)} rows of the data; got {n_components}.")
        template = _template(kind, n_components, table)
    first = seeded(template, template.observations(table.values), np.ones(len(table.values)), rng)
    result = fit_em(
        first,
        table.values,
        restarts=restarts,
        starts="k-means++",
        max_iter=max_iter,
        tolerance=tolerance,
        rng=rng,
        progress=progress,
    )
    return Fitted(kind, Table(table.names, table.values[:0], table.levels), result.model), result


def save(fitted: Fitted, path: str | os.PathLike[str]) -> None:
    """Write ``about`` (JSON as bytes) and ``parameters``; the file is whole or not there."""
    about = {"kind": fitted.kind, "components": fitted.model.n_components, "names": fitted.table.names}
    text = json.dumps({**about, "levels": fitted.table.levels}).encode()
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            parameters = np.concatenate([array.ravel() for array in parameter_arrays(fitted.model).values()])
            np.savez(file, about=np.frombuffer(text, np.uint8), parameters=parameters)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Fitted:
    """What `save` wrote.

    Raises
    ------
    ValueError
        Anything else; one sentence that names the file.
    """
    arrays = read_arrays(path, MEMBERS, max_bytes=MAX_BYTES, what="fitted model")
    try:
        return _loaded(arrays["about"], arrays["parameters"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    raise ValueError(f"{os.fspath(path)} is not a valid fitted model: {reason}.")


def _loaded(about: Any, parameters: Any) -> Fitted:
    if about.dtype != np.uint8 or parameters.dtype != np.float64 or about.ndim != 1 or parameters.ndim != 1:
        raise ValueError("about must hold bytes and parameters float64, both of one axis")
    fields = json.loads(about.tobytes().decode("utf-8"))
    if not isinstance(fields, dict) or set(fields) != {"kind", "components", "names", "levels"}:
        raise ValueError("about must name kind, components, names and levels")
    kind, number, names, levels = (fields[name] for name in ("kind", "components", "names", "levels"))
    one_of(kind, "kind", KINDS)
    if type(number) is not int or number < 1 or not _texts(names) or not names:
        raise ValueError("components must be a whole number >= 1, and names must be a list of texts")
    wanted = len(names) if kind == "categorical" else 0
    if not isinstance(levels, list) or len(levels) != wanted or not all(_texts(part) and part for part in levels):
        raise ValueError("levels must list the categories of every column of a categorical model, and be empty for another")
    table = Table(tuple(names), np.zeros((0, len(names))), tuple(map(tuple, levels)))
    size = _size(kind, number, table)
    if parameters.size != size:  # before anything of that size is made
        raise ValueError(f"parameters must hold {size} numbers; got {parameters.size}")
    model, first, values = _template(kind, number, table), 0, {}
    for place, array in parameter_arrays(model).items():
        values[place] = parameters[first : first + array.size].reshape(array.shape)
        first += array.size
    return Fitted(kind, table, with_arrays(model, values))


def _texts(node: Any) -> bool:
    return isinstance(node, list) and all(isinstance(entry, str) for entry in node) and len(set(node)) == len(node)


def _size(kind: str, k: int, table: Table) -> int:
    """Number of parameters, the weights included."""
    d = len(table.names)
    if kind in GAUSSIANS:
        scales = {"full": k * d * d, "tied": d * d, "diagonal": k * d, "spherical": k}
        return k + k * d + scales[GAUSSIANS[kind]]
    return k + k * {"bernoulli": 2 * d, "poisson": d, "categorical": sum(map(len, table.levels))}[kind]


def _template(kind: str, k: int, table: Table) -> Mixture:
    """A mixture of the right shape, whose numbers are of no importance."""
    d = len(table.names)
    if kind == "categorical":
        families: tuple[Any, ...] = tuple(Categorical(np.full((k, len(part)), -np.log(len(part)))) for part in table.levels)
    elif kind == "bernoulli":
        families = (Bernoulli(np.full((k, d, 2), -np.log(2.0))),)
    elif kind == "poisson":
        families = (Poisson(np.zeros((k, d))),)
    else:
        covariance: Any = GAUSSIANS[kind]
        scales = {"full": (k, 1, 1), "tied": (1, 1), "diagonal": (k, 1), "spherical": (k,)}[covariance]
        families = (Gaussian(np.zeros((k, d)), np.ones(scales) * _unit(covariance, d), covariance),)
    return Mixture(np.full(k, -np.log(k)), families)


def _unit(covariance: str, d: int) -> Any:
    return {"full": np.eye(d), "tied": np.eye(d), "diagonal": np.ones(d), "spherical": 1.0}[covariance] if d else 1.0


def _check_spread(table: Table, n_components: int) -> None:
    """Gaussians start with the variances of the columns."""
    if len(table.values) < max(2, n_components):
        raise ValueError(f"the data must have at least {max(2, n_components)} rows; got {len(table.values)}.")
    seen = ~np.isnan(table.values)
    for name, column, there in zip(table.names, table.values.T, seen.T, strict=True):
        if np.unique(column[there]).size < 2:
            raise ValueError(f"column {name[:40]!r} must hold two different numbers for a Gaussian; it is constant.")
