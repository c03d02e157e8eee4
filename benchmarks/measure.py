"""Time every contender for one number of threads, in this process; JSON on standard output.

Repetitions are interleaved in a shuffled order, so a slow moment of the machine or the cache left by a neighbour strikes
everybody alike, and a ratio of medians is a ratio within one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import QUANTITIES, contenders, sizes, tables

__all__ = ["interleaved", "measure"]

LONG_RUN = 5 * 10**6  # table entries from which nine repetitions must do instead of 25


def interleaved(calls: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each repetition of each call, after one that is not counted (compiling, first page faults)."""
    for call in calls.values():
        call()
    rng, times = np.random.default_rng(0), {name: [] for name in calls}
    for _ in range(repetitions):
        for name in rng.permutation(list(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def measure(n_threads: int, quick: bool) -> list[dict[str, Any]]:
    """One record for each size, quantity and library: nanoseconds per state, median and quartiles."""
    records = []
    for size, shape in sizes(quick).items():
        a, b = tables(shape)
        repetitions = 3 if quick else 9 if a.size > LONG_RUN else 25
        for quantity in QUANTITIES:
            for name, seconds in interleaved(contenders(quantity, a, b, n_threads), repetitions).items():
                low, median, high = (1e9 * x / a.size for x in statistics.quantiles(seconds, n=4, method="inclusive"))
                records.append(
                    {"size": size, "quantity": quantity, "name": name, "median": median, "low": low, "high": high}
                    | {"threads": n_threads, "repetitions": repetitions}
                )
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(json.dumps(measure(options.threads, options.quick)))
