"""Grids: a continuous latent variable of one to three dimensions as a finite space of quadrature nodes.

``log_density(nodes) + log_weights`` is a log table. The weights (step, Gauss weight, Jacobian) belong to the joint *and* to
q of that finite model, so they cancel in every divergence, and the ELBO stays below the log evidence of the grid model
exactly. How far the grid model is from the continuous one is a separate question, answered by ``audit_density``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, integer, one_of, real_array
from elbo_exact.space import BYTES_PER_ENTRY, MAX_BYTES, LatentSpace, count_text, refuse_above, whole_sizes

__all__ = ["Grid"]

MAX_DIMENSIONS = 3
# hermegauss(400) returns 266 zero and 134 NaN weights; at 300 the smallest weight is 2e-248 and log weights are good to 1e-13.
# leggauss solves an eigenvalue problem of this order: a quarter of a second at 2000.
LARGEST_SIZE = {"midpoint": 2**31, "trapezoid": 2**31, "gauss_hermite": 300, "gauss_legendre": 2000}
GAUSS_RULES = ("gauss_hermite", "gauss_legendre")

SizesLike = int | tuple[int, ...] | list[int] | npt.NDArray[np.integer]


@dataclass(frozen=True)
class Grid:
    """Nodes and log weights of a tensor quadrature rule; usually made by one of the four class methods.

    Parameters
    ----------
    rule : {"midpoint", "trapezoid", "gauss_hermite", "gauss_legendre"}
        The one-dimensional rule used along every axis.
    sizes : tuple of int
        Points per axis, one to three axes.
    axes : tuple of (float, float)
        Per axis ``(lower, upper)``, or ``(mean, scale)`` for Gauss-Hermite.
    shift : float, optional
        For midpoint and trapezoid: the fraction of a step, in 0 <= shift < 1, by which the grid has been moved.
    max_bytes : int, optional
        Byte budget of nodes and log weights; also that of every refined or shifted grid.

    Attributes
    ----------
    nodes : ndarray, shape (S, D)
        The nodes in C order, the last axis fastest. Read-only.
    log_weights : ndarray, shape (S,)
        Logarithms of the weights: ``sum_s exp(log_density(nodes)[s] + log_weights[s])`` approximates the integral.

    Raises
    ------
    ValueError
        If a size, a bound or a scale is out of range, or if the steps are too small for float64.
    EnumerationTooLarge
        Before allocation, if nodes and weights exceed ``max_bytes``.
    """

    rule: str
    sizes: tuple[int, ...]
    axes: tuple[tuple[float, float], ...]
    shift: float = 0.0
    max_bytes: int = MAX_BYTES
    nodes: FloatArray = field(init=False, repr=False, compare=False)
    log_weights: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of(self.rule, "rule", tuple(LARGEST_SIZE))
        object.__setattr__(self, "sizes", whole_sizes(self.sizes))
        _check_sizes(self.rule, self.sizes)
        _check_axes(self.rule, self.axes, len(self.sizes))
        _check_shift(self.rule, self.shift)
        size, text = math.prod(self.shape), count_text(self.shape)
        refuse_above(size, (self.n_dimensions + 1) * BYTES_PER_ENTRY, self.max_bytes, text, "lower sizes")
        lines = [RULES[self.rule](size, *axis, self.shift) for size, axis in zip(self.sizes, self.axes, strict=True)]
        for name, values in zip(("nodes", "log_weights"), _tensor(lines), strict=True):
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @classmethod
    def midpoint(cls, bounds: npt.ArrayLike, sizes: SizesLike, *, max_bytes: int = MAX_BYTES) -> Grid:
        """Midpoint rule: ``sizes`` equal cells per axis, each represented by its center. O(h^2), no node on the border.

        Parameters
        ----------
        bounds : array_like, shape (2,) or (D, 2)
            Lower and upper end of each axis.
        sizes : int or sequence of int
            Cells per axis; one integer serves every axis.
        max_bytes : int, optional
            Byte budget.

        Examples
        --------
        >>> grid = Grid.midpoint((0.0, 1.0), 4)
        >>> grid.nodes[:, 0].tolist()
        [0.125, 0.375, 0.625, 0.875]
        """
        return _from_bounds("midpoint", bounds, sizes, max_bytes)

    @classmethod
    def trapezoid(cls, bounds: npt.ArrayLike, sizes: SizesLike, *, max_bytes: int = MAX_BYTES) -> Grid:
        """Trapezoidal rule: ``sizes`` >= 2 equally spaced points per axis, both ends included.

        O(h^2) in general, but exponentially accurate for an analytic density that has decayed at both ends
        (Trefethen and Weideman 2014). Parameters as in :meth:`midpoint`.

        Examples
        --------
        >>> grid = Grid.trapezoid((-9.0, 9.0), 40)
        >>> f"{np.exp(-grid.nodes[:, 0] ** 2 / 2 + grid.log_weights).sum() ** 2 / 2:.14f}"  # the square root of 2 pi
        '3.14159265358979'
        """
        return _from_bounds("trapezoid", bounds, sizes, max_bytes)

    @classmethod
    def gauss_legendre(cls, bounds: npt.ArrayLike, sizes: SizesLike, *, max_bytes: int = MAX_BYTES) -> Grid:
        """Gauss-Legendre rule: exact for polynomials of degree ``2 sizes - 1`` on finite intervals; at most 2000 points.

        Parameters as in :meth:`midpoint`.

        Examples
        --------
        >>> grid = Grid.gauss_legendre((0.0, 1.0), 3)
        >>> f"{(grid.nodes[:, 0] ** 5 * np.exp(grid.log_weights)).sum():.15f}"  # one sixth
        '0.166666666666667'
        """
        return _from_bounds("gauss_legendre", bounds, sizes, max_bytes)

    @classmethod
    def gauss_hermite(
        cls, sizes: SizesLike, mean: npt.ArrayLike = 0.0, scale: npt.ArrayLike = 1.0, *, max_bytes: int = MAX_BYTES
    ) -> Grid:
        """Gauss-Hermite rule for densities near a Gaussian, with nodes at ``mean + scale * x``.

        The log weights contain ``x^2 / 2 + log(scale)``, so they apply to the density itself and not to a factor of the
        Gaussian. Put ``mean`` at the mode of the integrand and ``scale`` at its width (Liu and Pierce 1994): centered on
        the prior instead, a sharp likelihood can cost nats.

        Parameters
        ----------
        sizes : int or sequence of int
            Points per axis, at most 300, where the weights of NumPy's rule are still normal numbers.
        mean, scale : array_like, shape () or (D,), optional
            Center and width per axis; scale > 0.
        max_bytes : int, optional
            Byte budget.

        Examples
        --------
        >>> grid = Grid.gauss_hermite(2, mean=1.0, scale=0.5)
        >>> grid.nodes[:, 0].tolist()
        [0.5, 1.5]
        """
        counts = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        pair = np.broadcast_arrays(real_array(mean, "mean"), real_array(scale, "scale"))
        return _from_pairs("gauss_hermite", np.stack(pair, axis=-1), "mean and scale", counts, max_bytes)

    @property
    def n_dimensions(self) -> int:
        """Number of axes, D."""
        return len(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes per axis: ``sizes``, or one more where a shift has cut the first cell; ``table.reshape(shape)`` is C order."""
        return tuple(size + (self.shift > 0) for size in self.sizes)

    @property
    def size(self) -> int:
        """Number of nodes, S."""
        return math.prod(self.shape)

    @property
    def space(self) -> LatentSpace:
        """The finite space of the node numbers, one variable per axis."""
        return LatentSpace(self.shape)

    def refine(self) -> Grid:
        """The same rule with ``2 * sizes`` points.

        Examples
        --------
        >>> Grid.midpoint((0.0, 1.0), 4).refine().sizes
        (8,)
        """
        return replace(self, sizes=tuple(2 * size for size in self.sizes))

    def shifted(self, fraction: float) -> Grid:
        """An equally good rule on other nodes, to see how much the choice of nodes matters.

        Midpoint and trapezoid are moved to the right by ``fraction`` of a step, on every axis; the cells cut by the border keep
        their own (shorter) width, so no node leaves the bounds. Gauss rules have no step to move by: they get
        ``ceil(4 * fraction)`` more points, whose nodes interlace with the old ones.

        Raises
        ------
        ValueError
            Unless 0 < fraction < 1.

        Examples
        --------
        >>> Grid.midpoint((0.0, 1.0), 4).shifted(0.5).nodes[:, 0].tolist()
        [0.0625, 0.25, 0.5, 0.75, 0.9375]
        """
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"fraction must be between 0 and 1; got {fraction!r}.")
        if self.rule in GAUSS_RULES:
            return replace(self, sizes=tuple(size + math.ceil(4 * fraction) for size in self.sizes))
        return replace(self, shift=math.fmod(self.shift + fraction, 1.0))


