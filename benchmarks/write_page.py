"""Run the benchmarks and write docs/benchmarks.md from them: ``python benchmarks/write_page.py [--quick]``.

Nobody types a number. ``--quick`` takes small tables, judges nothing, and prints the page instead of writing it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rivals
from bounds_section import bound_promises, bounds_section, run_bounds
from cases import QUANTITIES, environment, sizes
from markdown import mark, table, verdict
from startup import memory_of, start_cold_and_warm

import elbo_exact

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
THREADS = (1, 2)
N_STATES_OF_MEMORY = 10**7
MANY_ROWS, LONG_ROWS, ONE_ROW, SHORT_ROWS = sizes(quick=False)
# At one thread: quantity, size, how many times as fast as SciPy's formula beside it
AGAINST_SCIPY = [
    ("log_evidence", MANY_ROWS, 4.0),
    ("log_evidence", ONE_ROW, 3.5),
    ("log_evidence", SHORT_ROWS, 2.0),
    ("elbo", MANY_ROWS, 1.2),
    ("elbo", LONG_ROWS, 1.2),
    ("audit", MANY_ROWS, 1.0),
    ("audit", LONG_ROWS, 1.0),
    ("audit", ONE_ROW, 0.5),
]
TWO_THREADS = [("log_evidence", ONE_ROW, 1.5), ("audit", ONE_ROW, 1.5)]

Times = dict[tuple[int, str, str, str], dict[str, Any]]  # (threads, size, quantity, library) -> record of measure.py

INTRODUCTION = """\
# How fast

% Written by benchmarks/write_page.py from one run; change that and run it again, never this file.

Times are nanoseconds per state, medians of interleaved repetitions, beside the formulas that people write by hand
(`benchmarks/rivals.py`). In brackets: how many times as long as elbo_exact the rival took, a ratio of medians within one run; below 1 the
rival is faster. The rivals check nothing, have no error bounds, and return NaN where a probability is zero; our times include
all of that. Compiling is not in these tables, but in the last one. A dagger marks groups in which other processes took more than a
twentieth of a processor in every attempt: do not trust their ratios.
"""


def run_all(quick: bool) -> dict[str, Any]:
    """Everything that is measured, each number of threads in a process that starts with its settings."""
    load, times = os.getloadavg()[0], {}
    for n_threads in THREADS:
        command = [sys.executable, str(HERE / "measure.py"), "--threads", str(n_threads), *(["--quick"] if quick else [])]
        done = subprocess.run(command, env=environment(n_threads), stdout=subprocess.PIPE, text=True, check=True)
        times |= {(n_threads, r["size"], r["quantity"], r["name"]): r for r in json.loads(done.stdout)}
    start = start_cold_and_warm(3 if quick else 11)
    memory = {n: memory_of("audit", N_STATES_OF_MEMORY, n) for n in THREADS} if sys.platform == "linux" else {}
    return {"times": times, "start": start, "memory": memory, "load": load, "bounds": run_bounds(quick)}


def ratio(times: Times, n_threads: int, size: str, quantity: str, name: str) -> float:
    """How many times as long as ours a contender took."""
    return times[n_threads, size, quantity, name]["median"] / times[n_threads, size, quantity, "elbo_exact"]["median"]


def quantity_table(times: Times, n_threads: int, quantity: str) -> str:
    """One line for each size, one column for each contender."""
    others = [name for t, _, q, name in times if (t, q) == (n_threads, quantity)]
    others = [name for name in dict.fromkeys(others) if name != "elbo_exact"]
    rows = []
    for size in dict.fromkeys(size for _, size, _, _ in times):
        ours = times[n_threads, size, quantity, "elbo_exact"]
        cells = [size + mark(ours), f"{ours['median']:.2f}", f"{ours['low']:.2f} to {ours['high']:.2f}"]
        for name in others:
            theirs = times[n_threads, size, quantity, name]["median"]
            cells.append(f"{theirs:.2f} ({ratio(times, n_threads, size, quantity, name):.2f})")
        rows.append(cells)
    return table(["table", "elbo_exact", "its quartiles", *others], rows)


def thresholds(results: dict[str, Any]) -> str:
    """Every promise with what was measured."""
    times, start, rows = results["times"], results["start"], []
    for quantity, size, wanted in AGAINST_SCIPY:
        value = ratio(times, 1, size, quantity, "scipy")
        beside = f"`{quantity}` beside SciPy's {QUANTITIES[quantity][2]}, {size}, one thread"
        rows.append(
            [
                beside,
                f"at least {wanted} times as fast",
                f"{value:.2f}",
                verdict(value >= wanted, mark(times[1, size, quantity, "elbo_exact"])),
            ]
        )
    for quantity, size, wanted in TWO_THREADS:
        value, dagger = ratio(times, 2, size, quantity, "one thread"), mark(times[2, size, quantity, "elbo_exact"])
        beside = f"`{quantity}` with two threads, {size}"
        rows.append([beside, f"at least {wanted} times one", f"{value:.2f}", verdict(value >= wanted, dagger)])
    for n_threads, used in results["memory"].items():
        share = used["extra"] / used["input"]
        what = f"memory of `audit` beyond its input, {ONE_ROW}, threads: {n_threads}"
        rows.append([what, "below 1 % of the input", f"{100 * share:.2f} %", verdict(share < 0.01)])
    for name, kind, limit in (("import", "warm", 0.03), ("import and audit", "warm", 0.6), ("import and audit", "cold", 20.0)):
        value = start[kind][name]
        rows.append([f"{kind} process, {name}", f"under {limit:g} s", f"{value:.3f} s", verdict(value < limit)])
    return table(["what", "promised", "measured", ""], [*rows, *bound_promises(results["bounds"])])


def start_section(results: dict[str, Any]) -> str:
    """Seconds of a cold and a warm start, what the cold one said, and memory."""
    start = results["start"]
    names = list(start["cold"])
    rows = [[kind, *(f"{start[kind][name]:.3f}" for name in names)] for kind in ("cold", "warm")]
    memory = "".join(
        f"- `audit` at {ONE_ROW}, threads: {n}: {used['extra']:.2f} MB at the peak beyond the {used['input']:.0f} MB of its input\n"
        for n, used in results["memory"].items()
    )
    said = " ".join(line.split(" (")[0] for line in start["said"].splitlines())
    head = ["start", *(f"{name}, s" for name in names)]
    return f"## Start and memory\n\n{table(head, rows)}\nA cold start says: `{said}`. A warm one is a median.\n\n{memory}"


def processor() -> str:
    """The processor's name; Linux knows it better than the platform module."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} logical"


