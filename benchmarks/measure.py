"""Time every contender for one number of threads, in this process; JSON on standard output.

Repetitions are interleaved in a shuffled order, so a slow moment of the machine or the cache left by a neighbour strikes
everybody alike, and a ratio of medians is a ratio within one run. Ratios between one thread and two still need a second processor that
nobody else uses: a group of contenders is timed again while others were busy, and the quietest attempt is kept. What decides is
the processor time of others, never the times measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import QUANTITIES, contenders, sizes, tables

__all__ = ["QUIET", "interleaved", "measure", "quietest"]

LONG_RUN = 5 * 10**6  # table entries from which nine repetitions must do instead of 25
QUIET = 0.05  # processors kept busy by others; more, and the group is timed again
ATTEMPTS, PAUSE = 4, 5.0


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


def busy_seconds_of_others() -> float:
    """Processor seconds since the start of the machine that were not this process's own; 0 where /proc does not tell."""
    statistics_file = Path("/proc/stat")
    if not statistics_file.exists():
        return 0.0
    user, nice, system, _idle, _iowait, interrupts, soft, stolen = map(int, statistics_file.read_text().split()[1:9])
    ticks = user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def quietest(calls: dict[str, Callable[[], Any]], repetitions: int, attempts: int) -> tuple[float, dict[str, list[float]]]:
    """Processors that others kept busy meanwhile, and the times, of the first quiet attempt, else of the quietest."""
    tried = []
    for attempt in range(attempts):
        if attempt:
            time.sleep(PAUSE)
        start, others = time.perf_counter(), busy_seconds_of_others()
        times = interleaved(calls, repetitions)
        share = (busy_seconds_of_others() - others) / (time.perf_counter() - start)
        tried.append((min(max(share, 0.0), os.cpu_count() or 1), times))  # clock ticks of 10 ms overshoot in short groups
        if tried[-1][0] <= QUIET:
            break
    return min(tried, key=lambda attempt: attempt[0])


def measure(n_threads: int, quick: bool) -> list[dict[str, Any]]:
    """One record for each size, quantity and library: nanoseconds per state, median and quartiles."""
    records = []
    for size, shape in sizes(quick).items():
        a, b = tables(shape)
        repetitions = 3 if quick else 9 if a.size > LONG_RUN else 25
        for quantity in QUANTITIES:
            calls = contenders(quantity, a, b, n_threads)
            others, times = quietest(calls, repetitions, 1 if quick else ATTEMPTS)
            for name, seconds in times.items():
                low, median, high = (1e9 * x / a.size for x in statistics.quantiles(seconds, n=4, method="inclusive"))
                records.append(
                    {"size": size, "quantity": quantity, "name": name, "median": median, "low": low, "high": high}
                    | {"threads": n_threads, "repetitions": repetitions, "others": others}
                )
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(json.dumps(measure(options.threads, options.quick)))
