"""The figures: their numbers against independent ones, their files complete or absent, their drawings readable."""

from __future__ import annotations

import csv
import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import elbo_exact as ee
from elbo_exact._figures import FIGURES, data, draw, draw_guides, em, guides, write
from elbo_exact.gallery import load


@cache
def columns(name: str) -> data.Columns:
    place = next(module for module in (data, em, guides) if hasattr(module, name))
    return getattr(place, name)()  # type: ignore[no-any-return]


def rows(name: str, **fixed: Any) -> list[dict[str, Any]]:
    """Rows of a figure's table that have some values."""
    table = columns(name)
    found = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    return [row for row in found if all(row[key] == value for key, value in fixed.items())]


def test_every_bound_of_the_sandwich_is_on_its_side_and_more_samples_or_steps_are_tighter() -> None:
    """Exactly, as doubles: values come from gaps that are never negative. Doubling steps refines a schedule."""
    for row in rows("sandwich"):
        assert row["minus_log_evidence"] <= 0.0 if row["side"] == "lower" else row["minus_log_evidence"] >= 0.0
    for problem in ("asia", "ising-torus"):
        for family in ("importance", "thermodynamic"):
            for side, sign in (("lower", 1.0), ("upper", -1.0)):
                gaps = [r["minus_log_evidence"] for r in rows("sandwich", problem=problem, bound=f"{family}, {side}")]
                assert (np.diff(gaps) * sign > 0.0).all()
    elbo = rows("sandwich", problem="asia", bound="ELBO")[0]["value"]
    assert f"{elbo:.12f}" == "-5.868876836405"  # a reference number of the problem
    first = {r["bound"]: r["value"] for r in rows("sandwich", problem="asia", samples_or_steps=1)}
    for bound in ("importance, lower", "thermodynamic, lower", "annealed, lower"):
        assert first[bound] == pytest.approx(elbo, rel=0.0, abs=1e-14)  # each has an error of its own, a few units of 6 nats


def test_the_k_sample_gaps_fall_like_their_limit_down_to_one_in_ten_billion() -> None:
    last = rows("k_samples")[-1]
    assert last["samples"] == 10**9 and last["lower_gap"] < 1e-10
    # 2K gap/chi2 - 1 is O(1/K), and the limit itself is rounded
    for side in ("lower_gap", "upper_gap"):
        assert abs(last[side] / last["limit"] - 1.0) < 1e-8
    assert all(row["standard_deviation"] > row["lower_gap"] for row in rows("k_samples"))


def test_em_contracts_at_its_rate_and_the_ridge_has_one_height() -> None:
    # reference numbers; the second rate of coins, 0.378, dies down by (0.378/0.4097)^2 a step, the sums end 6 steps after
    for problem, rate, close in (("coins", 0.40969066, (0.37799534 / 0.40969066) ** 50), ("linkage", 0.13277873, 1e-6)):
        steps = rows("anatomy", panel="rate", problem=problem)
        assert round(steps[0]["predicted"], 8) == rate
        last = [row["contraction"] for row in steps if row["contraction"] is not None][-1]
        assert abs(last - rate) <= close
    ends = rows("anatomy", panel="ends")
    flat = [row["largest_share"] for row in ends if row["missing"] <= 1e-6]
    assert len(flat) >= 3 and max(flat) - min(flat) > 0.05
    assert all(row["missing"] >= 0.0 for row in ends)
    starts = rows("anatomy", panel="starts")
    assert len({row["start"] for row in starts}) == len(ends)


def test_the_signal_to_noise_ratios_have_their_slopes() -> None:
    """Rainforth et al. (2018), Tucker et al. (2019): between K = 1e4 and 1e5, to two digits."""
    slopes = {
        "decoder": 0.5,
        "pathwise": -0.5,
        "sticking the landing": 0.5,
        "doubly reparameterized": 0.5,
        "score (asia)": -1.5,
    }
    for estimator, slope in slopes.items():
        low, high = (rows("tighter_is_not_better", estimator=estimator, samples=k)[0] for k in (10**4, 10**5))
        found = math.log(high["snr"] / low["snr"]) / math.log(high["samples"] / low["samples"])
        assert abs(found - slope) < 0.005, estimator
    sticking = rows("tighter_is_not_better", estimator="sticking the landing", samples=10**3)[0]
    assert f"{sticking['mean']:.10f}" == "0.4951165666"
    assert f"{rows('tighter_is_not_better', estimator='pathwise', samples=10**3)[0]['snr']:.9f}" == "0.010251422"


def test_the_integrand_rises_from_the_elbo_to_the_eubo_around_the_evidence() -> None:
    table = columns("integrand")
    values, b = np.array(table["integrand"]), np.array(table["b"])
    problem = load("asia")
    assert problem.log_joint is not None and problem.log_prior is not None
    audited = ee.audit(problem.log_joint[0], problem.log_prior[0])
    for value, error, bound, bound_error in (
        (values[0], table["integrand_error"][0], audited.elbo, audited.error.elbo),
        (values[-1], table["integrand_error"][-1], audited.eubo, audited.error.eubo),
    ):
        assert abs(value - bound) <= error + bound_error
    assert (np.diff(values) > 0.0).all()
    steps = np.diff(b)
    assert (values[:-1] * steps).sum() < audited.log_evidence < (values[1:] * steps).sum()


