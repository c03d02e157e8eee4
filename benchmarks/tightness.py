"""Every bound on every gallery problem with several q's, gap against cost: ``python benchmarks/tightness.py [--quick]``.

Writes docs/tightness.md. Everything but the column of times is the same in every run. ``--quick`` takes two small problems and
prints the page instead of writing it. A violated theorem stops the script.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import elbo_exact as ee
from elbo_exact import bounds, projection

__all__ = ["PAGE", "front", "matrix", "page", "section", "without_times"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tightness.md"
QUICK = ("rainy-sunny", "sprinkler")
STARTS = 5  # of mean field, besides the prior's marginals
REPETITIONS = 5
SETTINGS: dict[str, Any] = {"num_samples": (10, 100, 1000), "betas": (10, 100), "alphas": (0.5, -0.5), "orders": (3, 5)}
Q_NAMES = ("prior", "blurred", "mean field", "one q for all rows")

INTRODUCTION = """\
# Which bound is how tight

% Written by benchmarks/tightness.py; change that and run it again, never this file.

Gaps to log p(x), in nats per observation, of every bound of `bounds.ladder` on every problem of the gallery, each with up to four q's:

| q | what it is |
| --- | --- |
| prior | what the problem proposes: class shares, likelihood weighting, equal weight, or an encoder ([the report](cli.md) says which) |
| blurred | half the posterior, half equal weight on the possible states |
| mean field | the best product over the variables that `projection.mean_field` finds; not where there is one variable, which would be exact |
| one q for all rows | the fully amortized q, the same table for every observation: the one with the largest total ELBO, log q = mean of log p(x, z) + const |

**How to read it.** Gaps are never negative, whatever the side: 0.01 means "0.01 nats below log p(x)" of a lower bound and "above" of an upper one.
`cost` is how many table entries a bound touches for each state of the table (a number of passes; nominal where it depends on the table: the nodes of the
K-sample integrals, the root search of the perturbative bounds); `ms` is a measured median, with the prior as q, all rows, and the only column that another
run changes. **Bold** gaps are worth their cost: to the digits shown, no bound of the same side in the same column is tighter at no more cost, or as tight at
less. `inf` is a value: a lower bound with q on an impossible state, an upper bound whose q misses a possible one. Each ladder passed `verify()`: all theorems
between its bounds held, row by row, within the returned errors.

**What to look for.** K samples close the gap as 1/K, at the same cost for any K because nothing is sampled here; sampling them would cost K draws and many
repetitions ([How fast](benchmarks.md)). They do so only once K is well beyond exp(KL(posterior || q)), the gap of `eubo` (Chatterjee & Diaconis 2018, Ann.
Appl. Probab. 28:1099): for equal weight on the Ising spins 1000 samples are few, and a thermodynamic sum is the better bargain. Mean field has the best ELBO
of all products; upper bounds pay for the modes that it misses, and are infinite where it drops a possible state. A higher
perturbative order need not be tighter (`rainforth`, blurred).
"""


class Line(NamedTuple):
    """One bound on one problem: cost in passes, median milliseconds, and the gap per observation of each q."""

    label: str
    side: str
    cost: int
    milliseconds: float
    gaps: dict[str, float]


def tables(name: str) -> tuple[ee.Study, dict[str, np.ndarray]]:
    """The study of a problem, and log q of every q that it has."""
    found = ee.study(name)
    q = {part.name: part.log_q for part in found.approximations if part.name != "exact"}
    space = ee.gallery.load(name).space
    if space is not None and len(space.sizes) > 1:
        pairs = zip(found.log_joint, q["prior"], strict=True)
        best = [projection.mean_field(a, space, restarts=STARTS, rng=0, start=b).best for a, b in pairs]
        q["mean field"] = np.array([optimum.log_q for optimum in best])
    shares = found.counts / found.counts.sum()
    with np.errstate(invalid="ignore"):
        shared = (shares[:, None] * found.log_joint).sum(axis=0)
    if len(found.counts) > 1 and (shared > -np.inf).any():
        q["one q for all rows"] = np.broadcast_to(ee.log_posterior(shared), found.log_joint.shape)
    return found, q


def matrix(name: str, repetitions: int = REPETITIONS) -> list[Line]:
    """The lines of one problem: lower bounds by cost, then upper ones."""
    found, q = tables(name)

    def ladder(log_q: np.ndarray) -> bounds.Ladder:
        return bounds.ladder(found.log_joint, log_q, weights=found.counts, **SETTINGS)

    ladders = {key: ladder(log_q) for key, log_q in q.items()}
    for each in ladders.values():
        each.verify(strict=True)
    timed = [ladder(q["prior"]) for _ in range(repetitions)]
    lines = []
    for rung in ladders["prior"].rungs:
        if rung.side != "exact":
            spent = statistics.median(1e3 * again[rung.label].seconds for again in timed)
            gaps = {key: each[rung.label].total_gap / float(found.counts.sum()) for key, each in ladders.items()}
            lines.append(Line(rung.label, rung.side, rung.states // found.log_joint.size, spent, gaps))
    return sorted(lines, key=lambda line: (line.side, line.cost, line.label))


def front(lines: Sequence[Line], key: str) -> set[str]:
    """Labels of the bounds worth their cost: none of the same side is tighter at no more cost, or as tight at less."""

    def known(line: Line) -> tuple[int, float]:
        return line.cost, float(f"{line.gaps[key]:.3g}")  # as shown; less is rounding, or not worth paying for

    def beaten(line: Line) -> bool:
        cost, gap = known(line)
        rivals = [known(other) for other in lines if other.side == line.side]
        return any(c <= cost and g <= gap and (c, g) != (cost, gap) for c, g in rivals)

    return {line.label for line in lines if line.gaps[key] < math.inf and not beaten(line)}


def section(name: str, lines: Sequence[Line]) -> str:
    """Heading, what the problem is, and its matrix."""
    problem = ee.gallery.load(name)
    keys = [key for key in Q_NAMES if key in lines[0].gaps]
    bold = {key: front(lines, key) for key in keys}
    rows = [["bound", "side", "cost", *keys, "ms"], ["---"] * (len(keys) + 4)]
    for line in lines:
        cells = [shown(line.gaps[key], line.label in bold[key]) for key in keys]
        rows.append([f"`{line.label}`", line.side, str(line.cost), *cells, f"{line.milliseconds:.3g}"])
    title = problem.title if problem.title.endswith("?") else f"{problem.title}."
    return f"## {name}\n\n{title}\n\n" + "".join("| " + " | ".join(row) + " |\n" for row in rows)


def shown(gap: float, bold: bool) -> str:
    """Three digits, however small: gaps keep their relative precision."""
    return f"**{gap:.3g}**" if bold else f"{gap:.3g}"


def page(names: Sequence[str], repetitions: int = REPETITIONS) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(section(name, matrix(name, repetitions)) for name in names)])


def without_times(text: str) -> str:
    """A page or section without its last column: what every run must repeat."""
    return "\n".join(line.rsplit("|", 2)[0] if line.startswith("| `") else line for line in text.splitlines())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small problems; print the page instead of writing it")
    options = parser.parse_args()
    os.environ.setdefault("ELBO_EXACT_NUM_THREADS", "1")  # times that other machines can be compared with
    write: Callable[[str], Any] = print if options.quick else lambda text: PAGE.write_text(text, encoding="utf-8")
    write(page(QUICK if options.quick else ee.gallery.names()))
