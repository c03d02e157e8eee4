"""The report: what it must say, and that it fits a terminal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from studies import study_of

import elbo_exact as ee
from elbo_exact.gallery import load, names
from elbo_exact.report import audit_text, fields_text, gallery_text, problem_text, study_text

COLUMNS = 120


def cells(line: str) -> list[str]:
    """The cells of a table line, whose columns are two blanks apart."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


@pytest.mark.parametrize("name", names())
def test_the_report_fits_a_terminal(name: str) -> None:
    for text in (study_text(study_of(name)), problem_text(load(name))):
        for line in text.splitlines():
            assert len(line) <= COLUMNS and line == line.rstrip()


@pytest.mark.parametrize("name", names())
def test_every_number_of_every_row_is_there(name: str) -> None:
    study = study_of(name)
    text = study_text(study)
    for part in study.approximations:
        (block,) = [block for block in text.split("\n\n") if block.startswith(f"q = {part.name}:")]
        rows = block.splitlines()[2:]
        assert len(rows) == len(study.rows) + 1
        for i, row in enumerate(rows[:-1]):
            for quantity in ("elbo", "gap", "forward_kl", "eubo"):
                value, bound = getattr(part.audit, quantity)[i], getattr(part.audit.error, quantity)[i]
                assert f"{value:.8g} ± {bound:.0e}" in cells(row)
            assert f"{part.audit.residual[i]:.1e} ({part.audit.residual_bound[i]:.0e})" in cells(row)
        assert f"{part.total.elbo:.8g} ± {part.total.error.elbo:.0e}" in cells(rows[-1])
    assert " ".join(text.split("\n\n")[-1].split()) == study.sentence


def test_log_likelihoods_stand_beside_the_published_ones() -> None:
    lines = study_text(study_of("stouffer-toby")).splitlines()
    for n_classes, published in ((1, "-543.6498"), (2, "-504.4677"), (3, "-503.3011")):
        fit = study_of("stouffer-toby").fits[n_classes - 1]
        value = f"{fit.result.objective:.15g} ± {fit.result.error:.0e}"
        (line,) = [line for line in lines if cells(line)[:1] == [str(n_classes)] and value in line]
        assert published in cells(line)
    assert "Chosen: 2 classes, the smallest BIC." in lines


def test_each_answer_pattern_with_count_and_posterior() -> None:
    study = study_of("stouffer-toby")
    lines = study_text(study).splitlines()
    for i, row in enumerate(study.rows):
        line = next(line for line in lines if line.startswith(row))
        assert cells(line)[1] == f"{study.counts[i]:g}"
        assert cells(line)[3:] == [f"{p:.10f}" for p in study.marginals["class"][i]]


@pytest.mark.parametrize("name", names())
def test_every_reference_number_is_compared(name: str) -> None:
    lines = study_text(study_of(name)).splitlines()
    for check in study_of(name).checks:
        assert any(line.startswith(check.answer.quantity) and check.answer.value in line for line in lines)
    assert not any(line.endswith(" NO") for line in lines)


def test_infinities_are_written() -> None:
    assert "-inf ± 0e+00" in study_text(study_of("sprinkler"))


def test_audit_text_of_one_row_and_of_many() -> None:
    one = audit_text(ee.audit(np.log([0.3, 0.1]), np.log([0.5, 0.5])))
    assert one == str(ee.audit(np.log([0.3, 0.1]), np.log([0.5, 0.5])))
    table = np.log(np.full((50, 2), 0.5))
    many = audit_text(ee.audit(table, table)).splitlines()
    assert len(many) == 1 + 1 + 20 + 1 + 1 and many[12].split()[0] == "..." and many[-1].split()[0] == "total"
    assert all(len(line) <= COLUMNS + 20 for line in many)


def test_audit_text_says_that_a_row_is_impossible() -> None:
    text = audit_text(ee.audit([[-math.inf, -math.inf], [0.0, 0.0]], np.log([0.5, 0.5])))
    assert "zero_evidence" in text


def test_gallery_text_lists_all() -> None:
    lines = gallery_text(map(load, names())).splitlines()
    assert [line.split()[0] for line in lines] == ["name", *names()]


def test_fields_text_shows_nested_names() -> None:
    assert fields_text({"a": {"b": None, "c": 1}, "d": "x"}).splitlines() == ["a b  -", "a c  1", "d    x"]
