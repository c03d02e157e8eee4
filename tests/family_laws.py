"""What every family promises, as assertions: containment, additivity, a M-step that maximizes, and the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from arb_oracle import verdict

U = 2.0**-53


def assert_contained(family: Any, x: Any, exact: Callable[[Any, Any, int], Any]) -> None:
    """Every log density within its bound of ``exact(family, row, state)``, a ball or -inf."""
    values, errors = family.log_density_and_error(x)
    assert np.array_equal(values, family.log_density(x))
    for n, row in enumerate(np.asarray(x, dtype=float).reshape(len(x), -1).tolist()):
        for k in range(family.n_states):
            assert verdict(values[n, k], errors[n, k], exact(family, row, k)) in accepted(values[n, k], errors[n, k])


def assert_change_contained(family: Any, other: Any, x: Any, exact: Callable[[Any, Any, int], Any]) -> None:
    """Every change within its bound; the limits at zeros as documented."""
    changes, errors = family.log_density_change(other, x)
    for n, row in enumerate(np.asarray(x, dtype=float).reshape(len(x), -1).tolist()):
        for k in range(family.n_states):
            old, new = exact(family, row, k), exact(other, row, k)
            lost, won = isinstance(new, float), isinstance(old, float)
            if lost or won:
                assert changes[n, k] == (0.0 if lost and won else -math.inf if lost else math.inf)
            else:
                assert verdict(changes[n, k], errors[n, k], new - old) in accepted(changes[n, k], errors[n, k])


def accepted(value: float, error: float) -> set[str]:
    """A ball can only not contradict an exact 0."""
    return {"inside", "undecided"} if value == error == 0.0 else {"inside"}


def assert_additive(family: Any, x: Any, seed: int) -> None:
    """Statistics of two batches add up, bit for bit where every sum is exact (dyadic weights)."""
    weights = np.random.default_rng(seed).integers(0, 2**20, (len(x), family.n_states)) / 2.0**10
    half = len(x) // 2
    whole = family.statistics(x, weights)
    parts = family.statistics(x[:half], weights[:half]) + family.statistics(x[half:], weights[half:])
    assert np.array_equal(whole, parts)


def assert_maximizes(family: Any, x: Any, weights: Any, prior: Any, rivals: list[Any]) -> None:
    """No rival has a larger expected log density plus log prior, beyond the error bounds and the documented rounding loss."""
    statistics = family.statistics(x, weights)
    best = family.maximize(statistics, prior)
    slack = best.rounding_loss(statistics, prior, (len(x) + 2) * U)
    mine, mine_error = objective(best, x, weights, prior)
    for rival in rivals:
        theirs, theirs_error = objective(rival, x, weights, prior)
        assert mine - theirs >= -1.01 * (mine_error + theirs_error) - slack


def objective(family: Any, x: Any, weights: Any, prior: Any) -> tuple[float, float]:
    """sum weights * log density + log prior, and its error bound."""
    values, errors = family.log_density_and_error(x)
    used = weights > 0.0
    prior_value, prior_error = family.log_prior(prior)
    spread = math.fsum(weights[used] * (errors[used] + U * np.abs(values[used])))
    total = math.fsum([*(weights[used] * values[used]).tolist(), prior_value])
    return total, prior_error + spread + U * abs(total)


def assert_prior_change(family: Any, other: Any, prior: Any) -> None:
    """`log_prior_change` is the difference of two `log_prior`, within their bounds."""
    (old, old_error), (new, new_error) = family.log_prior(prior), other.log_prior(prior)
    change, error = family.log_prior_change(other, prior)
    assert abs((new - old) - change) <= 1.01 * (old_error + new_error + error + U * abs(new - old))


def assert_pullback(gradient: Any, parameters: Any, value: Callable[[Any], complex], size: float) -> None:
    """The gradient is the complex step of a naive ``value``; ``size`` is that of its largest sum."""
    for i in range(parameters.size):
        moved = parameters.astype(complex)
        moved[i] += 1e-200j
        expected = value(moved).imag / 1e-200
        # both sums round each of fewer than 400 terms
        assert abs(gradient[i] - expected) <= 400 * U * size