def _from_bounds(rule: str, bounds: npt.ArrayLike, sizes: SizesLike, max_bytes: int) -> Grid:
    counts = tuple(np.atleast_1d(np.asarray(sizes)).tolist())
    return _from_pairs(rule, real_array(bounds, "bounds"), "bounds", counts, max_bytes)


def _from_pairs(rule: str, pairs: FloatArray, name: str, counts: tuple[int, ...], max_bytes: int) -> Grid:
    """A grid from a (2,) or (D, 2) array; whichever of counts and pairs is single serves every axis."""
    if pairs.ndim not in (1, 2) or pairs.shape[-1] != 2:
        raise ValueError(f"{name} must be one pair or one pair per axis; got shape {pairs.shape}.")
    rows = np.atleast_2d(pairs)
    n_axes = max(len(counts), len(rows))
    counts = counts * n_axes if len(counts) == 1 else counts
    axes = tuple((float(first), float(second)) for first, second in (rows.repeat(n_axes, 0) if len(rows) == 1 else rows))
    return Grid(rule, counts, axes, max_bytes=max_bytes)


def _check_sizes(rule: str, sizes: tuple[int, ...]) -> None:
    if not 1 <= len(sizes) <= MAX_DIMENSIONS:
        raise ValueError(f"sizes must name 1 to {MAX_DIMENSIONS} axes; got {len(sizes)}.")
    for axis, size in enumerate(sizes):
        integer(size, f"sizes[{axis}] of the {rule} rule", 2 if rule == "trapezoid" else 1)
        if size > LARGEST_SIZE[rule]:
            raise ValueError(f"sizes[{axis}] of the {rule} rule must be at most {LARGEST_SIZE[rule]}; got {size}.")


