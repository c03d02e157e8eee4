"""The exact evidence, ELBO, gap and KLs of a VAE with at most three latent dimensions, by quadrature adapted to each observation.

Every observation gets coordinates u of its own, z = center + frame u, in which its posterior has mean 0 and covariance 1. They are found from
a scan of the prior's range and repeated moments, so that several modes and tilted ridges are covered, not only the surroundings of one mode.
The trapezoidal rule then runs over the box where the joint, and q, are within 42 nats of their largest values. It converges
exponentially for smooth densities that have decayed at the ends (Trefethen & Weideman 2014, SIAM Review 56:385); kinks, of
relu or where a log variance of pixels meets its floor, leave h^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from elbo_exact._density import DensityAudit, audit_density
from elbo_exact._layers import activate
from elbo_exact._parallel import run
from elbo_exact._validate import FloatArray, integer
from elbo_exact.errors import EnumerationTooLarge
from elbo_exact.grid import MAX_DIMENSIONS, Grid
from elbo_exact.vae._coordinates import cube, find_box, find_frame
from elbo_exact.vae._objective import log_normal

__all__ = ["VAEAudit", "audit", "log_joint"]

U = 2.0**-53
Q_RANGE = 9.2  # standard deviations of q: the same for a Gaussian
SCAN = {1: (1001, 10.0), 2: (101, 8.0), 3: (27, 6.5)}  # points per axis and half width of the first look, in units of the prior
BLOCK = 2**14  # nodes that are decoded at a time
STEP = 0.5  # first step of the rule, in posterior or q standard deviations: the trapezoidal rule of a Gaussian is then off by e^-79
NAMES = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "log_q_normalizer")


@dataclass(frozen=True, eq=False)
class VAEAudit:
    """What variational inference costs in each observation, in nats; every field has shape (N,).

    Attributes
    ----------
    log_evidence, elbo, gap, forward_kl, eubo, log_q_normalizer : ndarray
        Those of the grid model of each observation, see ``audit_density``; only ``log_evidence`` if the encoder was left out.
    error : namespace
        Per quantity, the rigorous bound on the rounding of the sums, with the table of log densities taken as given.
    discretization : namespace
        Per quantity, an *estimate* of the distance to the integral over the continuous latent: the largest change over four other
        rules, plus what rounding in the decoder can move. Not a bound: a second mode that the scan has missed is not in it.
    n_nodes : ndarray of int
        Nodes of the rule that was used.
    """

    values: dict[str, FloatArray]
    error: SimpleNamespace
    discretization: SimpleNamespace
    n_nodes: Any

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("values", {})
        if name in values:
            return values[name]
        raise AttributeError(f"VAEAudit has no quantity {name!r}; it has {', '.join(values)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; ``error`` and ``discretization`` stay apart."""
        plain = {name: values.tolist() for name, values in self.values.items()}
        apart = {
            key: {name: getattr(self, key).__dict__[name].tolist() for name in plain} for key in ("error", "discretization")
        }
        return {**plain, **apart, "n_nodes": self.n_nodes.tolist()}


def log_joint(model: Any, x: FloatArray, z: FloatArray) -> FloatArray:
    """log p(x, z), (N, S); each row is computed alone, so that it does not depend on the others."""
    rows = _decoded(model, z)
    return np.array([rows(row) for row in x]).reshape(len(x), len(z))


def audit(model: Any, x: FloatArray, q: bool, tolerance: float, max_nodes: int) -> VAEAudit:
    """All quantities of all observations."""
    n_latent = model.n_latent
    if n_latent > MAX_DIMENSIONS:
        raise EnumerationTooLarge(
            f"n_latent must be at most {MAX_DIMENSIONS} for an integral over z; got {n_latent}; use iwae with many samples.",
            n_latent,
        )
    limit = (
        int(integer(max_nodes, "max_nodes", 16**n_latent) ** (1.0 / n_latent) + 1e-9) // 2
    )  # audit_density doubles the points
    if not 0.0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a positive number; got {tolerance!r}.")
    budget = _Budget(tolerance, limit)
    points, half_width = SCAN[n_latent]
    scan = cube(np.linspace(-half_width, half_width, points), n_latent)
    tables = _decoded(model, scan)
    codes = [model.encode(row[None]) for row in x]  # alone: a product of matrices may round a row by its company
    step = 2.0 * half_width / (points - 1)
    calls = [(model, row, mean[0], s[0], scan, step, tables, q, budget) for row, (mean, s) in zip(x, codes, strict=True)]
    done = run(_audit_row, calls)
    names = NAMES if q else NAMES[:1]
    columns = {
        kind: {name: np.array([line[kind][name] for line in done], np.float64) for name in names}
        for kind in ("value", "error", "discretization")
    }
    return VAEAudit(
        columns["value"],
        SimpleNamespace(**columns["error"]),
        SimpleNamespace(**columns["discretization"]),
        np.array([line["n_nodes"] for line in done], np.int64),
    )


