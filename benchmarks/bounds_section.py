"""What write_page.py says about bounds and K-sample integrals: their promises and their tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bound_cases import ACCURACIES, BOUNDS, COUNTS, POINTS, SHAPES
from cases import environment
from markdown import mark, table, verdict
from startup import memory_of

__all__ = ["bound_promises", "bounds_section", "run_bounds"]

CURVE_SECONDS, CURVE_MEBIBYTES = 0.3, 100.0
CURVE_AGAINST = {"matrix": 15.0, "nodes": 2.0}
WORDS = {"matrix": "one NumPy matrix", "nodes": "NumPy node by node"}
(N_ROWS, N_STATES), STATES, LONG, _ = SHAPES[False]
ROWS = f"{N_ROWS} x {N_STATES}"

K_SAMPLE_TEXT = """\
### K samples: exact or sampled

One row of {states} states, about one nat apart, one thread. `importance.curve` with K = {counts} in one call: {ours:.3f} s,
with both gaps, variance, effective sample size and error bounds of every K. The same integrals written in NumPy (`benchmarks/importance_rivals.py`):
{rivals}.

And a Monte Carlo estimate of the lower bound, drawn in NumPy (`benchmarks/bound_rivals.py`; more draws than states become multinomial counts).
To know the *gap* to an accuracy, its standard error must be that fraction of it. *Measured*: one run of so many estimates, its seconds and its standard
error. *Exact*: gap and standard deviation of one estimate, from the curve. *Scaled*, not measured: the seconds for an accuracy, as (deviation / (accuracy
x gap))² estimates at the measured seconds per estimate. The error of the curve is its own bound.

"""

PATH_TEXT = """\
### A long thermodynamic sum

`bounds.tvo` with {points} points on one row of {states} states, one thread: {ours:.2f} s, {each:.2f} ns per state and point;
with {few} points {fifth:.2f} s. NumPy point by point: {numpy:.2f} s.
"""


def run_bounds(quick: bool) -> dict[str, Any]:
    """Everything measured with one thread in its own process, and the peaks of memory, each in its own."""
    command = [sys.executable, str(Path(__file__).with_name("measure_bounds.py")), *(["--quick"] if quick else [])]
    alone = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env={**environment(1), **alone}, stdout=subprocess.PIPE, text=True, check=True)
    rows, states, long, _ = SHAPES[quick]
    linux = sys.platform == "linux"
    memory = {"curve": memory_of("curve", states, 1), "tvo": memory_of("tvo", long, 1)} if linux else {}
    return {**json.loads(done.stdout), "memory": memory, "rows": rows, "states": states, "long": long}


def bound_promises(results: dict[str, Any]) -> list[list[str]]:
    """Rows of the table of promises."""
    curve, memory = results["curve"], results["memory"]
    seconds, rows = curve["seconds"], []
    what, ours = f"`importance.curve`, {STATES} states, {len(COUNTS)} K, one thread", seconds["elbo_exact"]
    rows.append([what, f"under {CURVE_SECONDS:g} s", f"{ours:.3f} s", verdict(ours < CURVE_SECONDS, mark(curve))])
    for name, wanted in CURVE_AGAINST.items():
        value = seconds[name] / ours
        beside = f"the same beside {WORDS[name]}"
        rows.append([beside, f"at least {wanted:g} times as fast", f"{value:.1f}", verdict(value >= wanted, mark(curve))])
    for name, record in results["bounds"].items():
        value = record["seconds"]["numpy"] / record["seconds"]["elbo_exact"]
        what = f"`{name}` beside its NumPy formula, {ROWS}, one thread"
        rows.append([what, "no slower", f"{value:.2f} times as fast", verdict(value >= 1.0, mark(record))])
    if memory:
        extra = memory["curve"]["extra"] * 1e6 / 2**20
        promise = f"below {CURVE_MEBIBYTES:g} MiB"
        rows.append(
            [f"memory of that curve beyond its input, {STATES} states", promise, f"{extra:.1f} MiB", verdict(extra < 100.0)]
        )
        tables = 2.0 * memory["tvo"]["extra"] / memory["tvo"]["input"]  # the input is two
        what = f"memory of `tvo` with {POINTS} points beyond its input, {LONG} states"
        rows.append([what, "O(S): below 4 tables of S doubles", f"{tables:.1f}", verdict(tables < 4.0)])
    path = results["path"]["seconds"]
    value = path["elbo_exact"] / path["a fifth"]
    what = f"time of `tvo` with {POINTS} points beside {POINTS // 5}, {LONG} states"
    rows.append([what, "one pass per point: at most 5.5", f"{value:.2f}", verdict(value <= 5.5, mark(results["path"]))])
    return rows


def bounds_section(results: dict[str, Any]) -> str:
    """The tables."""
    return "\n".join(["## Bounds\n", _bound_table(results), _kind_table(results), _curve_part(results), _path_part(results)])


def _bound_table(results: dict[str, Any]) -> str:
    size = f"{' x '.join(map(str, results['rows']))}, one thread; seconds of ours and of the natural NumPy formula, in brackets how many times as long it took"
    rows = []
    for name in BOUNDS:
        record = results["bounds"][name]
        ours, theirs = record["seconds"]["elbo_exact"], record["seconds"]["numpy"]
        rows.append([f"`{name}`{mark(record)}", f"{ours:.4f}", f"{theirs:.4f} ({theirs / ours:.2f})"])
    text = "The formulas return one number per row: no error bounds, no checks, NaN at zeros; `iwae` is the trapezoid rule.\n"
    return f"### Each bound\n\n{size}. {text}\n" + table(["bound", "elbo_exact, s", "numpy, s"], rows)


def _kind_table(results: dict[str, Any]) -> str:
    kinds = results["kinds"]
    names = list(next(iter(kinds.values())))
    rows = []
    for kind, records in kinds.items():
        seconds = [records[name]["seconds"] for name in names]
        rows.append(
            [kind, *(f"{x['numpy'] / x['elbo_exact']:.2f}{mark(records[n])}" for n, x in zip(names, seconds, strict=True))]
        )
    text = """\
