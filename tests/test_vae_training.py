"""Training runs: the loss curve of PyTorch, every outcome, runs that go on to the same bits, files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from elbo_exact.fit.optimizers import SGD, Adam, AdamW
from elbo_exact.vae import GaussianVAE, TrainingOutcome, TrainingState, fit_vae


def data(n=150, n_features=5, seed=0):
    """Rows near a plane."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, n_features)) + 0.3 * rng.normal(size=(n, n_features))


def start(**settings):
    return GaussianVAE.random(5, 2, rng=1, **{"hidden": (8,), **settings})


def bits(run):
    return run.state.model.params.tobytes(), run.state.history.tobytes(), run.state.best.tobytes()


def test_training_raises_the_bound_and_counts():
    run = start().fit(data(), epochs=40, optimizer=Adam(1e-2), rng=0, validation=data(60, seed=3))
    assert run.outcome is TrainingOutcome.MAX_EPOCHS and run.n_epochs == 40
    history = run.history
    assert history["loss"][-1] < history["loss"][0] - 1.0
    assert run.state.optimizer.count == 40 * math.ceil(150 / 64)
    best = run.model.elbo(data(60, seed=3), noise=run.model.noise(4, 60, 0)).mean()
    assert best == history["validation"].max()


def test_the_start_is_not_touched():
    vae = start()
    before = vae.params.copy()
    assert vae.fit(data(), epochs=2, rng=0).model.params.tobytes() != before.tobytes() == vae.params.tobytes()


@pytest.mark.parametrize(
    "optimizer", [Adam(1e-2), SGD(1e-3, momentum=0.9), SGD(1e-3), AdamW(1e-2)], ids=["adam", "momentum", "sgd", "adamw"]
)
@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.Philox, np.random.SFC64, np.random.MT19937])
def test_a_run_goes_on_to_the_same_bits(tmp_path, optimizer, generator):
    x, held_out = data(), data(40, seed=3)
    settings = {
        "optimizer": optimizer,
        "validation": held_out,
        "warm_up": 2,
        "objective": "iwae",
        "gradient": "dreg",
        "num_samples": 3,
    }
    whole = start().fit(x, epochs=6, rng=np.random.Generator(generator(7)), **settings)
    file = tmp_path / "state.npz"
    start().fit(x, epochs=2, rng=np.random.Generator(generator(7)), checkpoint=file, **settings)
    for _ in range(2):  # twice broken off, twice loaded
        part = start().fit(x, epochs=2, resume=TrainingState.load(file), checkpoint=file, **settings)
    assert bits(part) == bits(whole)


def test_float32_runs_go_on_to_the_same_bits(tmp_path):
    whole = start(dtype=np.float32).fit(data(), epochs=4, rng=0)
    start(dtype=np.float32).fit(data(), epochs=2, rng=0, checkpoint=tmp_path / "a.npz")
    part = start().fit(data(), epochs=2, resume=TrainingState.load(tmp_path / "a.npz"))
    assert part.model.params.dtype == np.float32 and bits(part) == bits(whole)


def test_a_diverging_learning_rate_keeps_the_last_good_parameters():
    good = start().fit(data(), epochs=3, rng=0)
    bad = fit_vae(start(), data(), epochs=5, optimizer=Adam(1e9), rng=0, resume=good.state)
    assert bad.outcome is TrainingOutcome.DIVERGED and bad.detail.startswith("epoch 4, step ")
    assert bits(bad) == bits(good)
    first = start().fit(data(), epochs=5, optimizer=SGD(1e6), rng=0)
    assert first.outcome is TrainingOutcome.DIVERGED and first.model.params.tobytes() == start().params.tobytes()
    assert first.n_epochs == 0


def test_a_collapsed_variance_is_told():
    x = np.tile(data(1), (64, 1))  # one point: every variance goes to its floor
    run = start(min_log_variance=-2.0).fit(x, epochs=200, optimizer=Adam(2e-2), rng=0)
    assert run.outcome is TrainingOutcome.VARIANCE_COLLAPSE and "at the floor" in run.detail
    shares = run.history["floor_share"]
    assert run.n_epochs < 200 and (shares <= 0.5).all() and np.isfinite(run.model.params).all()
    tolerant = start(min_log_variance=-2.0).fit(x, epochs=200, optimizer=Adam(2e-2), rng=0, max_floor_share=1.0)
    assert tolerant.outcome is TrainingOutcome.MAX_EPOCHS and tolerant.history["floor_share"][-1] > 0.5


def test_early_stop_returns_the_best():
    x, held_out = data(20), data(60, seed=3)
    run = start(hidden=(32,)).fit(x, epochs=400, optimizer=Adam(2e-2), rng=0, validation=held_out, patience=10)
    assert run.outcome is TrainingOutcome.EARLY_STOP
    best = int(run.history["validation"].argmax())
    assert run.n_epochs == best + 1 + 10
    assert run.model.elbo(held_out, noise=run.model.noise(4, 60, 0)).mean() == run.history["validation"][best]


