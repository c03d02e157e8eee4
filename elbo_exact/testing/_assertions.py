"""Assertions against exact values, in the argument order of ``numpy.testing``: what the code returned, then the tables.

The interval that must hold ``actual`` is the exact value's error bound, plus the rounding that correct code of the caller's precision
may commit on these tables (``_allowance``). A float32 result is recognized by its dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._audit import Audit, audit
from elbo_exact._validate import FloatArray, log_table, one_of, real_array
from elbo_exact.evidence import log_posterior, posterior
from elbo_exact.testing._allowance import (
    UNITS,
    Pair,
    elbo_allowance,
    evidence_allowance,
    gradient_allowance,
    kl_allowance,
    posterior_allowance,
    precision,
)
from elbo_exact.testing._fingerprints import explanations
from elbo_exact.testing._report import compare, numbers
from elbo_exact.variational import elbo_gradient

__all__ = [
    "assert_elbo",
    "assert_every_particle",
    "assert_gradient",
    "assert_kl",
    "assert_log_evidence",
    "assert_lower_bound",
    "assert_monotone",
    "assert_posterior",
    "assert_upper_bound",
]


def assert_elbo(
    actual: npt.ArrayLike,
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = False,
    dtype: str | None = None,
    log_prior: npt.ArrayLike | None = None,
    scales: dict[str, float] | None = None,
) -> None:
    """Assert that ``actual`` is E_q[log p(x, z) - log q(z)] of every row, in nats.

    Parameters
    ----------
    actual : float or array_like, shape (...)
        NumPy, torch (CPU) or JAX numbers of the code under test.
    log_joint, log_q : array_like, shape (..., S)
        The tables it was given.
    unnormalized : bool
        log_q holds logits, which the code under test has to normalize.
    dtype : {"float32", "float64"}, optional
        Precision of the computation, where the dtype of ``actual`` does not tell it.
    log_prior, scales
        More explanations for a failure, as in `fingerprint`.

    Raises
    ------
    AssertionError
        With the smallest wrong number, its index, what was expected, what is allowed, and the bug that explains it.
    LogTableError
        Shapes, NaN, +inf, q without support or not normalized.

    Notes
    -----
    Allowed: T u sum q (abs(a) + abs(b)) and smaller terms with T = S + 16, u = 2**-53 or 2**-24, for any order of summation (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, section 4.2). O(S).

    Examples
    --------
    >>> import numpy as np
    >>> log_joint, log_q = np.log([0.3, 0.1]), np.log([0.5, 0.5])
    >>> assert_elbo(np.sum(0.5 * (log_joint - log_q)), log_joint, log_q)
    >>> assert_elbo(np.sum(0.5 * log_joint), log_joint, log_q)
    Traceback (most recent call last):
    ...
    AssertionError: elbo is wrong (1 of 1).
      expected -1.0601317681000455
      got      -1.7532789486599909
      off by   -0.693; allowed 1.53e-14
      missing entropy: E_q[log p(x, z)] alone; subtract E_q[log q]
      the same number comes from: constant dropped
    """
    _pair_assertion("elbo", "elbo", actual, log_joint, log_q, unnormalized, dtype, log_prior, scales)


def assert_kl(
    actual: npt.ArrayLike,
    log_p: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    direction: str = "reverse",
    unnormalized: bool = False,
    dtype: str | None = None,
) -> None:
    """Assert that ``actual`` is KL(q || p), or KL(p || q) with ``direction="forward"``, in nats.

    Parameters
    ----------
    actual : float or array_like, shape (...)
    log_p, log_q : array_like, shape (..., S)
        log_p need not be normalized; log_q neither with ``unnormalized``.
    direction : {"reverse", "forward"}
    unnormalized, dtype
        As in `assert_elbo`.

    Raises
    ------
    AssertionError, LogTableError
        As in `assert_elbo`.

    Notes
    -----
    Allowed is the rounding of sum q log(q/p), which a small KL does not survive: at KL = 1e-17 the formula has no correct digit.

    Examples
    --------
    >>> import numpy as np
    >>> assert_kl(0.1438410362258904, np.log([0.75, 0.25]), np.log([0.5, 0.5]))
    """
    one_of(direction, "direction", ("reverse", "forward"))
    if direction == "forward":
        pair = Pair(log_p, log_q)
        audit(pair.a, pair.b, unnormalized=unnormalized)  # refuse a q that is not normalized before the tables change places
        log_p, log_q, unnormalized = pair.b, pair.a, True
    _pair_assertion("kl", "reverse_kl", actual, log_p, log_q, unnormalized, dtype, None, None)


def assert_log_evidence(actual: npt.ArrayLike, log_joint: npt.ArrayLike, *, dtype: str | None = None) -> None:
    """Assert that ``actual`` is log sum_z p(x, z) of every row, in nats.

    Parameters
    ----------
    actual : float or array_like, shape (...)
    log_joint : array_like, shape (..., S)
    dtype
        As in `assert_elbo`.

    Raises
    ------
    AssertionError, LogTableError
        As in `assert_elbo`.

    Examples
    --------
    >>> import numpy as np
    >>> assert_log_evidence(np.log(0.4), np.log([0.3, 0.1]))
    """
    _, u = precision(actual, dtype)
    table = log_table(log_joint, "log_joint")
    exact, values = audit(table, _uniform(table)), numbers(actual, table.shape[:-1], "log evidence")
    allowed = evidence_allowance(table, u)
    low, high = exact.interval("log_evidence")

    def explain(index: tuple[int, ...]) -> str:
        return _explained(values, table, _uniform(table), "log_evidence", None, None)

    compare("log evidence", values, low - allowed, high + allowed, np.asarray(exact.log_evidence), allowed, explain)


def assert_lower_bound(
    actual: npt.ArrayLike, log_joint: npt.ArrayLike, *, error: float = 0.0, dtype: str | None = None
) -> None:
    """Assert actual <= log p(x) in every row, in nats: what every ELBO, IWAE bound and tempered bound must satisfy.

    Parameters
    ----------
    actual : float or array_like, shape (...)
    log_joint : array_like, shape (..., S)
    error : float
        What ``actual`` may exceed the evidence by beyond rounding, in nats.
    dtype
        As in `assert_elbo`.

    Raises
    ------
    AssertionError, LogTableError
        As in `assert_elbo`.

    Notes
    -----
    Allowed is the rounding of the ELBO at the posterior. Elsewhere an ELBO rounds more, by T u sum q abs(log(q/p)) at most, which is less
    than the gap plus 2/e T u: the distance to the evidence grows faster than the rounding.

    Examples
    --------
    >>> import numpy as np
    >>> assert_lower_bound(-1.06, np.log([0.3, 0.1]))
    """
    _bound_assertion("lower bound", actual, log_joint, error, dtype, 1.0)


def assert_upper_bound(
    actual: npt.ArrayLike, log_joint: npt.ArrayLike, *, error: float = 0.0, dtype: str | None = None
) -> None:
    """Assert actual >= log p(x) in every row, in nats: EUBO, chi upper bound.

    Parameters
    ----------
    actual, log_joint, error, dtype
        As in `assert_lower_bound`.

    Raises
    ------
    AssertionError, LogTableError
        As in `assert_elbo`.

    Examples
    --------
    >>> import numpy as np
    >>> assert_upper_bound(-0.78, np.log([0.3, 0.1]))
    """
    _bound_assertion("upper bound", actual, log_joint, error, dtype, -1.0)


def assert_posterior(actual: npt.ArrayLike, log_joint: npt.ArrayLike, *, dtype: str | None = None) -> None:
    """Assert that ``actual`` is p(z | x) of every row: probabilities, zero exactly where p(x, z) is.

    Parameters
    ----------
    actual : array_like, shape (..., S)
    log_joint : array_like, shape (..., S)
        p(x) > 0 in every row.
    dtype
        As in `assert_elbo`.

    Raises
    ------
    AssertionError, LogTableError
        As in `assert_elbo`.
    ZeroEvidence
        A row without a possible state.

    Examples
    --------
    >>> import numpy as np
    >>> assert_posterior([0.75, 0.25], np.log([0.3, 0.1]))
    """
    _, u = precision(actual, dtype)
    table = log_table(log_joint, "log_joint")
    exact = posterior(table)
    evidence = np.asarray(audit(table, _uniform(table)).log_evidence)
    values = numbers(actual, table.shape, "posterior")
    allowed = posterior_allowance(exact, table, evidence, u) + posterior_allowance(exact, table, evidence, UNITS["float64"])
    compare("posterior", values, exact - allowed, exact + allowed, exact, allowed, lambda index: "")


def assert_gradient(
    actual: npt.ArrayLike,
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    *,
    unnormalized: bool = True,
    dtype: str | None = None,
) -> None:
    """Assert that ``actual`` is the derivative of the ELBO in the logits of q.

    Parameters
    ----------
    actual : array_like, shape (..., S)
    log_joint, log_q : array_like, shape (..., S)
        log_q may be logits.
    unnormalized : bool
        False checks that q is normalized.
    dtype
        As in `assert_elbo`.

    Raises
    ------
    AssertionError, LogTableError
        As in `assert_elbo`.

    Notes
    -----
    Rows whose ELBO is -inf have no gradient and are not compared.

    Examples
    --------
    >>> import numpy as np
    >>> assert_gradient([0.27465307216702745, -0.27465307216702745], np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    """
    _, u = precision(actual, dtype)
    pair = Pair(log_joint, log_q)
    exact = audit(pair.a, pair.b, unnormalized=unnormalized)
    gradient, error = elbo_gradient(pair.a, pair.b, return_error=True)
    values = numbers(actual, pair.a.shape, "gradient")
    normalizer = np.zeros(pair.batch) if unnormalized else np.asarray(exact.log_q_normalizer)
    allowed = error + gradient_allowance(pair, np.asarray(exact.elbo), normalizer, u)
    values = np.where(np.isfinite(exact.elbo)[..., None], values, gradient := np.nan_to_num(gradient))
    allowed = np.where(np.isfinite(exact.elbo)[..., None], allowed, 0.0)

    def explain(index: tuple[int, ...]) -> str:
        if np.all(np.abs(values + gradient) <= allowed):
            return "sign: the gradient of the loss -ELBO"
        if np.all(np.abs(values - pair.q * (pair.a - pair.b)) <= allowed):
            return "missing baseline: q e without the mean of e; the logits are normalized somewhere else"
        return ""

    compare("gradient", values, gradient - allowed, gradient + allowed, gradient, allowed, explain)


def assert_monotone(actual: npt.ArrayLike, *, n_terms: int = 1, error: npt.ArrayLike = 0.0, dtype: str | None = None) -> None:
    """Assert that a trace never falls: EM's log evidence, coordinate ascent's ELBO, a K-sample bound in K.

    Parameters
    ----------
    actual : array_like, shape (n,)
        Values in nats, from first to last.
    n_terms : int
        Number of terms, all of one sign, that each value is a sum of: rounding is n_terms u abs(value).
    error : float or array_like, shape (n,)
        Further errors of the values; that of two neighbors adds up.
    dtype
        As in `assert_elbo`.

    Raises
    ------
    AssertionError
        Names the first step that falls by more than rounding, or the first NaN.

    Examples
    --------
    >>> assert_monotone([-3.0, -2.0, -2.0])
    >>> assert_monotone([-3.0, -2.0, -2.5])
    Traceback (most recent call last):
    ...
    AssertionError: the trace falls by 0.5 at step 2, from -2 to -2.5; rounding explains 5e-16.
    """
    _, u = precision(actual, dtype)
    trace = real_array(actual, "actual")
    if trace.ndim != 1:
        raise AssertionError(f"actual must be one trace of shape (n,); got {trace.shape}.")
    room = np.broadcast_to(real_array(error, "error"), trace.shape) + n_terms * u * np.where(
        np.isfinite(trace), np.abs(trace), 0.0
    )
    allowed = room[1:] + room[:-1]
    with np.errstate(invalid="ignore"):
        risen = (trace[1:] >= trace[:-1]) | (trace[1:] - trace[:-1] >= -allowed)
    bad = np.flatnonzero(~risen)
    if bad.size or np.isnan(trace).any():
        step = int(bad[0]) + 1 if bad.size else 0
        before, after = trace[max(step - 1, 0)], trace[step]
        raise AssertionError(
            f"the trace falls by {before - after:.3g} at step {step}, from {before:.17g} to {after:.17g}; "
            f"rounding explains {allowed[step - 1] if allowed.size else 0.0:.0e}."
        )


def assert_every_particle(actual: npt.ArrayLike, log_joint: npt.ArrayLike, *, dtype: str | None = None) -> None:
    """Assert that each importance weight drawn from the exact posterior has log weight log p(x), without noise.

    Parameters
    ----------
    actual : array_like, shape (..., K)
        log p(x, z_k) - log q(z_k), with q the exact posterior (``log_posterior(log_joint)``).
    log_joint : array_like, shape (..., S)
    dtype
        As in `assert_elbo`.

    Raises
    ------
    AssertionError, LogTableError
        As in `assert_elbo`.

    Notes
    -----
    At the posterior p(x, z)/p(z | x) = p(x) for every z: one sample decides, and no tolerance for Monte Carlo noise is needed. Allowed is
    T u (abs(a) + abs(log p(z given x))) of the state where that is largest.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> log_joint = np.log([0.3, 0.1])
    >>> z = np.array([0, 1, 1])
    >>> assert_every_particle((log_joint - ee.log_posterior(log_joint))[z], log_joint)
    """
    _, u = precision(actual, dtype)
    table = log_table(log_joint, "log_joint")
    own = log_posterior(table)
    exact = audit(table, own)
    particles = real_array(actual, "actual")
    if particles.ndim == 0 or particles.shape[:-1] != table.shape[:-1]:
        raise AssertionError(f"every particle: expected shape {(*table.shape[:-1], 'K')}; got {particles.shape}.")
    sizes = np.where(np.isfinite(table), np.abs(table), 0.0) + np.where(np.isfinite(own), np.abs(own), 0.0)
    room = (evidence_allowance(table, u) + 1.01 * (table.shape[-1] + 16.0) * u * sizes.max(-1))[..., None]
    low, high = (np.broadcast_to(np.asarray(end)[..., None], particles.shape) for end in exact.interval("log_evidence"))
    expected, allowed = np.broadcast_arrays(np.asarray(exact.log_evidence)[..., None], room, particles)[:2]
    compare("log weight of a particle", particles, low - allowed, high + allowed, expected, allowed, lambda index: "")


def _pair_assertion(
    name: str,
    quantity: str,
    actual: Any,
    log_joint: npt.ArrayLike,
    log_q: npt.ArrayLike,
    unnormalized: bool,
    dtype: str | None,
    log_prior: npt.ArrayLike | None,
    scales: dict[str, float] | None,
) -> None:
    """The common part of the assertions on two tables."""
    _, u = precision(actual, dtype)
    pair = Pair(log_joint, log_q)
    exact: Audit = audit(pair.a, pair.b, unnormalized=unnormalized)
    values = numbers(actual, pair.batch, name)
    normalizer = np.zeros(pair.batch) if unnormalized else np.asarray(exact.log_q_normalizer)
    rule = kl_allowance if quantity == "reverse_kl" else elbo_allowance
    allowed = rule(pair, np.asarray(exact.elbo), normalizer, u)
    column = "gap" if quantity == "reverse_kl" else quantity
    low, high = exact.interval(column)
    compare(
        name,
        values,
        np.asarray(low) - allowed,
        np.asarray(high) + allowed,
        np.asarray(getattr(exact, column)),
        allowed,
        lambda index: _explained(values, pair.a, pair.b, quantity, log_prior, scales),
    )


def _bound_assertion(name: str, actual: Any, log_joint: npt.ArrayLike, error: float, dtype: str | None, sign: float) -> None:
    _, u = precision(actual, dtype)
    table = log_table(log_joint, "log_joint")
    own = np.where((table > -np.inf).any(-1, keepdims=True), table, 0.0)
    exact, values = audit(table, own, unnormalized=True), numbers(actual, table.shape[:-1], name)
    allowed = error + elbo_allowance(Pair(table, own), np.asarray(exact.elbo), np.zeros(table.shape[:-1]), u)
    low, high = (np.asarray(end) for end in exact.interval("log_evidence"))
    if sign > 0.0:
        low, high = np.full(low.shape, -np.inf), high + allowed
    else:
        low, high = low - allowed, np.full(low.shape, np.inf)
    compare(name, values, low, high, np.asarray(exact.log_evidence), np.asarray(allowed), lambda index: "")


def _explained(
    values: FloatArray,
    log_joint: FloatArray,
    log_q: FloatArray,
    quantity: str,
    log_prior: npt.ArrayLike | None,
    scales: dict[str, float] | None,
) -> str:
    found = list(explanations(values, log_joint, log_q, quantity=quantity, log_prior=log_prior, scales=scales))
    if not found:
        return "  no known bug explains all rows"
    others = dict.fromkeys(other.name for other in found[1:] if other.name != found[0].name)
    return f"  {found[0]}" + (f"\n  the same number comes from: {', '.join(others)}" if others else "")


def _uniform(table: FloatArray) -> FloatArray:
    return np.full(table.shape, -np.log(table.shape[-1]))