The same size, still on one thread: how many times as long NumPy took on tables where sums cancel, weights leave the doubles or nothing is left to
measure. Rows that the quickest loop cannot do to its precision take a second one, nearly equal ones with terms of one sign. Logits are normal,
of the size that is given.
"""
    return f"### Other tables\n\n{text}\n" + table(["tables", *(f"`{name}`" for name in names)], rows)


def _curve_part(results: dict[str, Any]) -> str:
    seconds = results["curve"]["seconds"]
    ours = seconds["elbo_exact"]
    rivals = ", ".join(f"{WORDS[name]} {seconds[name]:.3f} s ({seconds[name] / ours:.1f} times as long)" for name in WORDS)
    counts = ", ".join(_count(count) for count in COUNTS)
    text = K_SAMPLE_TEXT.format(states=results["states"], counts=counts, ours=ours, rivals=rivals)
    head = ["K", "gap", "error of the curve / gap", "estimates", "seconds", "standard error / gap"]
    head += [f"scaled: seconds for {accuracy:g} of the gap" for accuracy in ACCURACIES]
    rows = []
    for row in results["monte carlo"]:
        cells = [_count(row["count"]), f"{row['gap']:.4g}", f"{row['relative error']:.0e}", str(row["estimates"])]
        cells += [f"{row['seconds']:.2g}", f"{row['standard error'] / row['gap']:.1e}"]
        rows.append(cells + [f"{row[f'seconds {accuracy:g}']:.1e}" for accuracy in ACCURACIES])
    return text + table(head, rows)


def _path_part(results: dict[str, Any]) -> str:
    seconds, states = results["path"]["seconds"], results["long"]
    ours = seconds["elbo_exact"]
    return PATH_TEXT.format(
        points=POINTS, few=POINTS // 5, states=states, ours=ours, each=1e9 * ours / (states * POINTS),
        fifth=seconds["a fifth"], numpy=seconds["numpy"],
    )  # fmt: skip


def _count(count: int) -> str:
    return str(count) if count < 10**4 else f"10^{len(str(count)) - 1}"
