"""Guides: parameters to log q(z | x), and cotangents of that table back to the gradient in the parameters."""

from elbo_exact._layers import Perceptron
from elbo_exact.guides.amortized import Amortized
from elbo_exact.guides.local import Free, MeanField

__all__ = ["Amortized", "Free", "MeanField", "Perceptron"]
