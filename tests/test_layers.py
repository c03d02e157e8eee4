"""Layers against their definitions, PyTorch's automatic derivatives, and central differences."""

from __future__ import annotations

import numpy as np
import pytest

from elbo_exact._layers import ACTIVATIONS, Perceptron, activate, affine, log_softmax

torch = pytest.importorskip("torch")
TORCH = {"tanh": torch.tanh, "relu": torch.relu, "softplus": torch.nn.functional.softplus}
EDGES = np.array([-800.0, -40.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 15.0, 800.0])
U = 2.0**-53


def with_gradient(function, x, cotangent):
    x = torch.tensor(x, requires_grad=True)
    value = function(x)
    (value * torch.tensor(cotangent)).sum().backward()
    return value.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_activations_are_those_of_torch(name):
    cotangent = np.linspace(1.0, 2.0, len(EDGES))
    value, slope = with_gradient(TORCH[name], EDGES, cotangent)
    ours, pullback = activate(name, EDGES.copy())
    np.testing.assert_allclose(ours, value, rtol=8 * U, atol=0)
    np.testing.assert_allclose(pullback(cotangent), slope, rtol=0, atol=16 * U)


def test_softplus_by_its_definition_far_out():
    value, pullback = activate("softplus", EDGES.copy())
    exact = np.where(EDGES < -700, 0.0, np.where(EDGES > 40, EDGES, np.log1p(np.exp(np.minimum(EDGES, 40.0)))))
    np.testing.assert_allclose(value, exact, rtol=16 * U, atol=0)
    sigmoid = 1.0 / (1.0 + np.exp(np.minimum(-EDGES, 700.0)))
    np.testing.assert_allclose(pullback(np.ones(len(EDGES))), sigmoid, rtol=16 * U, atol=1e-300)


def test_log_softmax_is_that_of_torch():
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(2, 5, 7)) * 30
    value, slope = with_gradient(lambda t: torch.log_softmax(t, -1), x, cotangent)
    ours, pullback = log_softmax(x)
    np.testing.assert_allclose(ours, value, rtol=16 * U, atol=200 * U)
    np.testing.assert_allclose(pullback(cotangent), slope, rtol=0, atol=1000 * U * np.abs(cotangent).max())


def test_affine_is_its_definition():
    rng = np.random.default_rng(1)
    x, w, b, c = rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2), rng.normal(size=(4, 2))
    value, pullback = affine(x, w, b)
    d_w, d_b = np.empty((3, 2)), np.empty(2)
    d_x = pullback(c, d_w, d_b)
    exact = [[sum(x[n, i] * w[i, o] for i in range(3)) + b[o] for o in range(2)] for n in range(4)]
    np.testing.assert_allclose(value, exact, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        d_x, [[sum(c[n, o] * w[i, o] for o in range(2)) for i in range(3)] for n in range(4)], atol=1e-14
    )
    np.testing.assert_allclose(
        d_w, [[sum(x[n, i] * c[n, o] for n in range(4)) for o in range(2)] for i in range(3)], atol=1e-14
    )
    np.testing.assert_allclose(d_b, c.sum(0), atol=1e-14)
    assert pullback(c, d_w, d_b, False) is None


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("sizes", [(5, 3), (5, 7, 3), (4, 6, 5, 2)])
def test_perceptron_gradient_is_that_of_torch(name, sizes):
    rng = np.random.default_rng(2)
    network = Perceptron(sizes, name)
    params, x, c = network.initial(rng), rng.normal(size=(8, sizes[0])), rng.normal(size=(8, sizes[-1]))
    value, pullback = network.forward(params, x)
    gradient = np.full(network.n_params, np.nan)
    d_x = pullback(c, gradient)
    flat, inputs = torch.tensor(params, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, layers = inputs, network.views(flat)
    for i, (weight, bias) in enumerate(layers):
        y = y @ weight + bias
        y = TORCH[name](y) if i + 1 < len(layers) else y
    (y * torch.tensor(c)).sum().backward()
    np.testing.assert_allclose(value, y.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(gradient, flat.grad.numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(d_x, inputs.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_views_share_memory_and_float32_stays():
    network = Perceptron((3, 4, 2))
    params = network.initial(np.random.default_rng(0), np.float32)
    assert params.dtype == np.float32
    assert all(np.shares_memory(part, params) for pair in network.views(params) for part in pair)
    value, pullback = network.forward(params, np.ones((2, 3), np.float32))
    gradient = np.empty_like(params)
    assert value.dtype == np.float32 and pullback(value, gradient).dtype == np.float32


@pytest.mark.parametrize("sizes", [(3,), (3, 0), (3, 2.5)])
def test_sizes_are_checked(sizes):
    with pytest.raises(ValueError, match="sizes must"):
        Perceptron(sizes)


def test_activation_is_checked():
    with pytest.raises(ValueError, match="activation must be one of 'tanh', 'relu', 'softplus'; got 'gelu'"):
        Perceptron((3, 2), "gelu")
