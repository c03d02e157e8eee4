"""The same VAE as PyTorch would have it: the oracle of objectives and gradients, written from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import torch

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "softplus": torch.nn.functional.softplus}
LOG_2PI = math.log(2 * math.pi)


def network(perceptron, params, x):
    """A perceptron on a torch vector of parameters."""
    layers = perceptron.views(params)
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = ACTIVATIONS[perceptron.activation](x) if i + 1 < len(layers) else x
    return x


def log_normal(x, mean, log_variance):
    return (-0.5 * ((x - mean) ** 2 / log_variance.exp() + log_variance + LOG_2PI)).sum(-1)


def log_likelihood(vae, params, z, x):
    out = network(vae.decoder, params[vae.decoder_slice], z)
    if vae.likelihood == "bernoulli":
        x = x.expand(out.shape)
        return -torch.nn.functional.binary_cross_entropy_with_logits(out, x, reduction="none").sum(-1)
    raw = out[..., vae.n_features :] if vae.variance == "pixel" else params[vae.own_slice]
    mean = out[..., : vae.n_features]
    return log_normal(x, mean, torch.clamp(raw, min=vae.min_log_variance).expand(mean.shape))


def loss(vae, params, x, noise, objective, gradient, beta):
    """Minus the mean bound; a scalar whose derivative in params is the wanted estimator."""
    code = network(vae.encoder, params[vae.encoder_slice], x)
    mean, log_variance = code[:, : vae.n_latent], code[:, vae.n_latent :]
    z = mean + (0.5 * log_variance).exp() * noise
    if objective == "elbo":
        kl = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(-1)
        return -(log_likelihood(vae, params, z, x).mean(0) - beta * kl).mean()
    prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
    if gradient == "path":
        log_w = log_likelihood(vae, params, z, x) + beta * (prior - log_normal(z, mean, log_variance))
        return -(torch.logsumexp(log_w, 0) - math.log(len(noise))).mean()
    still_q = log_normal(z, mean.detach(), log_variance.detach())
    log_w = log_likelihood(vae, params, z, x) + beta * (prior - still_q)
    if gradient == "dreg":
        share = torch.softmax(log_w.detach(), 0)
        z.register_hook(lambda slope: slope * share[..., None])
    return -(torch.logsumexp(log_w, 0) - math.log(len(noise))).mean()


def loss_and_gradient(vae, x, noise, objective="elbo", gradient="path", beta=1.0):
    """Loss and automatic derivative in float64."""
    params = torch.tensor(vae.params.astype(np.float64), requires_grad=True)
    value = loss(vae, params, torch.tensor(x), torch.tensor(noise), objective, gradient, beta)
    value.backward()
    return float(value.detach()), params.grad.numpy()
