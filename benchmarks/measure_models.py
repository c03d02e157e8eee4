"""Time an iteration and a fit of every contender of a table of cases; JSON on standard output.

With BENCHMARK_THREADS=2 training steps only, which promise nothing then.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import em  # first: it sets the number of threads before NumPy is imported

import amortized  # isort: skip
from measure import quietest

__all__ = ["measured"]

REPETITIONS, ATTEMPTS = 9, 3


def measured(case: em.Case, quick: bool) -> dict[str, Any]:
    """Milliseconds of an iteration, seconds of the longer fit, and how busy others were."""
    few, many = (1, 2) if quick else case.iterations
    runs = em.contenders(case, quick)
    calls = {f"{name}|{n}": (lambda run=run, n=n: run(n)) for name, run in runs.items() for n in (few, many)}
    others, times = quietest(calls, 2 if quick else REPETITIONS, 1 if quick else ATTEMPTS)
    record: dict[str, Any] = {
        "name": case.name,
        "others": others,
        "promised": case.promised,
        "iterations": many,
        "libraries": {},
    }
    for name in runs:
        short, long = times[f"{name}|{few}"], times[f"{name}|{many}"]
        each = [(b - a) / (many - few) for a, b in zip(short, long, strict=True)]
        record["libraries"][name] = {"iteration": 1e3 * statistics.median(each), "fit": statistics.median(long)}
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    cases = (*em.CASES, *amortized.CASES) if em.THREADS == 1 else [case._replace(promised={}) for case in amortized.CASES]
    print(json.dumps([measured(case, quick) for case in cases]))
