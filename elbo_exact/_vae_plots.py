"""Pictures of a trained VAE: where the rows lie, what the latent space decodes to, exact posteriors beside q, the gap while it learns."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elbo_exact._vae_study import VAEStudy
from elbo_exact._validate import FloatArray
from elbo_exact.plot import COLORS, check_target, legend, new_figure, save_canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PICTURES", "write_pictures"]

SHOWN = 10  # reconstructions
SIDE = 12  # decoded images along an axis
DRAWN = 4  # posteriors
POINTS = 121  # nodes along an axis of a drawn posterior


def latent_map(study: VAEStudy) -> Figure:
    """Means of q(z | x) of all rows, colored by label where there are labels; the first two axes of z."""
    canvas = new_figure((7.5, 6.0))
    ax = canvas.add_subplot()
    mean = study.run.model.encode(study.x).mean
    second = mean[:, 1] if mean.shape[1] > 1 else np.zeros(len(mean))
    if study.labels is None:
        ax.scatter(mean[:, 0], second, s=9, color=COLORS[0])
    else:
        n_labels = len(np.unique(study.labels))
        points = ax.scatter(mean[:, 0], second, c=study.labels, cmap="tab10", s=9, vmin=-0.5, vmax=max(n_labels, 10) - 0.5)
        canvas.colorbar(points, ticks=range(n_labels), label="digit")
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$" if mean.shape[1] > 1 else "")
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_title("mean of q(z | x)")
    return canvas


def decoded_grid(study: VAEStudy) -> Figure:
    """Means of p(x | z) at the quantiles of the prior: equal steps of prior mass; further axes of z are 0."""
    from scipy.special import ndtri

    vae = study.run.model
    line = ndtri((np.arange(SIDE) + 0.5) / SIDE)
    rows = 1 if vae.n_latent == 1 else SIDE
    z = np.zeros((rows, SIDE, vae.n_latent))
    z[..., 0] = line
    if rows > 1:
        z[..., 1] = line[::-1, None]
    images = np.pad(_images(vae.decode(z.reshape(-1, vae.n_latent)).mean), ((0, 0), (1, 0), (1, 0)))  # a line between images
    height, width = images.shape[1:]
    sheet = images.reshape(rows, SIDE, height, width).transpose(0, 2, 1, 3).reshape(rows * height, SIDE * width)
    canvas = new_figure((7.0, max(1.5, 7.0 * rows * height / (SIDE * width))))
    ax = canvas.add_subplot()
    ax.imshow(sheet, cmap="gray_r", vmin=0.0, vmax=max(1.0, float(sheet.max())), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("$z_1$, quantiles of the prior")
    ax.set_ylabel("$z_2$" if rows > 1 else "")
    return canvas


def reconstructions(study: VAEStudy) -> Figure:
    """Held-out rows above, their reconstructions below."""
    x = study.held_out[:SHOWN]
    canvas = new_figure((1.1 * len(x), 2.6))
    grid = canvas.subplots(2, len(x), squeeze=False)
    for line, values in zip(grid, (x, study.run.model.reconstruct(x)), strict=True):
        for ax, image in zip(line, _images(values), strict=True):
            ax.imshow(image, cmap="gray_r", vmin=0.0, vmax=max(1.0, float(x.max())), interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
    grid[0, 0].set_ylabel("held out")
    grid[1, 0].set_ylabel("from z")
    return canvas


def posteriors(study: VAEStudy) -> Figure:
    """The exact posterior of the rows with the largest gaps, and what the encoder says: a Gaussian without tilt."""
    vae, audit = study.run.model, study.audit
    chosen = np.argsort(-audit.gap)[:DRAWN]
    canvas = new_figure((3.4 * len(chosen), 3.9))
    for i, (row, ax) in enumerate(zip(chosen, canvas.subplots(1, len(chosen), squeeze=False)[0], strict=True)):
        x = study.held_out[row : row + 1]
        mean, log_variance = (part[0] for part in vae.encode(x))
        _posterior_panel(vae, x, float(audit.log_evidence[row]), mean, np.exp(0.5 * log_variance), ax)
        ax.set_title(f"gap {audit.gap[row]:.3f} nats", fontsize=10)
        if i == 0 and vae.n_latent == 1:
            legend(ax, 2)
    if vae.n_latent > 1:
        canvas.suptitle("exact posterior (filled) and q (lines): 50, 90 and 99 % of the mass", fontsize=11)
    return canvas


def training(study: VAEStudy) -> Figure:
    """Above, ELBO and exact log p(x) of held-out rows by epoch; below, the gap between them and KL(p || q)."""
    canvas = new_figure((7.0, 6.0))
    upper, lower = canvas.subplots(2, 1, sharex=True)
    epochs = [snapshot.epoch for snapshot in study.snapshots]
    for name, label, color, marker in (("log_evidence", "log p(x), exact", COLORS[2], "D"), ("elbo", "ELBO", COLORS[0], "s")):
        upper.plot(epochs, [getattr(s, name) for s in study.snapshots], marker=marker, color=color, label=label, markersize=4)
    for name, label, color, marker in (
        ("gap", "KL(q || p), the gap", COLORS[4], "o"),
        ("forward_kl", "KL(p || q)", COLORS[3], "^"),
    ):
        lower.plot(epochs, [getattr(s, name) for s in study.snapshots], marker=marker, color=color, label=label, markersize=4)
    upper.set_ylabel("nats per row")
    lower.set_ylabel("nats per row")
    lower.set_xlabel("epoch")
    lower.set_xscale("log")
    lower.set_yscale("log")
    for ax in (upper, lower):
        ax.legend(frameon=False, fontsize=9)
    return canvas


PICTURES: dict[str, Callable[[VAEStudy], Any]] = {
    "latent-map": latent_map,
    "decoded-grid": decoded_grid,
    "reconstructions": reconstructions,
    "posteriors": posteriors,
    "training": training,
}


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """An existing folder that pictures can be written to."""
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"the folder for the pictures must exist; got {str(folder)!r}; create it first.")
    for name in PICTURES:
        check_target(place / f"{name}.png")
    return place


def write_pictures(study: VAEStudy, folder: str | os.PathLike[str]) -> Iterator[str]:
    """Draw each of `PICTURES` into an existing folder; yield its file."""
    place = check_folder(folder)
    for name, paint in PICTURES.items():
        save_canvas(paint(study), place / f"{name}.png")
        yield str(place / f"{name}.png")


def _images(rows: FloatArray) -> FloatArray:
    """Rows as square images where their length is a square, else as strips."""
    side = math.isqrt(rows.shape[1])
    return rows.reshape(len(rows), side, side) if side * side == rows.shape[1] else rows[:, None, :]


def _posterior_panel(vae: Any, x: FloatArray, evidence: float, mean: FloatArray, scale: FloatArray, ax: Any) -> None:
    """Density in z_1, or mass levels in (z_1, z_2); a third axis is summed out."""
    low, high = _range(vae, x, evidence, mean, scale)
    lines = [np.linspace(a, b, POINTS if vae.n_latent < 3 else 41) for a, b in zip(low, high, strict=True)]
    z = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    shape, nodes = z.shape[:-1], z.reshape(-1, vae.n_latent)
    p, q = (np.exp(table).reshape(shape) for table in ((vae.log_joint(x, nodes) - evidence)[0], vae.log_q(x, nodes)[0]))
    if vae.n_latent == 1:
        ax.fill_between(lines[0], p, color=COLORS[2], alpha=0.4, label="exact posterior")
        ax.plot(lines[0], q, color=COLORS[4], label="q")
        ax.set_xlabel("z")
        return
    p, q = (density.sum(axis=2) if vae.n_latent == 3 else density for density in (p, q))
    ax.contourf(lines[0], lines[1], p.T, levels=[*_levels(p), p.max() * 1.01], colors=["#CFE8DF", "#7FC7AE", "#009E73"])
    ax.contour(lines[0], lines[1], q.T, levels=_levels(q), colors=COLORS[4], linewidths=1.2)
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$")


def _levels(density: FloatArray) -> list[float]:
    """Density above which 99, 90 and 50 percent of the mass lie."""
    ordered = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    return [float(ordered[min(len(ordered) - 1, int(np.searchsorted(mass, share)))]) for share in (0.99, 0.9, 0.5)]


def _range(vae: Any, x: FloatArray, evidence: float, mean: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bounds around q and around every node of the prior's range where the posterior is within 9 nats of its largest."""
    low, high = mean - 3.5 * scale, mean + 3.5 * scale
    box_low, box_high = np.full(len(mean), -5.0), np.full(len(mean), 5.0)
    for _ in range(3):  # each look is finer than the one before
        lines = [np.linspace(a, b, 101 if len(mean) < 3 else 31) for a, b in zip(box_low, box_high, strict=True)]
        nodes = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, len(mean))
        table = vae.log_joint(x, nodes)[0]
        inside = nodes[table >= table.max() - 9.0]
        step = np.array([line[1] - line[0] for line in lines])
        box_low, box_high = inside.min(axis=0) - step, inside.max(axis=0) + step
    return np.minimum(low, box_low), np.maximum(high, box_high)
