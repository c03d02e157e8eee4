"""What a process pays before its first result, and how much memory an audit takes; each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["first_audit", "memory_of", "start_cold_and_warm"]

FIRST_AUDIT = """
import time
start = time.perf_counter()
import elbo_exact
imported = time.perf_counter()
import numpy
elbo_exact.audit(numpy.log([0.3, 0.1]), numpy.log([0.5, 0.5]))
print('{"import": %r, "import and audit": %r}' % (imported - start, time.perf_counter() - start))
"""

# Everything is loaded, and the thread pool used once, on a small row that takes the same path; the inputs are filled in place, so
# nothing but they is held. /proc gives this process's own peak: ru_maxrss of a child starts at the size of its parent.
MEMORY = """
import json, sys
import numpy
def megabytes(field):
    line, = [line for line in open("/proc/self/status") if line.startswith(field + ":")]
    return int(line.split()[1]) / 1e3
def four_quantities(a, b):
    import rivals
    return rivals.numpy_four_quantities(a, b)
def audit(a, b):
    import elbo_exact
    return elbo_exact.audit(a, b)
def curve(a, b):
    import elbo_exact
    return elbo_exact.importance.curve(a[0], b[0], [1, 10, 100, 1000, 10**6, 10**9])
def tvo(a, b):
    import elbo_exact
    return elbo_exact.bounds.tvo(a, b, 100)
calls = {"audit": audit, "numpy": four_quantities, "curve": curve, "tvo": tvo}
call, size = calls[sys.argv[1]], int(sys.argv[2])
def inputs(size):
    a, b, rng = numpy.empty((1, size)), numpy.empty((1, size)), numpy.random.default_rng(0)
    rng.standard_normal(out=a)
    b[:] = -numpy.log(size)
    return a, b
call(*inputs(min(300_000, size // 2)))
a, b = inputs(size)
before = megabytes("VmRSS")
call(a, b)
print(json.dumps({"input": (a.nbytes + b.nbytes) / 1e6, "extra": megabytes("VmHWM") - before}))
"""


def _python(code: str, *arguments: str, **variables: str) -> tuple[dict[str, float], str]:
    """What a fresh interpreter prints, with its wall time, and its standard error."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [here])
    # A user's interpreter keeps bytecode; where this variable forbids it, every warm start would compile the package's text again
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**inherited, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return {**json.loads(done.stdout), "process": time.perf_counter() - start}, done.stderr


def first_audit(cache: str) -> tuple[dict[str, float], str]:
    """Seconds of import, of import and first audit, and of the whole process, with kernels kept in ``cache``; standard error."""
    return _python(FIRST_AUDIT, NUMBA_CACHE_DIR=cache)


def start_cold_and_warm(repetitions: int) -> dict[str, Any]:
    """One cold start from an empty cache, with what it said meanwhile; then medians and minima of warm ones."""
    with tempfile.TemporaryDirectory() as cache:
        cold, said = first_audit(cache)
        warm = [first_audit(cache) for _ in range(repetitions)]
    ordered = {name: sorted(run[name] for run, _ in warm) for name in cold}
    return {
        "cold": cold,
        "said": said.strip(),
        "warm": {name: seconds[repetitions // 2] for name, seconds in ordered.items()},
        "fastest": {name: seconds[0] for name, seconds in ordered.items()},
        "warm said": "".join(error for _, error in warm),
    }


def memory_of(call: str, n_states: int, n_threads: int) -> dict[str, float]:
    """Megabytes of the two tables of one row, and what a call needs on top, at its peak.

    Calls: "audit"; "numpy", its four formulas; "curve", six K; "tvo", 100 points.

    The peak is taken over the whole life of the process, so the difference can be too large, never too small.
    """
    return _python(MEMORY, call, str(n_states), ELBO_EXACT_NUM_THREADS=str(n_threads))[0]
