"""Log joints and networks as sums over tables against the model's and the guide's own, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest

from elbo_exact.families import Bernoulli, Categorical, Poisson
from elbo_exact.fit.parameters import parameter_arrays
from elbo_exact.guides import Amortized, Factors
from elbo_exact.models import Mixture
from elbo_exact.models._linear import linear_mixture, linear_network
from elbo_exact.space import LatentSpace

RNG = np.random.default_rng(2)
X = np.column_stack([RNG.integers(0, 2, 30), RNG.integers(0, 2, 30), RNG.integers(0, 3, 30)]).astype(float)
X[::5, 1] = np.nan
MODEL = Mixture(
    np.log([0.2, 0.3, 0.5]),
    [Bernoulli.random(3, 2, rng=1), Categorical(np.log([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.5, 0.5 - 1e-9, 1e-9]]))],
)


def flat(model):
    return np.concatenate([array.ravel() for array in parameter_arrays(model).values()])


@pytest.mark.parametrize("rows", [None, np.array([4, 0, 7, 5])])
def test_products_are_the_log_joint_and_its_pullback(rows):
    form = linear_mixture(MODEL, X)
    table, back = form.log_joint(flat(MODEL), form.coded.codes if rows is None else form.coded.codes[rows])
    seen = X if rows is None else X[rows]
    exact, error = MODEL.log_joint_and_error(seen)
    np.testing.assert_allclose(table, exact, rtol=0, atol=2.0 * error.max())  # the same sums in another order
    cotangent = RNG.normal(size=table.shape)
    ours, theirs = back(np.asfortranarray(cotangent)), MODEL.pullback(seen, cotangent)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=30 * 3 * 2.0**-50)  # sums of thirty rows of three terms


def test_parameters_need_not_be_normalized():
    form, params = linear_mixture(MODEL, X), flat(MODEL)
    shifted = params.copy()
    shifted[:3] += 1.0
    shifted[-3:] -= 2.0
    codes = form.coded.codes
    np.testing.assert_allclose(form.log_joint(shifted, codes)[0], form.log_joint(params, codes)[0], rtol=0, atol=2.0**-46)


def test_structural_zeros_have_no_gradient_and_no_nan():
    model = Mixture(np.log([0.5, 0.5]), [Categorical(np.array([[0.0, -np.inf], np.log([0.5, 0.5])]))])
    x = np.array([[0.0], [1.0]])
    form = linear_mixture(model, x)
    table, back = form.log_joint(flat(model), form.coded.codes)
    assert table[1, 0] < -1e7 and np.isfinite(table).all()
    gradient = back(np.array([[0.5, 0.5], [0.0, 1.0]]))
    assert gradient[3] == 0.0 and np.isfinite(gradient).all()


@pytest.mark.parametrize("hidden", [(), (5,), (33, 4)])
@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
@pytest.mark.parametrize("factors", [Factors.free(LatentSpace((4,))), Factors.chain(LatentSpace((2, 2)))])
def test_a_network_on_codes_is_the_guide_and_its_pullback(hidden, activation, factors):
    x = np.column_stack([RNG.integers(0, 2, 40), RNG.integers(0, 2, 40), RNG.integers(0, 3, 40)]).astype(float)
    model = Mixture.random(4, [2, 2, 3], rng=0)
    guide = Amortized.random(3, factors, hidden=hidden, activation=activation, rng=1)
    form = linear_network(guide, linear_mixture(model, x))
    batch = RNG.permutation(40)[:33]
    table, back = form.log_q(guide.params, form.coded.codes[batch])
    expected, to_params = guide.forward(x[batch])
    # sums of at most 33 terms in another order, through one or two more layers of so many
    np.testing.assert_allclose(table, expected, rtol=0, atol=33**2 * 2.0**-52 * (1.0 + np.abs(expected).max()))
    cotangent = RNG.normal(size=table.shape)
    found, wanted = back(np.asfortranarray(cotangent)), to_params(cotangent)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=33**2 * 2.0**-52 * (1.0 + np.abs(wanted).max()))


def test_other_models_and_guides_have_no_such_form():
    assert linear_network(object(), linear_mixture(MODEL, X)) is None
    assert linear_network(Amortized.random(1, LatentSpace((2,)), rng=0), None) is None
    assert linear_mixture(Mixture(np.log([0.5, 0.5]), [Poisson(np.zeros((2, 1)))]), X[:, :1]) is None
