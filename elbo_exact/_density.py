"""Audit of a log density on a grid: what rounding does and what the grid does, side by side and never added."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from elbo_exact._audit import Audit, audit
from elbo_exact._validate import FloatArray, log_table, raise_bad_entry
from elbo_exact.errors import LogTableError
from elbo_exact.grid import Grid

__all__ = ["DensityAudit", "LogDensity", "audit_density"]

LogDensity = Callable[[FloatArray], Any]

SHIFTS = (0.25, 0.5, 0.75)
SHOWN_ROWS = 20


@dataclass(frozen=True)
class DensityAudit:
    """The quantities of a density on a grid, with two errors of different kinds.

    Every quantity of ``names`` is an attribute, in nats.

    Attributes
    ----------
    audit : Audit
        The grid model, which is a finite model in its own right: ``elbo <= log_evidence <= eubo`` holds for it exactly.
    grid : Grid
        The rule.
    discretization : namespace
        Per quantity, an *estimate* of the distance between the grid model and the continuous model. Not a bound.
    names : tuple of str
        The quantities reported. The entropy of the grid model is not among them: unlike the others it depends on the weights.
    """

    audit: Audit
    grid: Grid
    discretization: SimpleNamespace
    names: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("names", ()):
            return getattr(self.audit, name)
        raise AttributeError(f"DensityAudit has no quantity {name!r}; it has {', '.join(self.__dict__.get('names', ()))}.")

    @property
    def error(self) -> SimpleNamespace:
        """Per quantity, the rigorous bound on rounding, relative to the tables of the grid model."""
        return SimpleNamespace(**{name: getattr(self.audit.error, name) for name in self.names})

    @property
    def residual(self) -> Any:
        """log_evidence - (elbo + gap) of the grid model."""
        return self.audit.residual

    @property
    def status(self) -> Any:
        """ "ok", "zero_evidence", "overflow" or "nan" for each row."""
        return self.audit.status

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, floats and strings; ``error`` and ``discretization`` stay apart."""
        plain = self.audit.to_dict()
        kept = {key: value for key, value in plain.items() if key in (*self.names, "residual", "certified", "status")}
        disagreement = {name: np.asarray(getattr(self.discretization, name)).tolist() for name in self.names}
        return {
            **kept,
            "error": {name: plain["error"][name] for name in self.names},
            "discretization": disagreement,
            "assumptions": plain["assumptions"],
            "grid": {"rule": self.grid.rule, "sizes": list(self.grid.sizes), "axes": [list(a) for a in self.grid.axes]},
        }

    def __str__(self) -> str:
        """An aligned table: value, rounding bound and discretization estimate of every quantity, row by row."""
        status = np.asarray(self.status)
        several = status.ndim > 0
        lines = [["row"] * several + ["quantity", "value", "rounding (bound)", "discretization (estimate)"]]
        for row in range(min(status.size, SHOWN_ROWS)):
            for name in self.names:
                value, bound, estimate = (
                    float(np.ravel(getattr(source, name))[row]) for source in (self.audit, self.error, self.discretization)
                )
                lines.append([str(row)] * several + [name, f"{value:.17g}", f"{bound:.1e}", f"{estimate:.1e}"])
            lines.append([str(row)] * several + ["status", str(status.ravel()[row]), "", ""])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        hidden = status.size - SHOWN_ROWS
        return "\n".join(text + [f"... and {hidden} more rows"] * (hidden > 0))


