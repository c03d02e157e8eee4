"""``elbo-exact check`` and ``write`` on functions of a user, good and bad."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import elbo_exact as ee
from elbo_exact.cli import main
from elbo_exact.testing import _check
from elbo_exact.testing.mutants import mutants

MODULE = """
import numpy as np

def elbo(log_joint, log_q):
    q = np.exp(log_q)
    with np.errstate(invalid="ignore"):
        return np.where(q > 0, q * (log_joint - log_q), 0).sum(-1)

def expected(q_probs, joint_probs):
    with np.errstate(all="ignore"):
        return np.where(q_probs > 0, q_probs * np.log(joint_probs), 0).sum(-1)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"users_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_check_of_a_right_function(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{module}:elbo", "--examples", "100"]) == 0
    assert "100 problems, no error" in capsys.readouterr().out


def test_check_shows_the_smallest_table_and_the_fingerprint(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{module}:expected", "--examples", "200"]) == 1
    out = capsys.readouterr().out
    assert "Problem([0.0, 0.0], [-0.6931471805599453, -0.6931471805599453])" in out
    assert "missing entropy" in out


def test_signature_from_names(module: str) -> None:
    assert _check.signature(f"{module}:expected").arguments == ("q", "joint")
    with pytest.raises(ValueError, match=r"package\.module:function"):
        _check.signature("elbo")
    with pytest.raises(ValueError, match="has no function"):
        _check.signature(f"{module}:absent")


@pytest.mark.parametrize("name", ["elbo", "expected"])
def test_written_file_is_code(module: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["write", f"{module}:{name}"]) == 0
    compile(capsys.readouterr().out, "test_it.py", "exec")


def test_mutants_that_a_users_tests_catch(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = {"negative ELBO", "reversed KL"}
    from elbo_exact.testing import mutants as zoo

    monkeypatch.setattr(zoo, "_ZOO", tuple(m for m in zoo.mutants() if m.name in keep))
    test = tmp_path / "test_it.py"
    test.write_text(
        f"from {module} import elbo\nimport numpy as np\n\ndef test_sign():\n    assert elbo(np.log([0.3, 0.1]), np.log([0.5, 0.5])) < 0\n"
    )
    assert main(["check", f"{module}:elbo", "--mutants", str(test)]) == 1
    assert capsys.readouterr().out.split("\n")[:2] == ["caught    negative ELBO", "SURVIVES  reversed KL"]


def test_written_file_passes(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["write", f"{module}:elbo"])
    (tmp_path / "test_it.py").write_text(capsys.readouterr().out)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "test_it.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_an_unknown_bug_is_not_called_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the entropy is missing: 0.1 nats, which single precision would lose at 1e5."""
    monkeypatch.setattr(_check, "load", lambda target: lambda a, b: ee.elbo(a, b) - 0.1 * ee.audit(a, b).entropy)
    assert _check.diagnosis(_check.Signature("any:thing", "elbo", ("log_joint", "log_q"), "numpy")) is None


@pytest.mark.parametrize("mutant", [m for m in mutants() if m.quantity in _check.QUANTITIES], ids=lambda m: m.name)
def test_diagnosis_names_the_bug_of_every_mutant(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "load", lambda target: mutant)
    arguments = ("log_joint",) if mutant.quantity == "log_evidence" else ("log_joint", "log_q")
    cause = _check.diagnosis(_check.Signature("any:thing", mutant.quantity, arguments, "numpy"))
    assert cause.name == {"scaled by plate": "scaled by 3"}.get(mutant.fingerprint, mutant.fingerprint)
