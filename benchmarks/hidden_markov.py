"""One EM iteration of a categorical hidden Markov model beside hmmlearn's two forms, on the same data and start.

``python -m benchmarks.hidden_markov`` prints medians and ratios within one run; set OMP_NUM_THREADS=1 for one thread.
hmmlearn's default is ``implementation="log"``.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from elbo_exact.families import Categorical
from elbo_exact.models import HiddenMarkov

__all__ = ["contenders"]

N_STEPS, N_STATES, N_CATEGORIES, REPETITIONS = 100_000, 5, 6, 15


def contenders() -> dict[str, Callable[[], Any]]:
    """One E-step and one M-step of each."""
    from hmmlearn import hmm

    logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)
    rng = np.random.default_rng(0)
    start = np.full(N_STATES, 1.0 / N_STATES)
    rows, seen = rng.dirichlet(np.full(N_STATES, 2.0), N_STATES), rng.dirichlet(np.ones(N_CATEGORIES), N_STATES)
    model = HiddenMarkov(np.log(start), np.log(rows), Categorical(np.log(seen)))
    x, _ = model.sample(N_STEPS, rng=0)

    def ours() -> HiddenMarkov:
        return model.maximize(model.statistics([x]))

    def rival(implementation: str) -> Callable[[], Any]:
        other = hmm.CategoricalHMM(N_STATES, n_iter=1, tol=0.0, init_params="", implementation=implementation)

        def fit() -> Any:
            other.startprob_, other.transmat_, other.emissionprob_ = start, rows, seen
            return other.fit(x)

        return fit

    return {"elbo_exact": ours, "hmmlearn log": rival("log"), "hmmlearn scaling": rival("scaling")}


def main() -> None:
    """Print medians, interleaved repetitions, and their ratios to ours."""
    calls = contenders()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(REPETITIONS + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if repetition:  # the first compiles
                times[name].append(time.perf_counter() - begin)
    ours = statistics.median(times["elbo_exact"])
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{name:18s} {1e3 * middle:8.1f} ms   {middle / ours:5.2f} times ours")


if __name__ == "__main__":
    main()
