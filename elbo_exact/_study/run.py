"""The one call that computes what the report shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from elbo_exact._audit import audit
from elbo_exact._study.amortized import amortized
from elbo_exact._study.checks import Findings, checks_of
from elbo_exact._study.fits import ModelFit, latent_class_fits, tied_fit
from elbo_exact._study.result import Approximation, Study
from elbo_exact._study.rows import Rows, approximations, rows_of
from elbo_exact._study.words import sentence
from elbo_exact._validate import FloatArray, integer
from elbo_exact.bounds import Ladder, ladder
from elbo_exact.evidence import posterior_marginals
from elbo_exact.gallery import Problem, load

__all__ = ["study"]

STEPS = 10  # of the thermodynamic and annealed bounds
ANNEALING_WORK = 10**7  # states x steps x variables up to which a report anneals: below a second


def study(
    problem: str | Problem,
    *,
    restarts: int = 20,
    rng: np.random.Generator | int | None = 0,
    progress: bool = False,
    executor: Any = None,
) -> Study:
    """Fit, audit and check one problem of the gallery.

    Parameters
    ----------
    problem : str or Problem
        A name of `gallery.names`, or a problem of your own.
    restarts : int
        Random starting points of EM for each number of latent classes.
    rng : numpy.random.Generator or seed, optional
        Where they come from; the default gives the same study every time.
    progress : bool
        Show a bar on stderr.
    executor : concurrent.futures.Executor, optional
        Where the work runs; the result does not depend on it.

    Returns
    -------
    Study

    Raises
    ------
    ValueError
        An unknown problem, or restarts below 1.

    Notes
    -----
    Latent classes are fitted for each number of classes that the problem names, and the smallest BIC is chosen (Schwarz 1978, Ann.
    Stat. 6:461). Three q's are audited at the chosen model: the prior; a blurred posterior, half of it the posterior and half equal
    weight on the states that can produce the row; and the exact posterior; with latent classes also a network of one hidden unit that
    was trained on the exact ELBO (amortized inference). In a network the prior is the proposal of likelihood
    weighting (Fung & Chang 1990; Shachter & Peot 1990), in a tied multinomial equal weight on the possible states.

    Examples
    --------
    >>> import elbo_exact as ee
    >>> coins = ee.study("coins")
    >>> round(coins.chosen.result.objective, 9), all(check.agrees for check in coins.checks)
    (-31.570200236, True)
    >>> [(q.name, q.is_tight) for q in coins.approximations]
    [('prior', False), ('blurred', False), ('exact', True)]
    """
    this = load(problem) if isinstance(problem, str) else problem
    n_starts = integer(restarts, "restarts", 1)
    fits = _fits(this, n_starts, np.random.default_rng(rng), progress, executor)
    chosen = min(fits, key=lambda fit: fit.bic) if fits else None
    rows = rows_of(this, chosen.result.model if chosen else None)
    parts = []
    for name, (meaning, log_q) in _every_q(this, rows, executor).items():
        result = audit(rows.log_joint, log_q, executor=executor)
        parts.append(Approximation(name, meaning, log_q, result, result.total(rows.counts)))
    marginals = dict(zip(rows.space.names or (), posterior_marginals(rows.log_joint, rows.space), strict=True))
    findings = Findings(this, fits, rows, marginals, {part.name: part.audit for part in parts})
    return Study(
        problem=this,
        fits=fits,
        chosen=chosen,
        rows=rows.names,
        counts=rows.counts,
        log_joint=rows.log_joint,
        marginals=marginals,
        states=rows.states,
        approximations=tuple(parts),
        checks=checks_of(findings),
        ladder=_ladder(rows, executor),
        sentence=sentence(parts, rows.counts, rows.names),
    )


def _every_q(problem: Problem, rows: Rows, executor: Any) -> dict[str, tuple[str, FloatArray]]:
    """The prior, the blurred posterior, a network where there are answers to feed it, and the posterior last."""
    found = approximations(problem.kind, rows, executor)
    if problem.kind == "latent-class" and np.isfinite(rows.log_joint).all():  # a softmax would charge impossible states
        found["amortized"] = amortized(problem, rows)
        found["exact"] = found.pop("exact")
    return found


def _ladder(rows: Rows, executor: Any) -> Ladder:
    """Bounds with the prior as q; annealing where there is more than one variable and few enough operations."""
    work = rows.log_joint.size * STEPS * rows.space.n_variables
    space = rows.space if rows.space.n_variables > 1 and work <= ANNEALING_WORK else None
    return ladder(rows.log_joint, rows.log_prior, betas=(STEPS,), weights=rows.counts, space=space, executor=executor)


def _fits(problem: Problem, restarts: int, rng: np.random.Generator, progress: bool, executor: Any) -> tuple[ModelFit, ...]:
    if problem.kind == "latent-class":
        return latent_class_fits(problem, restarts, rng, _bar if progress else _silent, executor)
    return (tied_fit(problem),) if problem.kind == "tied-multinomial" else ()


def _silent(calls: Iterable[Any], label: str) -> Iterable[Any]:
    return calls


def _bar(calls: Iterable[Any], label: str) -> Iterable[Any]:
    """The calls with a progress bar on stderr."""
    from tqdm import tqdm  # only who asks for a bar waits for its import

    bar: Callable[..., Iterable[Any]] = tqdm
    return bar(calls, desc=label, unit="start", leave=False)
