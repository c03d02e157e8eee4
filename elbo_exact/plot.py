"""Figures of a study, drawn with matplotlib: results go in, axes come out, nothing is computed or shown.

Colors are those of Okabe & Ito (2008), which colour-blind readers can tell apart; each q also has a marker of its own.
"""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elbo_exact._ladder import Ladder
from elbo_exact._study.result import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "check_target",
    "density",
    "figure",
    "gaps",
    "legend",
    "marginals",
    "new_figure",
    "rungs",
    "save",
    "save_canvas",
    "save_ladder",
    "traces",
]

SUFFIXES = (".png", ".pdf", ".svg")
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
STYLES = {"prior": ("#0072B2", "s"), "blurred": ("#E69F00", "o"), "amortized": ("#CC79A7", "^"), "exact": ("#009E73", "D")}
LINES = ("solid", "dashed", "dashdot", "dotted")
MANY_STATES = 100  # more are drawn as a curve
BEYOND = 1.12  # where an infinite gap is drawn, in units of the largest finite one


def figure(study: Study) -> Figure:
    """The gaps of all q's beside the rise of EM, or beside the posterior marginals of a network.

    Raises
    ------
    ImportError
        Without matplotlib (extra ``plot``).

    Examples
    --------
    >>> import elbo_exact as ee
    >>> [axes.get_xlabel() for axes in figure(ee.study("sprinkler")).axes]
    ['nats from log p(x)', 'posterior probability']
    """
    n_states = sum(map(len, study.states.values()))
    second = traces if study.chosen is not None else marginals if n_states <= MANY_STATES else density
    lines = max(len(study.rows), n_states if second is marginals else 0)
    canvas = new_figure((12.0, max(4.5, 1.6 + 0.27 * lines)))
    left, right = canvas.subplots(1, 2, width_ratios=(1.5, 1.0))
    gaps(study, left)
    second(study, right)
    canvas.suptitle(study.problem.title, fontsize=13)
    return canvas


def gaps(study: Study, ax: Axes | None = None) -> Axes:
    """What each bound lacks in every row: ELBO - log p(x) to the left, EUBO - log p(x) to the right; 0 is tight."""
    ax = _axes(ax)
    sides = [-part.audit.gap for part in study.approximations] + [part.audit.forward_kl for part in study.approximations]
    widest = max([abs(float(v)) for side in sides for v in side if math.isfinite(v)], default=1.0) or 1.0
    step = 0.8 / len(study.approximations)
    for k, part in enumerate(study.approximations):
        color, marker = STYLES[part.name]
        shifts = [i + (k - (len(study.approximations) - 1) / 2) * step for i in range(len(study.rows))]
        low, high = ([_clipped(v, widest) for v in side] for side in (-part.audit.gap, part.audit.forward_kl))
        ax.hlines(shifts, low, high, color=color, linewidth=1.6)
        ends = ax.plot([*low, *high], shifts * 2, marker, color=color, markersize=4, linestyle="none")
        ends[0].set_label(f"q = {part.name}")
        for value, y in [
            (v, y) for side in (-part.audit.gap, part.audit.forward_kl) for v, y in zip(side, shifts, strict=True)
        ]:
            if math.isinf(value):
                ax.annotate(
                    "-\N{INFINITY}" if value < 0 else "\N{INFINITY}",
                    (_clipped(value, widest), y),
                    (-12 if value < 0 else 12, 0),
                    **_CENTERED,
                )
    ax.axvline(0.0, color="0.4", linewidth=0.8, zorder=0)
    ax.margins(x=0.08)
    ax.set_ylim(len(study.rows) - 0.4, -0.6)
    ax.set_yticks(range(len(study.rows)), [_row_label(study, i) for i in range(len(study.rows))])
    ax.set_ylabel(" ".join(study.problem.columns) + " (count)" if study.problem.kind == "latent-class" else "row")
    ax.set_xlabel("nats from log p(x)")
    ax.set_title("ELBO \N{LEFTWARDS ARROW} log p(x) \N{RIGHTWARDS ARROW} EUBO", fontsize=11)
    legend(ax, len(study.approximations))
    return ax


def traces(study: Study, ax: Axes | None = None) -> Axes:
    """Log-likelihood after every EM step of the best start of each fit; the start itself would hide the rest."""
    ax = _axes(ax)
    for k, fit in enumerate(study.fits):
        label = "log-likelihood" if fit.n_classes is None else f"{fit.n_classes} class{'es' if fit.n_classes > 1 else ''}"
        label += " (chosen)" if fit is study.chosen and len(study.fits) > 1 else ""
        ax.plot(range(1, len(fit.trace)), fit.trace[1:], color=COLORS[k % 6], linestyle=LINES[k % 4], label=label)
    ax.set_xscale("log")
    ax.set_xlabel("EM step")
    ax.set_ylabel("log-likelihood (nats)")
    ax.set_title("EM from the best start", fontsize=11)
    legend(ax, len(study.fits))
    return ax


