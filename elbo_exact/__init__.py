"""The ground truth for variational inference: exact sums over small latent spaces, each with an error bound.

Names load their module at first use, so importing the package costs a few milliseconds and no dependency.
"""

import gc
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    # spaces
    "LatentSpace": "space",
    "Grid": "grid",
    # evidence and posterior
    "log_evidence": "evidence",
    "log_posterior": "evidence",
    "posterior": "evidence",
    "posterior_marginals": "evidence",
    "map_state": "evidence",
    "top_states": "evidence",
    "sample_posterior": "evidence",
    # divergences
    "gap": "divergence",
    "reverse_kl": "divergence",
    "forward_kl": "divergence",
    "jeffreys": "divergence",
    "renyi_divergence": "divergence",
    "chi2_divergence": "divergence",
    "total_variation": "divergence",
    "hellinger": "divergence",
    "jensen_shannon": "divergence",
    "entropy": "divergence",
    "cross_entropy": "divergence",
    # bounds of variational inference
    "elbo": "variational",
    "eubo": "variational",
    "elbo_terms": "variational",
    "elbo_gradient": "variational",
    # everything at once, with error bounds
    "Audit": "_audit",
    "audit": "_audit",
    "DensityAudit": "_density",
    "audit_density": "_density",
    "GapReport": "_gap_report",
    "gap_report": "_gap_report",
    # models and fits
    "fit_em": "fit",
    "fit_em_online": "fit",
    "fit_vi": "fit",
    "FitResult": "fit",
    "Outcome": "fit",
    "Study": "_study",
    "study": "_study",
    # errors
    "LogTableError": "errors",
    "EnumerationTooLarge": "errors",
    "ZeroEvidence": "errors",
    "CollapsedComponent": "errors",
}
_SUBMODULES = (
    "adapters",
    "anatomy",
    "bounds",
    "families",
    "fit",
    "gallery",
    "guides",
    "importance",
    "models",
    "projection",
    "sklearn",
    "testing",
    "vae",
)

__all__ = ["__version__", *_MODULE_OF, *_SUBMODULES]  # noqa: PLE0604 - all of them are strings


def _import(module: str) -> ModuleType:
    """Import while the garbage collector rests, which would look at all objects of numba again and again: 0.1 of 0.6 s."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(f"elbo_exact.{module}")
    finally:
        if gc.get_freeze_count() == 0:
            gc.freeze()  # with the next line: what lives now is old, and not looked at by the next small collection either
            gc.unfreeze()
        if collects:
            gc.enable()


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return _import(name)
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'elbo_exact' has no attribute {name!r}")
    value = getattr(_import(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
