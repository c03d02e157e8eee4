"""A model enumerated: its log table over named variables, and the exact answers that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray
from elbo_exact.evidence import log_evidence, log_posterior, posterior, posterior_marginals
from elbo_exact.space import LatentSpace
from elbo_exact.variational import elbo

__all__ = ["Oracle", "Site", "joint_space"]


@dataclass(frozen=True)
class Site:
    """One random site of a program: an array of cells, each a variable with the same finite support.

    Parameters
    ----------
    name : str
    shape : tuple of int
        Cells, () for a single variable.
    support : ndarray, shape (K, *event_shape)
        The values a cell can take.
    event_dim : int, optional
        How many of the last axes of a value the framework calls one event.
    plates : tuple of (name, dim, size), optional
        The vectorized plates around the site, outermost first.
    masked : tuple of bool, optional
        One per cell: a masked cell has no density. It is no variable, and stays at its first value.
    """

    name: str
    shape: tuple[int, ...]
    support: npt.NDArray[Any]
    event_dim: int = 0
    plates: tuple[tuple[str, int, int], ...] = ()
    masked: tuple[bool, ...] = ()

    @property
    def n_cells(self) -> int:
        """Number of variables."""
        return math.prod(self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values that each cell takes, 1 if masked."""
        return tuple(1 if masked else len(self.support) for masked in self.masked or (False,) * self.n_cells)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """``z``, or ``z[0]``, ``z[1]`` ... for cells, last index fastest."""
        if not self.shape:
            return (self.name,)
        return tuple(f"{self.name}[{','.join(map(str, cell))}]" for cell in np.ndindex(self.shape))


def joint_space(sites: tuple[Site, ...]) -> LatentSpace:
    """The product of all cells of all sites, in their order."""
    sizes = tuple(size for site in sites for size in site.sizes)
    return LatentSpace(sizes, tuple(name for site in sites for name in site.cell_names))


@dataclass(frozen=True)
class Oracle:
    """log p(x, z) of every state z of a model, with the answers that follow. Made by ``adapters.from_...``.

    Parameters
    ----------
    log_joint : ndarray, shape (S,)
        log p(x, z) in nats, as the framework computed it; the rest is exact up to the error bounds of `elbo_exact.audit`.
    space : LatentSpace
        The variables, by name.
    sites : tuple of Site
        How the variables form the random sites of the program.

    Notes
    -----
    An oracle stands wherever a log table is expected: ``ee.audit(oracle, log_q)``, ``assert_every_particle(values, oracle)``.

    Examples
    --------
    >>> import numpy as np
    >>> import elbo_exact as ee
    >>> space = ee.LatentSpace((2, 2), ("rain", "sprinkler"))
    >>> oracle = ee.adapters.from_callable(lambda z: np.log(0.1 + 0.2 * z[:, 0] + 0.1 * z[:, 1]), space)
    >>> oracle.log_evidence.round(15)
    np.float64(0.0)
    >>> oracle.marginals()["rain"].round(3).tolist()
    [0.3, 0.7]
    """

    log_joint: FloatArray
    space: LatentSpace
    sites: tuple[Site, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The log table."""
        return np.array(self.log_joint, dtype=dtype, copy=copy)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables, in the order of the space."""
        return self.space.names or ()

    @property
    def log_evidence(self) -> Any:
        """log p(x), in nats."""
        return log_evidence(self.log_joint)

    @property
    def posterior(self) -> FloatArray:
        """p(z | x) of every state, shape (S,)."""
        return posterior(self.log_joint)

    @property
    def log_posterior(self) -> FloatArray:
        """log p(z | x) of every state, shape (S,)."""
        return log_posterior(self.log_joint)

    def elbo(self, log_q: npt.ArrayLike, *, unnormalized: bool = False) -> Any:
        """E_q[log p(x, z) - log q(z)] in nats; log_q of shape (..., S)."""
        return elbo(self.log_joint, log_q, unnormalized=unnormalized)

    def marginals(self) -> dict[str, FloatArray]:
        """p(cell | x) by name of the site, shape (*cells, K); a masked cell has all its mass on its first value."""
        columns = iter(posterior_marginals(self.log_joint, self.space))
        tables = {}
        for site in self.sites:
            table = np.zeros((site.n_cells, len(site.support)))
            for row, size in zip(table, site.sizes, strict=True):
                row[:size] = next(columns)
            tables[site.name] = table.reshape(*site.shape, -1)
        return tables

    def values(self, state: npt.ArrayLike) -> dict[str, npt.NDArray[Any]]:
        """What each site of the program holds in one state, given as the categories of all variables."""
        return site_values(self.sites, np.asarray(state))

    def as_torch_distribution(self) -> Any:
        """The exact posterior as a ``torch.distributions.Distribution`` over states, event shape (n_variables,)."""
        from elbo_exact.adapters._torch import PosteriorDistribution

        return PosteriorDistribution(self.log_posterior, self.space)

    def as_pyro_guide(self) -> Callable[..., None]:
        """The exact posterior as a Pyro guide: one auxiliary site draws the state, every other site follows from it.

        Each particle of an ELBO under this guide equals log p(x), whatever the seed.
        """
        from elbo_exact.adapters.pyro_models import posterior_guide

        return posterior_guide(self)

    def as_numpyro_guide(self) -> Callable[..., None]:
        """The exact posterior as a NumPyro guide, as in `as_pyro_guide`."""
        from elbo_exact.adapters.numpyro_models import posterior_guide

        return posterior_guide(self)


def site_values(sites: tuple[Site, ...], states: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Values of all sites, shape (..., *cells, *event), from categories of shape (..., n_variables)."""
    values, first = {}, 0
    for site in sites:
        digits = states[..., first : first + site.n_cells].reshape((*states.shape[:-1], *site.shape))
        values[site.name] = site.support[digits]
        first += site.n_cells
    return values
