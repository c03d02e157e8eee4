"""The exact posterior over states as a distribution of PyTorch (tested with torch 2.13)."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributions import Distribution, constraints

from elbo_exact._validate import FloatArray
from elbo_exact.space import LatentSpace

__all__ = ["PosteriorDistribution"]


class PosteriorDistribution(Distribution):  # type: ignore[misc] # torch is not installed where types are checked
    """p(z | x) over categories of all variables: sample shape (..., n_variables), log_prob in float64."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - the protocol of torch
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_enumerate_support = True

    def __init__(self, log_posterior: FloatArray, space: LatentSpace) -> None:
        self._log_posterior = torch.from_numpy(log_posterior)
        self._states = torch.from_numpy(space.states())
        self._space = space
        super().__init__(event_shape=torch.Size([space.n_variables]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Any:
        """Independent states."""
        shape = torch.Size(sample_shape)
        cumulative = self._log_posterior.exp().cumsum(0)
        uniform = torch.rand(shape, dtype=torch.float64) * cumulative[-1]
        return self._states[torch.searchsorted(cumulative, uniform, right=True)]

    def log_prob(self, value: Any) -> Any:
        """log p(z | x) of states, shape (..., n_variables)."""
        flat = self._space.index(value.detach().cpu().numpy())
        return self._log_posterior[torch.as_tensor(flat)]

    def enumerate_support(self, expand: bool = True) -> Any:
        """All states, shape (S, n_variables)."""
        return self._states
