"""Guides: parameters to log q(z | x), and cotangents of that table back to the gradient in the parameters."""

from elbo_exact._layers import Perceptron
from elbo_exact.guides.amortized import Amortized
from elbo_exact.guides.factors import Factors
from elbo_exact.guides.local import Autoregressive, Free, MeanField, Structured

__all__ = ["Amortized", "Autoregressive", "Factors", "Free", "MeanField", "Perceptron", "Structured"]