@dataclass(frozen=True)
class _Budget:
    """When a rule is good enough, and most points of an axis."""

    tolerance: float
    limit: int


def _audit_row(
    model: Any,
    x: FloatArray,
    mean: FloatArray,
    log_variance: FloatArray,
    scan: FloatArray,
    step: float,
    tables: Callable[[FloatArray], FloatArray],
    q: bool,
    budget: _Budget,
) -> dict[str, Any]:
    """One observation."""

    def density(z: FloatArray) -> FloatArray:
        return np.concatenate([_decoded(model, z[i : i + BLOCK])(x) for i in range(0, len(z), BLOCK)])

    center, frame = find_frame(density, scan, tables(x), step, mean, log_variance)
    noise = 2.0 * _rounding(model, x, center)
    target = _Target(density, center, frame, mean, log_variance)
    posterior_box, is_whole = find_box(density, center, frame)
    if not is_whole:
        noise = math.inf
    if not q:
        result, sizes = _refined(target, False, posterior_box, STEP, budget)
        return _line(_quantities(result, NAMES[:1]), noise, math.prod(sizes))
    q_box, width = target.q_box()
    both = np.minimum(posterior_box[0], q_box[0]), np.maximum(posterior_box[1], q_box[1])
    if float((both[1] - both[0]).max()) < STEP * min(1.0, width) * budget.limit:
        result, sizes = _refined(target, True, both, STEP * min(1.0, width), budget)
        if _settled(result, True, budget.tolerance):
            return _line(_with_leak(_quantities(result, NAMES)), noise, math.prod(sizes))
    first, first_sizes = _refined(target, True, posterior_box, STEP, budget, ("log_evidence", "forward_kl"))
    own = _Target(density, mean, np.diag(np.exp(0.5 * log_variance)), mean, log_variance)
    second, second_sizes = _refined(own, True, own.q_box()[0], STEP, budget, ("elbo",))
    return _line(_apart(first, second), noise, math.prod(first_sizes) + math.prod(second_sizes))


@dataclass(frozen=True, eq=False)
class _Target:
    """The densities of one observation as functions of u."""

    density: Callable[[FloatArray], FloatArray]
    center: FloatArray
    frame: FloatArray
    mean: FloatArray
    log_variance: FloatArray

    @property
    def log_volume(self) -> float:
        return float(np.linalg.slogdet(self.frame)[1])

    def log_joint(self, u: FloatArray) -> FloatArray:
        return self.density(self.center + u @ self.frame.T) + self.log_volume

    def log_q(self, u: FloatArray) -> FloatArray:
        return log_normal(self.center + u @ self.frame.T, self.mean, self.log_variance) + self.log_volume

    def q_box(self) -> tuple[tuple[FloatArray, FloatArray], float]:
        """Bounds of q in u, and its smallest width there."""
        back = np.linalg.inv(self.frame)
        middle, spread = back @ (self.mean - self.center), Q_RANGE * np.sqrt((back**2) @ np.exp(self.log_variance))
        precision = np.linalg.eigvalsh(self.frame.T @ (np.exp(-self.log_variance)[:, None] * self.frame))
        return (middle - spread, middle + spread), 1.0 / math.sqrt(precision[-1])


def _quantities(result: DensityAudit, names: tuple[str, ...]) -> dict[str, tuple[float, float, float]]:
    """Value, rounding bound and discretization estimate of each quantity."""
    return {
        name: tuple(float(getattr(source, name)) for source in (result, result.error, result.discretization))  # type: ignore[misc] # three, as zip made them
        for name in names
    }


def _with_leak(quantities: dict[str, tuple[float, float, float]]) -> dict[str, tuple[float, float, float]]:
    """Estimates raised by what the grid says q integrates to: it is 1, unless q is narrower than the spacing of doubles at z."""
    leak = abs(quantities["log_q_normalizer"][0])
    return {name: (v, e, d + leak * (name != "log_evidence")) for name, (v, e, d) in quantities.items()}


