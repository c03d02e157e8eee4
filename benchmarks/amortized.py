"""A training step of a mixture and its amortized guide on digits: ours beside PyTorch, jitted JAX and Pyro's enumerated ELBO, float64.

Same network (64-32-10, tanh), same batches of binarized digits, Adam, model and guide together. Every contender takes a number
of passes over the 1797 rows; a step is the difference of two runs, so that starts and checks of a fit cancel.
"""

from __future__ import annotations

import em  # first: it sets the number of threads before NumPy is imported

__all__ = ["CASES"]

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from elbo_exact.families import Bernoulli
from elbo_exact.fit import fit_vi
from elbo_exact.fit.optimizers import Adam
from elbo_exact.guides import Amortized
from elbo_exact.models import Mixture

HIDDEN, CLASSES, RATE = 32, 10, 1e-3


def digits_step(batch_size: int) -> Callable[[bool], em.Runs]:
    """Passes over the digits in batches of this size."""
    return lambda quick: _runs(batch_size, quick)


def _runs(size: int, quick: bool) -> em.Runs:
    from sklearn.datasets import load_digits

    x = (load_digits().data >= 8).astype(float)[: 256 if quick else None]
    seeds = np.random.default_rng(1).choice(len(x), CLASSES, replace=False)
    model = Mixture(np.log(np.full(CLASSES, 1.0 / CLASSES)), [Bernoulli.from_probabilities(0.25 + 0.5 * x[seeds])])
    guide = Amortized.random(x.shape[1], model.space, hidden=(HIDDEN,), rng=0)
    options: dict[str, Any] = {"training": "joint", "optimizer": Adam(RATE), "batch_size": size, "max_iter": 1, "rng": 0}
    runs: em.Runs = {"elbo_exact": lambda passes: fit_vi(model, guide, x, inner_iter=passes, **options)}
    makers = {"torch": torch_run, "jax": jax_run, "pyro": pyro_run}
    names = {"torch": "PyTorch", "jax": "JAX, jitted", "pyro": "Pyro, TraceEnum_ELBO"}
    return runs | {names[name]: make(model, guide, x, size) for name, make in makers.items() if find_spec(name)}


def _batches(n_rows: int, size: int, passes: int) -> Any:
    rng = np.random.default_rng(0)
    for _ in range(passes):
        order = rng.permutation(n_rows)
        yield from (order[first : first + size] for first in range(0, n_rows, size))


def _start(model: Mixture, guide: Amortized) -> list[np.ndarray]:
    """Class logits, pixel logits, and the network's weights and biases."""
    table = model.components[0].log_probabilities
    layers = [np.array(part) for layer in guide.network.views(guide.params) for part in layer]
    return [np.array(model.log_weights), table[:, :, 1] - table[:, :, 0], *layers]


def torch_run(model: Mixture, guide: Amortized, x: np.ndarray, size: int) -> Callable[[int], Any]:
    """As PyTorch users write it."""
    import torch

    torch.set_num_threads(em.THREADS)
    rows = torch.tensor(x)

    def run(passes: int) -> float:
        weights, pixels, w0, b0, w1, b1 = params = [torch.tensor(p, requires_grad=True) for p in _start(model, guide)]
        adam = torch.optim.Adam(params, lr=RATE)
        loss = torch.zeros(())
        for batch in _batches(len(x), size, passes):
            seen = rows[torch.from_numpy(batch)]
            log_q = torch.log_softmax(torch.tanh(seen @ w0 + b0) @ w1 + b1, -1)
            on, off = torch.nn.functional.logsigmoid(pixels), torch.nn.functional.logsigmoid(-pixels)
            log_joint = torch.log_softmax(weights, 0) + seen @ on.T + (1.0 - seen) @ off.T
            loss = -(log_q.exp() * (log_joint - log_q)).sum(-1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return float(loss)

    return run


def jax_run(model: Mixture, guide: Amortized, x: np.ndarray, size: int) -> Callable[[int], Any]:
    """Loss, derivative and Adam in one jitted function."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    rows, each = jnp.asarray(x), jax.tree_util.tree_map

    def loss_of(params: Any, seen: Any) -> Any:
        weights, pixels, w0, b0, w1, b1 = params
        log_q = jax.nn.log_softmax(jnp.tanh(seen @ w0 + b0) @ w1 + b1, -1)
        on, off = jax.nn.log_sigmoid(pixels), jax.nn.log_sigmoid(-pixels)
        log_joint = jax.nn.log_softmax(weights) + seen @ on.T + (1.0 - seen) @ off.T
        return -(jnp.exp(log_q) * (log_joint - log_q)).sum(-1).mean()

    @jax.jit
    def update(params: Any, first: Any, second: Any, t: Any, batch: Any) -> Any:
        loss, slope = jax.value_and_grad(loss_of)(params, rows[batch])
        first = each(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = each(lambda v, g: 0.999 * v + 0.001 * g * g, second, slope)
        rate, root = RATE / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        return loss, each(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), params, first, second), first, second

    def run(passes: int) -> float:
        params = [jnp.asarray(p) for p in _start(model, guide)]
        first = second = each(jnp.zeros_like, params)
        loss = 0.0
        for t, batch in enumerate(_batches(len(x), size, passes), 1):
            loss, params, first, second = update(params, first, second, float(t), batch)
        return float(loss)

    return run


def pyro_run(model: Mixture, guide: Amortized, x: np.ndarray, size: int) -> Callable[[int], Any]:
    """SVI with the class enumerated in the guide."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, TraceEnum_ELBO

    torch.set_num_threads(em.THREADS)
    rows = torch.tensor(x)

    def program(seen: Any) -> None:
        weights, pixels = pyro.param("weights"), pyro.param("pixels")
        with pyro.plate("rows", len(seen)):
            z = pyro.sample("z", dist.Categorical(logits=weights))
            pyro.sample("x", dist.Bernoulli(logits=pixels[z], validate_args=False).to_event(1), obs=seen)

    def network(seen: Any) -> None:
        w0, b0, w1, b1 = (pyro.param(name) for name in ("w0", "b0", "w1", "b1"))
        logits = torch.tanh(seen @ w0 + b0) @ w1 + b1
        with pyro.plate("rows", len(seen)):
            pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    def run(passes: int) -> float:
        pyro.clear_param_store()
        for name, value in zip(("weights", "pixels", "w0", "b0", "w1", "b1"), _start(model, guide), strict=True):
            pyro.param(name, torch.tensor(value))
        svi = SVI(program, network, pyro.optim.Adam({"lr": RATE}), TraceEnum_ELBO(max_plate_nesting=1))
        loss = 0.0
        for batch in _batches(len(x), size, passes):
            loss = svi.step(rows[torch.from_numpy(batch)])
        return loss

    return run


PROMISED = {"Pyro, TraceEnum_ELBO": 25.0, "JAX, jitted": 1.0}
CASES = (
    em.Case("amortized ELBO, digits, 64-32-10, one step on all rows", digits_step(1797), (1, 9), PROMISED),
    em.Case("amortized ELBO, digits, 64-32-10, 15 steps on batches of 128", digits_step(128), (1, 5), PROMISED),
)
