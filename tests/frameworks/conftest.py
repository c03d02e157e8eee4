"""Collected only where the frameworks are installed: ``pip install --group frameworks``; the base tests need none of them."""

from __future__ import annotations

from importlib.util import find_spec

NEEDED = {
    "test_pyro.py": ("pyro",),
    "test_numpyro.py": ("numpyro", "funsor"),
    "test_funsor.py": ("pyro", "funsor"),
    "test_pymc.py": ("pymc",),
    "test_wrong_answers.py": ("torch",),
    "test_torch_jax.py": ("torch", "jax"),
    "test_frameworks_page.py": ("pyro", "numpyro", "funsor"),
}
collect_ignore = [file for file, modules in NEEDED.items() if any(find_spec(module) is None for module in modules)]
