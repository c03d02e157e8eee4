"""Every claim of the page about wrong answers, against the libraries that are installed."""

from __future__ import annotations

import contextlib
import io
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wrong-answers.md"
CELLS = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def printed() -> str:
    names: dict[str, Any] = {}
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        for cell in CELLS:
            exec(cell, names)  # noqa: S102 - a page of this repository
    return text.getvalue()


def number(printed: str, before: str) -> float:
    found = re.search(re.escape(before) + r"\s*(\S+)", printed)
    assert found is not None, before
    return float(found.group(1))


def test_elbos_above_the_evidence_and_negative_divergences(printed: str) -> None:
    assert number(printed, "SciPy: ELBO - log p(x) =") > 1e-9
    assert number(printed, "here:  ELBO - log p(x) =") <= 0.0
    assert number(printed, "kl_div(1e-200, 1e200) =") == float("-inf")
    shares = dict(re.findall(r"^(\S+)\s+negative:\s+(\d+)%", printed, re.MULTILINE))
    assert int(shares["rel_entr"]) > 20 and shares["here"] == "0"


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_torch(printed: str) -> None:
    assert "torch 2.13" not in printed
    assert abs(number(printed, "torch:") - 36.04365338911715) < 1e-9
    assert "torch: nan [nan, nan, nan]" in printed
    assert re.search(r"here:\s+460\.51", printed)


@pytest.mark.skipif(find_spec("pymc") is None, reason="pymc is not installed")
def test_pymc(printed: str) -> None:
    assert 1e-9 < abs(number(printed, "off by")) < 1e-7


def test_scikit_learn(printed: str) -> None:
    assert "scikit-learn: [[nan nan]]" in printed
