"""The Gaussian variational autoencoder (Kingma & Welling 2014, ICLR; Rezende, Mohamed & Wierstra 2014, ICML), gradients by hand.

Prior N(0, I); q(z | x) = N(m(x), diag exp s(x)); p(x | z) is Gaussian with learned mean and log variance, or Bernoulli.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from elbo_exact._layers import Perceptron
from elbo_exact._validate import FloatArray, integer, one_of, real_array
from elbo_exact.errors import LogTableError
from elbo_exact.evidence import log_evidence
from elbo_exact.vae import _likelihood
from elbo_exact.vae._networks import NETWORK, checked_params, networks
from elbo_exact.vae._objective import GRADIENTS, OBJECTIVES, elbo_rows, kl_to_prior, log_normal, log_weights, loss_and_gradient

if TYPE_CHECKING:
    from elbo_exact.vae._truth import VAEAudit
    from elbo_exact.vae.results import TrainingResult

__all__ = ["Code", "Decoded", "GaussianVAE"]

Array = _likelihood.Array


class Code(NamedTuple):
    """Mean and log variance of q(z | x), both (N, L)."""

    mean: FloatArray
    log_variance: FloatArray


class Decoded(NamedTuple):
    """Mean of p(x | z), (N, F), and its log variance: (N, F), (F,), (1,), or None for Bernoulli."""

    mean: FloatArray
    log_variance: FloatArray | None


@dataclass(frozen=True, eq=False)
class GaussianVAE:
    """A variational autoencoder with two perceptrons; start with :meth:`random`.

    Parameters
    ----------
    params : ndarray, shape (n_params,), float64 or float32
        Encoder, decoder, and the variance parameters of the decoder if it has any of its own.
    n_features, n_latent : int
        Lengths F of x and L of z.
    hidden : tuple of int
        Hidden layers of the encoder; the decoder has them in reverse. Empty: both maps are affine.
    activation : {"tanh", "relu", "softplus"}
    likelihood : {"gaussian", "bernoulli"}
        Bernoulli takes x of 0 and 1.
    variance : {"pixel", "feature", "shared"}
        Log variance of the Gaussian decoder: an output of the network, a parameter of each feature, or a single parameter.
    min_log_variance : float
        Floor of that log variance. Without one the likelihood has no maximum: the variance collapses on a constant
        feature or on single data points (Mattei & Frellsen 2018, NeurIPS). Below the floor the derivative is 0. The default
        -6 is a standard deviation of 0.05, for data on the unit scale.

    Examples
    --------
    >>> vae = GaussianVAE.random(4, 2, hidden=(8,), rng=0)
    >>> x = np.zeros((3, 4))
    >>> vae.encode(x).mean.shape, vae.decode(np.zeros((5, 2))).mean.shape, vae.n_params
    ((3, 2), (5, 4), 172)
    """

    params: Array
    n_features: int
    n_latent: int
    hidden: tuple[int, ...] = (64,)
    activation: str = "tanh"
    likelihood: str = "gaussian"
    variance: str = "pixel"
    min_log_variance: float = -6.0
    encoder: Perceptron = field(init=False, repr=False)
    decoder: Perceptron = field(init=False, repr=False)
    encoder_slice: slice = field(init=False, repr=False)
    decoder_slice: slice = field(init=False, repr=False)
    own_slice: slice = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.min_log_variance):
            raise ValueError(
                f"min_log_variance must be finite; got {self.min_log_variance!r}; without a floor variances collapse."
            )
        hidden = tuple(self.hidden)
        encoder, decoder, own = networks(
            self.n_features, self.n_latent, hidden, self.activation, self.likelihood, self.variance
        )
        first, second = encoder.n_params, encoder.n_params + decoder.n_params
        parts = (slice(0, first), slice(first, second), slice(second, second + own))
        values = (hidden, encoder, decoder, *parts)
        names = ("hidden", "encoder", "decoder", "encoder_slice", "decoder_slice", "own_slice")
        for name, value in zip(names, values, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "params", checked_params(self.params, self.n_params))

    @classmethod
    def random(
        cls,
        n_features: int,
        n_latent: int,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: npt.DTypeLike = np.float64,
        **settings: Any,
    ) -> GaussianVAE:
        """Random weights N(0, 1 / inputs), biases and own log variances 0; settings as in the class."""
        empty = cls.sized(n_features, n_latent, dtype=dtype, **settings)
        generator = np.random.default_rng(rng)
        params = np.zeros(empty.n_params, dtype)
        params[empty.encoder_slice] = empty.encoder.initial(generator, dtype)
        params[empty.decoder_slice] = empty.decoder.initial(generator, dtype)
        return empty.with_params(params)

    @classmethod
    def sized(cls, n_features: int, n_latent: int, *, dtype: npt.DTypeLike = np.float64, **settings: Any) -> GaussianVAE:
        """All parameters 0, for parameters that come from elsewhere."""
        encoder, decoder, own = networks(n_features, n_latent, **{key: settings[key] for key in NETWORK & set(settings)})
        return cls(np.zeros(encoder.n_params + decoder.n_params + own, dtype), n_features, n_latent, **settings)

    @property
    def n_params(self) -> int:
        """Length of the parameter vector."""
        return int(self.own_slice.stop)

    @property
    def double_params(self) -> FloatArray:
        """The parameters in float64, in which everything but training is evaluated."""
        return self.params.astype(np.float64, copy=False)

    def with_params(self, params: Array) -> GaussianVAE:
        """A new model with other parameters."""
        other = copy.copy(self)  # a tenth of the time of building the networks anew, and this runs in every step of a loop
        object.__setattr__(other, "params", checked_params(params, self.n_params))
        return other

    def observations(self, x: npt.ArrayLike) -> FloatArray:
        """x as (N, F) float64, checked: finite, and 0 or 1 for a Bernoulli decoder."""
        rows = real_array(x, "x")
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise LogTableError(f"x must have shape (N, {self.n_features}); got {rows.shape}.", "x", rows.shape)
        good = (rows == 0.0) | (rows == 1.0) if self.likelihood == "bernoulli" else np.isfinite(rows)
        if not good.all():
            index = tuple(map(int, np.argwhere(~good)[0]))
            wanted = "0 or 1 for a Bernoulli decoder" if self.likelihood == "bernoulli" else "finite"
            remedy = "binarize it" if self.likelihood == "bernoulli" and np.isfinite(rows[index]) else "drop or fill the row"
            raise LogTableError(f"x must be {wanted}; got {rows[index]:g} at index {index}; {remedy}.", "x", index)
        return rows

    def latents(self, z: npt.ArrayLike, name: str = "z") -> FloatArray:
        """z as (S, L) float64, checked."""
        nodes = real_array(z, name)
        if nodes.ndim != 2 or nodes.shape[1] != self.n_latent:
            raise LogTableError(f"{name} must have shape (S, {self.n_latent}); got {nodes.shape}.", name, nodes.shape)
        return nodes

    def likelihood_of(self, outputs: Array, own: Array, x: Array) -> tuple[Array, Any]:
        """log p(x | z) of decoder outputs, and its pullback."""
        function = _likelihood.gaussian if self.likelihood == "gaussian" else _likelihood.bernoulli
        return cast(tuple[Array, Any], function(outputs, own, x, self.min_log_variance))

    def encode(self, x: npt.ArrayLike) -> Code:
        """Mean and log variance of q(z | x)."""
        code, _ = self.encoder.forward(self.double_params[self.encoder_slice], self.observations(x))
        return Code(code[:, : self.n_latent], code[:, self.n_latent :])

    def decode(self, z: npt.ArrayLike) -> Decoded:
        """Mean and log variance of p(x | z), the floor applied."""
        params = self.double_params
        outputs, _ = self.decoder.forward(params[self.decoder_slice], self.latents(z))
        if self.likelihood == "bernoulli":
            return Decoded(0.5 * (1.0 + np.tanh(0.5 * outputs)), None)
        raw = outputs[:, self.n_features :] if self.variance == "pixel" else params[self.own_slice]
        return Decoded(outputs[:, : self.n_features], np.maximum(raw, self.min_log_variance))

    def sample(self, n: int, rng: np.random.Generator | int | None = None) -> FloatArray:
        """n draws of x: z from the prior, then x from p(x | z)."""
        generator = np.random.default_rng(rng)
        mean, log_variance = self.decode(generator.standard_normal((integer(n, "n", 0), self.n_latent)))
        if log_variance is None:
            return np.asarray(generator.random(mean.shape) < mean, np.float64)
        return np.asarray(mean + np.exp(0.5 * log_variance) * generator.standard_normal(mean.shape))

    def reconstruct(self, x: npt.ArrayLike) -> FloatArray:
        """Mean of p(x | z) at the mean of q(z | x)."""
        return self.decode(self.encode(x).mean).mean

    def kl(self, x: npt.ArrayLike) -> FloatArray:
        """KL(q(z | x) || prior) of each observation, in nats."""
        return np.asarray(kl_to_prior(*self.encode(x)))

    def noise(self, n_samples: int, n_rows: int, rng: np.random.Generator | int | None = None) -> FloatArray:
        """Standard normal noise (K, N, L) for :meth:`elbo`, :meth:`iwae` and :meth:`loss_and_gradient`."""
        shape = (integer(n_samples, "n_samples", 1), n_rows, self.n_latent)
        return np.random.default_rng(rng).standard_normal(shape)

    def elbo(
        self,
        x: npt.ArrayLike,
        *,
        num_samples: int = 1,
        rng: np.random.Generator | int | None = None,
        noise: npt.ArrayLike | None = None,
        beta: float = 1.0,
    ) -> FloatArray:
        """Unbiased estimate of the ELBO of each observation: K samples of log p(x | z), the KL analytic; nats.

        ``audit`` integrates it exactly where L <= 3.
        """
        rows = self.observations(x)
        return elbo_rows(self, rows, self._noise(noise, num_samples, len(rows), rng), beta)

    def iwae(
        self,
        x: npt.ArrayLike,
        num_samples: int,
        *,
        rng: np.random.Generator | int | None = None,
        noise: npt.ArrayLike | None = None,
    ) -> FloatArray:
        """log mean_k p(x, z_k) / q(z_k | x) of each observation, z_k from q (Burda, Grosse & Salakhutdinov 2016, ICLR); nats.

        Its expectation lies below log p(x) and rises with K; a single draw may lie above.
        """
        rows = self.observations(x)
        table = log_weights(self, rows, self._noise(noise, num_samples, len(rows), rng))
        return np.asarray(log_evidence(table) - math.log(table.shape[1]))

    def loss_and_gradient(
        self,
        x: npt.ArrayLike,
        noise: npt.ArrayLike,
        *,
        objective: str = "elbo",
        gradient: str = "path",
        beta: float = 1.0,
    ) -> tuple[float, Array]:
        """Minus the mean bound of a batch on given noise, and a gradient in ``params``, in their dtype.

        Parameters
        ----------
        x : array_like, shape (B, F)
        noise : array_like, shape (K, B, L)
            z = m + exp(s/2) noise.
        objective : {"elbo", "iwae"}
            mean_k log p(x | z_k) - beta KL with the KL analytic; or log mean_k exp[log p(x | z_k) + beta log p(z_k) / q(z_k | x)].
        gradient : {"path", "stl", "dreg"}
            For "iwae": the derivative of the estimate as it stands; without the score of q (Roeder, Wu & Duvenaud 2017, NIPS),
            which is biased for K > 1; or doubly reparameterized (Tucker et al. 2019, ICLR), unbiased for beta = 1. Only the
            encoder's part differs.
        beta : float
            Weight of the KL.

        Examples
        --------
        >>> vae = GaussianVAE.random(4, 2, hidden=(8,), rng=0)
        >>> loss, gradient = vae.loss_and_gradient(np.zeros((3, 4)), np.zeros((1, 3, 2)))
        >>> gradient.shape
        (172,)
        """
        one_of(objective, "objective", OBJECTIVES)
        one_of(gradient, "gradient", GRADIENTS if objective == "iwae" else ("path",))
        rows, dtype = self.observations(x), self.params.dtype
        values = self._noise(noise, 1, len(rows), None).astype(dtype, copy=False)
        rows = rows.astype(dtype, copy=False)
        return loss_and_gradient(self, self.params, rows, values, objective=objective, gradient=gradient, beta=beta)

    def log_joint(self, x: npt.ArrayLike, z: npt.ArrayLike) -> FloatArray:
        """log p(x, z) at nodes z (S, L), a log table (N, S) of densities in z."""
        from elbo_exact.vae._truth import log_joint

        return np.asarray(log_joint(self, self.observations(x), self.latents(z)))

    def log_q(self, x: npt.ArrayLike, z: npt.ArrayLike) -> FloatArray:
        """log q(z | x) at nodes z (S, L), a log table (N, S) of densities in z."""
        mean, log_variance = self.encode(x)
        return log_normal(self.latents(z), mean[:, None, :], log_variance[:, None, :])

    def log_evidence(self, x: npt.ArrayLike) -> FloatArray:
        """log p(x) of each observation by adapted quadrature, L <= 3; :meth:`audit` gives it with its errors."""
        return np.asarray(self.audit(x, q=False).log_evidence)

    def log_posterior(self, x: npt.ArrayLike, z: npt.ArrayLike) -> FloatArray:
        """log p(z | x) at nodes z (S, L), densities in z, (N, S), L <= 3."""
        return np.asarray(self.log_joint(x, z) - self.log_evidence(x)[:, None])

    def audit(self, x: npt.ArrayLike, *, q: bool = True, tolerance: float = 1e-10, max_nodes: int = 200_000) -> VAEAudit:
        """Evidence, ELBO, gap and both KLs of each observation by quadrature adapted to its posterior, L <= 3.

        See `VAEAudit`. ``q=False`` leaves the encoder out, for the evidence alone. The rule is refined until its estimates are
        below ``tolerance`` (times the value, if that exceeds 1 nat), or a grid with twice the points would exceed ``max_nodes``.
        """
        from elbo_exact.vae._truth import audit

        return audit(self, self.observations(x), q, tolerance, max_nodes)

    def fit(self, x: npt.ArrayLike, **settings: Any) -> TrainingResult:
        """Train; see :func:`elbo_exact.vae.fit_vae`."""
        from elbo_exact.vae.training import fit_vae

        return fit_vae(self, x, **settings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an npz file without pickles; :meth:`load` reads it."""
        from elbo_exact.vae._files import save_model

        save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GaussianVAE:
        """Read what :meth:`save` wrote, to the same bits."""
        from elbo_exact.vae._files import load_model

        return cast(GaussianVAE, load_model(cls, path))

    def settings(self) -> dict[str, Any]:
        """Everything but the parameters."""
        names = ("n_features", "n_latent", "hidden", "activation", "likelihood", "variance", "min_log_variance")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Settings and parameters as plain lists, floats and strings."""
        return {**self.settings(), "hidden": list(self.hidden), "params": self.params.tolist()}

    def _noise(self, noise: npt.ArrayLike | None, n_samples: int, n_rows: int, rng: Any) -> FloatArray:
        if noise is None:
            return self.noise(n_samples, n_rows, rng)
        values = real_array(noise, "noise")
        if values.ndim != 3 or values.shape[0] == 0 or values.shape[1:] != (n_rows, self.n_latent):
            raise LogTableError(
                f"noise must have shape (K, {n_rows}, {self.n_latent}), K >= 1; got {values.shape}.", "noise", values.shape
            )
        return values
