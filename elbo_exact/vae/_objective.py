"""Bounds of a Gaussian VAE on given noise, and their gradients by hand.

With z = m + exp(s/2) e the entropy term is -log q(z | x) = 1/2 sum_j [e_j^2 + s_j + log 2 pi], so the derivative that runs through z meets
only log p(x | z) + log p(z): the score of q and the path through log q cancel but for 1/2 in s.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact.kernels.normal import kl_to_prior_rows
from elbo_exact.vae._likelihood import LOG_2PI, Array

__all__ = ["GRADIENTS", "OBJECTIVES", "elbo_rows", "kl_to_prior", "log_normal", "log_weights", "loss_and_gradient"]

OBJECTIVES = ("elbo", "iwae")
GRADIENTS = ("path", "stl", "dreg")


def kl_to_prior(mean: Array, log_variance: Array) -> Array:
    """KL(N(m, exp s) || N(0, I)) = 1/2 sum_j [m_j^2 + (expm1(s_j) - s_j)] of each row, in nats; no digit is lost near 0.

    Examples
    --------
    >>> float(kl_to_prior(np.zeros((1, 1)), np.full((1, 1), 1e-9))[0])  # s^2 / 4 + s^3 / 12
    2.5000000008333337e-19
    """
    code = np.concatenate((mean, log_variance), axis=1, dtype=np.float64)
    value = np.empty(len(code))
    kl_to_prior_rows(code, value)
    return value


def loss_and_gradient(
    model: Any,
    params: Array,
    x: Array,
    noise: Array,
    *,
    objective: str = "elbo",
    gradient: str = "path",
    beta: float = 1.0,
    out: Array | None = None,
) -> tuple[float, Array]:
    """Minus the mean bound of the batch, and its gradient in ``params``; noise (K, B, L)."""
    n_samples, n_rows, n_latent = noise.shape
    gradient_out = np.empty_like(params) if out is None else out
    code, encoder_pullback = model.encoder.forward(params[model.encoder_slice], x)
    mean, log_variance = code[:, :n_latent], code[:, n_latent:]
    scale = np.exp(0.5 * log_variance)
    shift = scale * noise
    z = mean + shift
    outputs, decoder_pullback = model.decoder.forward(params[model.decoder_slice], z.reshape(-1, n_latent))
    log_likelihood, likelihood_pullback = model.likelihood_of(outputs, params[model.own_slice], x)
    if objective == "elbo":
        loss = -float(log_likelihood.mean()) + beta * float(kl_to_prior(mean, log_variance).mean())
        weights = np.full((n_samples, n_rows), -1.0 / (n_samples * n_rows), params.dtype)
    else:
        log_weights = log_likelihood + beta * 0.5 * ((noise * noise - z * z).sum(axis=-1) + log_variance.sum(axis=-1))
        loss, weights = _k_sample(log_weights)
    cotangent, own_gradient = likelihood_pullback(weights)
    if own_gradient is not None:
        gradient_out[model.own_slice] = own_gradient
    d_z = decoder_pullback(cotangent, gradient_out[model.decoder_slice]).reshape(z.shape)
    d_code = np.empty_like(code)
    d_mean, d_variance = d_code[:, :n_latent], d_code[:, n_latent:]
    if objective == "elbo":
        d_z.sum(axis=0, out=d_mean)
        d_mean += (beta / n_rows) * mean
        (d_z * shift).sum(axis=0, out=d_variance)
        d_variance *= 0.5
        d_variance += (0.5 * beta / n_rows) * np.expm1(log_variance)
    else:
        through_z = d_z - beta * weights[..., None] * (z if gradient == "path" else z - noise / scale)
        if gradient == "dreg":
            through_z *= -n_rows * weights[..., None]  # weights squared
        through_z.sum(axis=0, out=d_mean)
        (through_z * shift).sum(axis=0, out=d_variance)
        d_variance *= 0.5
        if gradient == "path":
            d_variance -= 0.5 * beta / n_rows
    encoder_pullback(d_code, gradient_out[model.encoder_slice], False)
    return loss, gradient_out


def _k_sample(log_weights: Array) -> tuple[float, Array]:
    """Minus the mean of log mean exp over samples, and its derivative in the log weights."""
    top = log_weights.max(axis=0)
    ratios = np.exp(log_weights - top)
    total = ratios.sum(axis=0)
    loss = -float((top + np.log(total / len(log_weights))).mean())
    return loss, ratios / (-total * log_weights.shape[1])


def _forward(model: Any, x: Array, noise: Array) -> tuple[Array, Array, Array, Array]:
    """Mean and log variance of q, samples z, and log p(x | z), all in float64."""
    params, n_latent = model.double_params, noise.shape[-1]
    code, _ = model.encoder.forward(params[model.encoder_slice], x)
    mean, log_variance = code[:, :n_latent], code[:, n_latent:]
    z = mean + np.exp(0.5 * log_variance) * noise
    outputs, _ = model.decoder.forward(params[model.decoder_slice], z.reshape(-1, n_latent))
    return mean, log_variance, z, model.likelihood_of(outputs, params[model.own_slice], x)[0]


def elbo_rows(model: Any, x: Array, noise: Array, beta: float) -> Array:
    """mean_k log p(x | z_k) - beta KL(q || prior) of each observation."""
    mean, log_variance, _, log_likelihood = _forward(model, x, noise)
    return np.asarray(log_likelihood.mean(axis=0) - beta * kl_to_prior(mean, log_variance))


def log_weights(model: Any, x: Array, noise: Array) -> Array:
    """log p(x, z_k) - log q(z_k | x), shape (B, K)."""
    _, log_variance, z, log_likelihood = _forward(model, x, noise)
    return np.asarray((log_likelihood + 0.5 * ((noise * noise - z * z).sum(axis=-1) + log_variance.sum(axis=-1))).T)


def log_normal(z: Array, mean: Array, log_variance: Array) -> Array:
    """log N(z; mean, exp(log_variance)), summed over the last axis."""
    return np.asarray(-0.5 * ((z - mean) ** 2 * np.exp(-log_variance) + log_variance + LOG_2PI).sum(axis=-1))
