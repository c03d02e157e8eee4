"""One training step of a Gaussian VAE: ours beside PyTorch and jitted JAX, same network, data, noise law and float width.

A step is: draw noise, loss, gradient, Adam. Run ``python benchmarks/vae.py``; ``--quick`` for a smoke run whose times mean nothing. The promise:
(64-64-2, batch 64, float64) at least 2.5 times as fast as PyTorch, (784-400-20, batch 128) at least as fast.
"""

from __future__ import annotations

import em  # first: it sets the number of threads before NumPy is imported

import argparse  # isort: skip
import statistics
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from measure import interleaved

from elbo_exact.fit.optimizers import Adam
from elbo_exact.vae import GaussianVAE

SIZES = {"64-64-2, batch 64": (64, 64, 2, 64, 2.5), "784-400-20, batch 128": (784, 400, 20, 128, 1.0)}
LOG_2PI = float(np.log(2 * np.pi))
FLOOR = -6.0


def ours(vae: GaussianVAE, x: np.ndarray) -> Callable[[], float]:
    """A step of this library."""
    adam, rng = Adam(1e-3), np.random.default_rng(0)
    params = vae.params.copy()
    state, slope = adam.start(params), np.empty_like(params)
    from elbo_exact.vae._objective import loss_and_gradient

    def step() -> float:
        noise = rng.standard_normal((1, len(x), vae.n_latent), dtype=params.dtype.type)
        loss, _ = loss_and_gradient(vae, params, x, noise, out=slope)
        adam.update(params, slope, state)
        return loss

    return step


def torch_step(vae: GaussianVAE, x: np.ndarray) -> Callable[[], float]:
    """A step as PyTorch users write it: linear layers, automatic derivative, torch.optim.Adam."""
    import torch

    torch.set_num_threads(em.THREADS)
    rows, features, latent = torch.tensor(x), vae.n_features, vae.n_latent
    maps = []
    for network, part in ((vae.encoder, vae.encoder_slice), (vae.decoder, vae.decoder_slice)):
        for weight, bias in network.views(vae.params[part]):
            layer = torch.nn.Linear(*weight.shape, dtype=rows.dtype)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(weight.T.copy()))
                layer.bias.copy_(torch.tensor(bias.copy()))
            maps.append(layer)
    optimizer = torch.optim.Adam([p for layer in maps for p in layer.parameters()], lr=1e-3)

    def step() -> float:
        code = maps[1](torch.tanh(maps[0](rows)))
        mean, log_variance = code[:, :latent], code[:, latent:]
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        out = maps[3](torch.tanh(maps[2](z)))
        s = torch.clamp(out[:, features:], min=FLOOR)
        log_p = -0.5 * ((rows - out[:, :features]) ** 2 * torch.exp(-s) + s + LOG_2PI).sum(1)
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1.0 - log_variance).sum(1)
        loss = -(log_p - kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def jax_step(vae: GaussianVAE, x: np.ndarray) -> Callable[[], float]:
    """The same, loss, derivative and Adam in one jitted function."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    features, latent, rows = vae.n_features, vae.n_latent, jnp.asarray(x)

    def loss_of(params, noise):
        (w0, b0), (w1, b1), (w2, b2), (w3, b3) = params
        code = jnp.tanh(rows @ w0 + b0) @ w1 + b1
        mean, log_variance = code[:, :latent], code[:, latent:]
        out = jnp.tanh((mean + jnp.exp(0.5 * log_variance) * noise) @ w2 + b2) @ w3 + b3
        s = jnp.maximum(out[:, features:], FLOOR)
        log_p = -0.5 * ((rows - out[:, :features]) ** 2 * jnp.exp(-s) + s + LOG_2PI).sum(1)
        kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1.0 - log_variance).sum(1)
        return -(log_p - kl).mean()

    @jax.jit
    def update(params, first, second, t, key):
        key, used = jax.random.split(key)
        loss, slope = jax.value_and_grad(loss_of)(params, jax.random.normal(used, (len(x), latent), rows.dtype))
        each = jax.tree_util.tree_map
        first = each(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = each(lambda v, g: 0.999 * v + 0.001 * g * g, second, slope)
        rate, root = 1e-3 / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        params = each(lambda p, m, v: (p - rate * m / (jnp.sqrt(v) / root + 1e-8)).astype(p.dtype), params, first, second)
        return loss, params, first, second, t + 1, key

    networks = ((vae.encoder, vae.encoder_slice), (vae.decoder, vae.decoder_slice))
    start = [(jnp.asarray(w), jnp.asarray(b)) for n, part in networks for w, b in n.views(vae.params[part])]
    zeros = jax.tree_util.tree_map(jnp.zeros_like, start)
    box = [0.0, start, zeros, zeros, 1, jax.random.PRNGKey(0)]

    def step() -> float:
        box[:] = update(*box[1:])
        return float(box[0])

    return step


def contenders(vae: GaussianVAE, x: np.ndarray) -> dict[str, Callable[[], float]]:
    """Every step that can run here."""
    rivals = {"torch": torch_step, "jax": jax_step}
    return {"elbo_exact": ours(vae, x)} | {name: make(vae, x) for name, make in rivals.items() if find_spec(name)}


def main() -> int:
    """Print a table of microseconds and ratios; 1 if a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    kept = True
    print("| network | float | library | median, microseconds a step | times ours |\n|---|---|---|---|---|")
    for size, (features, hidden, latent, batch, promised) in SIZES.items():
        for dtype in (np.float64, np.float32):
            vae = GaussianVAE.random(features, latent, hidden=(hidden,), rng=0, dtype=dtype)
            x = np.random.default_rng(1).normal(size=(batch, features)).astype(dtype)
            repetitions = 3 if quick else 400 if hidden < 100 else 60
            times = interleaved(contenders(vae, x), repetitions)
            medians = {name: 1e6 * statistics.median(seconds) for name, seconds in times.items()}
            for name, median in medians.items():
                print(f"| {size} | {np.dtype(dtype).name} | {name} | {median:.0f} | {median / medians['elbo_exact']:.2f} |")
            if dtype is np.float64 and "torch" in medians and not quick:
                kept &= medians["torch"] >= promised * medians["elbo_exact"]
    print("promises kept" if kept else "A PROMISE IS BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