def test_the_best_epoch_by_exact_evidence():
    x, held_out = data(20), data(5, seed=3)
    settings = {"epochs": 12, "optimizer": Adam(5e-2), "rng": 0, "validation": held_out, "monitor": "evidence"}
    run = start(hidden=(6,), variance="shared").fit(x, **settings)
    exact = run.model.audit(held_out, q=False)
    slack = exact.discretization.log_evidence.mean() + 1e-6 * np.maximum(1.0, np.abs(exact.log_evidence)).mean()
    assert abs(exact.log_evidence.mean() - run.history["validation"].max()) <= slack
    assert (run.history["validation"] < run.history["validation"].max()).sum() == 11
    with pytest.raises(ValueError, match="monitor must be one of 'elbo', 'evidence'; got 'loss'"):
        start().fit(x, monitor="loss")


def test_an_interruption_keeps_the_last_epoch():
    def stop(state):
        if len(state.history) == 3:
            raise KeyboardInterrupt

    run = start().fit(data(), epochs=10, rng=0, on_epoch=stop)
    assert run.outcome is TrainingOutcome.INTERRUPTED and run.n_epochs == 3
    assert bits(run.state.model.fit(data(), epochs=7, resume=run.state)) == bits(start().fit(data(), epochs=10, rng=0))


def test_warm_up_raises_beta_in_equal_steps():
    run = start().fit(data(), epochs=6, warm_up=3, beta=0.8, rng=0)
    np.testing.assert_allclose(run.history["beta"], [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-15)


def test_clipping_bounds_the_step():
    run = start().fit(data(), epochs=1, batch_size=150, optimizer=SGD(1.0), max_norm=1e-3, rng=0)
    assert np.linalg.norm(run.model.params - start().params) == pytest.approx(1e-3, rel=1e-9)


def test_nan_in_the_data_is_named_before_any_step():
    x = data()
    x[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"x must be finite; got nan at index \(7, 2\)"):
        start().fit(x, epochs=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size must be an integer >= 1; got 0."),
        ({"beta": -1.0}, "beta must be a finite number >= 0; got -1.0."),
        ({"patience": 3}, "patience needs validation rows"),
        ({"objective": "mean"}, "objective must be one of 'elbo', 'iwae'; got 'mean'."),
        ({"gradient": "dreg"}, "gradient must be one of 'path'; got 'dreg'."),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        start().fit(data(), **settings)


def test_a_run_of_something_else_does_not_go_on():
    state = start().fit(data(), epochs=1, rng=0).state
    with pytest.raises(ValueError, match="resume must be a run of the same optimizer, with 0 moments; got 2."):
        start().fit(data(), optimizer=SGD(), resume=state)
    with pytest.raises(ValueError, match="resume must be a run of the same network"):
        start(hidden=(9,)).fit(data(), resume=state)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="x must hold at least one observation; got 0."):
        start().fit(np.empty((0, 5)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_models_come_back_to_the_bit(tmp_path, dtype):
    vae = start(dtype=dtype, variance="shared", activation="relu")
    vae.save(tmp_path / "vae.npz")
    back = GaussianVAE.load(tmp_path / "vae.npz")
    assert back.params.tobytes() == vae.params.tobytes() and back.params.dtype == dtype and back.settings() == vae.settings()
    assert [path.name for path in tmp_path.iterdir()] == ["vae.npz"]
    json.dumps(vae.to_dict(), allow_nan=False)


def test_files_of_another_kind_are_refused(tmp_path):
    file = tmp_path / "vae.npz"
    start().fit(data(), epochs=1, rng=0, checkpoint=file)
    with pytest.raises(ValueError, match=r"vae.npz is not a valid file of this library: it must hold exactly params.npy"):
        GaussianVAE.load(file)
    np.savez(file, params=np.zeros(3), settings=np.frombuffer(b"{}", np.uint8))
    with pytest.raises(ValueError, match="must hold a GaussianVAE of format 1; got kind None"):
        GaussianVAE.load(file)
    text = json.dumps({"kind": "GaussianVAE", "format": 1, "n_features": 5, "n_latent": 2, "hidden": [8]}).encode()
    np.savez(file, params=np.zeros(3), settings=np.frombuffer(text, np.uint8))
    with pytest.raises(ValueError, match="does not describe a model: params must be"):
        GaussianVAE.load(file)


def test_a_result_is_plain():
    run = start().fit(data(), epochs=2, rng=0, validation=data(10, seed=3))
    assert json.loads(json.dumps(run.to_dict(), allow_nan=False))["outcome"] == "MAX_EPOCHS"
