"""The exported answers against plain sums in multiple precision, the schema against every file, the library against both."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import mpmath as mp
import numpy as np
import pytest
from importance_oracle import deep_multisets

import elbo_exact as ee
from elbo_exact._portable import write
from elbo_exact._portable.answers import answers
from elbo_exact.cli import main

INF = math.inf
WORD = {"inf": mp.inf, "-inf": -mp.inf}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export")
    assert all(Path(entry["file"]).stat().st_size == entry["bytes"] for entry in write(place))
    return place


def fixtures(folder: Path) -> list[dict[str, Any]]:
    files = [
        path for path in sorted(folder.iterdir()) if path.name != "schema.json" and not path.name.endswith(".problem.json")
    ]
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def cases(folder: Path) -> list[tuple[Any, Any, dict[str, Any]]]:
    return [
        (*(np.array(case[name], dtype=float) for name in ("log_joint", "log_q")), case["answers"])
        for fixture in fixtures(folder)
        for case in fixture["cases"]
        if case["log_joint"] is not None
    ]


def number(text: str) -> Any:
    return WORD.get(text) if text in WORD else mp.mpf(text)


def assert_digits(text: str | None, exact: Any) -> None:
    """Within half a unit of the 30th digit; nan stands for what is not defined."""
    if text is None or mp.isnan(exact):
        assert text is None and mp.isnan(exact)
        return
    found = number(text)
    assert found == exact or abs(found - exact) <= mp.mpf("5.0001e-30") * 10 ** mp.floor(mp.log10(abs(exact))) or exact == 0


def naive(a: Any, b: Any) -> dict[str, Any]:
    """The definitions, term by term, in logarithms."""

    def logs(row: Any) -> tuple[list[Any], Any]:
        entries = [mp.mpf(float(x)) if x > -INF else -mp.inf for x in row]
        top = max(entries)
        total = top + mp.log(sum(mp.exp(x - top) for x in entries if x > -mp.inf))
        return [x - total for x in entries], total

    log_q, _ = logs(b)
    entropy = -sum(mp.exp(x) * x for x in log_q if x > -mp.inf)
    if max(a) == -INF:
        return {
            "log_evidence": -mp.inf,
            "elbo": -mp.inf,
            "gap": mp.nan,
            "forward_kl": mp.nan,
            "eubo": mp.nan,
            "entropy": entropy,
        }
    log_p, evidence = logs(a)

    def kl(first: Any, second: Any) -> Any:
        pairs = [(x, y) for x, y in zip(first, second, strict=True) if x > -mp.inf]
        return mp.inf if any(y == -mp.inf for _, y in pairs) else sum(mp.exp(x) * (x - y) for x, y in pairs)

    gap, forward = kl(log_q, log_p), kl(log_p, log_q)
    return {
        "log_evidence": evidence,
        "elbo": evidence - gap,
        "gap": gap,
        "forward_kl": forward,
        "eubo": evidence + forward,
        "entropy": entropy,
    }


def same_distribution(a: Any, b: Any) -> bool:
    return len({x - y for x, y in zip(a, b, strict=True) if x > -INF}) == 1 and ((a > -INF) == (b > -INF)).all()


def test_every_answer_is_right_to_its_30_digits(folder: Path) -> None:
    with mp.workdps(150):
        for a, b, given in cases(folder):
            for name, exact in naive(a, b).items():
                exactly_none = same_distribution(a, b) and name in ("gap", "forward_kl")
                assert_digits(given[name], mp.mpf(0) if exactly_none else exact)
            if given["posterior"] is None:
                assert max(a) == -INF
                continue
            evidence = naive(a, b)["log_evidence"]
            for z, text in enumerate(given["posterior"]):
                assert_digits(text, mp.exp(mp.mpf(float(a[z])) - evidence) if a[z] > -INF else mp.mpf(0))


def test_gradients_are_central_differences(folder: Path) -> None:
    with mp.workdps(150):
        step = mp.mpf(10) ** -40
        for a, b, given in cases(folder):
            if given["gradient"] is None or len(a) > 64:
                continue
            for z in range(0, len(b), 5):
                if b[z] == -INF:
                    assert given["gradient"][z] == "0"
                    continue
                values = [_elbo(a, b, z, sign * step) for sign in (1, -1)]
                found, difference = number(given["gradient"][z]), (values[0] - values[1]) / (2 * step)
                assert abs(found - difference) <= mp.mpf(10) ** -28 * max(abs(found), mp.mpf(10) ** -30)


def _elbo(a: Any, b: Any, state: int, step: Any) -> Any:
    logits = [mp.mpf(float(x)) + (step if z == state else 0) if x > -INF else -mp.inf for z, x in enumerate(b)]
    top = max(logits)
    total = top + mp.log(sum(mp.exp(x - top) for x in logits if x > -mp.inf))
    log_q = [x - total for x in logits]
    return sum(mp.exp(y) * (mp.mpf(float(x)) - y) for x, y in zip(a, log_q, strict=True) if y > -mp.inf)


def test_k_sample_bounds_are_those_of_another_enumeration(folder: Path) -> None:
    for a, b, given in cases(folder):
        if given["posterior"] is None or len(a) > 8 or same_distribution(a, b):
            continue
        for k, lower, upper in zip(given["num_samples"], given["lower"], given["upper"], strict=True):
            if k > 4:
                continue
            found = deep_multisets(a.tolist(), b.tolist(), k)
            with mp.workdps(150):
                evidence = naive(a, b)["log_evidence"]
                assert_digits(lower, evidence - found.gap)
                assert_digits(upper, evidence + found.upper_gap)


def test_the_torus_from_its_energies(folder: Path) -> None:
    """Tables are left out; the answers follow from how many arrangements have each energy, counted here spin by spin."""
    problem = json.loads((folder / "ising-torus.problem.json").read_text())
    fixture = json.loads((folder / "ising-torus.json").read_text())
    n, m = problem["sides"]
    edges = [(i * m + j, k) for i in range(n) for j in range(m) for k in (i * m + (j + 1) % m, (i + 1) % n * m + j)]
    bits = np.arange(2 ** (n * m))[:, None] >> np.arange(n * m) & 1
    energies, counts = np.unique(sum((1 - 2 * bits[:, i]) * (1 - 2 * bits[:, j]) for i, j in edges), return_counts=True)
    for coupling, case in zip(problem["couplings"], fixture["cases"], strict=True):
        assert case["log_joint"] is case["log_q"] is case["answers"]["posterior"] is case["answers"]["gradient"] is None
        assert case["answers"]["num_samples"] == []
        with mp.workdps(60):
            pairs = [(mp.mpf(coupling * float(e)), int(c)) for e, c in zip(energies, counts, strict=True)]
            log_size = mp.log(2) * n * m
            evidence = mp.log(sum(c * mp.exp(a) for a, c in pairs))
            elbo = sum(c * a for a, c in pairs) / sum(c for _, c in pairs) + log_size
            eubo = sum(c * mp.exp(a - evidence) * a for a, c in pairs) + log_size
            exact = (evidence, elbo, evidence - elbo, eubo - evidence, eubo, log_size)
            for name, value in zip(("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy"), exact, strict=True):
                assert_digits(case["answers"][name], value)


def test_the_schema_describes_every_file(folder: Path) -> None:
    schema = json.loads((folder / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    found = fixtures(folder)
    assert {"zeros", "tight", "asia", "coins", "stouffer-toby"} <= {fixture["name"] for fixture in found}
    for fixture in found:
        validator.validate(fixture)
    broken = found[0] | {"digits": 29}
    assert not validator.is_valid(broken)


def test_the_library_contains_every_answer(folder: Path) -> None:
    with mp.workdps(60):
        for a, b, given in cases(folder):
            result = ee.audit(a, b)
            for name in ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy"):
                value, text = float(getattr(result, name)), given[name]
                if text is None or not math.isfinite(value):
                    assert (text is None and math.isnan(value)) or number(text) == value
                else:
                    assert abs(mp.mpf(value) - number(text)) <= mp.mpf(float(getattr(result.error, name)))


def test_two_exports_are_the_same_bytes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gallery", "--export", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(Path(entry["file"]).name for entry in told) == sorted(path.name for path in folder.iterdir())
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_answers_of_a_row_worked_by_hand() -> None:
    """p = (3/4, 1/4) of evidence 1, q = (1/2, 1/2)."""
    found = answers(np.log([0.75, 0.25]), np.array([-1.0, -1.0]))
    assert float(found["log_evidence"]) == pytest.approx(0.0, abs=2.0**-52)
    assert found["gradient"][0].lstrip("-") == found["gradient"][1].lstrip("-")
    assert float(found["gradient"][0]) == pytest.approx(math.log(3.0) / 4.0, rel=2.0**-50)


def test_errors_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["gallery", "--export", str(tmp_path / "missing")]) == 2
    assert "the folder for the export must exist" in capsys.readouterr().err
    assert main(["gallery", "coins", "--export", str(tmp_path)]) == 2
    assert "--export writes the whole gallery; got the name 'coins' too" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "flint", None)
    assert main(["gallery", "--export", str(tmp_path)]) == 2
    assert 'pip install "elbo_exact[certify]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