def busy_others(shares: list[float]) -> str:
    """How quiet the machine was: ratios of one thread to two mean little where a second processor was taken."""
    return f"{statistics.median(shares):.2f} (at most {max(shares):.2f})"


def machine(results: dict[str, Any]) -> str:
    """Where, when and with what."""
    there = rivals.present()
    libraries = ", ".join(f"{name} {version(name)}" for name in ["numba", *there])
    repetitions = sorted({record["repetitions"] for record in results["times"].values()}, reverse=True)
    others = {n: busy_others([r["others"] for r in results["times"].values() if r["threads"] == n]) for n in THREADS}
    rows = [
        ["date", f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"],
        ["processor", f"{processor()}; load {results['load']:.2f} at the start"],
        ["system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"],
        ["versions", f"elbo_exact {elbo_exact.__version__}, {libraries}"],
        ["rivals not installed", ", ".join(name for name in rivals.RIVALS if name not in there) or "none"],
        ["processors kept busy by others", f"one thread: {others[1]}; two threads: {others[2]}"],
        ["repetitions", "; with large tables ".join(map(str, repetitions))],
    ]
    return table(["run", ""], rows)


def page(results: dict[str, Any], quick: bool) -> str:
    """The whole page."""
    judged = "Small tables of a smoke run: nothing is judged.\n" if quick else thresholds(results)
    parts = [INTRODUCTION, machine(results), "## Promises\n\n" + judged]
    for n_threads in THREADS:
        words = "One thread" if n_threads == 1 else "Two threads\n\nNumPy and SciPy compute these formulas in one thread"
        parts.append(f"## {words}{'' if n_threads == 1 else '; torch and JAX were given two.'}\n")
        for quantity, (_, _, beside) in QUANTITIES.items():
            parts.append(f"### {quantity}\n\nBeside: {beside}.\n\n{quantity_table(results['times'], n_threads, quantity)}")
    return "\n".join([*parts, bounds_section(results["bounds"]), start_section(results)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small tables; print the page instead of writing it")
    options = parser.parse_args()
    text = page(run_all(options.quick), options.quick)
    if options.quick:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
