"""Audit: every quantity of one variational problem, each with a rigorous bound on its rounding error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._engine import pair_results
from elbo_exact._sums import observation_counts, rows_table, weighted_sum
from elbo_exact._validate import FloatArray, broadcast_rows, log_table, one_of
from elbo_exact.divergence import f_divergence, renyi_results
from elbo_exact.kernels.divergences import CHI2, HELLINGER, JENSEN_SHANNON, TOTAL_VARIATION
from elbo_exact.kernels.reduce import BAD_Q, BAD_TARGET, OK, OVERFLOW, ZERO_EVIDENCE
from elbo_exact.kernels.rows import (
    OUT_ELBO,
    OUT_ENTROPY,
    OUT_EUBO,
    OUT_EVIDENCE,
    OUT_FORWARD,
    OUT_GAP,
    OUT_NORMALIZER,
    OUT_STATUS,
)

__all__ = ["Audit", "audit"]

COLUMNS = {
    "log_evidence": OUT_EVIDENCE,
    "elbo": OUT_ELBO,
    "gap": OUT_GAP,
    "forward_kl": OUT_FORWARD,
    "eubo": OUT_EUBO,
    "entropy": OUT_ENTROPY,
    "log_q_normalizer": OUT_NORMALIZER,
}
KINDS = {
    "chi2_divergence": CHI2,
    "total_variation": TOTAL_VARIATION,
    "hellinger": HELLINGER,
    "jensen_shannon": JENSEN_SHANNON,
}
INCLUDABLE = (*KINDS, "jeffreys", "renyi_divergence")
NON_NEGATIVE = ("gap", "forward_kl", "entropy", *INCLUDABLE)
STATUS = {OK: "ok", ZERO_EVIDENCE: "zero_evidence", OVERFLOW: "overflow", BAD_TARGET: "nan", BAD_Q: "nan"}
STATUS_NAMES = np.array([STATUS[code] for code in range(len(STATUS))])
ASSUMPTIONS = ("IEEE-754 binary64, round to nearest, subnormals on",)
U = 2.0**-53


@dataclass(frozen=True)
class Audit:
    """The quantities of one problem; every value has its error bound under the same name in ``error``.

    Attributes
    ----------
    log_evidence, elbo, gap, forward_kl, eubo, entropy, log_q_normalizer : float or ndarray, shape (...)
        In nats. ``gap`` is KL(q || posterior), ``forward_kl`` is KL(posterior || q).
    extra : mapping
        The divergences named in ``include``; also attributes.
    error : namespace
        The bound of each value: ``abs(value - exact) <= bound``.
    status : ndarray of str, shape (...)
        "ok", "zero_evidence", "overflow" or "nan" for each row.
    certified : str or None
        "arb" where the values are correctly rounded with proof.
    assumptions : tuple of str
        What the bounds rest on.
    """

    log_evidence: Any
    elbo: Any
    gap: Any
    forward_kl: Any
    eubo: Any
    entropy: Any
    log_q_normalizer: Any
    error: SimpleNamespace
    status: Any
    extra: Mapping[str, Any] = field(default_factory=dict)
    certified: str | None = None
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        hint = f"; pass include=({name!r},) to audit()" if name in INCLUDABLE else ""
        raise AttributeError(f"Audit has no quantity {name!r}{hint}.")

    @property
    def names(self) -> tuple[str, ...]:
        """All quantities, in the order of the printed table."""
        return (*COLUMNS, *self.extra)

    @property
    def residual(self) -> Any:
        """log_evidence - (elbo + gap), by an exact sum; 0 where both sides are infinite."""
        values = np.broadcast_arrays(self.log_evidence, self.elbo, self.gap)
        flat = [_residual(*(float(v) for v in triple)) for triple in zip(*(v.ravel() for v in values), strict=True)]
        return np.array(flat, np.float64).reshape(np.shape(self.log_evidence))[()]

    @property
    def residual_bound(self) -> Any:
        """What the residual can be at most: the sum of the three error bounds."""
        with np.errstate(invalid="ignore"):
            return self.error.log_evidence + self.error.elbo + self.error.gap

    def interval(self, name: str) -> tuple[Any, Any]:
        """(lower, upper) = value -+ bound, rounded outward; the exact value lies between them.

        Raises
        ------
        ValueError
            No such quantity.
        """
        one_of(name, "name", self.names)
        value, bound = np.asarray(getattr(self, name)), np.asarray(getattr(self.error, name))
        with np.errstate(all="ignore"):
            low = np.where(bound == np.inf, -np.inf, np.where(bound == 0.0, value, np.nextafter(value - bound, -np.inf)))
            high = np.where(bound == np.inf, np.inf, np.where(bound == 0.0, value, np.nextafter(value + bound, np.inf)))
        if name in NON_NEGATIVE:
            low = np.maximum(low, 0.0)
        return low[()], high[()]

    def total(self, weights: npt.ArrayLike | None = None) -> SimpleNamespace:
        """Weighted sums over all rows, with their bounds in ``.error``.

        Parameters
        ----------
        weights : array_like, shape (...), optional
            Observation counts, finite and not negative; 1 by default. A row of weight 0 adds nothing, whatever its values.

        Returns
        -------
        namespace
            One float for each quantity that adds up over independent observations, and ``error``.

        Raises
        ------
        LogTableError
            Weights of another shape, negative or not finite.
        """
        counts = observation_counts(weights, np.shape(self.log_evidence))
        names = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy")
        sums = {name: weighted_sum(counts, getattr(self, name), getattr(self.error, name)) for name in names}
        errors = SimpleNamespace(**{name: bound for name, (_, bound) in sums.items()})
        return SimpleNamespace(**{name: value for name, (value, _) in sums.items()}, error=errors)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, floats and strings; infinities stay floats."""
        plain = {name: np.asarray(getattr(self, name)).tolist() for name in self.names}
        errors = {name: np.asarray(getattr(self.error, name)).tolist() for name in self.names}
        return {
            **plain,
            "residual": np.asarray(self.residual).tolist(),
            "error": errors,
            "status": np.asarray(self.status).tolist(),
            "certified": self.certified,
            "assumptions": list(self.assumptions),
        }

    def __str__(self) -> str:
        """An aligned table: one line per quantity for one row, one line per row for several."""
        values = {name: (getattr(self, name), getattr(self.error, name)) for name in self.names}
        values["residual"] = (self.residual, self.residual_bound)
        if np.ndim(self.log_evidence) == 0:
            lines = [f"{name:<17} {v:>24.17g} ± {b:.1e}" for name, (v, b) in values.items()]
            return "\n".join([*lines, f"{'status':<17} {self.status!s:>24}"])
        return rows_table(values, np.asarray(self.status))


