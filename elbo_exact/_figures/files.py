"""Every figure into a folder, with its numbers beside it."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from elbo_exact._figures import data, draw, draw_em, draw_guides, em, guides
from elbo_exact.plot import check_target, save_canvas

__all__ = ["FIGURES", "write"]

FIGURES: dict[str, tuple[Callable[[], data.Columns], Callable[[data.Columns], Any]]] = {
    "1-sandwich": (data.sandwich, draw.sandwich),
    "2-k-samples": (data.k_samples, draw.k_samples),
    "3-tighter-is-not-better": (data.tighter_is_not_better, draw.tighter_is_not_better),
    "5-integrand": (data.integrand, draw.integrand),
    "7-gap-parts": (guides.gap_parts, draw_guides.gap_parts),
    "8-surgery": (guides.surgery_in_training, draw_guides.surgery_in_training),
    "9-em-anatomy": (em.anatomy, draw_em.anatomy),
    "10-annealing": (data.annealing, draw.annealing),
}


def write(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Compute and draw each figure of `FIGURES` into an existing folder; yield its files and seconds as they are done.

    Raises
    ------
    ValueError
        No such folder, or one that cannot be written to.
    ImportError
        Without matplotlib.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"the folder for the figures must exist; got {str(folder)!r}; create it first.")
    for name in FIGURES:  # a mistake must show before the work
        check_target(place / f"{name}.png")
    for name, (compute, paint) in FIGURES.items():
        start = time.perf_counter()
        columns = compute()
        picture, table = place / f"{name}.png", place / f"{name}.csv"
        save_canvas(paint(columns), picture)
        partial = place / f".{name}.{os.getpid()}.part.csv"
        try:
            partial.write_text(_csv(columns), encoding="utf-8")
            os.replace(partial, table)
        finally:
            partial.unlink(missing_ok=True)
        yield {"figure": str(picture), "numbers": str(table), "seconds": round(time.perf_counter() - start, 3)}


def _csv(columns: data.Columns) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
