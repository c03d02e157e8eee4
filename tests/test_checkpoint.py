"""Checkpoints: the same bits after a kill at any moment, whole files, and refusals."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_fit import COUNTS, PATTERNS, start
from test_squarem import mixed

import elbo_exact as ee
from elbo_exact.fit import Checkpoint, FitResult, fit_em
from elbo_exact.models import Mixture

FIT = """
import sys, numpy as np, elbo_exact as ee
from elbo_exact.fit import Checkpoint
problem = ee.gallery.load("stouffer-toby")
fit = ee.fit_em(
    ee.models.Mixture.random(3, [2] * 4, rng=0), problem.x, weights=problem.counts, restarts=2, rng=1,
    max_iter=150, tolerance=0.0, checkpoint=Checkpoint(sys.argv[1], 0.0) if len(sys.argv) > 1 else None,
)
print(fit.to_dict())
"""


def same(one: FitResult, two: FitResult) -> bool:
    arrays = [(one.trace, two.trace), (one.gains, two.gains), (one.gain_errors, two.gain_errors)]
    return all(np.array_equal(a, b) for a, b in arrays) and one.to_dict() == two.to_dict()


def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    file = tmp_path / "fit.npz"
    whole = subprocess.run([sys.executable, "-c", FIT], capture_output=True, text=True, check=True).stdout
    kills = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", FIT, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = file.stat().st_mtime_ns if file.exists() else 0
        while process.poll() is None and (not file.exists() or file.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(0.05)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills == 2  # none had ended before
    resumed = subprocess.run([sys.executable, "-c", FIT, str(file)], capture_output=True, text=True, check=True).stdout
    assert resumed == whole


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_any_number_of_steps_and_then_the_rest(tmp_path: Path, acceleration: Any) -> None:
    model, x = mixed()
    arguments: dict[str, Any] = {"acceleration": acceleration, "tolerance": 0.0}
    whole = fit_em(model, x, max_iter=12, **arguments)
    for n in (1, 5, 12):
        file = tmp_path / f"{n}.npz"
        fit_em(model, x, max_iter=n, checkpoint=file, **arguments)
        assert same(fit_em(model, x, max_iter=12, checkpoint=file, **arguments), whole)
        assert same(fit_em(model, x, max_iter=12, checkpoint=Checkpoint(file, 0.0), **arguments), whole)


def test_a_finished_fit_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "fit.npz"
    first = fit_em(start(1), PATTERNS, weights=COUNTS, restarts=2, rng=0, checkpoint=file)
    monkeypatch.setattr("elbo_exact.fit.em._step", None)
    assert same(fit_em(start(1), PATTERNS, weights=COUNTS, restarts=2, rng=0, checkpoint=file), first)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["fit.npz"]


def test_zeros_and_priors_survive(tmp_path: Path) -> None:
    zero = ee.models.Mixture([0.0, -np.inf], start(5).components)
    fits = [fit_em(zero, PATTERNS, weights=COUNTS, prior=0.25, checkpoint=tmp_path / "a.npz") for _ in range(2)]
    assert same(*fits) and fits[1].model.log_weights[1] == -np.inf


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": COUNTS + 1.0},
        {"x": PATTERNS[::-1]},
        {"prior": 0.5},
        {"tolerance": 1e-3},
        {"acceleration": "squarem"},
        {"restarts": 1, "rng": 1},
        {"model": start(2)},
    ],
    ids=["weights", "x", "prior", "tolerance", "acceleration", "restarts", "model"],
)
def test_the_checkpoint_of_another_fit_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    arguments = {"model": start(1), "x": PATTERNS, "weights": COUNTS, "checkpoint": tmp_path / "fit.npz"}
    fit_em(**arguments)
    with pytest.raises(ValueError, match=r"fit\.npz belongs to a fit of other data, starts or settings; remove it or name"):
        fit_em(**{**arguments, **changes})


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "fit.npz"
    arguments: dict[str, Any] = {"weights": COUNTS, "checkpoint": file}
    fit_em(start(1), PATTERNS, **arguments)
    good = dict(np.load(file))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"fit\.npz is not a valid checkpoint: it is not a readable zip archive"):
        fit_em(start(1), PATTERNS, **arguments)
    for changes, message in (
        ({"lengths": np.array([3])}, "its arrays do not have the lengths that it declares"),
        ({"lengths": np.array([-1])}, "its arrays do not have the lengths that it declares"),
        ({"lengths": np.array([2.0])}, "its arrays do not have the lengths that it declares"),
        ({"parameters": good["parameters"] + 1.0}, "log_probabilities sums to"),
        ({"more": np.zeros(1)}, "it must hold exactly"),
    ):
        np.savez(file, **{**good, **changes})
        with pytest.raises(ValueError, match=r"fit\.npz is not a valid checkpoint: " + message):
            fit_em(start(1), PATTERNS, **arguments)


@dataclasses.dataclass(frozen=True, eq=False)
class Counting(Mixture):
    """A mixture whose steps also change a number that is no array."""

    steps: int = 0

    def maximize(self, statistics: Any, prior: Any = None) -> Any:
        following = super().maximize(statistics, prior)
        return Counting(following.log_weights, following.components, self.steps + 1)


def test_a_model_that_arrays_do_not_hold_is_refused(tmp_path: Path) -> None:
    model = Counting(start(1).log_weights, start(1).components)
    assert fit_em(model, PATTERNS, weights=COUNTS, max_iter=3).model.steps == 3
    with pytest.raises(TypeError, match="Counting has other parameters"):
        fit_em(model, PATTERNS, weights=COUNTS, max_iter=3, checkpoint=tmp_path / "fit.npz")


def test_refused_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder of the checkpoint must exist"):
        fit_em(start(1), PATTERNS, checkpoint=tmp_path / "none" / "fit.npz")
    with pytest.raises(ValueError, match=r"seconds must be >= 0; got -1\.0"):
        fit_em(start(1), PATTERNS, checkpoint=Checkpoint(tmp_path / "fit.npz", -1.0))
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="executor must be None for several starts"):
        fit_em(start(1), PATTERNS, checkpoint=tmp_path / "fit.npz", restarts=1, executor=pool)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^checkpoint must name a file; got the folder "):
        fit_em(start(0), PATTERNS, weights=COUNTS, checkpoint=tmp_path)
