"""The state of an installation: versions, threads, arithmetic, and the compiled kernels and their cache."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import platform
import sys
import time
from typing import Any

import numpy as np

from elbo_exact import kernels
from elbo_exact._audit import audit
from elbo_exact._engine import check_arithmetic
from elbo_exact._parallel import THREADS, n_threads
from elbo_exact.kernels._jit import CONFIG, Kernel, cache_report, numba_is_tested

__all__ = ["health", "warm"]

PACKAGES = ("elbo_exact", "numpy", "scipy", "numba", "llvmlite", "tqdm", "matplotlib", "python-flint")


def health() -> dict[str, Any]:
    """Everything that ``elbo-exact doctor`` shows; ``problems`` is a list of sentences, empty if all is well.

    Examples
    --------
    >>> health()["arithmetic"]["subnormals"]
    'kept'
    """
    problems: list[str] = []
    arithmetic = _arithmetic(problems)
    cache = cache_report()
    if not numba_is_tested():
        problems.append(f"numba {cache['numba']} is not a tested version, so kernels are compiled in every process.")
    if not cache["writable"]:
        problems.append("no cache folder is writable, so kernels are compiled in every process; set NUMBA_CACHE_DIR.")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": f"{platform.system()} {platform.machine()}, byte order {sys.byteorder}",
        "threads": _threads(problems),
        "arithmetic": arithmetic,
        "kernels": {"compiled": not CONFIG.DISABLE_JIT, "self-test": _self_test(problems)},
        "cache": cache,
        "problems": problems,
    }


def warm() -> dict[str, Any]:
    """Compile every kernel, or load it from the cache; their number and the seconds it took."""
    found: dict[int, Kernel] = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        for value in vars(importlib.import_module(f"{kernels.__name__}.{module.name}")).values():
            if isinstance(value, Kernel):
                found[id(value)] = value
    start = time.perf_counter()
    for kernel in found.values():
        kernel.compile()
    return {"kernels": len(found), "seconds": round(time.perf_counter() - start, 3), **cache_report()}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _threads(problems: list[str]) -> dict[str, Any]:
    try:
        return {"used": n_threads(), THREADS: os.environ.get(THREADS)}
    except ValueError as error:
        problems.append(str(error))
        return {"used": None, THREADS: os.environ.get(THREADS)}


def _arithmetic(problems: list[str]) -> dict[str, str]:
    try:
        check_arithmetic()
    except FloatingPointError as error:
        problems.append(str(error))
        flushed = "subnormal" in str(error)
        return {"subnormals": "flushed to zero" if flushed else "kept", "rounding": "unknown" if flushed else "not to nearest"}
    return {"subnormals": "kept", "rounding": "to nearest"}


def _self_test(problems: list[str]) -> str:
    """A small audit: ordered bounds, and log p(x) = ELBO + KL within its bound."""
    try:
        result = audit(np.array([-1.0, -2.0, -np.inf]), np.array([np.log(0.25), np.log(0.75), -np.inf]))
    except (FloatingPointError, ValueError, OSError) as error:
        problems.append(f"the self-test failed: {error}")
        return "failed"
    if result.elbo <= result.log_evidence <= result.eubo and abs(result.residual) <= result.residual_bound:
        return "passed"
    problems.append("the self-test found bounds that do not hold; clear the cache with: elbo-exact cache clear")
    return "failed"
