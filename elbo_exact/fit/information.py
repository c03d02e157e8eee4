"""How much the data say about the parameters, and how much of it the hidden states take away (Louis 1982, JRSS-B 44:226)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from elbo_exact._validate import FloatArray
from elbo_exact.errors import EnumerationTooLarge
from elbo_exact.evidence import posterior
from elbo_exact.fit.expectation import observations
from elbo_exact.models._derivatives import joint_derivatives
from elbo_exact.space import MAX_BYTES

__all__ = ["Information", "information", "n_free_parameters"]

UNDETERMINED = 1e-7  # a direction of which all but this share of the information is missing counts as undetermined
NOTHING = 2.0**-46  # what rounding may leave of an eigenvalue of 0, per dimension, beside a diagonal of 1
TINY = 2.0**-1000
MATRICES = 8  # of the size of the covariance, at once


@dataclass(frozen=True, eq=False)
class Information:
    """Complete, missing and observed information at a model, what EM's rate is made of, and standard errors.

    Parameters
    ----------
    names : tuple of str, length Q
        Every parameter by its place in the model: probabilities, rates, means, scales.
    values : ndarray, shape (Q,)
        Their values.
    coordinates : tuple of int, length P
        The free ones among them, in whose coordinates the matrices are: probabilities as their logarithms against that of the most
        probable category, rates as logarithms, links of a noisy or as log odds, all else as it is. Zeros are no parameters.
    gradient : ndarray, shape (P,)
        Of the log evidence; 0 at a maximum, where the rest has its meaning.
    complete, missing : ndarray, shape (P, P)
        Information if the hidden states were seen, and the share of it that is lost.
    rates : ndarray, shape (P,)
        Eigenvalues of complete^-1 missing, falling: the factors by which EM shrinks the distance from the maximum each step.
    covariance : ndarray, shape (Q, Q)
        Of the values, by the inverse of the observed information; inf where the data do not determine a value.
    """

    names: tuple[str, ...]
    values: FloatArray
    coordinates: tuple[int, ...]
    gradient: FloatArray
    complete: FloatArray
    missing: FloatArray
    rates: FloatArray
    covariance: FloatArray

    @property
    def observed(self) -> FloatArray:
        """complete - missing: minus the second derivatives of the log evidence, (P, P)."""
        return self.complete - self.missing

    @property
    def rate(self) -> float:
        """The largest of ``rates``: the distance from the maximum shrinks by this factor each step, the missing gain by its square."""
        return float(self.rates[0]) if self.rates.size else 0.0

    @property
    def standard_errors(self) -> FloatArray:
        """Square roots of the variances of the values, (Q,)."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def n_undetermined(self) -> int:
        """Directions in which the log evidence does not fall, up to 1e-7 of the complete information: 0 at a strict maximum."""
        return int((self.rates >= 1.0 - UNDETERMINED).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; a standard error that is infinite is None."""
        errors = [error if error < np.inf else None for error in self.standard_errors.tolist()]
        arrays = ("values", "gradient", "complete", "missing", "rates")
        return {
            "names": list(self.names),
            "coordinates": list(self.coordinates),
            **{name: getattr(self, name).tolist() for name in arrays},
            "standard_errors": errors,
        }


def information(model: Any, x: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> Information:
    """Information about the parameters of a fitted model, by exact derivatives and exact posteriors.

    Parameters
    ----------
    model : any of ``elbo_exact.models``
        At a maximum of the log evidence: the result of a fit.
    x : N observations
        As in the fit: an array of rows, or a list of sequences.
    weights : array_like, shape (N,), optional
        How often each was seen.

    Returns
    -------
    Information

    Raises
    ------
    TypeError
        A model without known derivatives.
    EnumerationTooLarge
        Too many parameters for matrices of their pairs.
    LogTableError, ZeroEvidence
        Bad or impossible observations.
    ValueError
        A model so far from a maximum that its complete information is not positive.

    Notes
    -----
    With scores s = d log p(x, z), complete = -sum_n E[d^2 log p(x_n, z)] and missing = sum_n Cov[s] under the posterior. EM contracts
    by complete^-1 missing (Dempster, Laird & Rubin 1977; Meng & Rubin 1991, JASA 86:899). The finite sums are exact up to rounding,
    relative to ``complete``; standard errors are those of large samples. What EM does not see counts as missing: also which links of a
    noisy or fired. O(N (S p^2 + P^2)) for p parameters per state, O(T K^2 P^2) for the T steps of a chain, O(N S P^2) for a layer.

    Examples
    --------
    The linkage data: EM's rate and the standard error of the recombination parameter.

    >>> import elbo_exact as ee
    >>> linkage = ee.gallery.load("linkage")
    >>> fit = ee.fit_em(linkage.model, linkage.x, weights=linkage.counts)
    >>> found = information(fit.model, linkage.x, weights=linkage.counts)
    >>> round(found.rate, 8), float(found.standard_errors[0].round(6))
    (0.13277873, 0.051467)
    """
    parts = joint_derivatives(model)
    _refuse_large(parts.values.size)
    data = observations(model, x, weights, None, None)
    gradient, complete, missing = parts.sums(data.x, data.counts, posterior)
    # what no observation reaches has no information: a class of weight 0, a link that never fires
    informed = parts.free & (np.abs(np.diagonal(complete)) > TINY)
    kept = np.ix_(informed, informed)
    rates, directions = _rates(complete[kept], missing[kept])
    jacobian = parts.jacobian()
    covariance = _covariance(jacobian[:, informed] @ directions, rates)
    lost = np.abs(jacobian[:, parts.free & ~informed]).sum(axis=1) > 0.0
    covariance[lost, lost] = np.inf
    coordinates = tuple(map(int, np.flatnonzero(informed)))
    return Information(
        parts.names, parts.values, coordinates, gradient[informed], complete[kept], missing[kept], rates, covariance
    )


def n_free_parameters(model: Any) -> int:
    """Number of free parameters of a model, structural zeros left out.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> n_free_parameters(ee.models.Mixture.random(2, [2, 2, 3], rng=0))
    9
    """
    own = getattr(model, "n_parameters", None)
    return int(own) if own is not None else int(joint_derivatives(model).free.sum())


def _refuse_large(size: int) -> None:
    n_bytes = MATRICES * 8 * size**2
    if n_bytes > MAX_BYTES:
        text = f"model has {size} parameters, whose covariances need {n_bytes / 2**30:.1f} GiB > {MAX_BYTES / 2**30:.4g} GiB"
        raise EnumerationTooLarge(f"{text}; take a smaller model.", size, n_bytes, MAX_BYTES)


def _rates(complete: FloatArray, missing: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues of complete^-1 missing, falling, and directions V with V^T complete V = 1, after scaling to a diagonal of 1.

    Directions that even complete data say nothing about have the rate 1.
    """
    if not len(complete):
        return np.zeros(0), np.zeros((0, 0))
    unit = 1.0 / np.sqrt(np.abs(np.diagonal(complete)))
    scale = unit[:, None] * unit
    sizes, axes = eigh(0.5 * (complete + complete.T) * scale)
    nothing = len(complete) * NOTHING
    if sizes[0] < -nothing:
        raise ValueError(
            "model must be at a maximum of the log evidence; its complete information is not positive definite; fit it first."
        )
    seen = sizes > nothing
    reduced = axes[:, seen] / np.sqrt(sizes[seen])
    rates, turned = eigh(reduced.T @ (0.5 * (missing + missing.T) * scale) @ reduced)
    directions = np.concatenate([axes[:, ~seen] / np.sqrt(nothing), (reduced @ turned)[:, ::-1]], axis=1)
    rates = np.concatenate([np.ones(int((~seen).sum())), np.clip(rates[::-1], 0.0, None)])
    return rates, unit[:, None] * directions


def _covariance(reached: FloatArray, rates: FloatArray) -> FloatArray:
    """sum over directions of v v^T / (1 - rate); inf for values that an undetermined direction moves."""
    determined = rates < 1.0 - UNDETERMINED
    covariance = np.asarray((reached[:, determined] / (1.0 - rates[determined])) @ reached[:, determined].T)
    share, whole = (reached[:, ~determined] ** 2).sum(axis=1), (reached**2).sum(axis=1)
    free = share > 1e-12 * whole  # more than what rounding leaks into a direction
    covariance[free, free] = np.inf
    return covariance