def audit(
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    include: Sequence[str | tuple[str, float]] = (),
    *,
    unnormalized: bool = False,
    certify: str | None = None,
    nan_policy: str = "raise",
    executor: Any = None,
) -> Audit:
    """Every quantity of a variational problem with a rigorous bound on its rounding error.

    Parameters
    ----------
    log_joint, log_q : array_like, shape (..., S)
        log p(x, z) and log q(z | x); leading axes broadcast.
    include : sequence of str
        More divergences: "chi2_divergence", "total_variation", "hellinger", "jensen_shannon", "jeffreys", or a pair
        ("renyi_divergence", alpha).
    unnormalized : bool
        Accept logits: q = exp(log_q) / sum exp(log_q).
    certify : {None, "arb"}
        "arb" returns correctly rounded values of the fields through python-flint (extra ``certify``); divergences named in
        ``include`` keep their own bounds.
    nan_policy : {"raise", "propagate"}
        What a NaN does: raise, or make its row NaN with status "nan".
    executor : concurrent.futures.Executor, optional
        Where the work runs; by default threads.

    Returns
    -------
    Audit

    Raises
    ------
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized.
    ImportError
        ``certify="arb"`` without python-flint.

    Notes
    -----
    elbo <= log_evidence <= eubo, gap >= 0 and forward_kl >= 0 hold for the returned doubles, without tolerance. One pass over
    memory, O(S). The bounds follow Higham (2002), Accuracy and Stability of Numerical Algorithms, chapter 4.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> print(ee.audit(np.log([0.3, 0.1]), np.log([0.5, 0.5])))
    log_evidence          -0.91629073187415511 ± 2.8e-16
    elbo                   -1.0601317681000455 ± 1.6e-15
    gap                     0.1438410362258904 ± 4.6e-16
    forward_kl             0.13081203594113688 ± 4.2e-16
    eubo                  -0.78547869593301822 ± 1.1e-15
    entropy                0.69314718055994529 ± 4.7e-16
    log_q_normalizer                         0 ± 3.9e-16
    residual                                 0 ± 2.3e-15
    status                                  ok
    """
    one_of(certify, "certify", (None, "arb"))
    results, batch = pair_results(log_joint, log_q, True, unnormalized, nan_policy, executor)
    values = {name: results[:, column] for name, column in COLUMNS.items()}
    errors = {name: results[:, column + 1] for name, column in COLUMNS.items()}
    assumptions = ASSUMPTIONS
    if certify == "arb":
        from elbo_exact._certify import certified_rows

        shape = results[:, OUT_STATUS]
        a, b = (broadcast_rows(log_table(t, n), batch) for t, n in ((log_joint, "log_joint"), (log_q, "log_q")))
        certified_rows(a, b, shape, values, errors)
        assumptions = ("python-flint (Arb) ball arithmetic", *(ASSUMPTIONS if include else ()))
    extra, extra_errors = _included(include, log_joint, log_q, values, errors, unnormalized, nan_policy, executor)
    status = STATUS_NAMES[results[:, OUT_STATUS].astype(np.int64)].reshape(batch)[()]
    in_shape = {name: np.ascontiguousarray(column).reshape(batch)[()] for name, column in (values | extra).items()}
    bounds = {name: np.ascontiguousarray(column).reshape(batch)[()] for name, column in (errors | extra_errors).items()}
    return Audit(
        **{name: in_shape[name] for name in COLUMNS},
        error=SimpleNamespace(**bounds),
        status=status,
        extra={name: in_shape[name] for name in extra},
        certified=certify,
        assumptions=assumptions,
    )