def _apart(first: DensityAudit, second: DensityAudit) -> dict[str, tuple[float, float, float]]:
    """All quantities where no single grid resolves both: evidence and KL(p || q) on the posterior's, the ELBO on that of q.

    On the posterior's grid q is normalized to what it has there, so log_q_normalizer is taken back out of KL(p || q).
    """
    on_p, on_q = _quantities(first, NAMES), _with_leak(_quantities(second, NAMES))
    evidence, elbo = on_p["log_evidence"], on_q["elbo"]
    forward = _plus(on_p["forward_kl"], on_p["log_q_normalizer"], -1.0)
    gap, eubo = _plus(evidence, elbo, -1.0), _plus(evidence, forward, 1.0)
    return dict(zip(NAMES, (evidence, elbo, gap, forward, eubo, on_q["log_q_normalizer"]), strict=True))


def _plus(a: tuple[float, ...], b: tuple[float, ...], sign: float) -> tuple[float, float, float]:
    """a + sign b; both errors add up, and the rounding of the sum."""
    value = a[0] + sign * b[0]
    return value, a[1] + b[1] + U * abs(value), a[2] + b[2]


def _line(quantities: dict[str, tuple[float, float, float]], noise: float, n_nodes: int) -> dict[str, Any]:
    return {
        "value": {name: triple[0] for name, triple in quantities.items()},
        "error": {name: triple[1] for name, triple in quantities.items()},
        "discretization": {name: triple[2] + noise for name, triple in quantities.items()},
        "n_nodes": n_nodes,
    }


def _settled(
    result: DensityAudit, q: bool, tolerance: float, names: tuple[str, ...] = ("log_evidence", "elbo", "forward_kl")
) -> bool:
    """Whether the estimates meet the goal."""
    names = names if q else ("log_evidence",)
    return all(
        float(getattr(result.discretization, name)) <= tolerance * max(1.0, abs(float(getattr(result, name)))) for name in names
    )


def _refined(
    target: _Target,
    q: bool,
    box: tuple[FloatArray, FloatArray],
    step: float,
    budget: _Budget,
    names: tuple[str, ...] = ("log_evidence", "elbo", "forward_kl"),
) -> tuple[DensityAudit, tuple[int, ...]]:
    """Halve the step until the estimates meet the goal or the budget ends."""
    while True:
        wanted = [max(8, math.ceil(float(width) / step) + 1) for width in box[1] - box[0]]
        sizes = tuple(min(budget.limit, n) for n in wanted)
        result = audit_density(target.log_joint, Grid.trapezoid(np.stack(box, axis=-1), sizes), target.log_q if q else None)
        if _settled(result, q, budget.tolerance, names) or min(wanted) >= budget.limit:
            return result, sizes
        step /= 2.0


def _decoded(model: Any, z: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """A function of one observation: log p(x, z) at these nodes, which are decoded once."""
    params = model.double_params
    outputs, _ = model.decoder.forward(params[model.decoder_slice], z)
    prior = log_normal(z, np.zeros(1), np.zeros(1))
    if model.likelihood == "bernoulli":
        return lambda x: model.likelihood_of(outputs, params[model.own_slice], x[None])[0][:, 0] + prior
    raw = outputs[:, model.n_features :] if model.variance == "pixel" else params[model.own_slice]
    s = np.broadcast_to(np.maximum(raw, model.min_log_variance), (len(z) if model.variance == "pixel" else 1, model.n_features))
    means, precision = outputs[:, : model.n_features], np.exp(-s)
    rest = prior - 0.5 * (s.sum(axis=1) + model.n_features * math.log(2.0 * math.pi))

    def row(x: FloatArray) -> FloatArray:
        squares = x - means
        squares *= squares
        squares *= precision
        return np.asarray(rest - 0.5 * squares.sum(axis=1))

    return row


def _rounding(model: Any, x: FloatArray, z: FloatArray) -> float:
    """What rounding may move log p(x, z) by, to first order: its F terms, and the last affine map times the slope in its outputs."""
    params = model.double_params
    layers = model.decoder.views(params[model.decoder_slice])
    hidden = z[None]
    for weight, bias in layers[:-1]:
        hidden, _ = activate(model.activation, hidden @ weight + bias)
    weight, bias = layers[-1]
    outputs = hidden @ weight + bias
    moved = (len(weight) + 2) * U * (np.abs(hidden) @ np.abs(weight) + np.abs(bias))
    value, pullback = model.likelihood_of(outputs, params[model.own_slice], x[None])
    slopes = np.abs(pullback(np.ones_like(value))[0])
    size = abs(float(value[0, 0])) + model.n_features * (2.0 + abs(model.min_log_variance)) + float(z @ z)
    return float((slopes * moved).sum() + (model.n_features + 8) * U * size)
