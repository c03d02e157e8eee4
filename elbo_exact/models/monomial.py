"""Joint tables whose entries are monomials in shared probabilities: EM for tied multinomials (Dempster, Laird & Rubin 1977)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, categories, raise_bad_entry, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.families._rounding import PriorTable, log_prior, log_prior_change, rounding_loss, summed_change
from elbo_exact.families._simplex import (
    LogSimplex,
    U,
    log_simplex,
    maximized,
    pseudo_count_table,
    simplex_change,
    uniform_simplex,
)
from elbo_exact.space import LatentSpace

__all__ = ["Monomial"]


@dataclass(frozen=True, eq=False, repr=False)
class Monomial(AsCode):
    """p(x = r, z) = exp(log_constants[r, z]) * product over g, c of p[g, c] ** exponents[r, z, g, c].

    The groups g are distributions shared by all rows and states: two biased coins, a recombination fraction. What is fixed by the
    design of the experiment goes into the constants.

    Parameters
    ----------
    log_probabilities : array_like, shape (G, C)
        Log parameters, one distribution per row, -inf for categories that a group does not have.
    log_constants : array_like, shape (R, S)
        Fixed part of the log joint of the R possible observations; -inf where a state cannot produce the observation.
    exponents : array_like, shape (R, S, G, C)
        How often each parameter is used; not negative.

    Raises
    ------
    LogTableError
        Shapes that do not match, NaN, or parameters that do not sum to 1.

    Examples
    --------
    The linkage data: cells 1/2 + t/4, (1-t)/4, (1-t)/4, t/4; the first cell hides two.

    >>> import numpy as np, elbo_exact as ee
    >>> half, quarter = np.log([0.5, 0.25])
    >>> constants = [[half, quarter], [quarter, -np.inf], [quarter, -np.inf], [quarter, -np.inf]]
    >>> uses = np.zeros((4, 2, 1, 2))
    >>> uses[0, 1, 0, 0] = uses[1, 0, 0, 1] = uses[2, 0, 0, 1] = uses[3, 0, 0, 0] = 1
    >>> model = Monomial(np.log([[0.5, 0.5]]), constants, uses)
    >>> np.exp(ee.log_evidence(model.log_joint(range(4)))).round(12)
    array([0.625, 0.125, 0.125, 0.125])
    """

    log_probabilities: FloatArray
    log_constants: FloatArray
    exponents: FloatArray
    _simplex: LogSimplex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        simplex = log_simplex(self.log_probabilities, "log_probabilities", 2)
        object.__setattr__(self, "log_probabilities", simplex.given)
        object.__setattr__(self, "_simplex", simplex)
        constants = real_array(self.log_constants, "log_constants").copy()
        if constants.ndim != 2 or 0 in constants.shape:
            raise LogTableError(f"log_constants must have shape (R, S); got {constants.shape}.", "log_constants")
        if not (constants < np.inf).all():
            raise_bad_entry(constants, "log_constants")
        exponents = real_array(self.exponents, "exponents").copy()
        expected = (*constants.shape, *self.log_probabilities.shape)
        if exponents.shape != expected or not ((exponents >= 0.0) & (exponents < np.inf)).all():
            came = f"smallest is {float(np.min(exponents)):g}" if exponents.shape == expected else f"got {exponents.shape}"
            raise LogTableError(f"exponents must have shape {expected} and be finite and >= 0; {came}.", "exponents")
        constants.flags.writeable = exponents.flags.writeable = False
        object.__setattr__(self, "log_constants", constants)
        object.__setattr__(self, "exponents", exponents)

    @property
    def space(self) -> LatentSpace:
        """The hidden state: one variable with S values."""
        return LatentSpace((int(self.log_constants.shape[1]),))

    def log_joint(self, x: npt.ArrayLike, states: slice | None = None) -> FloatArray:
        """log p(x_n, z) in nats, for observations given as row numbers.

        Parameters
        ----------
        x : array_like of int, shape (N,)
            Which of the R possible observations.
        states : slice, optional
            Only these states.

        Returns
        -------
        ndarray, shape (N, S) or (N, stop - start)
        """
        first, last = self.space.span(states)
        return np.ascontiguousarray(self.log_joint_and_error(x)[0][:, first:last])

    def log_joint_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_joint` and a bound on its rounding error, both (N, S): parameters, products, and the additions."""
        index, logs = self._checked(x), self._simplex.normalized
        powers = self._powers(logs)
        table = self.log_constants + powers.sum(axis=-1)
        size = np.abs(self.log_constants) + np.abs(powers).sum(axis=-1)
        bound = 1.01 * (self._powers(self._simplex.error).sum(axis=-1) + (logs.size + 2) * U * size)
        return table[index], np.where(table > -np.inf, bound, 0.0)[index]

    def log_joint_change(self, other: Monomial, x: npt.ArrayLike) -> FloatArray:
        """log p_other(x_n, z) - log p_self(x_n, z), from parameter differences, shape (N, S); same constants and exponents."""
        return self.log_joint_change_and_error(other, x)[0]

    def log_joint_change_and_error(self, other: Monomial, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_joint_change` and a bound on its rounding error, both (N, S)."""
        index = self._checked(x)
        change, error = (self._powers(part) for part in simplex_change(self.log_probabilities, other.log_probabilities))
        error = error + U * np.abs(change)  # the product with the exponent
        terms = ((change[index, :, j], error[index, :, j]) for j in range(change.shape[-1]))
        return summed_change(terms)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> FloatArray:
        """Expected uses of each parameter under a weight table (N, S): shape (G, C), additive over batches."""
        index, table = self._checked(x), real_array(weights, "weights")
        expected = (len(index), self.log_constants.shape[1])
        if table.shape != expected:
            raise LogTableError(f"weights must have shape {expected}; got {table.shape}.", "weights", table.shape)
        totals = np.stack([np.bincount(index, weights=column, minlength=len(self.log_constants)) for column in table.T], axis=1)
        return np.asarray((totals[:, :, None, None] * self.exponents).sum(axis=(0, 1)))

    def maximize(self, statistics: npt.ArrayLike, prior: Any = None) -> Monomial:
        """The model whose parameters are the statistics plus the prior's pseudo-counts (a number or (G, C)), normalized by group."""
        counts = pseudo_count_table(statistics, self.log_probabilities.shape, "statistics")
        counts = counts if prior is None else counts + self._pseudo_counts(prior)
        log_probabilities = maximized(self.log_probabilities, counts)
        return Monomial(log_probabilities, self.log_constants, self.exponents)

    def log_prior(self, prior: Any = None) -> tuple[float, float]:
        """Sum of pseudo-counts times log parameters, in nats, and its error bound."""
        return log_prior(self._prior_tables(prior))

    def log_prior_change(self, other: Monomial, prior: Any = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        return log_prior_change(self._prior_tables(prior), [other._simplex])

    def rounding_loss(self, statistics: FloatArray, prior: Any, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        summed = relative_error + self.exponents.size * U  # the sum over observations and states
        return rounding_loss([statistics if prior is None else statistics + self._pseudo_counts(prior)], summed)

    def randomize(self, rng: np.random.Generator) -> Monomial:
        """Parameters drawn uniformly from their simplices, structural zeros kept."""
        return Monomial(uniform_simplex(self.log_probabilities, rng), self.log_constants, self.exponents)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists of the parameters; structural zeros are -inf."""
        return {"log_probabilities": self.log_probabilities.tolist()}

    def _powers(self, table: FloatArray) -> FloatArray:
        """exponents * table as (R, S, G C), where 0 times anything is 0."""
        with np.errstate(invalid="ignore"):
            powers = np.where(self.exponents > 0.0, self.exponents * table, 0.0)
        return powers.reshape(*self.log_constants.shape, table.size)

    def _prior_tables(self, prior: Any) -> list[PriorTable]:
        return [(self._simplex, self._pseudo_counts(prior))]

    def _pseudo_counts(self, prior: Any) -> FloatArray:
        return pseudo_count_table(0.0 if prior is None else prior, self.log_probabilities.shape, "prior")

    def _checked(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        index = categories(x, "x", len(self.log_constants))
        if index.ndim != 1:
            raise LogTableError(f"x must have one axis, the observations; got shape {index.shape}.", "x", index.shape)
        return index
