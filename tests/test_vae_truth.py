"""Quadrature of the VAE against closed forms, Arb integration, and bounds that must lie below."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.vae import GaussianVAE
from elbo_exact.vae._coordinates import find_box

flint = pytest.importorskip("flint")
mpmath = pytest.importorskip("mpmath")


def linear_cases(n_latent, n_models, seed=0):
    """Linear-Gaussian models from flat to sharp, with rows near and far; the encoder is one that a fit might have."""
    rng = np.random.default_rng(seed)
    for _ in range(n_models):
        n_features = int(rng.integers(1, 9))
        vae = GaussianVAE.random(n_features, n_latent, hidden=(), variance=str(rng.choice(["feature", "shared"])), rng=rng)
        params = (vae.params + 0.5 * rng.standard_normal(vae.n_params)) * rng.choice([0.3, 1.0, 3.0])
        params[vae.own_slice] = rng.uniform(-6.0, 2.0, params[vae.own_slice].shape)
        params[vae.encoder_slice] *= 0.2
        vae = vae.with_params(params)
        yield vae, vae.sample(2, rng) + rng.choice([0.0, 1.0, 3.0])


def closed_forms(vae, row):
    """log evidence, ELBO and KL(p || q) of a linear-Gaussian model, to 40 digits."""
    with mpmath.workdps(40):
        weight, bias = vae.decoder.views(vae.params[vae.decoder_slice])[0]
        s = np.broadcast_to(np.maximum(vae.params[vae.own_slice], vae.min_log_variance), (vae.n_features,))
        w, noise = mpmath.matrix(weight.tolist()), mpmath.diag([mpmath.exp(mpmath.mpf(float(v))) for v in s])
        residual = mpmath.matrix([mpmath.mpf(float(a)) - mpmath.mpf(float(b)) for a, b in zip(row, bias, strict=True)])
        covariance = w.T * w + noise
        squares = (residual.T * mpmath.lu_solve(covariance, residual))[0]
        evidence = -(squares + mpmath.log(mpmath.det(covariance)) + vae.n_features * mpmath.log(2 * mpmath.pi)) / 2
        precision = mpmath.eye(vae.n_latent) + w * noise**-1 * w.T
        spread = precision**-1
        mean = spread * (w * noise**-1 * residual)
        code = vae.encode(row[None])
        m = mpmath.matrix([mpmath.mpf(float(v)) for v in code.mean[0]])
        v = [mpmath.exp(mpmath.mpf(float(t))) for t in code.log_variance[0]]
        reverse = kl_normal(m, mpmath.diag(v), mean, spread)
        forward = kl_normal(mean, spread, m, mpmath.diag(v))
        return float(evidence), float(evidence - reverse), float(reverse), float(forward)


def kl_normal(m0, c0, m1, c1):
    """KL between two normal distributions."""
    back, d = c1**-1, m1 - m0
    trace = sum((back * c0)[i, i] for i in range(len(m0)))
    return (trace + (d.T * back * d)[0] - len(m0) + mpmath.log(mpmath.det(c1) / mpmath.det(c0))) / 2


@pytest.mark.parametrize(("n_latent", "n_models"), [(1, 30), (2, 30), (3, 4)])
def test_evidence_of_linear_models_is_right_to_its_estimate(n_latent, n_models):
    ratios = []
    for vae, x in linear_cases(n_latent, n_models):
        result = vae.audit(x, q=False)
        exact = [closed_forms(vae, row)[0] for row in x]
        ratios.extend(np.abs(result.log_evidence - exact) / result.discretization.log_evidence)
        assert (result.discretization.log_evidence <= 1e-11 * np.maximum(1.0, np.abs(exact)) + 1e-11).all()
    assert np.mean(np.array(ratios) <= 1.0) >= 0.98 and max(ratios) <= 2.0


@pytest.mark.parametrize(("n_latent", "n_models"), [(1, 10), (2, 10), (3, 2)])
def test_posteriors_beyond_the_range_of_the_prior_are_found(n_latent, n_models):
    """Rows that only z of length 10 to 40 explains, and an encoder that does not know."""
    rng = np.random.default_rng(5)
    for vae, _ in linear_cases(n_latent, n_models, seed=2):
        params = vae.params.copy()
        params[vae.encoder_slice] = 0.0
        vae = vae.with_params(params)
        z = rng.normal(size=(1, n_latent))
        row = vae.decode(z * (rng.uniform(10.0, 40.0) / np.linalg.norm(z))).mean
        found, exact = vae.audit(row), closed_forms(vae, row[0])
        for name, value in zip(("log_evidence", "elbo", "gap", "forward_kl"), exact, strict=True):
            slack = getattr(found.discretization, name)[0] + getattr(found.error, name)[0]
            assert abs(getattr(found, name)[0] - value) <= 2.0 * slack + 2.0**-50 * abs(value), name


def test_a_box_that_cannot_hold_a_density_says_so():
    box, is_whole = find_box(lambda z: -0.5 * z[:, 0] ** 2, np.zeros(1), np.eye(1))
    assert is_whole and -12.0 < box[0][0] < -9.0
    assert not find_box(lambda z: np.zeros(len(z)), np.zeros(1), np.eye(1))[1]


@pytest.mark.parametrize(("n_latent", "n_models"), [(1, 15), (2, 10), (3, 1)])
def test_elbo_and_both_divergences_of_linear_models(n_latent, n_models):
    names = ("log_evidence", "elbo", "gap", "forward_kl")
    for vae, x in linear_cases(n_latent, n_models, seed=4):
        result = vae.audit(x)
        for i, row in enumerate(x):
            for name, exact in zip(names, closed_forms(vae, row), strict=True):
                slack = getattr(result.discretization, name)[i] + getattr(result.error, name)[i]
                assert abs(getattr(result, name)[i] - exact) <= 2.0 * slack, name


def small_network(n_latent=1, likelihood="gaussian"):
    rng = np.random.default_rng(5)
    vae = GaussianVAE.random(3, n_latent, hidden=(4,), likelihood=likelihood, variance="feature", rng=rng)
    vae = vae.with_params(vae.params + 0.7 * rng.standard_normal(vae.n_params))
    return vae, vae.sample(4, rng)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_evidence_of_a_network_is_that_of_arb(likelihood):
    """One latent dimension, tanh: Arb integrates the analytic joint over [-12, 12]; beyond, the prior holds e^-72."""
    vae, x = small_network(1, likelihood)
    (w0, b0), (w1, b1) = vae.decoder.views(vae.params[vae.decoder_slice])
    acb, arb = flint.acb, flint.arb
    result = vae.audit(x)
    for i, row in enumerate(x):

        def joint(z, _, row=row):
            hidden = [(z * acb(float(w)) + acb(float(b))).tanh() for w, b in zip(w0[0], b0, strict=True)]
            total = -(z * z + (2 * arb.pi()).log()) / 2
            for j, value in enumerate(row):
                out = acb(float(b1[j])) + sum((h * acb(float(w)) for h, w in zip(hidden, w1[:, j], strict=True)), acb(0))
                if likelihood == "bernoulli":
                    total -= (1 + (out if value < 0.5 else -out).exp()).log()
                else:
                    s = arb(max(float(vae.params[vae.own_slice][j]), -6.0))
                    total -= ((acb(float(value)) - out) ** 2 * (-s).exp() + s + (2 * arb.pi()).log()) / 2
            return total.exp()

        ball = acb.integral(joint, acb(-12), acb(12)).real.log()
        assert float(ball.rad()) < 1e-12
        assert abs(result.log_evidence[i] - float(ball.mid())) <= result.discretization.log_evidence[i] + 1e-12


@pytest.mark.parametrize("n_latent", [1, 2])
def test_sampled_bounds_lie_below_and_the_elbo_is_their_mean(n_latent):
    vae, x = small_network(n_latent)
    result = vae.audit(x)
    assert (result.elbo <= result.log_evidence).all() and (result.log_evidence <= result.eubo).all()
    bounds = [vae.iwae(x, 8, rng=seed) for seed in range(400)]
    spread = np.std(bounds, axis=0) / math.sqrt(400)
    assert (np.mean(bounds, axis=0) <= result.log_evidence + 5 * spread).all()
    samples = np.array([vae.elbo(x, rng=seed) for seed in range(400)])
    assert (np.abs(samples.mean(0) - result.elbo) <= 5 * samples.std(0) / 20).all()


def test_two_modes_are_both_found():
    """x = |z| folded smoothly: the posterior has two narrow modes of equal mass; one of them alone would lack log 2."""
    vae = GaussianVAE.sized(1, 1, hidden=(2,), variance="shared")
    params = vae.params.copy()
    (w0, b0), (w1, _) = vae.decoder.views(params[vae.decoder_slice])
    w0[...], b0[...], w1[...] = [[3.0, -3.0]], [-4.5, -4.5], [[1.0], [1.0]]
    params[vae.own_slice] = -6.0
    vae = vae.with_params(params)
    z = np.linspace(-8.0, 8.0, 200_001)[:, None]
    grid_model = vae.log_joint(np.array([[-1.0]]), z) + math.log(z[1, 0] - z[0, 0])
    result = vae.audit(np.array([[-1.0]]), q=False)
    assert abs(result.log_evidence[0] - ee.log_evidence(grid_model)[0]) <= result.discretization.log_evidence[0] + 1e-11
    posterior = np.exp(vae.log_posterior(np.array([[-1.0]]), z)[0])
    assert posterior[: len(z) // 2].sum() == pytest.approx(posterior[len(z) // 2 + 1 :].sum(), rel=1e-9)
    assert posterior.sum() * (z[1, 0] - z[0, 0]) == pytest.approx(1.0, rel=1e-9)


def test_rows_do_not_depend_on_their_company():
    vae, x = small_network(2)
    whole, alone = vae.audit(x), vae.audit(x[2:3])
    for name, values in alone.values.items():
        assert values[0] == whole.values[name][2]


def test_a_point_like_q_is_admitted():
    """A standard deviation of 1e-15 is below the spacing of doubles near z: the estimate must say so."""
    vae = GaussianVAE.sized(2, 1, hidden=(), variance="shared")
    params = vae.params.copy()
    params[vae.encoder_slice][-2:] = [20.0, -70.0]
    vae = vae.with_params(params)
    result = vae.audit(np.zeros((1, 2)))
    exact = -0.5 * (2 * math.log(2 * math.pi)) - vae.kl(np.zeros((1, 2)))[0]
    assert abs(result.elbo[0] - exact) <= result.discretization.elbo[0]
    assert result.log_evidence[0] == pytest.approx(-math.log(2 * math.pi), abs=1e-12)


def test_log_joint_by_its_definition():
    vae, x = small_network(2)
    z = np.array([[0.3, -1.0], [2.0, 0.5]])
    decoded = vae.decode(z)
    for i, row in enumerate(x):
        for j in range(2):
            terms = [-0.5 * (math.log(2 * math.pi) + v * v) for v in z[j]]
            terms += [-0.5 * (math.log(2 * math.pi) + s + (a - m) ** 2 / math.exp(s))
                      for a, m, s in zip(row, decoded.mean[j], decoded.log_variance, strict=True)]  # fmt: skip
            assert vae.log_joint(x, z)[i, j] == pytest.approx(math.fsum(terms), rel=1e-13)


def test_four_dimensions_are_refused():
    with pytest.raises(ee.EnumerationTooLarge, match="n_latent must be at most 3 for an integral over z; got 4"):
        GaussianVAE.random(3, 4, rng=0).log_evidence(np.zeros((1, 3)))


def test_an_audit_is_plain():
    vae, x = small_network(1)
    plain = vae.audit(x).to_dict()
    assert set(plain) == {*vae.audit(x).values, "error", "discretization", "n_nodes"}
    json.dumps(plain, allow_nan=False)
    with pytest.raises(AttributeError, match="VAEAudit has no quantity 'elbo'; it has log_evidence"):
        _ = vae.audit(x, q=False).elbo
