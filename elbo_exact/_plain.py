"""Values as text that can be read back: strict JSON, and Python code."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["AsCode", "code", "plain"]


def plain(value: Any) -> Any:
    """The same value out of dicts, lists, strings, booleans, None and finite numbers.

    JSON has no infinities. They become the strings "Infinity" and "-Infinity", and NaN becomes "NaN": the spellings that Python's
    ``float`` and JavaScript's ``Number`` read back.

    Examples
    --------
    >>> plain({"elbo": (-float("inf"), -1.5)})
    {'elbo': ['-Infinity', -1.5]}
    """
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def code(value: Any) -> str:
    """Python code that makes the value again to the bit: arrays as lists, infinities as float("inf").

    Examples
    --------
    >>> print(code({"log_q": (-float("inf"), 0.0)}))
    {'log_q': (float("-inf"), 0.0)}
    """
    if hasattr(value, "tolist"):
        return code(value.tolist())
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{code(key)}: {code(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(code, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(code, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


class AsCode:
    """For dataclasses with ``repr=False`` whose constructor takes arrays as lists: they print as code that makes them again."""

    def __repr__(self) -> str:
        """Code that makes the same object."""
        given: Any = self
        fields = (f"{field.name}={code(getattr(self, field.name))}" for field in dataclasses.fields(given) if field.init)
        return f"{type(self).__name__}({', '.join(fields)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # of IPython and Hypothesis, which would print arrays otherwise
        printer.text(repr(self))
