"""Bounds and K-sample integrals beside NumPy and Monte Carlo; compare within a group only. And what the generated pages say."""

import copy
import sys

import bound_rivals
import importance_rivals
import numpy as np
import pytest
import tightness
from bound_cases import BOUNDS, COUNTS, KINDS, bound_calls, curve_calls, kind_calls, monte_carlo_row, path_calls
from bounds_section import bound_promises, bounds_section
from cases import tables
from startup import memory_of

import elbo_exact as ee

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc.")
U = 2.0**-53


@pytest.mark.parametrize("name", ["elbo_exact", "numpy"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_time_of_a_bound(benchmark, monkeypatch, quick, bound, name):
    _timed(benchmark, monkeypatch, bound, bound_calls(bound, quick)[name])


@pytest.mark.parametrize("kind", KINDS)
def test_other_tables_are_what_they_say(kind):
    """Finite, normalized, and with a value that NumPy's ELBO has too, within its roundings of entries up to 2000."""
    calls = kind_calls("elbo", kind, True)
    ours, theirs = calls["elbo_exact"](), calls["numpy"]()
    assert np.abs(ours - theirs).max() <= (256 + 16) * U * 4000.0


@pytest.mark.parametrize("name", ["elbo_exact", "matrix", "nodes"])
def test_time_of_a_curve(benchmark, monkeypatch, quick, name):
    _timed(benchmark, monkeypatch, "six K", curve_calls(quick)[name])


@pytest.mark.parametrize("name", ["elbo_exact", "a fifth", "numpy"])
def test_time_of_a_long_thermodynamic_sum(benchmark, monkeypatch, quick, name):
    _timed(benchmark, monkeypatch, "100 points", path_calls(quick)[name])


@pytest.mark.parametrize("bound", BOUNDS)
def test_rivals_compute_what_we_compute(bound):
    a, b = tables((50, 256))
    ours, theirs = (call(a, b) for call in BOUNDS[bound])
    # Entries are below 64 with log evidence, so formulas with 2 a - b below 128; 256 terms, a few roundings each, weights that sum to 1.
    assert np.abs(a).max() + np.abs(b).max() + np.abs(ee.log_evidence(a)).max() < 64.0
    slack = (256 + 16) * U * 128.0
    if bound == "iwae(10)":  # step 1/4 times some 200 nodes, each a tenth power of such a sum of terms below 1
        slack = 0.25 * 200 * 10 * (256 + 16) * U
    assert np.abs(ours - theirs).max() <= slack
    assert np.ptp(theirs) > 1e3 * slack  # the comparison can tell rows apart


@pytest.mark.parametrize("name", ["numpy_matrix", "numpy_nodes"])
def test_integrals_of_rivals_are_ours(name):
    a, b = importance_rivals.table(512)
    found = ee.importance.curve(a, b, COUNTS)
    theirs = getattr(importance_rivals, name)(a, b, COUNTS)
    for ours, row in zip((found.lower_gap, found.upper_gap, found.variance), theirs, strict=False):
        # In theirs expm1(-d) + d cancels where the integrals of K live, at d of about 1/K, and sums of 512 terms are plain.
        assert np.all(np.abs(row - ours) <= (np.array(COUNTS) + 300 * 512) * U * ours)


@pytest.mark.parametrize("count", [1, 10, 10**4])
def test_monte_carlo_estimates_what_the_curve_computes(count):
    """Draws (10) and multinomial counts (10**4 of 512 states) alike: a z-score with the exact variance, four sigma."""
    a, b = importance_rivals.table(512)
    found, n = ee.importance.curve(a, b, count), 4000
    values = bound_rivals.monte_carlo(a, b, count, n, np.random.default_rng(5))
    assert abs(values.mean() - found.lower) < 4.0 * np.sqrt(found.variance / n)
    assert abs(values.var() / found.variance - 1.0) < 0.25  # with a kurtosis below 16, four sigma of the ratio


def test_scaling_is_variance_over_squared_error():
    ticks = iter([0.0, 2.0])
    row = monte_carlo_row(10, True, lambda: next(ticks))
    assert row["seconds"] == 2.0
    n = (row["deviation"] / (1e-3 * row["gap"])) ** 2
    assert row["needed 0.001"] == pytest.approx(n, rel=1e-12)
    assert row["seconds 0.001"] == pytest.approx(2.0 * n / row["estimates"], rel=1e-12)
    assert row["seconds 0.0001"] == pytest.approx(100.0 * row["seconds 0.001"], rel=1e-12)


@linux_only
def test_memory_of_a_curve_and_of_a_long_path():
    assert memory_of("curve", 65536, 1)["extra"] * 1e6 < 100.0 * 2**20
    used = memory_of("tvo", 10**6, 1)
    assert used["extra"] < 2.0 * used["input"]  # four tables of S doubles; one per point would be a hundred


def _results():
    quiet = {"others": 0.0}
    return {
        "bounds": {name: {**quiet, "seconds": {"elbo_exact": 1.0, "numpy": 2.0}} for name in BOUNDS},
        "kinds": {"q = p": {"elbo": {**quiet, "seconds": {"elbo_exact": 1.0, "numpy": 3.0}}}},
        "curve": {**quiet, "seconds": {"elbo_exact": 0.1, "matrix": 2.0, "nodes": 0.3}},
        "path": {**quiet, "seconds": {"elbo_exact": 1.0, "a fifth": 0.2, "numpy": 3.0}},
        "monte carlo": [monte_carlo_row(10, True, iter([0.0, 1.0]).__next__)],
        "memory": {"curve": {"input": 1.0, "extra": 100.0}, "tvo": {"input": 16.0, "extra": 8.0}},
        "rows": [200, 256],
        "states": 4096,
        "long": 10**5,
    }


def test_promises_are_judged():
    good = _results()
    assert {row[-1] for row in bound_promises(good)} == {"met"}
    bad = copy.deepcopy(good)
    bad["bounds"]["elbo"]["seconds"]["numpy"] = 0.9
    bad["curve"]["seconds"] = {"elbo_exact": 0.4, "matrix": 5.9, "nodes": 0.7}
    bad["memory"] = {"curve": {"input": 1.0, "extra": 105.0}, "tvo": {"input": 16.0, "extra": 33.0}}
    bad["path"]["seconds"]["a fifth"] = 0.1
    failed = [row[0] for row in bound_promises(bad) if row[-1] == "**not met**"]
    assert len(failed) == 7
    assert sum("`elbo`" in what for what in failed) == 1


def test_section_shows_every_number_with_its_rival():
    text = bounds_section(_results())
    assert "| `elbo` | 1.0000 | 2.0000 (2.00) |" in text
    assert "| q = p | 3.00 |" in text
    assert "one NumPy matrix 2.000 s (20.0 times as long)" in text
    assert "100000 states" in text and "200 x 256" in text


def test_front_of_bounds_worth_their_cost():
    def line(label, side, cost, gap):
        return tightness.Line(label, side, cost, 0.0, {"q": gap})

    lines = [
        line("cheap", "lower", 1, 0.5),
        line("twin", "lower", 1, 0.50001),  # the same to the digits shown: neither beats the other
        line("dear and no tighter", "lower", 5, 0.5),
        line("tight", "lower", 10, 0.1),
        line("infinite", "upper", 1, np.inf),
        line("other side", "upper", 9, 3.0),
    ]
    assert tightness.front(lines, "q") == {"cheap", "twin", "tight", "other side"}


def test_page_on_tightness_is_what_the_script_writes():
    """All but the times, for the problems that are quickly done."""
    page = tightness.without_times(tightness.PAGE.read_text(encoding="utf-8"))
    assert tightness.INTRODUCTION.rstrip() in page
    for name in tightness.QUICK:
        assert tightness.without_times(tightness.section(name, tightness.matrix(name, 1))) in page
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(ee.gallery.names())


def _timed(benchmark, monkeypatch, group, call):
    monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", "1")
    benchmark.group = group
    call()
    benchmark.pedantic(call, rounds=5)
