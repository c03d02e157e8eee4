"""The commands ``fit`` and ``predict`` of the command line: mixtures of the columns of a CSV file."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["add_commands", "fit_fields", "fit_text", "predict_fields", "predict_text"]

KINDS = (
    "bernoulli",
    "categorical",
    "poisson",
    "gaussian",
    "gaussian-tied",
    "gaussian-diagonal",
    "gaussian-spherical",
)  # as in _fitted.py, which --help must not load


def add_commands(
    command: Callable[..., argparse.ArgumentParser], whole: Callable[[int], Any], shown: Callable[..., Any]
) -> None:
    """Add both commands; ``shown`` takes what computes the fields and what makes them readable."""
    fit = command("fit", shown(fit_fields, fit_text), "fit a mixture to the rows of a CSV file by exact EM")
    fit.add_argument("model", metavar="MODEL", choices=KINDS, help=", ".join(KINDS))
    fit.add_argument(
        "data",
        metavar="DATA.csv",
        help="with a header row; empty cells, NA, NaN and ? are missing (not for gaussian, gaussian-tied)",
    )
    fit.add_argument("--components", type=whole(1), default=2, metavar="K", help="default %(default)s")
    fit.add_argument("--restarts", type=whole(0), default=20, metavar="R", help="further starts, default %(default)s")
    fit.add_argument("--max-iter", type=whole(1), default=10_000, metavar="N", help="steps of a start, default %(default)s")
    fit.add_argument(
        "--tolerance", type=float, default=1e-9, metavar="NATS", help="stop when a step gains no more, default %(default)s"
    )
    fit.add_argument("--seed", type=whole(0), default=0, metavar="N", help="where starts come from, default %(default)s")
    fit.add_argument("--save", metavar="FILE.npz", help="keep the fitted model for predict")
    predict = command("predict", shown(predict_fields, predict_text), "component and log p(x) of new rows")
    predict.add_argument("model", metavar="FILE.npz", help="what fit --save wrote")
    predict.add_argument("data", metavar="NEW.csv", help="the same columns, in any order")


def fit_fields(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was found, under names."""
    if options.save is not None and not Path(options.save).parent.is_dir():  # a mistake must show before the work
        raise ValueError(f"the folder of --save must exist; got {options.save!r}; create it first.")
    from elbo_exact._csv import read_table
    from elbo_exact._fitted import LARGEST, WHOLE, fit_table, save

    table = read_table(
        options.data,
        text=options.model == "categorical",
        largest=LARGEST.get(options.model),
        whole=options.model in WHOLE,
    )
    fitted, result = fit_table(
        options.model,
        table,
        options.components,
        restarts=options.restarts,
        max_iter=options.max_iter,
        tolerance=options.tolerance,
        seed=options.seed,
        progress=sys.stderr.isatty(),
    )
    if options.save is not None:
        save(fitted, options.save)
    return {
        "kind": options.model,
        "columns": list(table.names),
        "levels": [list(levels) for levels in table.levels],
        "rows": len(table.values),
        "saved": options.save,
        **result.to_dict(),
        "components": _components(fitted),
    }


def fit_text(fields: Mapping[str, Any]) -> str:
    """A summary to read."""
    criteria, found = fields["criteria"], fields["optima"]
    lines = [
        f"{len(fields['components'])} components of {fields['kind']} on {fields['rows']} rows and {len(fields['columns'])} columns",
        f"log p(data) = {fields['objective']:.10g} ± {fields['error']:.1g} nats after {fields['n_iter']} steps",
        f"{fields['outcome']}: {fields['sentence']}",
    ]
    if criteria is not None:
        lines.append(f"{criteria['n_parameters']} parameters, AIC {criteria['aic']:.6f}, BIC {criteria['bic']:.6f}")
    shown = ", ".join(f"{top['objective']:.6f} ({top['count']})" for top in found[:5]) + (", ..." if len(found) > 5 else "")
    lines.append(f"local maxima found (by how many of {len(fields['restarts'])} starts): {shown or 'none'}")
    for number, part in enumerate(fields["components"]):
        lines += ["", f"component {number}: share {part['share']:.4f}"]
        lines += [f"  {name}: {text}" for name, text in part["columns"].items()]
    return "\n".join(lines + ([f"\nsaved in {fields['saved']}"] if fields["saved"] else []))


def predict_fields(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One record for each row."""
    from elbo_exact._csv import read_table
    from elbo_exact._fitted import LARGEST, WHOLE, load

    fitted = load(options.model)
    whole = fitted.kind in WHOLE
    table = read_table(options.data, like=fitted.table, largest=LARGEST.get(fitted.kind), whole=whole)
    scores, shares = fitted.score(table.values)
    return [
        {"component": int(row.argmax()) if score > float("-inf") else None, "log_p": float(score), "posterior": _known(row)}
        for score, row in zip(scores, shares, strict=True)
    ]


def predict_text(rows: list[dict[str, Any]]) -> str:
    """A CSV table; a row that no component can produce has no component."""
    lines = [f"{'' if row['component'] is None else row['component']},{row['log_p']!r}" for row in rows]
    return "\n".join(["component,log_p", *lines])


def _known(row: Any) -> list[float] | None:
    return None if math.isnan(row[0]) else row.tolist()


def _components(fitted: Any) -> list[dict[str, Any]]:
    """Share and parameters of each component, in words."""
    import numpy as np

    from elbo_exact._fitted import GAUSSIANS

    model, names = fitted.model, fitted.table.names
    parts: list[dict[str, Any]] = []
    for k in range(model.n_components):
        if fitted.kind == "categorical":
            tables = [np.exp(family.log_probabilities[k]) for family in model.components]
            words = [
                ", ".join(f"{level} {p:.4f}" for level, p in zip(levels, table, strict=True))
                for levels, table in zip(fitted.table.levels, tables, strict=True)
            ]
        elif fitted.kind in GAUSSIANS:
            family = model.components[0]
            spread = np.sqrt(np.array([_variance(family, k, d) for d in range(len(names))]))
            words = [f"mean {mean:.6g}, deviation {s:.6g}" for mean, s in zip(family.means[k], spread, strict=True)]
        elif fitted.kind == "poisson":
            words = [f"rate {rate:.6g}" for rate in np.exp(model.components[0].log_rates[k])]
        else:
            words = [f"{p:.4f}" for p in np.exp(model.components[0].log_probabilities[k, :, 1])]
        parts.append({"share": float(np.exp(model.log_weights[k])), "columns": dict(zip(names, words, strict=True))})
    return parts


def _variance(family: Any, k: int, d: int) -> float:
    table = family.covariances
    index = {"spherical": (k,), "diagonal": (k, d), "tied": (d, d), "full": (k, d, d)}[family.covariance]
    return float(table[index])