def test_annealing_by_sweeps_is_a_bound_and_more_sweeps_mix_better() -> None:
    evidence = float(ee.log_evidence(load("ising-torus").log_joint[1]))  # type: ignore[index]
    for row in rows("annealing"):
        assert row["annealed"] <= evidence if row["side"] == "lower" else row["annealed"] >= evidence
        assert row["difference"] == row["annealed"] - row["thermodynamic"]
    for side, sign in (("lower", -1.0), ("upper", 1.0)):
        for steps in data.STEPS[1:]:
            lost = [sign * rows("annealing", side=side, steps=steps, sweeps=n)[0]["difference"] for n in data.SWEEPS]
            assert lost[0] > lost[1] > lost[2] > 0.0  # at the critical coupling; not a theorem


def test_gap_parts_are_ordered_by_family_and_by_samples() -> None:
    """The best ELBO of a family is below that of a wider one, and more samples shrink every gap; q of the free family is the posterior."""
    table = {(r["family"], r["samples"], r["observation"]): r for r in rows("gap_parts")}
    for (family, samples, n), row in table.items():
        assert 0.0 <= row["approximation"] and 0.0 < row["gap"]
        if samples == 1:
            assert row["approximation"] <= row["gap"]  # the amortized q is one of the family
        else:
            before = table[family, {10: 1, 100: 10}[samples], n]
            assert row["approximation"] <= before["approximation"] and row["gap"] < before["gap"]
        if family == "free":
            assert row["approximation"] < 1e-28
        if family == "mean field" and samples == 1:
            assert row["approximation"] > table["chain", 1, n]["approximation"] > table["free", 1, n]["approximation"]
    assert len(table) == 3 * 3 * guides.N_PULLS


def test_surgery_adds_up_and_training_lingers_at_collapse() -> None:
    for row in rows("surgery_in_training"):
        parts = row["reconstruction"] - row["mutual_information"] - row["kl_to_prior"]
        assert row["elbo"] == pytest.approx(parts, rel=0.0, abs=1e-13)  # four numbers below 8, each to a few ulp
        assert 0.0 <= row["mutual_information"] <= math.log(guides.CLASSES)
    for start in ("random classes", "classes alike"):
        path = rows("surgery_in_training", start=start)
        assert all(a["elbo"] <= b["elbo"] + 1e-13 for a, b in itertools.pairwise(path))
        assert path[-1]["mutual_information"] > 0.3
    alike = [row["mutual_information"] for row in rows("surgery_in_training", start="classes alike")]
    assert max(alike[1:20]) < 0.05


@pytest.mark.parametrize("name", ["gap_parts", "surgery_in_training"])
def test_drawings_of_guides_have_labels_and_nothing_cut(name: str) -> None:
    canvas = getattr(draw_guides, name)(columns(name))
    FigureCanvasAgg(canvas).draw()
    frame = canvas.bbox
    found = [ax.get_legend() for ax in canvas.axes if ax.get_legend() is not None]
    labels = [label for ax in canvas.axes for label in (ax.xaxis.label, ax.yaxis.label, ax.title) if label.get_text()]
    assert found and len(labels) >= 6
    for artist in (*found, *labels):
        box = artist.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


@pytest.mark.parametrize("name", ["sandwich", "k_samples", "tighter_is_not_better", "integrand", "annealing"])
def test_drawings_have_labels_units_and_nothing_cut(name: str) -> None:
    canvas = getattr(draw, name)(columns(name))
    assert isinstance(canvas, Figure)
    FigureCanvasAgg(canvas).draw()
    frame = canvas.bbox
    for ax in canvas.axes:
        assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title()
        assert len(ax.get_legend().get_texts()) >= 2
        for artist in (ax.xaxis.label, ax.yaxis.label, ax.title, ax.get_legend()):
            box = artist.get_window_extent()
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def test_files_appear_with_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"2-k-samples": (lambda: columns("k_samples"), draw.k_samples)}
    monkeypatch.setattr("elbo_exact._figures.files.FIGURES", chosen)
    (done,) = write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-k-samples.csv", "2-k-samples.png"]
    assert (tmp_path / "2-k-samples.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Path(done["numbers"]).open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [float(row["lower_gap"]) for row in read] == columns("k_samples")["lower_gap"]


def test_a_failed_figure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(table: data.Columns) -> Figure:
        raise KeyError("drawing")

    monkeypatch.setattr("elbo_exact._figures.files.FIGURES", {"x": (lambda: columns("k_samples"), broken)})
    with pytest.raises(KeyError):
        list(write(tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="folder for the figures must exist"):
        list(write(tmp_path / "nowhere"))


def test_the_figures_are_those_of_the_mathematics() -> None:
    assert [name.split("-")[0] for name in FIGURES] == ["1", "2", "3", "5", "7", "8", "9", "10"]
