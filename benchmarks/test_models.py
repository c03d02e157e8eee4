"""The page about fits, on little data: every table is there, and no rival is slower to start than to be found missing."""

from __future__ import annotations

import em
import write_models_page


def test_the_page_has_a_table_for_every_case():
    text = write_models_page.page(quick=True)
    for case in em.CASES:
        assert f"## {case.name}" in text
    assert text.count("| elbo_exact |") >= len(em.CASES) and "not met" not in text
