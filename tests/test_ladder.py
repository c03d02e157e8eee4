"""The ladder: its numbers on asia, its order, its exports, and that its theorems hold on random tables and can fail."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import elbo_exact as ee
from elbo_exact import bounds
from elbo_exact._ladder import FAMILIES
from elbo_exact._theorems import verified

INF = math.inf
entry = st.one_of(st.floats(-30.0, 30.0), st.just(-INF), st.sampled_from([0.0, -700.0, 1e3]))


def asia() -> tuple[np.ndarray, np.ndarray]:
    """log p(z, dysp = yes | asia = yes) and the prior of z = (smoke, tub, lung, bronc, either, xray), in C order, yes first."""
    joint, prior = [], []
    for smoke, tub, lung, bronc, either, xray in itertools.product((1, 0), repeat=6):
        p = 0.5 * (0.05 if tub else 0.95) * ((0.1 if smoke else 0.01) if lung else (0.9 if smoke else 0.99))
        p *= (0.6 if smoke else 0.3) if bronc else (0.4 if smoke else 0.7)
        p *= float(either == (tub or lung)) * ((0.98 if either else 0.05) if xray else (0.02 if either else 0.95))
        prior.append(p)
        joint.append(0.01 * p * {(1, 1): 0.9, (0, 1): 0.7, (1, 0): 0.8, (0, 0): 0.1}[bronc, either])
    with np.errstate(divide="ignore"):
        return np.log(joint), np.log(prior)


def test_asia() -> None:
    found = bounds.ladder(*asia(), num_samples=(2, 5, 10, 100, 10000), include=FAMILIES)
    expected = {
        "elbo": -5.868876836405,
        "log_evidence": -5.403372373323,
        "eubo": -5.057373547643,
        "renyi(alpha=0.5)": -5.609587826376,
        "cubo(n=2)": -5.165095937168,
        "tvo(betas=10, side=lower)": -5.444490298202,
        "tvo(betas=10, side=upper)": -5.363339969326,
    }
    expected |= {"iwae(num_samples=2)": -5.636602772009, "iwae_upper(num_samples=5)": -5.338341375387}
    expected |= {"iwae(num_samples=10)": -5.437096423449, "iwae_upper(num_samples=2)": -5.230079790685}
    for label, value in expected.items():
        assert abs(found[label].value - value) < 1e-12, label
        assert found[label].error < 1e-13
    assert found.verify(strict=True)
    totals = [rung.total for rung in found.rungs]
    assert totals == sorted(totals)


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(*(st.lists(entry, min_size=n, max_size=n) for _ in range(2)))))
def test_theorems_hold_on_any_table(rows: tuple[list[float], list[float]]) -> None:
    a, b = rows
    if max(b) == -INF:
        return
    schedules = (1, 2, 4, [0.0, 0.25, 0.5, 0.6, 0.75, 1.0])
    found = bounds.ladder(
        a, b, num_samples=(1, 2, 7, 1000), betas=schedules, alphas=(-INF, -2.0, -1e-3, 0.0, 0.3, 1.0, 2.0, INF), orders=(1, 3, 7),
        cubo_orders=(1.5, 2.0, 4.0), include=FAMILIES, unnormalized=True,
    )  # fmt: skip
    sampled = bounds.ladder(
        a, b, alphas=(0.0, 0.3, 1.0, 2.0), renyi_samples=(1, 2, 50), include=("elbo", "renyi"), unnormalized=True
    )
    assert not [check for check in sampled.verify() if not check.holds]
    assert not [check for check in found.verify() if not check.holds]


def test_false_orders_are_never_asserted() -> None:
    a, b = np.log([0.98, 0.02]), np.log([0.3, 0.7])
    statements = " ".join(c.statement for c in bounds.ladder(a, b, betas=(2, 3), orders=(3, 5), include=FAMILIES).verify())
    for false in (
        "eubo <= cubo",
        "cubo(n=2) <= eubo",
        "perturbative(order=3) <= perturbative",
        "tvo(betas=2, side=lower) <= tvo(betas=3",
    ):
        assert false not in statements
    assert "elbo <= perturbative" not in statements


def test_a_violation_is_found() -> None:
    found = bounds.ladder(np.log([0.3, 0.1]), np.log([0.5, 0.5]), include=("elbo", "eubo", "tvo", "renyi", "cubo"))
    for label in ("tvo(betas=10, side=lower)", "renyi(alpha=0.5)", "cubo(n=2)", "eubo"):
        worse = [
            r._replace(gap=r.gap * (100.0 if label != "cubo(n=2)" else 0.1)) if r.label == label else r for r in found.rungs
        ]
        assert not all(check.holds for check in verified(worse)), label
        with pytest.raises(ArithmeticError, match=r"theorems fail: "):
            bounds.Ladder(tuple(worse)).verify(strict=True)
    wrong = [r._replace(gap=-r.gap) if r.label == "elbo" else r for r in found.rungs]
    assert not all(check.holds for check in verified(wrong))


def test_orders_of_renyi_bounds_of_samples() -> None:
    found = bounds.ladder(
        np.log([0.3, 0.1]), np.log([0.5, 0.5]), alphas=(-1.0, 0.5, 3.0), renyi_samples=(2, 10), include=("elbo", "renyi")
    )
    statements = [check.statement for check in found.verify(strict=True)]
    few, many = (f"renyi(alpha={{}}, num_samples={k})" for k in (2, 10))
    for low, high in (("elbo", few.format(0.5)), (few.format(0.5), many.format(0.5)), (many.format(0.5), "renyi(alpha=0.5)"),
                      ("renyi(alpha=3)", many.format(3)), (many.format(3), few.format(3)), (few.format(3), "elbo")):  # fmt: skip
        assert f"{low} <= {high}" in statements
        assert found[low].value < found[high].value
    assert not [rung for rung in found.rungs if rung.parameters.get("num_samples") and rung.parameters["alpha"] < 0.0]
    swapped = [r._replace(gap=2.0 * r.gap) if r.label == many.format(0.5) else r for r in found.rungs]
    assert not all(check.holds for check in verified(swapped))


def test_totals_are_weighted_sums() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 5))
    found = bounds.ladder(a, b, include=("elbo", "tvo"), weights=[2.0, 0.0, 5.0], unnormalized=True)
    for rung in found.rungs:
        assert rung.value.shape == (3,)
        assert abs(rung.total - math.fsum(rung.value * [2.0, 0.0, 5.0])) <= rung.total_error
    with pytest.raises(ee.LogTableError, match=r"weights must be finite, not negative and of the shape \(3,\)"):
        bounds.ladder(a, b, include=("elbo",), weights=[1.0], unnormalized=True)


def test_exports_say_the_same() -> None:
    found = bounds.ladder([0.0, -1.0], [0.0, -INF], include=("elbo", "eubo", "tvo"))
    fields = json.loads(found.to_json())["rungs"]
    assert [r["name"] for r in fields] == [r.name for r in found.rungs]
    assert fields[-1]["total"] == "Infinity" and found.to_dict()["rungs"][-1]["total"] == INF
    lines = found.to_csv().splitlines()
    assert lines[0].startswith("name,parameters,side,value,error,gap") and len(lines) == len(found.rungs) + 1
    assert float(lines[1].split(",")[3]) == found.rungs[0].total
    text = str(found).splitlines()
    assert len(text) == len(found.rungs) + 1 and "log_evidence" in str(found)
    with pytest.raises(KeyError, match="no rung 'iwae'"):
        found["iwae"]
    with pytest.raises(ValueError, match="include must be one of"):
        bounds.ladder([0.0], [0.0], include=("elbow",))


def test_a_ladder_is_drawn(tmp_path: Path) -> None:
    plot = pytest.importorskip("elbo_exact.plot")
    pytest.importorskip("matplotlib")
    found = bounds.ladder([0.0, -1.0], [0.0, -INF], include=("elbo", "eubo", "tvo"))
    axes = plot.rungs(found)
    assert [text.get_text() for text in axes.get_yticklabels()] == [r.label for r in found.rungs if math.isfinite(r.total)]
    plot.save_ladder(found, tmp_path / "ladder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["ladder.png"]


def test_annealed_rungs_obey_their_theorems() -> None:
    space = ee.LatentSpace((2,) * 6)
    found = bounds.ladder(*asia(), betas=(1, 10), include=("elbo", "eubo", "tvo", "ais"), space=space, sweeps=2)
    assert next(rung.label for rung in found.rungs if rung.name == "ais") == "ais(betas=1, side=lower, sweeps=2)"
    statements = [check.statement for check in found.verify(strict=True)]
    assert "ais(betas=10, side=lower, sweeps=2) <= log p(x)" in statements
    assert "elbo <= ais(betas=1, side=lower, sweeps=2)" in statements
    assert "ais(betas=1, side=lower, sweeps=2) <= elbo" in statements
    assert found["ais(betas=10, side=upper, sweeps=2)"].states == 64 * 10 * 6 * 2
    worse = [r._replace(gap=2.0 * r.gap) if r.label == "ais(betas=1, side=upper, sweeps=2)" else r for r in found.rungs]
    assert not all(check.holds for check in verified(worse))
    assert not [s for s in statements if "tvo" in s and "ais" in s]  # F9
    with pytest.raises(ValueError, match='"ais" in include needs the variables behind the states; got no space'):
        bounds.ladder(*asia(), include=("ais",))


def test_the_ladder_of_a_report_anneals_networks() -> None:
    assert "ais" in {rung.name for rung in ee.study("asia").ladder.rungs}
    assert "ais" not in {rung.name for rung in ee.study("coins").ladder.rungs}


@pytest.mark.parametrize("change", [
    {"value": 7.0}, {"value": np.nan}, {"gap": np.nan}, {"gap": -1e-3}, {"gap": 0.5}, {"total": 7.0}, {"total_gap": np.nan}, {"total_gap": 3.0},
])  # fmt: skip
@pytest.mark.parametrize("label", ["elbo", "eubo", "tvo(betas=10, side=upper)"])
def test_a_corrupted_rung_is_noticed(label: str, change: dict[str, float]) -> None:
    found = bounds.ladder(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    wrong = {key: -abs(x) if found[label].side == "upper" and key == "value" else x for key, x in change.items()}
    if found[label].side == "upper" and "total" in wrong:
        wrong = {"total": -7.0}
    rungs = tuple(rung._replace(**wrong) if rung.label == label else rung for rung in found.rungs)
    assert all(check.holds for check in found.verify(strict=True))
    with pytest.raises(ArithmeticError, match="theorems fail"):
        bounds.Ladder(rungs).verify(strict=True)


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_a_wrong_exact_value_is_noticed(shift: float) -> None:
    found = bounds.ladder(np.log([0.3, 0.1]), np.log([0.5, 0.5]))
    rungs = tuple(r._replace(value=r.value + shift, total=r.total + shift) if r.side == "exact" else r for r in found.rungs)
    assert not all(check.holds for check in bounds.Ladder(rungs).verify())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphas": [math.nan]}, "alphas must hold real numbers; got nan."),
        ({"alphas": ["a"]}, "alphas must hold real numbers; got 'a'."),
        ({"alphas": 0.5}, "alphas must be a list with one entry for each rung; got 0.5."),
        ({"num_samples": 10}, "num_samples must be a list with one entry for each rung; got 10."),
        ({"cubo_orders": ["2"]}, "cubo_orders must hold real numbers; got '2'."),
        ({"cubo_orders": [1.0]}, "cubo_orders must be finite and above 1; got 1.0."),
        ({"betas": [10**30]}, f"betas must be an integer from 1 to 1000000; got {10**30}."),
        ({"orders": [10**30 + 1]}, f"order must be an integer from 1 to {2**53}; got {10**30 + 1}."),
    ],
)
def test_settings_that_are_none(settings: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match="must") as caught:
        bounds.ladder([0.0, 0.0], np.log([0.5, 0.5]), **settings)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_combinations_beyond_the_doubles() -> None:
    with pytest.raises(ValueError, match=r"order must keep num_samples\*\*order within the doubles; got 1000000000\*\*40"):
        bounds.jackknife([0.0, 0.0], np.log([0.5, 0.5]), 10**9, 40)
    with pytest.raises(ValueError, match="terms must be an integer from 0 to"):
        bounds.sumo([0.0, 0.0], np.log([0.5, 0.5]), 2**53)
