"""Mean field by coordinate ascent from many starts; `projection` publishes the names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import pair_results
from elbo_exact._validate import NORMALIZER_TOLERANCE, FloatArray, integer, log_table, raise_bad_entry
from elbo_exact.errors import LogTableError
from elbo_exact.evidence import log_evidence, log_posterior, posterior, posterior_marginals, sample_posterior
from elbo_exact.kernels.rows import OUT_ELBO, OUT_GAP
from elbo_exact.space import LatentSpace

__all__ = ["MeanField", "Optimum", "mean_field", "mean_field_sweep", "table_over"]

U = 2.0**-53
SETTLED = 2.0**-50  # largest change of a probability in the last sweep
SAME = 1e-6  # optima whose probabilities differ by less are one


@dataclass(frozen=True)
class Optimum:
    """One optimum of the ELBO over products.

    Attributes
    ----------
    elbo, gap : float
        In nats; bounds in ``error``.
    log_q : ndarray, shape (S,)
        The product as a log table, ready for any quantity.
    factors : tuple of ndarray
        q of each variable.
    count : int
        How many starts ended here: its basin.
    from_start : bool
        Whether one of them was the given start.
    settled : bool
        False if ``max_sweeps`` ran out.
    error : namespace
        Rounding bounds of ``elbo`` and ``gap`` at this log_q.
    """

    elbo: float
    gap: float
    log_q: FloatArray
    factors: tuple[FloatArray, ...]
    count: int
    from_start: bool
    settled: bool
    error: SimpleNamespace

    def to_dict(self) -> dict[str, Any]:
        """Plain floats and lists."""
        return {
            "elbo": self.elbo,
            "gap": self.gap,
            "factors": [factor.tolist() for factor in self.factors],
            "count": self.count,
            "from_start": self.from_start,
            "settled": self.settled,
            "error": vars(self.error).copy(),
        }


@dataclass(frozen=True)
class MeanField:
    """Every distinct optimum that the starts have found, the best first."""

    optima: tuple[Optimum, ...]

    @property
    def best(self) -> Optimum:
        """The optimum with the largest ELBO."""
        return self.optima[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain floats and lists."""
        return {"optima": [optimum.to_dict() for optimum in self.optima]}

    def __str__(self) -> str:
        """One aligned line per optimum."""
        rows = [(f"{o.elbo:.10g} ± {o.error.elbo:.0e}", f"{o.gap:.10g} ± {o.error.gap:.0e}", str(o.count)) for o in self.optima]
        cells = [("elbo", "gap", "starts"), *rows]
        widths = [max(len(line[k]) for line in cells) for k in range(3)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def mean_field(
    log_joint: npt.ArrayLike,
    space: LatentSpace,
    *,
    restarts: int = 20,
    rng: np.random.Generator | int | None = None,
    start: npt.ArrayLike | None = None,
    max_sweeps: int = 10_000,
) -> MeanField:
    """I-projection onto mean field: the products that locally maximize the ELBO, from many starts.

    Parameters
    ----------
    log_joint : array_like, shape (S,)
        log p(x, z) over ``space``.
    space : LatentSpace
        The variables.
    restarts : int
        Random starts: uniform on each simplex or, where such a start has mass on an impossible state, a posterior draw.
    rng : numpy.random.Generator or seed, optional
        Passed once through ``numpy.random.default_rng``.
    start : array_like, shape (S,), optional
        log q of one more start (logits are accepted), of which the marginals are used: for example an amortized q.
    max_sweeps : int
        Sweeps over all variables per start; a start settles when no probability changes by more than 2**-50.

    Returns
    -------
    MeanField
        Distinct optima by falling ELBO; two are one if no probability differs by 1e-6. A start in a saddle stays there.

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, a start without support.
    ZeroEvidence
        p(x) = 0.
    ValueError
        No start at all.

    Notes
    -----
    log q_i(z_i) <- E_{q without i} log p(x, z) + const maximizes the ELBO in q_i, so it never falls beyond rounding; with
    ``start`` a product, the best optimum is at least as good as it, without tolerance. The ELBO is not concave in the product, so a global optimum is not guaranteed.
    O(S n) per sweep. Jordan, Ghahramani, Jaakkola & Saul (1999), Machine Learning 37:183.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> log_joint = np.array([1.7, -1.5, -1.5, 1.3])  # two spins, 1.5 s t + 0.1 (s + t)
    >>> print(ee.projection.mean_field(log_joint, ee.LatentSpace((2, 2)), rng=0))
                   elbo                   gap  starts
    1.792165206 ± 4e-16  0.4685040011 ± 1e-15      13
    1.450167449 ± 6e-16   0.810501758 ± 3e-15       7
    """
    table = table_over(log_joint, space)
    generator, n_starts = np.random.default_rng(rng), integer(restarts, "restarts", 0)
    limit = integer(max_sweeps, "max_sweeps", 1)
    if n_starts == 0 and start is None:
        raise ValueError("restarts must be at least 1 without a start; got 0.")
    posterior(table)  # refuses an impossible observation
    starts = [_random_start(table, space, generator) for _ in range(n_starts)]
    given = None if start is None else _start_table(start, space)
    if given is not None:
        starts.insert(0, posterior_marginals(given, space))
    ends = [_optimum(table, space, *_ascend(table, space, factors, limit)) for factors in starts]
    if given is not None:
        ends[0] = replace(_kept(table, space, given, starts[0], ends[0]), from_start=True)
    groups: list[list[Optimum]] = []
    for end in ends:
        for group in groups:
            if end.settled == group[0].settled and _distance(end.factors, group[0].factors) < SAME:
                group.append(end)
                break
        else:
            groups.append([end])
    optima = [
        replace(min(group, key=lambda end: end.gap), count=len(group), from_start=any(end.from_start for end in group))
        for group in groups
    ]
    return MeanField(tuple(sorted(optima, key=lambda optimum: (-optimum.elbo, optimum.gap))))


def mean_field_sweep(log_joint: FloatArray, space: LatentSpace, factors: Sequence[FloatArray]) -> list[FloatArray]:
    """One coordinate update of each variable in turn.

    Impossible states are counted apart, by the mass that the other factors give them: a value that meets any of it gets
    probability 0. Where every value does, the ELBO is -inf whatever this factor is, and it stays.
    """
    with np.errstate(over="ignore"):  # a state beyond the range below the best one is as good as impossible
        cube = (log_joint - log_joint.max()).reshape(space.sizes)
    impossible = cube == -np.inf
    finite, holes = np.where(impossible, 0.0, cube), impossible.astype(np.float64)
    current = list(factors)
    for axis in range(len(current)):
        energy = _expected(finite, current, axis)
        if impossible.any():
            energy = np.where(_expected(holes, current, axis) > 0.0, -np.inf, energy)
        if energy.max() > -np.inf:
            current[axis] = posterior(energy)
    return current


def _expected(cube: FloatArray, factors: Sequence[FloatArray], kept: int) -> FloatArray:
    """Expectation over all variables but one."""
    for axis in reversed(range(len(factors))):
        if axis != kept:
            cube = np.tensordot(cube, factors[axis], axes=([axis], [0]))
    return cube


def _ascend(table: FloatArray, space: LatentSpace, factors: list[FloatArray], limit: int) -> tuple[list[FloatArray], bool]:
    """Sweeps until nothing changes; whether that was reached."""
    for _ in range(limit):
        following = mean_field_sweep(table, space, factors)
        settled = _distance(following, factors) <= SETTLED
        factors = following
        if settled:
            return factors, True
    return factors, False


def _distance(first: Sequence[FloatArray], second: Sequence[FloatArray]) -> float:
    return max((float(np.abs(x - y).max()) for x, y in zip(first, second, strict=True)), default=0.0)


def _random_start(table: FloatArray, space: LatentSpace, generator: np.random.Generator) -> list[FloatArray]:
    """Uniform on the product of simplices; a posterior draw where the table has impossible states."""
    if (table > -np.inf).all():
        return [generator.dirichlet(np.ones(size)) for size in space.sizes]
    state = sample_posterior(table, 1, space, rng=generator)[0]
    return [np.eye(size)[value] for size, value in zip(space.sizes, state, strict=True)]


def _product(factors: Sequence[FloatArray], space: LatentSpace) -> FloatArray:
    """The product of factors as a log table."""
    total: Any = np.zeros(space.sizes)
    with np.errstate(divide="ignore"):
        logs = [np.log(factor) for factor in factors]
    for axis, log_factor in enumerate(logs):
        total = total + log_factor.reshape([-1 if k == axis else 1 for k in range(len(factors))])
    return np.ascontiguousarray(np.reshape(total, -1))


def _optimum(
    table: FloatArray, space: LatentSpace, factors: Sequence[FloatArray], settled: bool, log_q: FloatArray | None = None
) -> Optimum:
    """Value, bounds and table of one end point; ``log_q`` is the product unless it is given."""
    log_q = _product(factors, space) if log_q is None else log_q
    (row,), _ = pair_results(table, log_q, False, True, "raise", None)
    errors = SimpleNamespace(elbo=float(row[OUT_ELBO + 1]), gap=float(row[OUT_GAP + 1]))
    return Optimum(float(row[OUT_ELBO]), float(row[OUT_GAP]), log_q, tuple(factors), 1, False, settled, errors)


def _kept(table: FloatArray, space: LatentSpace, start: FloatArray, factors: Sequence[FloatArray], end: Optimum) -> Optimum:
    """The start itself where it is a product and better than its end, which rounding of the factors can bring about.

    Its logarithms and those of its marginals round some S + 16 times per variable, and by a few u of themselves.
    """
    log_q, rebuilt = log_posterior(start), _product(factors, space)
    felt = log_q > -np.inf
    slack = U * (len(factors) * (table.size + 16.0) + 8.0 * np.abs(log_q))
    with np.errstate(invalid="ignore"):
        is_product = bool((np.abs(rebuilt - log_q)[felt] <= slack[felt]).all())
    normalized = start if abs(float(log_evidence(start))) <= NORMALIZER_TOLERANCE else log_q
    own = _optimum(table, space, factors, end.settled, normalized)
    return own if is_product and own.gap < end.gap else end


def _start_table(start: npt.ArrayLike, space: LatentSpace) -> FloatArray:
    """The given start; what is wrong with it is said under its own name."""
    table = table_over(start, space, "start")
    raise_bad_entry(table, "start")
    if table.max() == -np.inf:
        raise LogTableError("start has no support.", "start")
    return table


def table_over(table: npt.ArrayLike, space: LatentSpace, name: str = "log_joint") -> FloatArray:
    """One row over the states of a space."""
    if not isinstance(space, LatentSpace):
        raise TypeError(f"space must be a LatentSpace; got {space!r}; pass LatentSpace(sizes).")
    checked = log_table(table, name)
    if checked.shape != (space.size,):
        raise LogTableError(f"{name} must have shape ({space.size},), the states of space; got {checked.shape}.", name)
    return checked
