"""Compiled code of the tests lives in a folder named after the kernels, so that no two versions ever share one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flint import ctx
from hypothesis import settings

KERNELS = Path(__file__).resolve().parent.parent / "elbo_exact" / "kernels"

if "NUMBA_CACHE_DIR" not in os.environ:
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(KERNELS.glob("*.py")))).hexdigest()
    os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"elbo_exact-tests-{os.getuid()}-{digest[:16]}")

settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="module")
def _arb_bits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Balls of a test file have its ARB_BITS, which no other file can change."""
    before, ctx.prec = ctx.prec, getattr(request.module, "ARB_BITS", 53)
    yield
    ctx.prec = before
