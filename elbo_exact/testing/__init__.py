"""Test anybody's inference code against exact answers: assertions, strategies, a naive oracle, fingerprints and mutants.

Importing this package costs nothing: names load at first use, and only ``strategies`` needs Hypothesis.
"""

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "assert_elbo": "_assertions",
    "assert_every_particle": "_assertions",
    "assert_gradient": "_assertions",
    "assert_kl": "_assertions",
    "assert_log_evidence": "_assertions",
    "assert_lower_bound": "_assertions",
    "assert_monotone": "_assertions",
    "assert_posterior": "_assertions",
    "assert_unbiased": "_unbiased",
    "assert_upper_bound": "_assertions",
    "Fingerprint": "_fingerprints",
    "fingerprint": "_fingerprints",
    "Problem": "_problem",
}
_SUBMODULES = ("mutants", "oracle", "strategies")

__all__ = [*_MODULE_OF, *_SUBMODULES]  # noqa: PLE0604 - all of them are strings


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"elbo_exact.testing.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'elbo_exact.testing' has no attribute {name!r}")
    value = getattr(import_module(f"elbo_exact.testing.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
