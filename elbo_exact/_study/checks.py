"""Every reference number of a problem, found again: which value the study has, and whether the printed digits agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from elbo_exact._study.fits import ModelFit
from elbo_exact._study.rows import Rows
from elbo_exact.divergence import chi2_divergence
from elbo_exact.evidence import log_evidence, map_state, posterior
from elbo_exact.fit import fit_em
from elbo_exact.gallery import Answer, Problem
from elbo_exact.importance import curve

__all__ = ["Check", "Findings", "checks_of"]

ROUNDING = 2.0**-49  # 16 u of its size: such a value is a few operations on log tables whose entries add at most 16 terms


@dataclass(frozen=True)
class Check:
    """One reference number beside the value found.

    Parameters
    ----------
    answer : Answer
        The reference: `.quantity`, `.where`, `.value` as printed, `.published`, `.tolerance`.
    found : float or str
        The study's value.
    error : float
        Bound on its rounding.
    """

    answer: Answer
    found: float | str
    error: float

    @property
    def agrees(self) -> bool:
        """Whether the value rounds to the printed digits: within their half unit, give or take its own rounding."""
        if isinstance(self.found, str):
            return self.found == self.answer.value
        return abs(self.found - self.answer.number) <= self.answer.tolerance + self.error

    def to_dict(self) -> dict[str, Any]:
        """Plain floats and strings."""
        answer = self.answer
        reference = {"value": answer.value, "published": answer.published, "tolerance": answer.tolerance}
        found = {"found": self.found, "error": self.error, "agrees": self.agrees}
        return {"quantity": answer.quantity, **answer.where, **reference, **found}


@dataclass(frozen=True, eq=False)
class Findings:
    """What the checks look into; EM is taken to earlier steps where an answer asks for them."""

    problem: Problem
    fits: tuple[ModelFit, ...]
    rows: Rows
    marginals: Mapping[str, Any]
    audits: Mapping[str, Any]
    models: dict[Any, Any] = field(default_factory=dict)

    def fit(self, n_classes: int) -> ModelFit:
        """The fit with so many classes."""
        return next(fit for fit in self.fits if fit.n_classes == n_classes)

    def model(self, step: int | str) -> Any:
        """The tied multinomial after some EM steps, or at the "limit"."""
        problem = self.problem
        assert problem.model is not None and problem.x is not None
        if step == "limit":
            return self.fits[0].result.model
        if step not in self.models:
            fit = fit_em(problem.model, problem.x, weights=problem.counts, tolerance=0.0, max_iter=int(step)) if step else None
            self.models[step] = fit.model if fit else problem.model
        return self.models[step]


def checks_of(findings: Findings) -> tuple[Check, ...]:
    """A check for every answer whose quantity the study has."""
    return tuple(_check(findings, answer) for answer in findings.problem.answers if answer.quantity in FIND)


def _check(findings: Findings, answer: Answer) -> Check:
    found = FIND[answer.quantity](findings, answer.where)
    if isinstance(found, str):
        return Check(answer, found, 0.0)
    value, error = found if isinstance(found, tuple) else (found, ROUNDING * abs(found))
    return Check(answer, float(value), float(error))


def _audited(quantity: str, q: str | None = None) -> Callable[[Findings, Any], tuple[float, float]]:
    """A quantity of one case from the audit of a q, with its bound."""

    def find(findings: Findings, where: Mapping[str, Any]) -> tuple[float, float]:
        audit = findings.audits[q or where["q"]]
        return getattr(audit, quantity)[where["case"]], getattr(audit.error, quantity)[where["case"]]

    return find


def _evidence(findings: Findings, where: Mapping[str, Any]) -> tuple[float, float]:
    value, error = _audited("log_evidence", "exact")(findings, where)
    return math.exp(value), math.exp(value) * (error + ROUNDING)


def _posterior(findings: Findings, where: Mapping[str, Any]) -> float:
    names = findings.rows.states[where["variable"]]
    return float(findings.marginals[where["variable"]][where["case"], names.index(where["state"])])


def _chi2(findings: Findings, where: Mapping[str, Any]) -> float:
    rows, case = findings.rows, where["case"]
    return float(chi2_divergence(rows.log_joint[case], rows.log_prior[case]))


def _sampled(quantity: str) -> Callable[[Findings, Any], tuple[float, float]]:
    """A K-sample quantity of one case under its proposal, with its error."""

    def find(findings: Findings, where: Mapping[str, Any]) -> tuple[float, float]:
        rows, case = findings.rows, where["case"]
        found = curve(rows.log_joint[case], rows.log_prior[case], where["samples"])
        return float(getattr(found, quantity)), float(getattr(found.error, quantity))

    return find


def _sd(findings: Findings, where: Mapping[str, Any]) -> tuple[float, float]:
    """Standard deviation of log mean w."""
    variance, error = _sampled("variance")(findings, where)
    return math.sqrt(variance), error / math.sqrt(variance)


def _mean_energy(findings: Findings, where: Mapping[str, Any]) -> tuple[float, float]:
    """-E_posterior[log weight]/K."""
    row, coupling = findings.rows.log_joint[where["case"]], float(findings.problem.observed[where["case"]]["coupling"])
    terms = posterior(row) * row
    return -math.fsum(terms) / coupling, ROUNDING * math.fsum(abs(terms)) / coupling


def _parameter(findings: Findings, where: Mapping[str, Any]) -> float:
    group = findings.problem.columns.index(where["group"])
    category = findings.problem.categories[group].index(where["category"])
    return math.exp(findings.model(where["step"]).log_probabilities[group, category])


def _log_likelihood(findings: Findings, where: Mapping[str, Any]) -> tuple[float, float] | float:
    if "classes" in where or where["step"] == "limit":
        result = (findings.fit(where["classes"]) if "classes" in where else findings.fits[0]).result
        return result.objective, result.error
    assert findings.problem.counts is not None
    return math.fsum(findings.problem.counts * log_evidence(findings.model(where["step"]).log_joint(findings.problem.x)))


def _responsibility(findings: Findings, where: Mapping[str, Any]) -> float:
    table = posterior(findings.model(where["step"]).log_joint(findings.problem.x))
    return float(table[where["row"], where["state"]])


def _rate(findings: Findings, where: Mapping[str, Any]) -> tuple[float, float]:
    """Ratio of two successive changes of the first parameter, by then the rate of convergence."""
    first = {"group": findings.problem.columns[0], "category": findings.problem.categories[0][0]}
    early, middle, late = (_parameter(findings, {**first, "step": step}) for step in (4, 5, 6))
    rate = (late - middle) / (middle - early)
    return rate, 4.0 * ROUNDING * max(early, middle, late) * abs(
        rate / (late - middle)
    )  # what cancels, over the smaller change


def _saturated(findings: Findings, where: Mapping[str, Any]) -> float:
    assert findings.problem.counts is not None
    total = findings.problem.counts.sum()
    return math.fsum(n * math.log(n / total) for n in findings.problem.counts.tolist() if n > 0.0)


def _g2(findings: Findings, where: Mapping[str, Any]) -> tuple[float, float]:
    """Twice what the fit lacks of the saturated model, which reproduces every frequency."""
    result, saturated = findings.fit(where["classes"]).result, _saturated(findings, where)
    return 2.0 * (saturated - result.objective), 2.0 * (result.error + ROUNDING * abs(saturated))


def _share(findings: Findings, where: Mapping[str, Any]) -> float:
    return math.exp(findings.fit(where["classes"]).result.model.log_weights[where["component"]])


def _probability(findings: Findings, where: Mapping[str, Any]) -> float:
    column = findings.problem.columns.index(where["column"])
    family = findings.fit(where["classes"]).result.model.components[column]
    category = findings.problem.categories[column].index(where["category"])
    return math.exp(family.log_probabilities[where["component"], category])


def _map_state(findings: Findings, where: Mapping[str, Any]) -> str:
    best = map_state(findings.rows.log_joint[where["case"]], findings.rows.space)
    return " ".join(names[value] for names, value in zip(findings.rows.states.values(), best, strict=True))


def _map_probability(findings: Findings, where: Mapping[str, Any]) -> float:
    return math.exp(findings.rows.log_joint[where["case"]].max())


FIND: dict[str, Callable[[Findings, Mapping[str, Any]], Any]] = {
    "log_evidence": _audited("log_evidence", "exact"),
    "elbo": _audited("elbo"),
    "eubo": _audited("eubo"),
    "gap": _audited("gap"),
    "forward_kl": _audited("forward_kl"),
    "chi2_divergence": _chi2,
    "iwae": _sampled("lower"),
    "iwae_upper": _sampled("upper"),
    "iwae_gap": _sampled("lower_gap"),
    "log_mean_weight_sd": _sd,
    "mean_energy": _mean_energy,
    "evidence": _evidence,
    "posterior": _posterior,
    "parameter": _parameter,
    "log_likelihood": _log_likelihood,
    "responsibility": _responsibility,
    "convergence_rate": _rate,
    "saturated_log_likelihood": _saturated,
    "g2": _g2,
    "share": _share,
    "probability": _probability,
    "map_state": _map_state,
    "map_probability": _map_probability,
}