def marginals(study: Study, ax: Axes | None = None) -> Axes:
    """Posterior probability of every state of every latent variable; one marker per case."""
    ax = _axes(ax)
    labels = [f"{variable} = {state}" for variable, states in study.states.items() for state in states]
    markers = "osD^vP"
    for case in range(len(study.rows)):
        values = [p for table in study.marginals.values() for p in table[case]]
        style: Any = {"color": COLORS[case % 6], "markerfacecolor": "none" if case % 2 else COLORS[case % 6]}
        ax.plot(values, range(len(labels)), markers[case % 6], linestyle="none", label=f"case {case}", **style)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlim(-0.03, 1.03)
    ax.grid(axis="y", color="0.9")
    ax.set_axisbelow(True)
    ax.set_xlabel("posterior probability")
    ax.set_title("Posterior of each latent variable", fontsize=11)
    legend(ax, min(len(study.rows), 5))
    return ax


def density(study: Study, ax: Axes | None = None) -> Axes:
    """Posterior of the only latent variable over the nodes of its grid, beside the proposal; as densities."""
    ax = _axes(ax)
    ((variable, states),) = study.states.items()
    nodes = [float(state) for state in states]
    width = (nodes[-1] - nodes[0]) / (len(nodes) - 1)
    for case, row in enumerate(study.marginals[variable]):
        ax.plot(nodes, row / width, color=COLORS[case % 6], label=f"posterior, case {case}")
        proposal = [math.exp(value) / width for value in study.approximations[0].log_q[case]]
        ax.plot(nodes, proposal, color=COLORS[case % 6], linestyle="dashed", label=f"q = prior, case {case}")
    ax.set_xlabel(variable)
    ax.set_ylabel("density")
    ax.set_title("Posterior and proposal", fontsize=11)
    legend(ax, 2)
    return ax


def check_target(path: str | os.PathLike[str]) -> Path:
    """The path of a figure to be, refused before the work if it cannot be written.

    Raises
    ------
    ValueError
        A suffix that is not .png, .pdf or .svg, no such folder, or a folder in which nothing may be written.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> check_target("report.txt")
    Traceback (most recent call last):
    ...
    ValueError: the plot file must end in .png, .pdf, .svg; got 'report.txt'.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"the plot file must end in {', '.join(SUFFIXES)}; got {str(path)!r}.")
    if target.is_dir():
        raise ValueError(f"the plot file must not be a folder; got {str(path)!r}.")
    if not target.parent.is_dir():
        raise ValueError(
            f"the plot file must lie in an existing folder; got {str(path)!r}; create {str(target.parent)!r} first."
        )
    if not os.access(target.parent, os.W_OK):
        raise ValueError(f"the plot file must lie in a folder that you may write to; got {str(path)!r}.")
    _require_matplotlib()
    return target


def save(study: Study, path: str | os.PathLike[str]) -> None:
    """Draw the study into a file, which appears complete or not at all."""
    save_canvas(figure(study), check_target(path))


def rungs(ladder: Ladder, ax: Axes | None = None) -> Axes:
    """Value of every bound of a ladder minus log p(x), lowest first; lower bounds point up, upper ones down; infinities are left out."""
    ax = _axes(ax)
    exact = next(r.total for r in ladder.rungs if r.side == "exact")
    shown = [r for r in ladder.rungs if math.isfinite(r.total)]
    for side, color, marker in (("lower", "#0072B2", "^"), ("exact", "#009E73", "D"), ("upper", "#D55E00", "v")):
        places = [(r.total - exact, i) for i, r in enumerate(shown) if r.side == side]
        if places:
            ax.plot(*zip(*places, strict=True), marker, color=color, linestyle="none", label=side)
    ax.axvline(0.0, color="0.4", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(shown)), [r.label for r in shown])
    left_out = len(ladder.rungs) - len(shown)
    ax.set_xlabel("nats from log p(x)" + (f"; {left_out} infinite rungs are not shown" if left_out else ""))
    if shown:
        legend(ax, 3)
    return ax


def save_ladder(ladder: Ladder, path: str | os.PathLike[str]) -> None:
    """Draw a ladder into a file, which appears complete or not at all."""
    target = check_target(path)
    canvas = new_figure((8.0, 1.6 + 0.27 * len(ladder.rungs)))
    rungs(ladder, canvas.add_subplot())
    save_canvas(canvas, target)


def save_canvas(canvas: Figure, target: Path) -> None:
    """A canvas into a file, which appears complete or not at all."""
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        canvas.savefig(temporary, dpi=150)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


_CENTERED: Any = {"textcoords": "offset points", "ha": "center", "va": "center"}


def _require_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('plots need matplotlib; install it with: pip install "elbo_exact[plot]"')


def new_figure(size: tuple[float, float]) -> Figure:
    """A canvas without a window."""
    _require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    return Figure(figsize=size, layout="constrained")


def _axes(ax: Axes | None) -> Any:
    return ax if ax is not None else new_figure((7.0, 5.0)).add_subplot()


def _clipped(value: float, widest: float) -> float:
    return math.copysign(BEYOND * widest, value) if math.isinf(value) else float(value)


def _row_label(study: Study, i: int) -> str:
    return f"case {i}" if study.problem.log_joint is not None else f"{study.rows[i]} ({study.counts[i]:g})"


def legend(ax: Any, columns: int) -> None:
    """Below the axis label, where nothing is drawn: at a distance in inches, whatever the height of the axes."""
    from matplotlib.transforms import ScaledTranslation

    below = ax.transAxes + ScaledTranslation(0.0, -0.5, ax.get_figure().dpi_scale_trans)
    place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "bbox_transform": below}
    ax.legend(**place, ncols=columns, frameon=False, fontsize=9)
