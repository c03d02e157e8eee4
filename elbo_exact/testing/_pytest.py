"""The pytest plugin: it warms the kernels if collected tests use the strategies, and puts a mutant in the place of a function.

Nothing heavy is imported: a run that does not use the package pays for this file only.
"""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["pytest_collection_finish", "pytest_configure"]

TARGET, MUTANT = "ELBO_EXACT_TARGET", "ELBO_EXACT_MUTANT"


def pytest_configure(config: Any) -> None:
    """Replace the function under test by a mutant, before test files import it; only for ``elbo-exact check --mutants``."""
    if MUTANT in os.environ and TARGET in os.environ:
        from elbo_exact.testing._check import replace

        replace(os.environ[TARGET], os.environ[MUTANT])


def pytest_collection_finish(session: Any) -> None:
    """Compile before the first test, whose deadline a compilation would miss."""
    if session.items and "elbo_exact.testing._assertions" in sys.modules:
        from elbo_exact.testing._warm import warm_up

        warm_up()