def _included(
    include: Sequence[str | tuple[str, float]],
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    values: dict[str, FloatArray],
    errors: dict[str, FloatArray],
    unnormalized: bool,
    nan_policy: str,
    executor: Any,
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """The divergences that the caller asked for, and their bounds."""
    extra: dict[str, FloatArray] = {}
    bounds: dict[str, FloatArray] = {}
    for item in (include,) if isinstance(include, str) else include:
        name, *orders = item if isinstance(item, tuple) else (item,)
        one_of(name, "include", INCLUDABLE)
        order = orders[0] if orders else None
        if len(orders) > (name == "renyi_divergence"):
            raise ValueError(f"include must name {name} by its name, an order with renyi_divergence alone; got {item!r}.")
        if name in extra:
            raise ValueError(f"include must name {name} once; call renyi_divergence for further orders; got {include!r}.")
        if name == "jeffreys":
            extra[name], bounds[name] = jeffreys_results(
                values["gap"], errors["gap"], values["forward_kl"], errors["forward_kl"]
            )
            continue
        if name == "renyi_divergence":
            if order is None:
                raise ValueError('include must name the order: ("renyi_divergence", alpha); got "renyi_divergence" alone.')
            results, _ = renyi_results(log_joint, log_q, order, unnormalized, nan_policy, executor)
        else:
            results, _ = f_divergence(log_joint, log_q, KINDS[name], unnormalized, nan_policy, executor)
        extra[name], bounds[name] = results[:, 0], results[:, 1]
    return extra, bounds


@np.errstate(all="ignore")
def jeffreys_results(
    gap: FloatArray, gap_bound: FloatArray, forward: FloatArray, forward_bound: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """gap + forward_kl and its bound: 0 for an exact infinity, +inf where the sum leaves the range."""
    value = gap + forward
    bound = 1.01 * (gap_bound + forward_bound + U * value)
    exact = ((gap == np.inf) & (gap_bound == 0.0)) | ((forward == np.inf) & (forward_bound == 0.0))
    return value, np.where(exact, 0.0, np.where(value < np.inf, bound, np.inf))


def _residual(evidence: float, elbo: float, gap: float) -> float:
    if math.isinf(evidence) or math.isinf(elbo) or math.isinf(gap):
        return math.nan if math.isnan(evidence) else 0.0
    return math.nan if math.isnan(evidence + elbo + gap) else math.fsum((evidence, -elbo, -gap))
