"""Time bounds and K-sample integrals beside NumPy, and Monte Carlo, with one thread, in this process; JSON on standard output."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from bound_cases import BOUNDS, COUNTS, KINDS, bound_calls, curve_calls, kind_calls, monte_carlo_row, path_calls
from measure import ATTEMPTS, quietest

__all__ = ["measure_bounds", "record"]


def record(calls: dict[str, Callable[[], Any]], quick: bool, repetitions: int = 9) -> dict[str, Any]:
    """Median seconds of each call, and how many processors others kept busy."""
    others, times = quietest(calls, 3 if quick else repetitions, 1 if quick else ATTEMPTS)
    return {"others": others, "seconds": {name: statistics.median(seconds) for name, seconds in times.items()}}


def measure_bounds(quick: bool) -> dict[str, Any]:
    """Records of each bound, also on tables of other kinds, of the curve and the long thermodynamic sum, and a row of Monte Carlo for each K."""
    quick_ones = [name for name in BOUNDS if "iwae" not in name]  # the formula of iwae takes ten seconds a call
    return {
        "bounds": {name: record(bound_calls(name, quick), quick, 3 if "iwae" in name else 9) for name in BOUNDS},
        "kinds": {kind: {name: record(kind_calls(name, kind, quick), quick, 3) for name in quick_ones} for kind in KINDS},
        "curve": record(curve_calls(quick), quick),
        "path": record(path_calls(quick), quick, 3),
        "monte carlo": [monte_carlo_row(count, quick, time.perf_counter) for count in COUNTS],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(measure_bounds(parser.parse_args().quick)))
