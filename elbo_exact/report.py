"""Texts for the terminal, at most about 120 columns wide: results go in, lines come out, nothing is computed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from elbo_exact._audit import Audit
from elbo_exact._ladder import Ladder
from elbo_exact._study.fits import ModelFit
from elbo_exact._study.result import Approximation, Study
from elbo_exact.gallery import Answer, Problem

__all__ = ["audit_text", "fields_text", "gallery_text", "ladder_text", "problem_text", "study_text", "vae_header", "vae_line"]

WIDTH = 118
SHOWN_ROWS, SHOWN_STEPS, SHOWN_STATES = 20, 8, 20
QUANTITIES = {"elbo": "ELBO", "gap": "reverse KL", "forward_kl": "forward KL", "eubo": "EUBO"}
LEGEND = "reverse KL = KL(q || posterior), forward KL = KL(posterior || q), residual = log p(x) - (ELBO + reverse KL)"


def study_text(study: Study) -> str:
    """The whole report.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> print(study_text(ee.study("sprinkler")).splitlines()[0])
    Wet grass: rain or the sprinkler, with a structural zero
    """
    parts = [_heading(study.problem)]
    if study.chosen is not None:
        parts.append(_classes(study) if study.chosen.n_classes is not None else _path(study.chosen))
        parts.append(_parameters(study))
    parts.append(_posteriors(study))
    parts.append(
        f"{len(study.approximations)} q's for each row, in nats; ± bounds the rounding error, given the table log p(x, z).\n{LEGEND}."
    )
    parts += [f"q = {part.name}: {part.meaning}\n{_bounds(part, study)}" for part in study.approximations]
    parts += [_ladder(study.ladder), _checks(study), _paragraph(study.sentence)]
    return "\n\n".join(part for part in parts if part)


def audit_text(audit: Audit) -> str:
    """An audit: one line per quantity for a single row, else one line per row and the totals.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> print(audit_text(ee.audit(np.log([[1.0]]), np.log([[1.0]]))).splitlines()[-1].split()[:2])
    ['total', '0']
    """
    if getattr(audit.status, "ndim", 0) == 0:
        return str(audit)
    names = [str(i) for i in range(audit.status.size)]
    evidence = _column("log p(x)", audit.log_evidence.ravel(), audit.error.log_evidence.ravel())
    total = audit.total()
    last = ["total", _pm(total.log_evidence, total.error.log_evidence), *_totals(total), ""]
    columns = [["row", *names], evidence, *_audit_columns(audit), ["status", *audit.status.ravel().tolist()]]
    return f"{LEGEND}.\n{_table(_shortened(columns), [*last, ''])}"


def gallery_text(problems: Iterable[Problem]) -> str:
    """One line per problem.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> gallery_text([ee.gallery.load("sprinkler")]).splitlines()[1].split()[:2]
    ['sprinkler', 'network']
    """
    rows = [[p.name, p.kind, str(len(p.answers)), p.title] for p in problems]
    return _table(_transposed([["name", "kind", "answers", "title"], *rows]), left=(0, 1, 3))


def problem_text(problem: Problem) -> str:
    """One problem: description, source, licence, reference numbers.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> problem_text(ee.gallery.load("sprinkler")).splitlines()[-1].split()[-1]
    '-0.802114191812'
    """
    rows = [[_what(answer), _origin(answer), answer.value] for answer in problem.answers]
    table = _table(_transposed([["answer", "origin", "value"], *rows]), left=(0, 1))
    return f"{_heading(problem)}\n{_paragraph(problem.license)}\n\n{table}"


def ladder_text(ladder: Ladder) -> str:
    """Bounds around log p(x), the lowest first, and whether the theorems between them hold.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> print(ladder_text(ee.bounds.ladder(np.log([0.3, 0.1]), np.log([0.5, 0.5]), include=["elbo"])).splitlines()[-1])
    All 1 inequalities between them that are theorems hold.
    """
    return f"{ladder}\n{_theorems(ladder)}"


def fields_text(fields: Mapping[str, Any]) -> str:
    """One "name  value" line per field, nested names joined by a blank.

    Examples
    --------
    >>> print(fields_text({"cache": {"files": 3, "newest": None}, "threads": 2}))
    cache files   3
    cache newest  -
    threads       2
    """
    return _table(_transposed(_flat(fields, "")), left=(0, 1))


def vae_header() -> str:
    """Heading of the lines of a VAE that learns; nats per held-out row."""
    return f"{'epoch':>6}{'ELBO':>12}{'log p(x)':>12}{'gap':>10}{'KL(p||q)':>10}{'estimate':>10}"


def vae_line(snapshot: Any) -> str:
    """One audited epoch; the last column is the largest discretization estimate."""
    gaps = f"{snapshot.gap:10.4f}{snapshot.forward_kl:10.4f}{snapshot.discretization:10.1e}"
    return f"{snapshot.epoch:6d}{snapshot.elbo:12.4f}{snapshot.log_evidence:12.4f}{gaps}"


def _heading(problem: Problem) -> str:
    return f"{problem.title}\n{_paragraph(problem.description)}\n{_paragraph('Source: ' + problem.source)}"


def _classes(study: Study) -> str:
    header = ["classes", "free", "log-likelihood", "published", "reference", "BIC", "AIC", "steps"]
    rows = [[*header, "here", "lower", "open"]]
    for fit in study.fits:
        told = [study.problem.find("log_likelihood", published=flag, classes=fit.n_classes) for flag in (True, False)]
        references = [answers[0].value if answers else "-" for answers in told]
        row = [str(fit.n_classes), str(fit.n_parameters), _pm(fit.result.objective, fit.result.error, 15), *references]
        row += [f"{fit.bic:.4f}", f"{fit.aic:.4f}", str(fit.n_iter)]
        rows.append([*row, str(fit.n_same), str(fit.n_lower), str(fit.n_undecided)])
    assert study.chosen is not None
    starts = (
        f"EM from {study.chosen.n_starts} random starts each, the best continued until rounding hides the gain of a step. "
        "free: free parameters; steps: of the best start; here: starts that rise to this maximum; lower: starts left at another "
        "maximum or on a plateau; open: starts still gaining speed when left."
    )
    return f"{_paragraph(starts)}\n{_table(_transposed(rows))}\nChosen: {study.chosen.n_classes} classes, the smallest BIC."


def _path(fit: ModelFit) -> str:
    steps = list(range(len(fit.trace)))
    gains = ["", *(_pm(g, e, 6) for g, e in zip(fit.result.gains, fit.result.gain_errors, strict=True))]
    columns = [["step", *map(str, steps)], ["log-likelihood", *(f"{v:.12f}" for v in fit.trace)], ["gain", *gains]]
    end = f"{fit.result.outcome.value} Log-likelihood {_pm(fit.result.objective, fit.result.error, 15)}."
    return f"EM from the given start\n{_table(_shortened(columns, SHOWN_STEPS))}\n{_paragraph(end)}"


def _parameters(study: Study) -> str:
    assert study.chosen is not None
    model, problem = study.chosen.result.model, study.problem
    named = list(zip(problem.columns, problem.categories, strict=True))
    if study.chosen.n_classes is None:
        rows = [["group", "category", "probability"]]
        for (group, names), row in zip(named, model.log_probabilities, strict=True):
            rows += [[group, name, f"{math.exp(value):.12f}"] for name, value in zip(names, row, strict=True)]
        return _table(_transposed(rows), left=(0, 1))
    columns = [["class", *map(str, range(model.n_components))], ["share", *_probabilities(model.log_weights)]]
    for (column, names), family in zip(named, model.components, strict=True):
        tables = zip(names, family.log_probabilities.T, strict=True)
        columns += [[f"{column}={name}", *_probabilities(values)] for name, values in tables]
    return _table(columns)


def _posteriors(study: Study) -> str:
    """log p(x) and the posterior of every row; of several variables in a table of their own."""
    exact, names = study.approximations[-1].audit, _row_names(study)
    columns = [names, _counts(study), _column("log p(x)", exact.log_evidence, exact.error.log_evidence, 15)]
    if len(study.marginals) == 1:
        ((variable, table),) = study.marginals.items()
        if len(study.states[variable]) > SHOWN_STATES:
            return _table(columns[:1] + columns[2:])
        labels = [f"p({variable} {state} | x)" for state in study.states[variable]]
        columns += [[label, *(f"{p:.10f}" for p in values)] for label, values in zip(labels, table.T, strict=True)]
        return _table([column for column in columns if column], ["total", *_total_evidence(study)])
    evidence = _table([["row", *names[1:]], ["evidence", *study.rows], columns[2]], left=(1,))
    rows = [["variable", "state", *(f"p(state | {name})" for name in names[1:])]]
    for variable, table in study.marginals.items():
        states = zip(study.states[variable], table.T, strict=True)
        rows += [[variable, state, *(f"{p:.12f}" for p in values)] for state, values in states]
    return f"{evidence}\n\n{_table(_transposed(rows), left=(0, 1))}"


def _bounds(part: Approximation, study: Study) -> str:
    columns = [_row_names(study), _counts(study), *_audit_columns(part.audit)]
    count = [f"{study.counts.sum():g}"] if _counts(study) else []
    return _table([column for column in columns if column], ["total", *count, *_totals(part.total), ""])


def _ladder(ladder: Ladder) -> str:
    """The totals of every bound, and how many of the theorems between them were seen to hold."""
    return f"Bounds on log p(x) in total, q = prior\n{ladder.text(timing=False)}\n{_theorems(ladder)}"


def _theorems(ladder: Ladder) -> str:
    checks = ladder.verify()
    broken = [check.statement for check in checks if not check.holds]
    return _paragraph(
        f"VIOLATED: {'; '.join(broken)}." if broken else f"All {len(checks)} inequalities between them that are theorems hold."
    )


def _checks(study: Study) -> str:
    if not study.checks:
        return ""
    rows = [["reference number", "origin", "printed", "found", "agrees"]]
    for check in study.checks:
        decimals = len(check.answer.value.partition(".")[2]) + 3
        found = check.found if isinstance(check.found, str) else f"{check.found:.{decimals}f}"
        rows.append([_what(check.answer), _origin(check.answer), check.answer.value, found, "yes" if check.agrees else "NO"])
    return _table(_transposed(rows), left=(0, 1))


def _row_names(study: Study) -> list[str]:
    if study.problem.log_joint is not None:
        return ["row", *(f"case {i}" for i in range(len(study.rows)))]
    return [" ".join(study.problem.columns) if study.problem.kind == "latent-class" else "row", *study.rows]


def _counts(study: Study) -> list[str]:
    return [] if study.problem.log_joint is not None else ["count", *(f"{n:g}" for n in study.counts)]


def _total_evidence(study: Study) -> list[str]:
    total = study.approximations[-1].total
    count = [f"{study.counts.sum():g}"] if _counts(study) else []
    blank = [""] * sum(len(names) for names in study.states.values())
    return [*count, _pm(total.log_evidence, total.error.log_evidence, 15), *blank]


def _audit_columns(audit: Audit) -> list[list[str]]:
    flat = {n: (getattr(audit, n).ravel(), getattr(audit.error, n).ravel()) for n in QUANTITIES}
    columns = [_column(title, *flat[n], 8) for n, title in QUANTITIES.items()]
    pairs = zip(audit.residual.ravel(), audit.residual_bound.ravel(), strict=True)
    return [*columns, ["residual (bound)", *(f"{value:.1e} ({bound:.0e})" for value, bound in pairs)]]


def _totals(total: Any) -> list[str]:
    return [_pm(getattr(total, name), getattr(total.error, name), 8) for name in QUANTITIES]


def _column(title: str, values: Iterable[float], bounds: Iterable[float], digits: int = 10) -> list[str]:
    return [title, *(_pm(value, bound, digits) for value, bound in zip(values, bounds, strict=True))]


def _probabilities(logs: Iterable[float]) -> list[str]:
    return [f"{math.exp(value):.8f}" for value in logs]


def _pm(value: float, bound: float, digits: int = 10) -> str:
    return f"{value:.{digits}g} ± {bound:.0e}"


def _what(answer: Answer) -> str:
    return " ".join([answer.quantity, *(f"{key} {value}" for key, value in answer.where.items())])


def _origin(answer: Answer) -> str:
    return "published" if answer.published else "computed"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def _flat(fields: Mapping[str, Any], prefix: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for key, value in fields.items():
        name = f"{prefix} {key}".strip()
        rows += _flat(value, name) if isinstance(value, Mapping) else [[name, "-" if value is None else str(value)]]
    return rows


def _shortened(columns: Sequence[Sequence[str]], limit: int = SHOWN_ROWS) -> list[list[str]]:
    """Columns (titles first) without the middle of a long table."""
    if len(columns[0]) - 1 <= limit:
        return [list(column) for column in columns]
    head, tail = limit - limit // 2, limit // 2
    return [[*column[: 1 + head], "...", *column[-tail:]] for column in columns]


def _transposed(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _table(columns: Sequence[Sequence[str]], last: Sequence[str] | None = None, left: Sequence[int] = (0,)) -> str:
    """Aligned columns, two blanks apart; numbers to the right."""
    full = [[*column, *(last[k : k + 1] if last else ())] for k, column in enumerate(columns)]
    widths = [max(map(len, column)) for column in full]
    lines = []
    for cells in zip(*full, strict=True):
        padded = [c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
