"""Compiled code of the tests lives in a folder named after the kernels, so that no two versions ever share one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from hypothesis import settings

KERNELS = Path(__file__).resolve().parent.parent / "elbo_exact" / "kernels"

if "NUMBA_CACHE_DIR" not in os.environ:
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(KERNELS.glob("*.py")))).hexdigest()
    os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"elbo_exact-tests-{os.getuid()}-{digest[:16]}")

settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")
