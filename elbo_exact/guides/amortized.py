"""One network for all observations: x to the logits of q(z | x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._layers import Perceptron, hidden_sizes
from elbo_exact._validate import FloatArray, integer, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.guides.factors import Factors, Pullback, as_factors, checked_cotangent, flat_params
from elbo_exact.space import LatentSpace

__all__ = ["Amortized"]


@dataclass(frozen=True, eq=False)
class Amortized:
    """q(z | x) with logits from a multilayer perceptron, for any factorization.

    Parameters
    ----------
    params : array_like, shape (network.n_params,)
        Weights and biases, flat; `random` draws them. A NumPy array of float32 stays one: training then works in single precision, while
        `log_q`, and with it everything that is reported, computes in double precision from the same numbers.
    network : Perceptron
        Inputs: the columns of x. Outputs: the logits of ``factors``.
    factors : Factors or LatentSpace
        How q factorizes given x, for example ``Factors.mean_field(space)``; a space alone stands for any distribution over its states.

    Raises
    ------
    LogTableError, ValueError
        Parameters or outputs of another number, NaN or infinite parameters.

    Notes
    -----
    Rows are independent, but BLAS may round a row differently in another batch. O(N (parameters + S)) a table.
    Dayan, Hinton, Neal & Zemel (1995), Neural Computation 7:889; Kingma & Welling (2014), arXiv:1312.6114.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> guide = Amortized.random(4, ee.LatentSpace((3,)), hidden=(8,), rng=0)
    >>> guide.params.size, np.exp(guide.log_q(np.eye(4))).sum(axis=1).round(12)
    (67, array([1., 1., 1., 1.]))
    """

    params: npt.NDArray[Any]
    network: Perceptron
    factors: Factors

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", as_factors(self.factors))
        given: Any = self.params
        is_single = isinstance(given, np.ndarray) and given.dtype == np.float32
        params, wanted = flat_params(given, np.float32 if is_single else np.float64), self.factors.n_logits
        if self.network.sizes[-1] != wanted:
            raise ValueError(f"network must have {wanted} outputs, one per logit; got {self.network.sizes[-1]}.")
        if params.size != self.network.n_params or not np.isfinite(params).all():
            came = f"got {params.size}" if params.size != self.network.n_params else "got an infinity"
            raise LogTableError(f"params must be {self.network.n_params} finite numbers; {came}.", "params")
        object.__setattr__(self, "params", params)

    @classmethod
    def random(
        cls,
        n_features: int,
        factors: Factors | LatentSpace,
        *,
        hidden: Sequence[int] = (64,),
        activation: str = "tanh",
        rng: np.random.Generator | int | None = None,
        dtype: npt.DTypeLike = np.float64,
    ) -> Amortized:
        """Random weights, biases 0.

        Parameters
        ----------
        n_features : int
            Columns of x.
        factors : Factors or LatentSpace
        hidden : sequence of int
            Sizes of the hidden layers; none is a linear map (softmax regression).
        activation : {"tanh", "relu", "softplus"}
        rng : numpy.random.Generator or seed, optional
        dtype : float64 or float32
            Of the parameters, and of the arithmetic of training.

        Examples
        --------
        >>> Amortized.random(4, Factors.mean_field(LatentSpace((2, 2, 2))), hidden=(), rng=0).network.sizes
        (4, 6)
        """
        family = as_factors(factors)
        network = Perceptron((integer(n_features, "n_features", 1), *hidden_sizes(hidden), family.n_logits), activation)
        return cls(network.initial(np.random.default_rng(rng), dtype), network, family)

    @property
    def space(self) -> LatentSpace:
        """The variables."""
        return self.factors.space

    def with_params(self, params: npt.ArrayLike) -> Amortized:
        """The same network with other parameters, in the dtype of its own."""
        return Amortized(np.asarray(params, self.params.dtype), self.network, self.factors)

    def logits(self, x: npt.ArrayLike) -> FloatArray:
        """Outputs of the network for every observation, (N, factors.n_logits)."""
        return self.network.forward(np.asarray(self.params, np.float64), self._inputs(x))[0]

    def log_q(self, x: npt.ArrayLike, states: slice | None = None) -> FloatArray:
        """log q(z | x_n), normalized, in nats.

        Parameters
        ----------
        x : array_like, shape (N, n_features)
        states : slice, optional
            Only these states.

        Returns
        -------
        ndarray, shape (N, S) or (N, stop - start)

        Raises
        ------
        LogTableError
            Another number of columns, NaN or infinities.
        """
        return self.factors.log_table(self.logits(x), states)[0]

    def forward(self, x: npt.ArrayLike) -> tuple[FloatArray, Pullback]:
        """`log_q` and its pullback, cotangent (N, S) to gradient, without computing the table again; the network in its own dtype."""
        dtype = self.params.dtype
        logits, to_params = self.network.forward(self.params, self._inputs(x).astype(dtype, copy=False))
        table, to_logits = self.factors.log_table(logits.astype(np.float64, copy=False))

        def pullback(cotangent: FloatArray) -> npt.NDArray[Any]:
            gradient = np.empty_like(self.params)
            to_params(to_logits(cotangent).astype(dtype, copy=False), gradient, False)
            return gradient

        return table, pullback

    def pullback(self, x: npt.ArrayLike, cotangent: npt.ArrayLike) -> FloatArray:
        """Gradient of sum(cotangent * log_q(x)) in ``params``.

        Examples
        --------
        >>> guide = Amortized(np.zeros(4), Perceptron((1, 2)), Factors.free(LatentSpace((2,))))  # weights, then biases
        >>> guide.pullback([[3.0]], [[1.0, 0.0]])
        array([ 1.5, -1.5,  0.5, -0.5])
        """
        table, back = self.forward(x)
        return back(checked_cotangent(cotangent, table.shape))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and settings."""
        return {
            "guide": "Amortized",
            "params": self.params.tolist(),
            "layers": list(self.network.sizes),
            "activation": self.network.activation,
            **self.factors.to_dict(),
        }

    def _inputs(self, x: npt.ArrayLike) -> FloatArray:
        rows = real_array(x, "x")
        if rows.ndim != 2 or rows.shape[1] != self.network.sizes[0]:
            raise LogTableError(f"x must have shape (N, {self.network.sizes[0]}); got {rows.shape}.", "x", rows.shape)
        flat = rows.reshape(-1)
        with np.errstate(all="ignore"):
            square = flat @ flat  # one product sees NaN and infinities sooner than a test of every entry
        if not np.isfinite(square) and not np.isfinite(rows).all():
            row = int((~np.isfinite(rows)).any(axis=1).argmax())
            raise LogTableError(f"x must be finite for a network; row {row} is not; fill in missing values.", "x", row)
        return rows
