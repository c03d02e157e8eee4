"""The study behind the command, its data, its pictures and its lines, on small data."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from elbo_exact import _vae_plots
from elbo_exact._vae_study import load_data, vae_study
from elbo_exact.cli import main


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "rows.npz"
    np.savez(path, x=rng.normal(size=(80, 2)) @ rng.normal(size=(2, 9)) + 0.2 * rng.normal(size=(80, 9)))
    return path


@pytest.fixture(scope="module")
def study(file):
    return vae_study(file, hidden=6, epochs=7, n_audited=4)


def test_snapshots_are_audits_of_the_model_at_that_epoch(study):
    assert [snapshot.epoch for snapshot in study.snapshots] == [1, 2, 5, 7]
    last, audit = study.snapshots[-1], study.run.model.audit(study.held_out, tolerance=1e-8)
    slack = last.discretization + float(audit.discretization.elbo.max() + audit.discretization.log_evidence.max())
    assert abs(last.log_evidence - audit.log_evidence.mean()) <= slack
    assert abs(last.gap - audit.gap.mean()) <= 2 * slack
    assert study.snapshots[0].elbo < last.elbo <= last.log_evidence
    assert study.holds


def test_held_out_rows_are_not_learned_from(study, file):
    assert study.held_out.tobytes() == load_data(str(file))[0][[1, 11, 21, 31]].tobytes()
    json.dumps(study.to_dict(), allow_nan=False)


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
@pytest.mark.parametrize("n_latent", [1, 2, 3])
def test_every_picture_is_drawn(file, tmp_path, n_latent):
    study = vae_study(file, n_latent=n_latent, hidden=4, epochs=1, n_audited=2)
    names = list(_vae_plots.write_pictures(study, tmp_path))
    assert [name.rsplit("/", 1)[-1] for name in names] == [f"{name}.png" for name in _vae_plots.PICTURES]
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in _vae_plots.PICTURES)


def test_mass_levels_enclose_their_share():
    x, y = np.meshgrid(np.linspace(-6, 6, 201), np.linspace(-6, 6, 201))
    density = np.exp(-0.5 * (x**2 + y**2)) / (2 * np.pi)
    # a disc of radius r holds 1 - exp(-r^2/2), so the level of share m is (1 - m) / (2 pi)
    np.testing.assert_allclose(
        _vae_plots._levels(density), [0.01 / (2 * np.pi), 0.1 / (2 * np.pi), 0.5 / (2 * np.pi)], rtol=0.02
    )


def test_command_prints_each_epoch(file, capsys):
    assert main(["vae", str(file), "--epochs", "2", "--hidden", "4", "--audited", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["epoch", "ELBO", "log", "p(x)", "gap", "KL(p||q)", "estimate"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert lines[3].startswith("MAX_EPOCHS: All epochs are done. 2 epochs, mean loss")


def test_command_writes_json(file, capsys):
    assert main(["vae", str(file), "--epochs", "1", "--hidden", "4", "--audited", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["epochs"][0]["epoch"] == 1 and found["run"]["outcome"] == "MAX_EPOCHS" and found["pictures"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["letters"], "the data must be 'digits' or a file FILE.npz with the array x; got 'letters'."),
        (["digits", "--latent", "4"], "n_latent must be an integer from 1 to 3; got 4."),
        (["digits", "--plot", "/nowhere/at/all"], "the folder for the pictures must exist"),
        (["/nowhere.npz"], "/nowhere.npz: No such file"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys):
    assert main(["vae", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_digits_are_on_the_unit_scale():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    x, labels = load_data("digits")
    assert x.shape == (1797, 64) and x.min() == 0.0 and x.max() == 1.0 and sorted(set(labels.tolist())) == list(range(10))
