"""Run the benchmarks of fits and write docs/model-benchmarks.md: ``python benchmarks/write_models_page.py [--quick]``.

Nobody types a number. ``--quick`` takes little data, judges nothing, and prints the page instead of writing it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from markdown import mark, table, verdict

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "model-benchmarks.md"
RIVALS = ("scikit-learn", "stepmix", "pomegranate", "hmmlearn", "torch", "jax", "pyro-ppl")
INTRODUCTION = """\
# How fast fits are

% Written by benchmarks/write_models_page.py from one run; change that and run it again, never this file.

One thread and float64 where nothing else is said, the same data and start for everybody, medians of interleaved repetitions within one run. An iteration is the
difference of two fits of different length, so that copies, checks and starts cancel; *fit* is the longer of the two as a whole, which for us includes
exact log evidence with its error bound, AIC, BIC and ICL. A dagger marks groups in which other processes took more than a twentieth of a processor.
"""


def printed_by(script: str, quick: bool, n_threads: int) -> list[str]:
    """Lines of a script of this folder, in a process of its own: threads are set before NumPy is imported."""
    command = [sys.executable, "-W", "ignore", str(HERE / script), *(["--quick"] if quick else [])]
    own = {**os.environ, "BENCHMARK_THREADS": str(n_threads)}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=own).stdout.strip().splitlines()


def measured(quick: bool, n_threads: int) -> list[dict[str, Any]]:
    """The records of measure_models.py."""
    records: list[dict[str, Any]] = json.loads(printed_by("measure_models.py", quick, n_threads)[-1])
    return records


def section(record: dict[str, Any], quick: bool) -> str:
    """One table: a line for each library."""
    ours = record["libraries"]["elbo_exact"]["iteration"]
    rows = []
    for name, times in record["libraries"].items():
        ratio, wanted = times["iteration"] / ours, record["promised"].get(name)
        promise = "" if wanted is None else f"at least {wanted:g}"
        word = "" if wanted is None or quick else verdict(ratio >= wanted, mark(record))
        rows.append([name, f"{times['iteration']:.3f}", f"{ratio:.2f}", promise, word, f"{times['fit']:.3f}"])
    head = ["library", "iteration, ms", "times ours", "promised", "", f"fit of {record['iterations']}, s"]
    return f"## {record['name']}{mark(record)}\n\n{table(head, rows)}"


def vae_section(quick: bool, n_threads: int) -> str:
    """What vae.py prints: its table, and whether the promises, which are of one thread, hold."""
    *rows, verdict_of_all = printed_by("vae.py", quick, n_threads)
    judged = f"\nPromised, in float64: 64-64-2 at least 2.5 times as fast as PyTorch, 784-400-20 at least as fast: {verdict_of_all}.\n"
    title = "## Gaussian VAE, a training step" + (", two threads" if n_threads == 2 else "")
    return f"{title}\n\n" + "\n".join(rows) + "\n" + (judged if n_threads == 1 and not quick else "")


def machine() -> str:
    """Where, when and with what."""
    found = []
    for name in RIVALS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    cpu = next((line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor())
    rows = [
        ["date", f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"],
        ["processor", f"{cpu}, {os.cpu_count()} logical"],
        [
            "versions",
            f"elbo_exact {version('elbo_exact')}, numpy {version('numpy')}, numba {version('numba')}, " + ", ".join(found),
        ],
    ]
    return table(["run", ""], rows)


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def page(quick: bool) -> str:
    """The whole page."""
    parts = [INTRODUCTION, machine(), *(section(record, quick) for record in measured(quick, 1)), vae_section(quick, 1)]
    both = [{**record, "name": f"{record['name']}, two threads"} for record in measured(quick, 2)]
    return "\n".join([*parts, *(section(record, quick) for record in both), vae_section(quick, 2)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little data; print the page instead of writing it")
    options = parser.parse_args()
    text = page(options.quick)
    if options.quick:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
