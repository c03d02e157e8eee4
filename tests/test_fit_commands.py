"""``elbo-exact fit`` and ``predict``: text and JSON, every family, files kept and files that are not what they should be."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact import _fit_commands, _fitted
from elbo_exact.cli import main

COLUMNS = {"bernoulli": 2, "poisson": 9}


@pytest.fixture
def students(tmp_path: Path) -> Path:
    """The published answers of 216 students, one row each, as text."""
    problem = ee.gallery.load("stouffer-toby")
    path = tmp_path / "students.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["car", "drama", "doctor", "board"])
        writer.writerows(
            [["yes" if cell else "no" for cell in row] for row in np.repeat(problem.x, problem.counts.astype(int), axis=0)]
        )
    return path


def write_rows(path: Path, kind: str, missing: bool) -> np.ndarray:
    rng = np.random.default_rng(4)
    gaussian = kind.startswith("gaussian")
    rows = rng.normal(size=(24, 3)) + rng.integers(0, 2, (24, 1)) * 6 if gaussian else rng.integers(0, COLUMNS[kind], (24, 3))
    rows = rows.astype(float)
    if missing:
        rows[3, 1] = np.nan
    cells = [["" if np.isnan(cell) else repr(float(cell)) for cell in row] for row in rows]
    path.write_text("\n".join(",".join(row) for row in [["a", "b", "c"], *cells]) + "\n")
    return rows


def test_published_maximum_saved_and_used_again(students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = str(tmp_path / "kept.npz")
    words = ["fit", "categorical", str(students), "--components", "2", "--restarts", "5", "--save", kept]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "log p(data) = -504.46767" in text and "CONVERGED" in text and kept in text and "9 parameters" in text
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["objective"] == pytest.approx(-504.4677, abs=6e-5)  # Goodman (1974)
    assert found["levels"] == [["no", "yes"]] * 4 and len(found["restarts"]) == 6 and found["rows"] == 216
    assert main(["predict", kept, str(students)]) == 0
    lines = capsys.readouterr().out.split()
    assert lines[0] == "component,log_p"
    total = sum(float(line.split(",")[1]) for line in lines[1:])
    # a row's printed number and the row in the fit's sum have bounds of the same size; the sum of 216 rounds by 216 u each
    assert abs(total - found["objective"]) <= 2.0 * found["error"] + 216 * 2.0**-53 * 1.1 * abs(total)


@pytest.mark.parametrize("kind", [kind for kind in _fitted.KINDS if kind != "categorical"])
def test_every_family_comes_back_from_its_file_to_the_bit(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, kept = tmp_path / "data.csv", tmp_path / "kept.npz"
    rows = write_rows(data, kind, missing=kind not in ("gaussian", "gaussian-tied"))
    assert main(["fit", kind, str(data), "--restarts", "1", "--json", "--save", str(kept)]) == 0
    found = json.loads(capsys.readouterr().out)
    fitted = _fitted.load(kept)
    assert fitted.model.to_dict() == found["model"] and fitted.table.names == ("a", "b", "c")
    assert main(["predict", str(kept), str(data), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    joint = fitted.model.log_joint(rows)
    np.testing.assert_array_equal([row["log_p"] for row in told], ee.log_evidence(joint))
    np.testing.assert_array_equal([row["posterior"] for row in told], ee.posterior(joint))
    np.testing.assert_array_equal([row["component"] for row in told], ee.posterior(joint).argmax(axis=1))
    assert main(["fit", kind, str(data), "--restarts", "0"]) == 0 and "component 1: share" in capsys.readouterr().out


def test_a_row_that_no_component_can_produce(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, kept = tmp_path / "data.csv", str(tmp_path / "kept.npz")
    data.write_text("a,b\n0,1\n1,1\n")
    assert main(["fit", "bernoulli", str(data), "--components", "1", "--restarts", "0", "--save", kept]) == 0
    capsys.readouterr()
    data.write_text("b,a\n0,1\n1,1\n")
    assert main(["predict", kept, str(data)]) == 0
    assert capsys.readouterr().out.split("\n")[1:3] == [",-inf", f"0,{np.log(0.5)!r}".replace("np.float64(", "").rstrip(")")]
    assert main(["predict", kept, str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {"component": None, "log_p": "-Infinity", "posterior": None}


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("bernoulli", "a\n0\n2\n", "line 3: column 'a' must hold whole numbers 0 ... 1; got '2'"),
        ("poisson", "a\n0\n-1\n", "line 3: column 'a' must hold whole numbers 0 ..."),
        ("bernoulli", "a\n0.5\n", "line 2: column 'a' must hold whole numbers"),
        ("gaussian", "a,b\n1,2\n,3\n2,2\n", "line 3: column 'a' must hold a number"),
        ("gaussian", "a,b\n1,2\n3,x\n", "line 3: column 'b' must hold finite numbers; got 'x'"),
        ("gaussian", "a,b\n1,2\n1,3\n", "column 'a' must hold two different numbers"),
        ("gaussian", "a,b\n1e300,2\n3,4\n", "line 2: column 'a' must hold numbers from -1e+150 to 1e+150; got '1e300'"),
        ("bernoulli", "a\n0\n", "components must be at most the 1 rows of the data; got 2"),
        ("gaussian", "a\n1\n", "must have at least 2 rows"),
        ("categorical", "a,b\nx,\ny,\n", "column 'b' holds missing cells only"),
    ],
)
def test_mistakes_in_data_are_one_line(
    kind: str, content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.csv"
    data.write_text(content)
    assert main(["fit", kind, str(data), "--restarts", "0"]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_mistakes_show_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "poisson", "no.csv"]) == 2 and "no.csv: No such file" in capsys.readouterr().err
    assert main(["fit", "poisson", "no.csv", "--save", str(tmp_path / "none" / "x.npz")]) == 2
    assert "folder of --save must exist" in capsys.readouterr().err


ABOUT: dict[str, Any] = {"kind": "poisson", "components": 2, "names": ["a"], "levels": []}


@pytest.mark.parametrize(
    ("about", "parameters", "words"),
    [
        (ABOUT, np.zeros(3), "must hold 4 numbers; got 3"),
        (ABOUT | {"components": 10**12}, np.zeros(4), "must hold 2000000000000 numbers"),
        (ABOUT | {"components": True}, np.zeros(4), "components must be a whole number"),
        (ABOUT | {"kind": "beta"}, np.zeros(4), "kind must"),
        (ABOUT | {"kind": []}, np.zeros(4), "kind must"),
        (ABOUT | {"names": ["a", "a"]}, np.zeros(4), "names must be a list"),
        (ABOUT | {"levels": [["x"]]}, np.zeros(4), "levels must list"),
        (ABOUT | {"kind": "categorical"}, np.zeros(4), "levels must list"),
        (ABOUT, np.array([-0.5, np.nan, 0.0, 0.0]), "log_weights"),
        ({"kind": "poisson"}, np.zeros(4), "about must name"),
        (ABOUT, np.zeros(4, np.int64), "parameters float64"),
    ],
)
def test_files_that_are_no_fitted_models(about: Any, parameters: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, about=np.frombuffer(json.dumps(about).encode(), np.uint8), parameters=parameters)
    with pytest.raises(ValueError, match=words) as caught:
        _fitted.load(path)
    assert str(caught.value).startswith(f"{path} is not a valid fitted model: ")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b"{", b"[]", b"1" * 10_000])
def test_hostile_json_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, about=np.frombuffer(text, np.uint8), parameters=np.zeros(1))
    with pytest.raises(ValueError, match="is not a valid fitted model"):
        _fitted.load(path)


def test_help_names_every_family_without_loading_it() -> None:
    assert _fit_commands.KINDS == _fitted.KINDS
