"""A sequential test of an expectation, calibrated by the exact variance: never flaky, and early where the estimator is wrong.

With Y = X - mean and phi(y) = log(1 + y + y**2/2) for y >= 0, -log(1 - y + y**2/2) for y < 0 (Catoni 2012), E exp(phi(s Y)) is at most
1 + s**2 v/2 for v >= Var X: nothing else is assumed about X, neither a range nor a tail. So prod exp(phi(s Y_i))/(1 + s**2 v/2) is a
supermartingale, also for draws that depend on earlier ones as long as mean and variance hold given the past. A fixed mixture of them over
a grid of s of both signs is one too, and by Ville's inequality it ever exceeds 1/alpha with probability at most alpha (Wang & Ramdas 2023,
Stochastic Processes and their Applications 163:168).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, integer, real_array
from elbo_exact.testing._allowance import precision

__all__ = ["assert_unbiased"]

SCALES = 2.0 ** -np.arange(0.0, 13.0)  # biases from 1 to 2**-12 standard deviations of one sample
FIRST_BATCH = 64
OPERATIONS = 16.0  # roundings of one sample, see _allowance


def assert_unbiased(
    samples: npt.ArrayLike | Callable[[int], npt.ArrayLike],
    exact: float,
    *,
    variance: float,
    alpha: float = 1e-9,
    error: float = 0.0,
    max_samples: int = 100_000,
) -> None:
    """Assert that the mean of an estimator is ``exact``, given its exact variance.

    Parameters
    ----------
    samples : array_like, shape (n,), or callable
        Independent values of the estimator, or a function that returns ``size`` new ones; it is called with growing sizes until the
        test rejects or ``max_samples`` are drawn.
    exact : float
        The exact expectation.
    variance : float
        Exact variance of one value, or an upper bound: ``importance.curve(...).variance`` for K-sample bounds.
    alpha : float
        Largest probability, in (0, 1), that a right estimator is rejected, however many values are drawn.
    error : float
        Error of ``exact`` and of each value beyond 16 roundings of its own dtype.
    max_samples : int
        Only for a callable.

    Raises
    ------
    AssertionError
        After the first value that decides, with the mean so far. At variance 0 each single value must agree.
    ValueError
        alpha, variance, error or exact out of range.

    Notes
    -----
    A bias of d is found after about 2 log(26/alpha) (variance/d**2) values, and not at all below 2**-12 standard deviations or so.
    O(26 n). Wang & Ramdas (2023), Catoni-style confidence sequences.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> assert_unbiased(lambda size: rng.normal(2.0, 3.0, size), 2.0, variance=9.0)
    >>> assert_unbiased(lambda size: rng.normal(2.5, 3.0, size), 2.0, variance=9.0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    AssertionError: the estimator is biased: the mean of its first ... values is ..., exact is 2; ...
    """
    for name, value, fine in (
        ("alpha", alpha, 0.0 < alpha < 1.0),
        ("variance", variance, 0.0 <= variance < math.inf),
        ("error", error, 0.0 <= error < math.inf),
        ("exact", exact, math.isfinite(exact)),
    ):
        if not fine:
            raise ValueError(
                f"{name} must be {'in (0, 1)' if name == 'alpha' else 'finite and, but for exact, >= 0'}; got {value!r}."
            )
    state = _State(float(exact), float(variance), float(alpha), float(error))
    if not callable(samples):
        state.add(samples)
        return
    size, limit = FIRST_BATCH, integer(max_samples, "max_samples", 1)
    while state.n < limit:
        before = state.n
        state.add(samples(min(size, limit - state.n)))
        if state.n == before:
            raise AssertionError("the estimator returned no value.")
        size *= 2


class _State:
    """Running log products, one per scale and sign."""

    def __init__(self, exact: float, variance: float, alpha: float, error: float) -> None:
        self.exact, self.variance, self.error = exact, variance, error
        self.scales = SCALES / math.sqrt(variance) if variance > 0.0 else SCALES
        self.log_products = np.zeros((2, self.scales.size))
        self.log_limit = math.log(2 * self.scales.size / alpha)  # equal weights: one product reaches it only if the mixture may
        self.n, self.sum = 0, 0.0

    def add(self, samples: Any) -> None:
        """Use more values, in their order."""
        _, u = precision(samples)
        values = np.atleast_1d(real_array(samples, "samples")).ravel()
        if not np.isfinite(values).all():
            index = int(np.flatnonzero(~np.isfinite(values))[0])
            raise AssertionError(f"value {self.n + index} of the estimator is {values[index]}; exact is {self.exact:.17g}.")
        room = self.error + OPERATIONS * u * (np.abs(values) + abs(self.exact))
        above, below = values - self.exact - room, self.exact - values - room
        if self.variance == 0.0:
            wrong = np.flatnonzero(np.maximum(above, below) > 0.0)
        else:
            wrong = self._rejections(np.stack([above, below]))
        if wrong.size:
            n = int(wrong[0]) + 1
            mean = (self.sum + float(values[:n].sum())) / (self.n + n)
            raise AssertionError(
                f"the estimator is biased: the mean of its first {self.n + n} values is {mean:.6g}, exact is {self.exact:.6g}; "
                f"the standard error is {math.sqrt(self.variance / (self.n + n)):.2g}."
            )
        self.n, self.sum = self.n + values.size, self.sum + float(values.sum())

    def _rejections(self, excess: FloatArray) -> npt.NDArray[np.int64]:
        """Numbers of the values after which a product is above its limit."""
        y = self.scales[None, :, None] * excess[:, None, :]
        size = np.abs(y)
        steps = np.copysign(np.log1p(size + 0.5 * size * size), y)
        steps -= np.log1p(0.5 * (self.scales**2 * self.variance))[None, :, None]
        paths = self.log_products[:, :, None] + np.cumsum(steps, axis=-1)
        self.log_products = paths[:, :, -1] if paths.shape[-1] else self.log_products
        return np.flatnonzero((paths >= self.log_limit).any(axis=(0, 1)))
