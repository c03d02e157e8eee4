"""Objectives and gradients of the VAE against PyTorch's, KL near zero, arguments, sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from elbo_exact.fit.optimizers import Adam
from elbo_exact.vae import GaussianVAE
from elbo_exact.vae._objective import kl_to_prior

torch_vae = pytest.importorskip("torch_vae")

DECODERS = [("gaussian", "pixel"), ("gaussian", "feature"), ("gaussian", "shared"), ("bernoulli", "pixel")]
ESTIMATORS = [("elbo", "path"), ("iwae", "path"), ("iwae", "stl"), ("iwae", "dreg")]


def case(likelihood="gaussian", variance="pixel", hidden=(7,), activation="tanh", n_samples=3, n_latent=2, floor=-6.0):
    """A model whose every parameter is away from zero, data and noise."""
    rng = np.random.default_rng(0)
    settings = {"hidden": hidden, "activation": activation, "likelihood": likelihood, "variance": variance}
    vae = GaussianVAE.random(5, n_latent, rng=rng, min_log_variance=floor, **settings)
    vae = vae.with_params(vae.params + 0.2 * rng.standard_normal(vae.n_params))
    x = rng.normal(size=(6, 5)) if likelihood == "gaussian" else (rng.random((6, 5)) < 0.5).astype(float)
    return vae, x, vae.noise(n_samples, 6, rng)


@pytest.mark.parametrize("hidden", [(), (7,), (6, 4)])
@pytest.mark.parametrize(("objective", "gradient"), ESTIMATORS)
@pytest.mark.parametrize(("likelihood", "variance"), DECODERS)
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_gradients_are_those_of_torch(likelihood, variance, objective, gradient, hidden, beta):
    for activation, n_samples in itertools.product(("tanh", "relu", "softplus"), (1, 3)):
        vae, x, noise = case(likelihood, variance, hidden, activation, n_samples)
        loss, slope = vae.loss_and_gradient(x, noise, objective=objective, gradient=gradient, beta=beta)
        exact_loss, exact_slope = torch_vae.loss_and_gradient(vae, x, noise, objective, gradient, beta)
        assert loss == pytest.approx(exact_loss, rel=1e-12)
        assert np.abs(slope - exact_slope).max() <= 1e-10 * np.abs(exact_slope).max()
        np.testing.assert_allclose(slope, exact_slope, rtol=1e-10, atol=1e-13 * np.abs(exact_slope).max())


@pytest.mark.parametrize("variance", ["pixel", "feature", "shared"])
def test_gradients_at_the_floor_are_those_of_torch(variance):
    vae, x, noise = case(variance=variance, floor=1.0)
    slope, exact_slope = vae.loss_and_gradient(x, noise)[1], torch_vae.loss_and_gradient(vae, x, noise)[1]
    assert (exact_slope == 0.0).any() or variance == "pixel"  # the floor is at work
    np.testing.assert_allclose(slope, exact_slope, rtol=1e-10, atol=1e-13 * np.abs(exact_slope).max())


@pytest.mark.parametrize(("objective", "gradient"), ESTIMATORS[:2])
def test_path_gradients_are_central_differences(objective, gradient):
    vae, x, noise = case(hidden=(6, 4))
    slope = vae.loss_and_gradient(x, noise, objective=objective, gradient=gradient)[1]
    h = 1e-5
    for i in range(0, vae.n_params, 11):
        ends = []
        for sign in (1, -1):
            moved = vae.params.copy()
            moved[i] += sign * h
            ends.append(vae.with_params(moved).loss_and_gradient(x, noise, objective=objective)[0])
        # third derivatives are of order 100 here, rounding of the loss 1e-14
        assert slope[i] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=100 * h * h / 6 + 1e-14 / h)


@pytest.mark.parametrize(("likelihood", "variance"), DECODERS)
def test_two_hundred_adam_steps_are_those_of_torch(likelihood, variance):
    torch = torch_vae.torch
    vae, x, _ = case(likelihood, variance)
    params = vae.params.copy()
    theirs = torch.tensor(params.copy(), requires_grad=True)
    adam, optimizer = Adam(1e-2), torch.optim.Adam([theirs], lr=1e-2)
    state, rng = adam.start(params), np.random.default_rng(5)
    for _ in range(200):
        noise = vae.noise(1, len(x), rng)
        loss, slope = vae.with_params(params).loss_and_gradient(x, noise)
        optimizer.zero_grad()
        expected = torch_vae.loss(vae, theirs, torch.tensor(x), torch.tensor(noise), "elbo", "path", 1.0)
        expected.backward()
        optimizer.step()
        assert loss == pytest.approx(float(expected.detach()), rel=1e-8, abs=1e-8)
        adam.update(params, slope, state)


def test_float32_is_float64_rounded():
    vae, x, noise = case()
    single = vae.with_params(vae.params.astype(np.float32))
    loss, slope = single.loss_and_gradient(x, noise, objective="iwae", gradient="dreg")
    exact_loss, exact_slope = vae.loss_and_gradient(x, noise, objective="iwae", gradient="dreg")
    assert slope.dtype == np.float32
    assert loss == pytest.approx(exact_loss, rel=100 * 2.0**-24)
    np.testing.assert_allclose(slope, exact_slope, atol=400 * 2.0**-24 * np.abs(exact_slope).max())
    assert single.elbo(x, noise=noise).dtype == np.float64


def test_kl_keeps_its_digits():
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        for mean, s in itertools.product((0.0, 1e-12, 0.5), (0.0, 1e-300, 1e-15, -1e-8, 1e-3, 0.06, -0.0626, 0.3, -5.0, 40.0)):
            m, v = mpmath.mpf(mean), mpmath.mpf(s)
            exact = (m * m + mpmath.expm1(v) - v) / 2
            found = float(kl_to_prior(np.array([[mean]]), np.array([[s]]))[0])
            # phi has 3 ulp (6u); square, sum and half round once each
            assert found == pytest.approx(float(exact), rel=9 * 2.0**-53, abs=1e-320)


def test_elbo_and_k_sample_bound_by_their_definitions():
    vae, x, noise = case(n_samples=4)
    mean, s = vae.encode(x)
    z = mean + np.exp(s / 2) * noise
    log_w = np.empty((len(x), 4))
    log_p = np.empty((len(x), 4))
    for n, k in itertools.product(range(len(x)), range(4)):
        decoded = vae.decode(z[k, n : n + 1])
        variance = np.exp(decoded.log_variance[0])
        log_p[n, k] = sum(-0.5 * (math.log(2 * math.pi * v) + (a - m) ** 2 / v)
                          for a, m, v in zip(x[n], decoded.mean[0], variance, strict=True))  # fmt: skip
        log_w[n, k] = log_p[n, k] - 0.5 * (z[k, n] ** 2).sum() + 0.5 * (noise[k, n] ** 2 + s[n]).sum()
    np.testing.assert_allclose(vae.elbo(x, noise=noise), log_p.mean(1) - vae.kl(x), rtol=1e-12)
    np.testing.assert_allclose(vae.iwae(x, 4, noise=noise), np.log(np.exp(log_w).mean(1)), rtol=1e-12)
    np.testing.assert_allclose(
        vae.iwae(x, 4, noise=noise).mean(), -vae.loss_and_gradient(x, noise, objective="iwae")[0], rtol=1e-12
    )


def test_noise_is_seeded():
    vae, x, _ = case()
    assert vae.elbo(x, rng=3).tobytes() == vae.elbo(x, rng=3).tobytes() != vae.elbo(x, rng=4).tobytes()
    assert vae.sample(5, rng=1).tobytes() == vae.sample(5, rng=1).tobytes()


def test_samples_have_the_moments_of_a_linear_gaussian_model():
    vae, _, _ = case(hidden=(), variance="feature")
    weight, bias = vae.decoder.views(vae.params[vae.decoder_slice])[0]
    covariance = weight.T @ weight + np.diag(np.exp(vae.params[vae.own_slice]))
    x, n = vae.sample(40_000, rng=0), 40_000
    assert (np.abs(x.mean(0) - bias) < 5 * np.sqrt(np.diag(covariance) / n)).all()
    spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / n)
    assert (np.abs(np.cov(x.T) - covariance) < 5 * spread).all()


def test_bernoulli_samples_and_reconstructions():
    vae, x, _ = case("bernoulli")
    assert set(np.unique(vae.sample(20, rng=0))) <= {0.0, 1.0}
    assert ((vae.reconstruct(x) > 0) & (vae.reconstruct(x) < 1)).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda vae: vae.encode(np.zeros((3, 4))), r"x must have shape \(N, 5\); got \(3, 4\)."),
        (lambda vae: vae.encode([[0, 0, np.nan, 0, 0]]), r"x must be finite; got nan at index \(0, 2\); drop or fill the row."),
        (lambda vae: vae.decode(np.zeros(2)), r"z must have shape \(S, 2\); got \(2,\)."),
        (lambda vae: vae.elbo(np.zeros((3, 5)), noise=np.zeros((1, 2, 2))), r"noise must have shape \(K, 3, 2\), K >= 1; got"),
        (lambda vae: vae.with_params(np.zeros(3)), r"params must be a float64 or float32 vector of shape"),
        (
            lambda vae: vae.loss_and_gradient(np.zeros((1, 5)), np.zeros((1, 1, 2)), gradient="stl"),
            "gradient must be one of 'path'",
        ),
        (lambda vae: GaussianVAE.random(5, 2, likelihood="poisson"), "likelihood must be one of 'gaussian', 'bernoulli'"),
        (lambda vae: GaussianVAE.random(5, 2, variance="none"), "variance must be one of"),
        (lambda vae: GaussianVAE.random(5, 0), "n_latent must be an integer >= 1; got 0."),
        (lambda vae: GaussianVAE.random(5, 2, min_log_variance=-math.inf), "min_log_variance must be finite; got -inf"),
    ],
)
def test_mistakes_are_told(call, words):
    with pytest.raises(ValueError, match=words):
        call(case()[0])


def test_bernoulli_refuses_gray():
    with pytest.raises(ValueError, match=r"x must be 0 or 1 for a Bernoulli decoder; got 0.5 at index \(0, 0\); binarize it."):
        case("bernoulli")[0].encode(np.full((1, 5), 0.5))
