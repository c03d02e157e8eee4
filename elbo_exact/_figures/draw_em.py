"""The drawing of EM's anatomy: steps, rates, starts, and a ridge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elbo_exact._figures.data import Columns
from elbo_exact.plot import COLORS, LINES, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["anatomy"]

MARKERS = "os"
FLAT = 1e-6  # nats: ends this near the best are on the ridge


def anatomy(columns: Columns) -> Figure:
    """Two panels of the rate, two of the starts."""
    canvas = new_figure((13.0, 9.5))
    (steps, rates), (starts, ends) = canvas.subplots(2, 2)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    _rates(steps, rates, [row for row in rows if row["panel"] == "rate"])
    _starts(starts, [row for row in rows if row["panel"] == "starts"])
    _ends(ends, [row for row in rows if row["panel"] == "ends"])
    canvas.suptitle(
        "EM climbs at the rate of the missing information, and starts share maxima, plateaus and a ridge", fontsize=13
    )
    return canvas


def _rates(left: Any, right: Any, rows: list[dict[str, Any]]) -> None:
    for k, problem in enumerate(dict.fromkeys(row["problem"] for row in rows)):
        part = [row for row in rows if row["problem"] == problem]
        style = {"marker": MARKERS[k], "color": COLORS[k], "markersize": 4}
        left.plot([row["step"] for row in part], [row["missing"] for row in part], label=problem, **style)
        seen = [row for row in part if row["contraction"] is not None]
        right.plot(
            [row["step"] + 1 for row in seen], [row["contraction"] for row in seen], label=f"{problem}: measured", **style
        )
        rate = part[0]["predicted"]
        right.axhline(rate, color=COLORS[k], linestyle=LINES[1], linewidth=1.2, label=f"{problem}: predicted {rate:.4f}")
    left.set_yscale("log")
    left.set_ylabel("log evidence still to be gained (nats)")
    left.set_title("The missing log evidence falls by a constant factor", fontsize=11)
    right.set_ylabel("root of the ratio of two missing gains")
    right.set_title("whose root is the largest share of missing information", fontsize=11)
    for ax in (left, right):
        ax.set_xlabel("step")
        legend(ax, 1)


def _starts(ax: Any, rows: list[dict[str, Any]]) -> None:
    for start in dict.fromkeys(row["start"] for row in rows):
        part = [row for row in rows if row["start"] == start]
        ax.plot(
            [row["step"] for row in part], [row["missing"] for row in part], color=COLORS[start % 6], linestyle=LINES[start % 4]
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel("below the best end (nats)")
    ax.set_title("Three classes of the role conflict data: starts and their plateaus", fontsize=11)


def _ends(ax: Any, rows: list[dict[str, Any]]) -> None:
    for label, marker, color, flat in (("at the best", "o", COLORS[0], True), ("still below it", "x", COLORS[4], False)):
        part = [row for row in rows if (row["missing"] <= FLAT) is flat]
        if part:
            x, y = [row["largest_share"] for row in part], [row["smallest_share"] for row in part]
            ax.plot(x, y, marker=marker, color=color, linestyle="none", label=f"{len(part)} ends {label} (1e-6 nats)")
    ax.margins(0.1)
    ax.set_xlabel("largest class share")
    ax.set_ylabel("smallest class share")
    ax.set_title("One height, many parameters: the ridge that SQUAREM reaches", fontsize=11)
    legend(ax, 1)
