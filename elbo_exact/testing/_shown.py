"""Arrays that a failing example prints as code: ``np.array([...])``, every number to the bit."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.control import current_build_context
from hypothesis.vendor.pretty import IDKey

from elbo_exact._validate import FloatArray

__all__ = ["shown"]


@st.composite
def _drawn(draw: Any, arrays: st.SearchStrategy[FloatArray]) -> FloatArray:
    array: FloatArray = draw(arrays).copy()  # an object of its own: printers are kept by identity
    current_build_context().known_object_printers[IDKey(array)].append(_print)
    return array


def _print(array: FloatArray, printer: Any, cycle: bool) -> None:
    entries = repr(array.tolist()).replace("inf", "np.inf")
    printer.text(f"np.array({entries})")


def shown(arrays: st.SearchStrategy[FloatArray]) -> st.SearchStrategy[FloatArray]:
    """The same arrays; Hypothesis prints each as the call that makes it again, where ``repr`` would round to 8 digits."""
    return _drawn(arrays)
