"""The ladder: bounds around the exact log p(x), sorted, and the inequalities between them that are theorems."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._bound_results import (
    BoundResults,
    Options,
    elbo_results,
    eubo_results,
    perturbative_results,
    renyi_bound_results,
    tvo_results,
)
from elbo_exact._engine import shaped
from elbo_exact._k_sample import annealed_results, k_sample_results, renyi_sample_results
from elbo_exact._plain import plain
from elbo_exact._sums import weighted_sum
from elbo_exact._theorems import Check, verified
from elbo_exact._validate import FloatArray, integer, one_of, real_array, temperatures
from elbo_exact.errors import LogTableError
from elbo_exact.space import LatentSpace

__all__ = ["FAMILIES", "Ladder", "Rung", "ladder"]

FAMILIES = ("elbo", "eubo", "renyi", "cubo", "perturbative", "tvo", "ais", "iwae")


class Rung(NamedTuple):
    """One bound of a ladder; ``value``, ``gap`` and their errors have the shape of the batch, the totals are over its rows."""

    name: str
    parameters: dict[str, Any]
    side: str
    value: Any
    error: Any
    gap: Any
    gap_error: Any
    total: float
    total_error: float
    total_gap: float
    total_gap_error: float
    states: int
    seconds: float

    @property
    def label(self) -> str:
        """Name and parameters, as printed."""
        inside = ", ".join(f"{key}={_short(value)}" for key, value in self.parameters.items())
        return f"{self.name}({inside})" if inside else self.name


@dataclass(frozen=True)
class Ladder:
    """Bounds around the exact value, the lowest total first.

    Attributes
    ----------
    rungs : tuple of Rung
        The exact value among them, with side "exact". ``states`` counts table entries touched, ``seconds`` is measured,
        without the loading of compiled code.
    """

    rungs: tuple[Rung, ...]

    def __getitem__(self, label: str) -> Rung:
        """The rung of a label such as ``"tvo(betas=10, side=lower)"``."""
        for rung in self.rungs:
            if rung.label == label:
                return rung
        raise KeyError(f"no rung {label!r}; this ladder has {', '.join(rung.label for rung in self.rungs)}.")

    def verify(self, strict: bool = False) -> tuple[Check, ...]:
        """Every inequality between these rungs that is a theorem, row by row, with the returned errors as the only tolerance.

        Parameters
        ----------
        strict : bool
            Raise where a check fails, instead of only flagging it.

        Returns
        -------
        tuple of Check
            ``statement``, ``slack`` (the smallest over the rows; negative only within the errors) and ``holds``.

        Raises
        ------
        ArithmeticError
            A violated theorem, with ``strict``.
        """
        checks = verified(self.rungs)
        broken = [check.statement for check in checks if not check.holds]
        if strict and broken:
            raise ArithmeticError(f"{len(broken)} of {len(checks)} theorems fail: {'; '.join(broken)}.")
        return checks

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, floats and strings; infinities stay floats."""
        return {"rungs": [_plain_rung(rung) for rung in self.rungs]}

    def to_json(self) -> str:
        """Strict JSON; infinities are the strings "Infinity" and "-Infinity"."""
        return json.dumps(plain(self.to_dict()), indent=1)

    def to_csv(self) -> str:
        """One line per rung with its totals."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "parameters", "side", "value", "error", "gap", "gap_error", "states", "seconds"])
        for r in self.rungs:
            shown = " ".join(f"{key}={_short(value)}" for key, value in r.parameters.items())
            numbers = [repr(float(x)) for x in (r.total, r.total_error, r.total_gap, r.total_gap_error)]
            writer.writerow([r.name, shown, r.side, *numbers, r.states, f"{r.seconds:.3g}"])
        return text.getvalue()

    def __str__(self) -> str:
        return self.text()

    def text(self, timing: bool = True) -> str:
        """An aligned table of the totals; the errors bound the rounding."""
        cells = [["bound", "side", "value", "±", "gap", "±", "states", *(["ms"] if timing else [])]]
        for r in self.rungs:
            gap = ["", ""] if r.side == "exact" else [f"{r.total_gap:.6g}", f"{r.total_gap_error:.0e}"]
            spent = [f"{1e3 * r.seconds:.3g}"] if timing else []
            cells.append([r.label, r.side, f"{r.total:.12g}", f"{r.total_error:.0e}", *gap, str(r.states), *spent])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in cells
        ]
        return "\n".join(line.rstrip() for line in lines)


def ladder(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    num_samples: Sequence[int] = (10, 100, 1000),
    betas: Sequence[int | npt.ArrayLike] = (10,),
    alphas: Sequence[float] = (0.5,),
    orders: Sequence[int] = (3,),
    cubo_orders: Sequence[float] = (2.0,),
    renyi_samples: Sequence[int] = (),
    include: Sequence[str] = FAMILIES,
    space: LatentSpace | None = None,
    sweeps: int = 1,
    weights: npt.ArrayLike | None = None,
    unnormalized: bool = False,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Ladder:
    """Bounds around the exact log p(x), sorted, with gap, error and cost.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    num_samples, betas, alphas, orders, cubo_orders : sequence
        K of the importance-weighted bounds; schedules of the thermodynamic ones; orders of Renyi, perturbative and chi bounds.
    renyi_samples : sequence of int
        K of Renyi bounds of K samples, for every order of at least 0 in ``alphas``; below 0 they are no bounds.
    include : sequence of str
        Families: "elbo", "eubo", "renyi", "cubo", "perturbative", "tvo", "ais", "iwae"; the last three on both sides. The default
        leaves "ais" out where there is no space.
    space : LatentSpace, optional
        The variables behind the states, for the heat-bath sweeps of annealed importance sampling.
    sweeps : int
        Of them, at each temperature.
    weights : array_like, shape (...), optional
        Counts of the rows in the totals; 1 by default.
    unnormalized, nan_policy, executor
        As in `elbo`.

    Returns
    -------
    Ladder

    Raises
    ------
    LogTableError
        As in `elbo`; weights of another shape, negative or not finite.
    ValueError
        An unknown family, "ais" asked for without a space, or a parameter that its bound refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from elbo_exact import bounds
    >>> found = bounds.ladder(np.log([0.3, 0.1]), np.log([0.5, 0.5]), include=("elbo", "eubo", "tvo"))
    >>> for rung in found.rungs:
    ...     print(f"{rung.label:30} {rung.side:6} {rung.value:.6f}")
    elbo                           lower  -1.060132
    tvo(betas=10, side=lower)      lower  -0.930086
    log_evidence                   exact  -0.916291
    tvo(betas=10, side=upper)      upper  -0.902621
    eubo                           upper  -0.785479
    >>> all(check.holds for check in found.verify())
    True
    """
    options = Options(unnormalized, nan_policy, executor)
    plan = _plan(num_samples, betas, alphas, renyi_samples, orders, cubo_orders, include)
    plan += _annealed_plan(betas, include, space, integer(sweeps, "sweeps", 1))
    if not plan:
        raise ValueError("include must name at least one family with a parameter; got none.")
    rungs, counts = [], None
    for name, parameters, cost, compute in plan:
        _load_kernels(name, compute)
        start = time.perf_counter()
        results = compute(log_joint, log_q, options=options)
        seconds = time.perf_counter() - start
        if counts is None:
            counts = _counts(weights, results.batch)
            size = len(results.gap) * np.shape(log_joint)[-1]
            nothing = np.zeros(len(results.gap))
            exact = results._replace(side="exact", gap=nothing, gap_error=nothing, value=results.evidence,
                                     value_error=results.evidence_error)  # fmt: skip
            rungs.append(_rung("log_evidence", {}, exact, counts, size, seconds))
        rungs.append(_rung(name, parameters, results, counts, cost * size, seconds))
    order = {"lower": 0, "exact": 1, "upper": 2}
    return Ladder(tuple(sorted(rungs, key=lambda r: (_sortable(r), order[r.side]))))


def _load_kernels(name: str, compute: Callable[..., BoundResults]) -> None:
    """One call on two states, so that ``seconds`` holds no compilation."""
    tiny = np.log([0.5, 0.5])
    settings = {"space": LatentSpace((2,))} if name == "ais" else {}
    compute(tiny, tiny, options=Options(), **settings)


def _plan(
    num_samples: Sequence[int],
    betas: Sequence[int | npt.ArrayLike],
    alphas: Sequence[float],
    renyi_samples: Sequence[int],
    orders: Sequence[int],
    cubo_orders: Sequence[float],
    include: Sequence[str],
) -> list[tuple[str, dict[str, Any], int, Callable[..., BoundResults]]]:
    """(name, parameters, passes over the states, function) of every rung; the ELBO serves for the exact value if nothing else."""
    for name in include:
        one_of(name, "include", FAMILIES)
    settings = {"num_samples": num_samples, "betas": betas, "alphas": alphas, "renyi_samples": renyi_samples, "orders": orders,
                "cubo_orders": cubo_orders}  # fmt: skip
    for name, values in settings.items():
        if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
            raise TypeError(f"{name} must be a list with one entry for each rung; got {values!r}.")
    plan: list[tuple[str, dict[str, Any], int, Callable[..., BoundResults]]] = []
    if "elbo" in include:
        plan.append(("elbo", {}, 1, elbo_results))
    if "eubo" in include:
        plan.append(("eubo", {}, 1, eubo_results))
    for alpha in alphas if "renyi" in include else ():
        order = _real(alpha, "alphas")
        plan.append(("renyi", {"alpha": order}, 1, partial(renyi_bound_results, alpha=order)))
        for k in renyi_samples if order >= 0.0 else ():
            count = integer(k, "renyi_samples", 1)
            compute = partial(renyi_sample_results, alpha=order, count=count)
            plan.append(("renyi", {"alpha": order, "num_samples": count}, 250, compute))
    for n in cubo_orders if "cubo" in include else ():
        order = _real(n, "cubo_orders")
        if not 1.0 < order < math.inf:
            raise ValueError(f"cubo_orders must be finite and above 1; got {n!r}.")
        plan.append(("cubo", {"n": order}, 1, partial(renyi_bound_results, alpha=1.0 - order)))
    for k in orders if "perturbative" in include else ():
        plan.append(("perturbative", {"order": k}, 2 * k, partial(perturbative_results, order=k)))
    for steps in betas if "tvo" in include else ():
        points = temperatures(steps)
        for side in ("lower", "upper"):
            shown = steps if isinstance(steps, (int, np.integer)) else points
            plan.append(("tvo", {"betas": shown, "side": side}, points.size - 1,
                         partial(tvo_results, betas=points, side=side, restricted=False)))  # fmt: skip
    for k in num_samples if "iwae" in include else ():
        count = integer(k, "num_samples", 1)
        for name, side in (("iwae", "lower"), ("iwae_upper", "upper")):
            plan.append((name, {"num_samples": count}, 250, partial(k_sample_results, count=count, side=side)))
    return plan


def _real(value: Any, name: str) -> float:
    number = float(value) if isinstance(value, (int, float, np.integer, np.floating)) else math.nan
    if math.isnan(number):
        raise ValueError(f"{name} must hold real numbers; got {value!r}.")
    return number


def _annealed_plan(
    betas: Sequence[int | npt.ArrayLike], include: Sequence[str], space: LatentSpace | None, sweeps: int
) -> list[tuple[str, dict[str, Any], int, Callable[..., BoundResults]]]:
    """The rungs of annealed importance sampling, as in ``_plan``."""
    if "ais" not in include or (space is None and tuple(include) == FAMILIES):
        return []
    if space is None:
        raise ValueError('"ais" in include needs the variables behind the states; got no space; pass space=LatentSpace(...).')
    plan: list[tuple[str, dict[str, Any], int, Callable[..., BoundResults]]] = []
    for steps in betas:
        points = temperatures(steps)
        for side in ("lower", "upper"):
            parameters = {"betas": steps if isinstance(steps, (int, np.integer)) else points, "side": side}
            parameters |= {"sweeps": sweeps} if sweeps > 1 else {}
            compute = partial(annealed_results, betas=points, side=side, space=space, sweeps=sweeps)
            plan.append(("ais", parameters, (points.size - 1) * space.n_variables * sweeps, compute))
    return plan


def _rung(
    name: str, parameters: dict[str, Any], results: BoundResults, counts: FloatArray, states: int, seconds: float
) -> Rung:
    columns = (results.value, results.value_error, results.gap, results.gap_error)
    value, error, gap, gap_error = (shaped(column, results.batch) for column in columns)
    totals = weighted_sum(counts, results.value, results.value_error) + weighted_sum(counts, results.gap, results.gap_error)
    return Rung(name, parameters, results.side, value, error, gap, gap_error, *totals, states, seconds)


def _counts(weights: npt.ArrayLike | None, batch: tuple[int, ...]) -> FloatArray:
    counts = np.ones(batch) if weights is None else real_array(weights, "weights")
    if counts.shape != batch or not ((counts >= 0.0) & (counts < np.inf)).all():
        message = f"weights must be finite, not negative and of the shape {batch} of the rows; got shape {counts.shape}."
        raise LogTableError(message, "weights", counts.shape)
    return counts.ravel()


def _sortable(rung: Rung) -> float:
    return math.inf if math.isnan(rung.total) else rung.total


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"[{value.size - 1} steps]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain_rung(rung: Rung) -> dict[str, Any]:
    fields = rung._asdict()
    fields["parameters"] = {
        key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in rung.parameters.items()
    }
    return {key: np.asarray(v).tolist() if key in ("value", "error", "gap", "gap_error") else v for key, v in fields.items()}
