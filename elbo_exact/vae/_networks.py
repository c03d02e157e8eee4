"""The two perceptrons of a VAE, by its settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact._layers import Perceptron, hidden_sizes
from elbo_exact._validate import integer, one_of
from elbo_exact.errors import LogTableError

__all__ = ["NETWORK", "checked_params", "networks"]

LIKELIHOODS = ("gaussian", "bernoulli")
VARIANCES = ("pixel", "feature", "shared")
NETWORK = {"hidden", "activation", "likelihood", "variance"}


def networks(
    n_features: int,
    n_latent: int,
    hidden: tuple[int, ...] = (64,),
    activation: str = "tanh",
    likelihood: str = "gaussian",
    variance: str = "pixel",
) -> tuple[Perceptron, Perceptron, int]:
    """Encoder, decoder, and how many variance parameters the decoder has of its own."""
    integer(n_features, "n_features", 1)
    integer(n_latent, "n_latent", 1)
    one_of(likelihood, "likelihood", LIKELIHOODS)
    one_of(variance, "variance", VARIANCES)
    own = {"pixel": 0, "feature": n_features, "shared": 1}[variance] if likelihood == "gaussian" else 0
    doubled = likelihood == "gaussian" and variance == "pixel"
    middle = hidden_sizes(hidden)
    encoder = Perceptron((n_features, *middle, 2 * n_latent), activation)
    decoder = Perceptron((n_latent, *middle[::-1], n_features * (1 + doubled)), activation)
    return encoder, decoder, own


def checked_params(values: Any, n_params: int) -> Any:
    """Parameters of the right dtype and shape."""
    params = np.asarray(values)
    if params.dtype not in (np.float64, np.float32) or params.shape != (n_params,):
        raise LogTableError(
            f"params must be a float64 or float32 vector of shape ({n_params},); got {params.dtype} {params.shape}.",
            "params",
            params.shape,
        )
    return params
