"""What is measured: the tables, our functions, and which formula of a rival stands beside each."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import rivals

import elbo_exact as ee

__all__ = ["QUANTITIES", "SIZES", "contenders", "environment", "sizes", "tables", "use_threads"]

SIZES = {"10^4 x 256": (10**4, 256), "100 x 10^5": (100, 10**5), "1 x 10^7": (1, 10**7), "10^5 x 4": (10**5, 4)}
QUICK_SIZES = {"200 x 256": (200, 256), "2 x 10^4": (2, 10**4), "1 x 3*10^5": (1, 3 * 10**5), "2000 x 4": (2000, 4)}


def _elbo_and_gap(a: Any, b: Any) -> tuple[Any, Any]:
    return ee.elbo(a, b), ee.gap(a, b)


# name: (ours, the attribute of Rival beside it, what the rival computes)
QUANTITIES: dict[str, tuple[Callable[..., Any], str, str]] = {
    "log_evidence": (lambda a, b: ee.log_evidence(a), "log_evidence", "log evidence"),
    "elbo": (ee.elbo, "elbo_and_gap", "log evidence and ELBO"),
    "elbo and gap": (_elbo_and_gap, "elbo_and_gap", "log evidence, ELBO and their difference"),
    "audit": (ee.audit, "four_quantities", "log evidence, ELBO and both divergences, without bounds"),
}


def sizes(quick: bool) -> dict[str, tuple[int, int]]:
    """Named table shapes; the quick ones still enter every code path (short rows, long rows, a row shared by threads)."""
    return QUICK_SIZES if quick else SIZES


def tables(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A log joint with a standard deviation of two nats, and a normalized log q unrelated to it."""
    rng = np.random.default_rng(20240229)
    log_joint = rng.normal(-5.0, 2.0, size=shape)
    log_q = rng.normal(size=shape)
    log_q -= ee.log_evidence(log_q)[..., None]
    return log_joint, log_q


def environment(n_threads: int) -> dict[str, str]:
    """The variables with which a process must start so that each library uses ``n_threads``.

    XLA reads its own only once. OpenMP workers that spin after their work would steal the time of whoever comes next.
    """
    eigen = f"--xla_cpu_multi_thread_eigen={'true' if n_threads > 1 else 'false'}"
    flags = {"NPROC": str(n_threads), "XLA_FLAGS": eigen, "JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, **flags, "ELBO_EXACT_NUM_THREADS": str(n_threads), "OMP_NUM_THREADS": str(n_threads)}


def use_threads(n_threads: int) -> None:
    """Our own number of threads, read at each call."""
    os.environ["ELBO_EXACT_NUM_THREADS"] = str(n_threads)


def contenders(quantity: str, a: np.ndarray, b: np.ndarray, n_threads: int) -> dict[str, Callable[[], Any]]:
    """Calls without arguments, by library; arrays are converted and formulas compiled outside of them.

    With several threads, "one thread" is ours with one, so that the gain is a ratio within one run.
    """

    def ours(threads: int) -> Callable[[], Any]:
        def call() -> Any:
            use_threads(threads)
            return QUANTITIES[quantity][0](a, b)

        return call

    calls = {"elbo_exact": ours(n_threads)}
    if n_threads > 1:
        calls["one thread"] = ours(1)
    for name, rival in rivals.present().items():
        convert, prepare = rival.tools(n_threads)
        formula, x, y = prepare(getattr(rival, QUANTITIES[quantity][1])), convert(a), convert(b)
        calls[name] = lambda formula=formula, x=x, y=y: formula(x, y)
    return calls
