"""Models out of files and other libraries; each module loads at first use."""

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "Oracle": "_oracle",
    "from_bif": "bif",
    "from_callable": "callables",
    "from_jax": "callables",
    "from_numpyro": "numpyro_models",
    "from_pgmpy": "pgmpy_models",
    "from_pymc": "pymc_models",
    "from_pyro": "pyro_models",
    "from_torch": "callables",
    "from_uai": "uai",
    "read_uai_evidence": "uai",
}

__all__ = [*_MODULE_OF]  # noqa: PLE0604 - all of them are strings


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'elbo_exact.adapters' has no attribute {name!r}")
    return getattr(import_module(f"elbo_exact.adapters.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