def _check_axes(rule: str, axes: tuple[tuple[float, float], ...], n_axes: int) -> None:
    if len(axes) != n_axes:
        raise ValueError(f"sizes and axes must have the same length; got {n_axes} sizes and {len(axes)} axes.")
    for axis, (first, second) in enumerate(axes):
        if rule == "gauss_hermite" and not (math.isfinite(first) and 0.0 < second < math.inf):
            raise ValueError(f"mean must be finite and scale > 0 on axis {axis}; got mean {first}, scale {second}.")
        if rule != "gauss_hermite" and not (first < second and math.isfinite(second - first)):
            raise ValueError(f"bounds must be finite with lower < upper on axis {axis}; got {first}, {second}.")


def _check_shift(rule: str, shift: float) -> None:
    if not 0.0 <= shift < 1.0 or (shift > 0.0 and rule in GAUSS_RULES):
        raise ValueError(f"shift must be in 0 <= shift < 1, and 0 for Gauss rules; got {shift!r} for {rule}.")


Line = tuple[FloatArray, FloatArray]


def _tensor(lines: list[Line]) -> Line:
    """Nodes (S, D) and log weights (S,) of the product of one-dimensional rules, in C order."""
    for axis, (points, _) in enumerate(lines):
        if not (np.isfinite(points).all() and (np.diff(points) > 0).all()):
            raise ValueError(f"nodes on axis {axis} are not distinct finite float64 numbers; widen the axis or lower sizes.")
    nodes = np.stack(np.meshgrid(*(points for points, _ in lines), indexing="ij", copy=False), axis=-1)
    log_weights = np.zeros(nodes.shape[:-1])
    for axis, (_, log_weight) in enumerate(lines):
        log_weights += log_weight.reshape([-1 if axis == other else 1 for other in range(len(lines))])
    return nodes.reshape(-1, len(lines)), log_weights.reshape(-1)


def _borders(size: int, shift: float) -> FloatArray:
    """Cell borders in units of the step: 0, 1, ... size; shifted, the first and last cell are cut where the interval ends."""
    if shift == 0.0:
        return np.arange(size + 1, dtype=np.float64)
    return np.concatenate(([0.0], np.arange(size) + shift, [float(size)]))


def _place(position: FloatArray, n_steps: int, lower: float, upper: float) -> FloatArray:
    """Positions in steps as points of [lower, upper]: symmetric bounds give exactly symmetric points."""
    with np.errstate(all="ignore"):  # an overflow is reported by _tensor, with its axis
        return np.asarray((lower * (n_steps - position) + upper * position) / n_steps)


def _midpoint_line(size: int, lower: float, upper: float, shift: float) -> Line:
    borders = _borders(size, shift)
    centers = _place((borders[:-1] + borders[1:]) / 2, size, lower, upper)
    return centers, np.log(np.diff(borders)) + math.log((upper - lower) / size)


def _trapezoid_line(size: int, lower: float, upper: float, shift: float) -> Line:
    points = _borders(size - 1, shift)
    steps = np.diff(points)
    half_sums = (np.append(0.0, steps) + np.append(steps, 0.0)) / 2
    return _place(points, size - 1, lower, upper), np.log(half_sums) + math.log((upper - lower) / (size - 1))


def _legendre_line(size: int, lower: float, upper: float, _shift: float) -> Line:
    points, weights = np.polynomial.legendre.leggauss(size)
    return _place(1.0 + points, 2, lower, upper), np.log(weights) + math.log((upper - lower) / 2)


def _hermite_line(size: int, mean: float, scale: float, _shift: float) -> Line:
    points, weights = np.polynomial.hermite_e.hermegauss(size)
    return mean + scale * points, np.log(weights) + points * points / 2 + math.log(scale)


RULES: dict[str, Callable[[int, float, float, float], Line]] = {
    "midpoint": _midpoint_line,
    "trapezoid": _trapezoid_line,
    "gauss_hermite": _hermite_line,
    "gauss_legendre": _legendre_line,
}
