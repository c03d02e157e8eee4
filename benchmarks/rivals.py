"""The formulas that people write by hand, one function per library and quantity.

They are natural, not naive: each is stable for finite tables. None handles -inf (0 * inf is NaN), checks its input,
renormalizes q, or returns an error bound. Every function takes (log_joint, log_q), with the states on the last axis.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

__all__ = ["RIVALS", "Rival", "present"]


def numpy_log_evidence(a, b):
    """The maximum shifted out by hand."""
    top = a.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(a - top).sum(axis=-1))


def numpy_elbo_and_gap(a, b):
    """ELBO as an expectation, the gap as what is missing to log evidence."""
    evidence = numpy_log_evidence(a, b)
    elbo = (np.exp(b) * (a - b)).sum(axis=-1)
    return evidence, elbo, evidence - elbo


def numpy_four_quantities(a, b):
    """Log evidence, ELBO, KL(q || posterior) and KL(posterior || q)."""
    evidence = numpy_log_evidence(a, b)
    q, log_posterior = np.exp(b), a - evidence[..., None]
    excess = b - log_posterior
    return evidence, (q * (a - b)).sum(axis=-1), (q * excess).sum(axis=-1), -(np.exp(log_posterior) * excess).sum(axis=-1)


def scipy_log_evidence(a, b):
    """scipy.special.logsumexp."""
    return logsumexp(a, axis=-1)


def scipy_elbo_and_gap(a, b):
    """As for NumPy, with SciPy's log evidence."""
    evidence = logsumexp(a, axis=-1)
    elbo = (np.exp(b) * (a - b)).sum(axis=-1)
    return evidence, elbo, evidence - elbo


def scipy_four_quantities(a, b):
    """As for NumPy, with SciPy's log evidence."""
    evidence = logsumexp(a, axis=-1)
    q, log_posterior = np.exp(b), a - evidence[..., None]
    posterior = np.exp(log_posterior)
    return (
        evidence,
        (q * (a - b)).sum(axis=-1),
        (q * (b - log_posterior)).sum(axis=-1),
        (posterior * (log_posterior - b)).sum(axis=-1),
    )


def torch_log_evidence(a, b):
    """Tensor.logsumexp."""
    return a.logsumexp(-1)


def torch_elbo_and_gap(a, b):
    """The three lines of a training loop."""
    evidence = a.logsumexp(-1)
    elbo = (b.exp() * (a - b)).sum(-1)
    return evidence, elbo, evidence - elbo


def torch_four_quantities(a, b):
    """With torch.nn.functional's formula for both divergences."""
    evidence = a.logsumexp(-1)
    q, log_posterior = b.exp(), a - evidence[..., None]
    posterior = log_posterior.exp()
    return (
        evidence,
        (q * (a - b)).sum(-1),
        (q * (b - log_posterior)).sum(-1),
        (posterior * (log_posterior - b)).sum(-1),
    )


def jax_log_evidence(a, b):
    """jax.nn.logsumexp."""
    return importlib.import_module("jax").nn.logsumexp(a, axis=-1)


def jax_elbo_and_gap(a, b):
    """The compiler may fuse the passes."""
    evidence = jax_log_evidence(a, b)
    elbo = (importlib.import_module("jax").numpy.exp(b) * (a - b)).sum(-1)
    return evidence, elbo, evidence - elbo


def jax_four_quantities(a, b):
    """The compiler may fuse the passes."""
    exp, evidence = importlib.import_module("jax").numpy.exp, jax_log_evidence(a, b)
    log_posterior = a - evidence[..., None]
    q, posterior = exp(b), exp(log_posterior)
    return (
        evidence,
        (q * (a - b)).sum(-1),
        (q * (b - log_posterior)).sum(-1),
        (posterior * (log_posterior - b)).sum(-1),
    )


def _torch_tools(n_threads: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(n_threads)
    return torch.from_numpy, lambda formula: formula


def _jax_tools(n_threads: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Threads of XLA are fixed by the environment when the process starts: see ``cases.environment``."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)

    def jitted(formula: Callable[..., Any]) -> Callable[..., Any]:
        compiled = jax.jit(formula)
        return lambda a, b: jax.block_until_ready(compiled(a, b))

    return lambda array: jax.block_until_ready(jax.numpy.asarray(array)), jitted  # or the copy runs beside the first timing


def _numpy_tools(n_threads: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """NumPy's and SciPy's elementwise functions and sums know one thread only."""
    return np.asarray, lambda formula: formula


@dataclass(frozen=True)
class Rival:
    """A library: its three formulas, and ``tools(n_threads)``: how it takes an array, and how it prepares a formula."""

    log_evidence: Callable[..., Any]
    elbo_and_gap: Callable[..., Any]
    four_quantities: Callable[..., Any]
    tools: Callable[[int], tuple[Callable[..., Any], Callable[..., Any]]]


RIVALS = {
    "numpy": Rival(numpy_log_evidence, numpy_elbo_and_gap, numpy_four_quantities, _numpy_tools),
    "scipy": Rival(scipy_log_evidence, scipy_elbo_and_gap, scipy_four_quantities, _numpy_tools),
    "torch": Rival(torch_log_evidence, torch_elbo_and_gap, torch_four_quantities, _torch_tools),
    "jax": Rival(jax_log_evidence, jax_elbo_and_gap, jax_four_quantities, _jax_tools),
}


def present() -> dict[str, Rival]:
    """The rivals that are installed."""
    return {name: rival for name, rival in RIVALS.items() if importlib.util.find_spec(name)}