def audit_density(log_density: LogDensity, grid: Grid, log_q: LogDensity | None = None, **options: Any) -> DensityAudit:
    """Every quantity of a variational problem with a continuous latent variable of one to three dimensions, on a grid.

    Parameters
    ----------
    log_density : callable
        Maps nodes, shape (S, D), to log p(x, z) at the nodes, shape (..., S). Called five times, on the grid and on four
        variations of it, so it must give the same answer for the same nodes.
    grid : Grid
        The quadrature rule.
    log_q : callable, optional
        The same for the density of q, which the grid model normalizes on its own nodes; ``log_q_normalizer`` is the logarithm
        of its quadrature sum, 0 for a normalized q on a perfect grid. By default q is the posterior, for the evidence alone.
    **options
        Passed on to :func:`audit`: ``include``, ``nan_policy``, ``certify``, ``executor``.

    Returns
    -------
    DensityAudit
        ``error`` bounds the rounding of the sums over the grid, with ``log_density(nodes) + log_weights`` as evaluated in
        float64 taken as given. ``discretization`` is the largest change of each quantity over four other rules: twice the
        points, and the grid moved by a quarter, a half and three quarters of a step (for Gauss rules: one, two and three
        more points). It is an estimate, blind to what lies outside the bounds of the grid. For the log evidence of random
        logistic regressions, about 1,000 for each rule, it was too small in 0.2 % (trapezoid, midpoint), 0.8 %
        (Gauss-Legendre) and 34 % (Gauss-Hermite) of them, by at most 4 %, 18 % and 4 % of its value. Where a density does not
        vanish smoothly at the ends, so that halving the step only quarters the error, it is too small by a third (a Beta(2, 3)
        density) to a half (Beta(1.5, 1.5)), and on a grid that does not resolve the density it says nothing.

    Raises
    ------
    TypeError
        If ``log_density`` or ``log_q`` is not callable, or is a generator, which could be read only once.
    LogTableError
        If it returns another number of values than nodes, NaN or +inf.
    EnumerationTooLarge, ValueError
        If the grid with twice the points exceeds ``grid.max_bytes`` or the limit of its rule (300 for Gauss-Hermite, hence
        at most 150 in ``grid``), before anything is evaluated.

    Notes
    -----
    With weights w_s, the joint of the grid model is w_s p(x, z_s) and its q is w_s q(z_s) / sum_t w_t q(z_t). The
    weights cancel in every divergence. Cost: ``2**D + 4`` times one audit of the grid, in time.

    Examples
    --------
    A standard normal prior, one observation 1 with unit noise, and q the prior: log N(1; 0, 2) = -1.515512123484645.

    >>> import numpy as np
    >>> from elbo_exact.grid import Grid
    >>> def log_normal(x, mean, variance):
    ...     return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    >>> def log_joint(nodes):
    ...     return log_normal(nodes[:, 0], 0.0, 1.0) + log_normal(1.0, nodes[:, 0], 1.0)
    >>> result = audit_density(log_joint, Grid.trapezoid((-9, 9), 72), lambda nodes: log_normal(nodes[:, 0], 0.0, 1.0))
    >>> print(f"{result.log_evidence:.13f} {result.elbo:.13f} {result.gap:.13f}")
    -1.5155121234846 -1.9189385332047 0.4034264097200
    """
    if "unnormalized" in options:
        raise TypeError("audit_density takes no unnormalized: q is always normalized on the grid, see log_q_normalizer.")
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a Grid; got {type(grid).__name__}; make one with Grid.trapezoid(bounds, sizes).")
    _refuse_uncallable(log_density, "log_density")
    if log_q is not None:
        _refuse_uncallable(log_q, "log_q")
    variations = {"twice the points": grid.refine()} | {f"shift {part}": grid.shifted(part) for part in SHIFTS}
    result = _audit_on(grid, "", log_density, log_q, options)
    dropped = ("entropy",) if log_q is not None else ("entropy", "log_q_normalizer")
    names = tuple(name for name in result.names if name not in dropped)
    uncertified = options | {"certify": None}
    largest: dict[str, Any] = dict.fromkeys(names, 0.0)
    for words, variation in variations.items():
        other = _audit_on(variation, f" (grid with {words})", log_density, log_q, uncertified)
        largest = {
            name: np.maximum(worst, _distance(getattr(result, name), getattr(other, name))) for name, worst in largest.items()
        }
    return DensityAudit(result, grid, SimpleNamespace(**largest), names)


def _audit_on(grid: Grid, where: str, log_density: LogDensity, log_q: LogDensity | None, options: dict[str, Any]) -> Audit:
    """The audit of the finite model that one grid defines."""
    nan_allowed = options.get("nan_policy") == "propagate"
    joint = _table(log_density, grid, "log_density", where, nan_allowed)
    if log_q is not None:
        q = _table(log_q, grid, "log_q", where, nan_allowed)
    else:  # the posterior; a row without evidence has none, and any q serves
        possible = (joint > -np.inf).any(axis=-1, keepdims=True) | np.isnan(joint).any(axis=-1, keepdims=True)
        q = np.where(possible, joint, grid.log_weights)
    return audit(joint, q, unnormalized=True, **options)


def _table(function: LogDensity, grid: Grid, name: str, where: str, nan_allowed: bool) -> FloatArray:
    """The log table of a density on a grid, weights folded in."""
    values = function(grid.nodes)
    if inspect.isgenerator(values):
        raise TypeError(f"{name} must return an array; got a generator; return np.array(list(...)).")
    table = log_table(values, name)
    if table.shape[-1] != grid.size:
        raise LogTableError(
            f"{name} must return one value per node, last axis {grid.size}{where}; got shape {table.shape}.",
            name,
            table.shape,
        )
    if not (table < np.inf).all():
        raise_bad_entry(np.where(np.isnan(table), 0.0, table) if nan_allowed else table, name + where)
    return table + grid.log_weights


def _refuse_uncallable(function: Any, name: str) -> None:
    if inspect.isgenerator(function) or inspect.isgeneratorfunction(function) or not callable(function):
        kind = type(function).__name__ if not inspect.isgeneratorfunction(function) else "a generator function"
        raise TypeError(f"{name} must be a function of the nodes that can be called again; got {kind}; pass lambda nodes: ...")


def _distance(first: Any, second: Any) -> Any:
    """|first - second|; equal infinities are no distance apart."""
    with np.errstate(invalid="ignore"):
        return np.where(first == second, 0.0, np.abs(first - second))[()]
