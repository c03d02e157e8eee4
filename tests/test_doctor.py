"""What the doctor sees."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from elbo_exact import _doctor
from elbo_exact._doctor import health, warm


def test_a_healthy_installation() -> None:
    found = health()
    assert found["problems"] == [] and found["kernels"]["self-test"] == "passed"
    assert found["versions"]["elbo_exact"] and found["versions"]["numpy"]
    assert found["cache"]["in_use"]


def test_bad_settings_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", "many")
    found = health()
    assert found["threads"]["used"] is None
    assert "ELBO_EXACT_NUM_THREADS must be an integer >= 1; got 'many'; unset it to use every processor." in found["problems"]


@pytest.mark.parametrize(
    ("words", "subnormals", "rounding"),
    [("subnormal numbers are flushed", "flushed to zero", "unknown"), ("does not round to nearest", "kept", "not to nearest")],
)
def test_bad_arithmetic_is_a_problem(monkeypatch: pytest.MonkeyPatch, words: str, subnormals: str, rounding: str) -> None:
    def refuse() -> None:
        raise FloatingPointError(words)

    monkeypatch.setattr(_doctor, "check_arithmetic", refuse)
    found = health()
    assert found["arithmetic"] == {"subnormals": subnormals, "rounding": rounding} and words in found["problems"]


def test_a_failing_self_test_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    right = _doctor.audit

    def wrong(log_joint: object, log_q: object) -> object:
        result = right([-1.0, -2.0], [-0.5, -0.9327521295671886])
        object.__setattr__(result, "elbo", result.log_evidence + 1.0)
        return result

    monkeypatch.setattr(_doctor, "audit", wrong)
    found = health()
    assert found["kernels"]["self-test"] == "failed" and "elbo-exact cache clear" in found["problems"][-1]


def test_no_cache_folder_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    report = {**_doctor.cache_report(), "folder": None, "writable": False, "in_use": False}
    monkeypatch.setattr(_doctor, "cache_report", lambda: report)
    assert any("no cache folder is writable" in problem for problem in health()["problems"])


def test_an_untested_numba_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor, "numba_is_tested", lambda: False)
    assert any("is not a tested version" in problem for problem in health()["problems"])


def test_warm_loads_every_kernel() -> None:
    found = warm()
    assert found["kernels"] >= 10 and found["files"] >= found["kernels"]


def test_without_the_compiler_there_is_nothing_to_warm() -> None:
    code = "from elbo_exact._doctor import health, warm; print(warm()['kernels'], health()['kernels'], health()['problems'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True
    )
    assert done.stdout.strip() == "0 {'compiled': False, 'self-test': 'passed'} []"
