"""Drawings of the figures of guides: gaps row by row, and the parts of the ELBO in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elbo_exact._figures.data import Columns
from elbo_exact.plot import COLORS, LINES, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gap_parts", "surgery_in_training"]

FLOOR = 1e-8  # nats: where the bars of a log scale begin
PARTS = {
    "elbo": "ELBO",
    "reconstruction": "reconstruction, E log p(x|z)",
    "mutual_information": "I_q(n; z), what q knows of x",
    "kl_to_prior": "KL(mean of all q || prior)",
}


def gap_parts(columns: Columns) -> Figure:
    """A row of panels for each K, a column for each family; bars of the best q in front of those of the amortized one."""
    canvas = new_figure((13.0, 9.5))
    families, counts = (list(dict.fromkeys(columns[name])) for name in ("family", "samples"))
    axes = canvas.subplots(len(counts), len(families), sharex=True, sharey="row", squeeze=False)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    order = sorted(range(1 + max(columns["observation"])), key=lambda n: -next(r["gap"] for r in rows if r["observation"] == n))
    for line, samples in zip(axes, counts, strict=True):
        for ax, family in zip(line, families, strict=True):
            part = {row["observation"]: row for row in rows if row["family"] == family and row["samples"] == samples}
            places = range(len(order))
            ax.bar(places, [part[n]["gap"] for n in order], 0.85, color=COLORS[1], label="amortized q")
            ax.bar(places, [part[n]["approximation"] for n in order], 0.45, color=COLORS[0], label="best q of the family")
            if samples == counts[0]:
                ax.set_title(f"{family} q", fontsize=11)
            if samples == counts[-1]:
                ax.set_xlabel("observation, by its gap under mean field")
        line[0].set_ylabel(f"log p(x) - bound, K = {samples} (nats)")
        line[0].set_yscale("log")
        line[0].set_ylim(FLOOR, 3.0)
    legend(axes[-1][1], 2)
    canvas.suptitle(
        "What the family gives up (dark), and what sharing one network adds (light); K samples shrink both", fontsize=13
    )
    return canvas


def surgery_in_training(columns: Columns) -> Figure:
    """A panel for each start."""
    canvas = new_figure((13.0, 6.0))
    starts = list(dict.fromkeys(columns["start"]))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for ax, start in zip(canvas.subplots(1, len(starts), sharey=True), starts, strict=True):
        part = [row for row in rows if row["start"] == start]
        for k, (name, label) in enumerate(PARTS.items()):
            ax.plot(
                [row["epoch"] for row in part], [row[name] for row in part], color=COLORS[k], linestyle=LINES[k], label=label
            )
        ax.axhline(0.0, color="0.6", linewidth=0.8)
        ax.set_title(f"start: {start}", fontsize=11)
        ax.set_xlabel("step of joint training")
        ax.set_ylabel("mean over 216 respondents (nats)")
        legend(ax, 1)
    canvas.suptitle(
        "ELBO = reconstruction - I_q - KL: from classes alike, training lingers where q knows nothing of x, I_q = 0",
        fontsize=13,
    )
    return canvas
