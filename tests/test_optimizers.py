"""Optimizers against PyTorch's, schedules and clipping against their definitions, states that go on to the same bits."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from elbo_exact.fit.optimizers import SGD, Adam, AdamW, Cosine, Exponential, clip
from elbo_exact.kernels.descent import adam_double

torch = pytest.importorskip("torch")
PAIRS = [
    (SGD(0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    (SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    (SGD(0.05, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    (Adam(0.02, 0.8, 0.99, 1e-6), lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.99), eps=1e-6)),
    (AdamW(0.02, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1)),
]
IDS = ["sgd", "momentum", "nesterov", "adam", "adamw"]
SCALES = np.array([0.5, 3.0, 8.0, 0.01])


def slope(p):
    """Gradient of a loss that is no quadratic."""
    return SCALES * p + np.sin(3.0 * p)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=IDS)
def test_two_hundred_steps_are_those_of_torch(ours, theirs):
    params = np.array([1.0, -2.0, 0.3, 5.0])
    tensor = torch.tensor(params.copy(), requires_grad=True)
    optimizer, state = theirs([tensor]), ours.start(params)
    for _ in range(200):
        tensor.grad = torch.tensor(slope(tensor.detach().numpy()))
        optimizer.step()
        ours.update(params, slope(params), state)
        np.testing.assert_allclose(params, tensor.detach().numpy(), rtol=1e-10, atol=1e-12)
    assert state.count == 200


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS], ids=IDS)
def test_a_copied_state_goes_on_to_the_same_bits(ours):
    params = np.array([1.0, -2.0, 0.3, 5.0])
    state = ours.start(params)
    for i in range(30):
        if i == 11:
            other, other_state = params.copy(), state.copy()
        ours.update(params, slope(params), state)
    for _ in range(11, 30):
        ours.update(other, slope(other), other_state)
    assert other.tobytes() == params.tobytes()


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS], ids=IDS)
def test_float32_stays_float32(ours):
    single, double = np.array([1.0, -2.0], np.float32), np.array([1.0, -2.0])
    first, second = ours.start(single), ours.start(double)
    for _ in range(5):
        ours.update(single, np.float32(2.0) * single, first)
        ours.update(double, 2.0 * double, second)
    assert single.dtype == np.float32 and all(moment.dtype == np.float32 for moment in first.moments)
    np.testing.assert_allclose(single, double, rtol=40 * 2.0**-24)


def test_adam_by_the_paper():
    rng = np.random.default_rng(3)
    p, g, m, v = rng.normal(size=9), rng.normal(size=9), rng.normal(size=9), rng.random(9)
    exact_m, exact_v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    exact_p = 0.99 * p - 0.01 * exact_m / (np.sqrt(exact_v) / 0.5 + 1e-8)
    adam_double(p, g, m, v, 0.01, 0.9, 0.999, 0.5, 1e-8, 0.99)
    np.testing.assert_allclose([p, m, v], [exact_p, exact_m, exact_v], rtol=1e-13, atol=1e-15)


def test_schedules_by_their_formulas():
    assert [Exponential(0.5, 3, staircase=True)(k) for k in (0, 2, 3, 6)] == [1.0, 1.0, 0.5, 0.25]
    cosine = Cosine(100, 10, 0.1)
    for step in range(10, 101):
        assert cosine(step) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * (step - 10) / 90)), rel=1e-14)
    rates = []
    for factor in (Cosine(4), Exponential(0.5)):
        params = np.zeros(1)
        descent = SGD(1.0, schedule=factor)
        state = descent.start(params)
        for _ in range(3):
            before = params.copy()
            descent.update(params, -np.ones(1), state)
            rates.append(float((params - before)[0]))
    np.testing.assert_allclose(rates, [Cosine(4)(k) for k in range(3)] + [1.0, 0.5, 0.25], rtol=1e-15)


def test_clip_keeps_short_ones_and_reports_bad_ones():
    gradient = np.array([0.3, 0.4])
    assert clip(gradient, 1.0) == 0.5 and gradient.tolist() == [0.3, 0.4]
    assert math.isnan(clip(np.array([math.nan]), 1.0))
    infinite = np.array([math.inf, 1.0])
    assert clip(infinite, 1.0) == math.inf and infinite.tolist() == [math.inf, 1.0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Adam(-1.0), "learning_rate must be a finite number >= 0; got -1.0."),
        (lambda: Adam(1e-3, 1.0), "beta1 must be a finite number in 0 <= beta1 < 1; got 1.0."),
        (lambda: SGD(math.nan), "learning_rate must be a finite number >= 0; got nan."),
        (lambda: SGD(momentum=1.0), "momentum must be a finite number in 0 <= momentum < 1; got 1.0."),
        (lambda: AdamW(weight_decay=math.inf), "weight_decay must be a finite number >= 0; got inf."),
        (lambda: Exponential(2.0), "decay must be a finite number in 0 <= decay <= 1; got 2.0."),
        (lambda: Cosine(5, 5), "total must be an integer >= 6; got 5."),
    ],
)
def test_settings_are_checked(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
