"""Drawings of the figures: columns go in, a canvas comes out. Colors of Okabe & Ito (2008), and markers besides them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from elbo_exact._figures.data import ENDS, Columns
from elbo_exact.plot import COLORS, LINES, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["annealing", "integrand", "k_samples", "sandwich", "tighter_is_not_better"]

MARKERS = "osD^vP"
TITLES = {
    "asia": "asia, a visit and dyspnea; q: likelihood weighting",
    "ising-torus": "4 x 4 Ising torus, critical; q: equal weight",
}


def sandwich(columns: Columns) -> Figure:
    """One panel per problem; lower bounds below zero, upper ones above."""
    canvas = new_figure((13.0, 6.0))
    for ax, problem in zip(canvas.subplots(1, 2), dict.fromkeys(columns["problem"]), strict=True):
        for k, (family, part) in enumerate(_groups(columns, "bound", problem=problem)):
            sampled = len(part["samples_or_steps"]) > 1
            color = COLORS[_family(family) % 6]
            style: Any = {"marker": MARKERS[_family(family) % 6], "color": color, "markersize": 4 if sampled else 6}
            line = {"linestyle": "solid" if "lower" in family else "dashed"} if sampled else {"linestyle": "none"}
            filled = {"markerfacecolor": color if part["side"][0] == "lower" else "none"}
            ax.plot(part["samples_or_steps"], part["minus_log_evidence"], label=family, zorder=3 + k, **style, **line, **filled)
        ax.axhline(0.0, color="0.4", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_yscale("symlog", linthresh=1e-3)
        ax.margins(0.06)
        ax.set_xlabel("samples K or steps T")
        ax.set_ylabel("bound - log p(x) (nats)")
        ax.set_title(TITLES[problem], fontsize=11)
        legend(ax, 3)
    canvas.suptitle("Lower and upper bounds close in on log p(x); every point is an exact expectation", fontsize=13)
    return canvas


def k_samples(columns: Columns) -> Figure:
    """Both gaps over nine decades of K."""
    canvas = new_figure((8.0, 6.0))
    ax = canvas.add_subplot()
    ax.plot(
        columns["samples"],
        columns["standard_deviation"],
        color=COLORS[3],
        linestyle="dotted",
        label="sd of one estimate of log p(x)",
    )
    ax.plot(columns["samples"], columns["limit"], color="0.3", linestyle="dashed", label="chi2/(2K)")
    ax.plot(columns["samples"], columns["lower_gap"], "o", color=COLORS[0], markersize=4, label="log p(x) - lower bound")
    ax.plot(
        columns["samples"],
        columns["upper_gap"],
        "^",
        color=COLORS[4],
        markersize=4,
        fillstyle="none",
        label="upper bound - log p(x)",
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("samples K")
    ax.set_ylabel("nats")
    ax.set_title("Importance-weighted bounds of a Gaussian, exactly", fontsize=12)
    legend(ax, 2)
    return canvas


def tighter_is_not_better(columns: Columns) -> Figure:
    """Signal to noise of each estimator, and what sticking the landing converges to."""
    canvas = new_figure((13.0, 5.5))
    left, right = canvas.subplots(1, 2, width_ratios=(1.4, 1.0))
    for k, (estimator, part) in enumerate(_groups(columns, "estimator")):
        left.plot(
            part["samples"],
            part["snr"],
            marker=MARKERS[k],
            color=COLORS[k],
            linestyle=LINES[k % 4],
            markersize=8 - k,  # curves may lie on each other
            label=estimator,
        )
        if estimator in ("pathwise", "sticking the landing"):
            means = [abs(mean) for mean in part["mean"]]
            right.plot(
                part["samples"],
                means,
                marker=MARKERS[k],
                color=COLORS[k],
                linestyle=LINES[k % 4],
                markersize=4,
                label=f"{estimator}: |mean|",
            )
    for ax, title in ((left, "Signal-to-noise ratio of the gradient"), (right, "Its mean: sticking the landing is biased")):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("samples K")
        ax.set_title(title, fontsize=11)
        legend(ax, 2)
    left.set_ylabel("|mean| / standard deviation")
    right.set_ylabel("|mean of the estimator| (nats per unit)")
    canvas.suptitle("A tighter bound is not a better gradient: it depends on the estimator", fontsize=13)
    return canvas


def integrand(columns: Columns) -> Figure:
    """The area is log p(x); its left and right sums are bounds."""
    canvas = new_figure((8.5, 6.0))
    ax = canvas.add_subplot()
    b, values = columns["b"], columns["integrand"]
    every = (len(b) - 1) // ENDS
    knots = list(zip(b[::every], values[::every], strict=True))
    for k, ((left, low), (right, high)) in enumerate(itertools.pairwise(knots)):
        ax.fill_between(
            [left, right], low, high, color=COLORS[1], alpha=0.35, linewidth=0, label="between the two sums" if k == 0 else "_"
        )
        ax.hlines([low], left, right, color=COLORS[0], linewidth=1.4, label="left sum: lower bound" if k == 0 else "_")
        ax.hlines(
            [high],
            left,
            right,
            color=COLORS[4],
            linewidth=1.4,
            linestyle="dashed",
            label="right sum: upper bound" if k == 0 else "_",
        )
    ax.plot(b, values, color="black", linewidth=1.6, label="E[log w] under q w^b, normalized")
    ax.annotate("ELBO", (b[0], values[0]), (8, -4), textcoords="offset points", va="top")
    ax.annotate("EUBO", (b[-1], values[-1]), (-8, 4), textcoords="offset points", ha="right", va="bottom")
    ax.margins(y=0.1)
    ax.set_xlabel("b, from q at 0 to the posterior at 1")
    ax.set_ylabel("nats")
    ax.set_title("The area under the curve is log p(x), its slope a variance (asia)", fontsize=12)
    legend(ax, 2)
    return canvas


def annealing(columns: Columns) -> Figure:
    """What is left of each thermodynamic sum when sweeps do not mix."""
    canvas = new_figure((12.0, 5.5))
    for ax, (side, half) in zip(canvas.subplots(1, 2), _groups(columns, "side"), strict=True):
        for k, (sweeps, part) in enumerate(_groups(half, "sweeps")):
            label = f"{sweeps} Gibbs sweep{'s' if sweeps > 1 else ''} per step"
            ax.plot(
                part["steps"],
                part["difference"],
                marker=MARKERS[k],
                color=COLORS[k],
                linestyle=LINES[k],
                markersize=4,
                label=label,
            )
        ax.axhline(0.0, color="0.4", linewidth=0.8)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sorted(set(half["steps"])), [str(t) for t in sorted(set(half["steps"]))])
        ax.minorticks_off()
        ax.set_xlabel("steps T")
        ax.set_ylabel("annealed - thermodynamic (nats)")
        ax.set_title(f"{side} bound", fontsize=11)
        legend(ax, 1)
    canvas.suptitle("The price of imperfect mixing, apart from that of few steps (4 x 4 Ising torus, critical)", fontsize=13)
    return canvas


def _groups(columns: Columns, key: str, **fixed: Any) -> Iterator[tuple[Any, Columns]]:
    """(value, its rows) for every value of a column, of the rows that have the fixed values."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    rows = [row for row in rows if all(row[name] == value for name, value in fixed.items())]
    for value in dict.fromkeys(row[key] for row in rows):
        chosen = [row for row in rows if row[key] == value]
        yield value, {name: [row[name] for row in chosen] for name in columns}


def _family(bound: str) -> int:
    """Both sides of a bound share a color."""
    order = ("importance", "thermodynamic", "annealed", "ELBO", "EUBO", "Rényi 1/2", "perturbative 3", "CUBO 2")
    return order.index(bound.split(",")[0])
