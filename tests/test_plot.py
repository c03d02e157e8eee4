"""The plot: everything labelled, nothing overlaps, and a file that is complete or absent."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies import study_of

import elbo_exact as ee
from elbo_exact import plot
from elbo_exact.gallery import names

pytest.importorskip("matplotlib")


def boxes(axes: Any, canvas: Any) -> list[Any]:
    """The rectangles of the axes' frame, title, labels and legend, in pixels."""
    renderer = canvas.canvas.get_renderer()
    legend = [axes.get_legend()] if axes.get_legend() else []
    low, high = sorted(axes.get_ylim())
    ticks = [tick.label1 for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    parts = [axes.patch, axes.title, axes.xaxis.label, axes.yaxis.label, *ticks, *legend]
    return [part.get_window_extent(renderer) for part in parts]


@pytest.mark.parametrize("name", names())
def test_nothing_overlaps_and_nothing_is_cut(name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = plot.figure(study_of(name))
    FigureCanvasAgg(canvas).draw()
    everything = [box for axes in canvas.axes for box in boxes(axes, canvas)]
    everything.append(canvas._suptitle.get_window_extent())  # type: ignore[attr-defined]
    for i, box in enumerate(everything):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= canvas.bbox.x1 and box.y1 <= canvas.bbox.y1
        for other in everything[:i]:
            assert not box.overlaps(other), (box, other)


@pytest.mark.parametrize("name", names())
def test_the_axes_are_labelled_and_the_legend_names_every_q(name: str) -> None:
    left, right = plot.figure(study_of(name)).axes
    for axes in (left, right):
        assert axes.get_xlabel() and axes.get_title()
    assert "nats" in left.get_xlabel()
    assert [text.get_text() for text in left.get_legend().get_texts()] == [  # type: ignore[union-attr]
        f"q = {part.name}" for part in study_of(name).approximations
    ]
    assert len(left.get_yticks()) == len(study_of(name).rows)


def test_the_ends_are_the_gaps() -> None:
    study = study_of("stouffer-toby")
    axes = plot.gaps(study)
    for part, line in zip(study.approximations, axes.lines, strict=False):
        assert list(line.get_xdata()) == [*-part.audit.gap, *part.audit.forward_kl]


def test_an_infinite_gap_is_marked() -> None:
    assert [text.get_text() for text in plot.gaps(study_of("sprinkler")).texts] == ["-\N{INFINITY}"]


def test_traces_and_marginals_show_the_numbers() -> None:
    study = study_of("stouffer-toby")
    for fit, line in zip(study.fits, plot.traces(study).lines, strict=True):
        assert list(line.get_ydata()) == list(fit.trace[1:])
    asia = study_of("asia")
    assert [len(line.get_xdata()) for line in plot.marginals(asia).lines] == [16, 16]  # type: ignore[arg-type]


def test_drawing_into_given_axes_returns_them() -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert plot.gaps(study_of("coins"), axes) is axes


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".PNG"])
def test_save_writes_one_file(tmp_path: Path, suffix: str) -> None:
    plot.save(study_of("sprinkler"), tmp_path / f"a{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]
    assert (tmp_path / f"a{suffix}").stat().st_size > 1000


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def fail(self: Any, path: Path, **settings: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot.save(study_of("sprinkler"), tmp_path / "a.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


def test_bad_targets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the plot file must end in \.png, \.pdf, \.svg; got 'a\.gif'\.$"):
        plot.check_target("a.gif")
    with pytest.raises(ValueError, match=r"^the plot file must lie in an existing folder; got '.*'; create '.*none' first\.$"):
        plot.check_target(tmp_path / "none" / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ValueError, match=r"^the plot file must not be a folder; got "):
        plot.check_target(tmp_path / "b.png")


def test_without_matplotlib_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = r'^plots need matplotlib; install it with: pip install "elbo_exact\[plot\]"$'
    with pytest.raises(ImportError, match=expected):
        plot.figure(study_of("coins"))
    with pytest.raises(ImportError, match=expected):
        plot.check_target("a.png")


def test_pyplot_stays_out() -> None:
    code = (
        "import sys, elbo_exact.plot as p; assert 'matplotlib' not in sys.modules; import elbo_exact as ee; "
        "p.figure(ee.study('sprinkler')); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_ladder_without_a_finite_bound_is_drawn_without_a_legend(tmp_path: Path) -> None:
    ladder = ee.bounds.ladder([-np.inf, -np.inf], np.log([0.5, 0.5]), include=["elbo", "eubo"])
    plot.save_ladder(ladder, tmp_path / "nothing.png")  # a legend without entries would warn
    assert plot.rungs(ladder).get_legend() is None
    assert (tmp_path / "nothing.png").stat().st_size > 0
