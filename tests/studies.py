"""Studies that several test files look at, computed once per process."""

from __future__ import annotations

from functools import cache

import elbo_exact as ee
from elbo_exact._study import Study

SEED, RESTARTS = 3, 3


@cache
def study_of(name: str) -> Study:
    """The study of a gallery problem, from few starts."""
    return ee.study(name, restarts=RESTARTS, rng=SEED)
