"""Values for JSON: a strict parser must be able to read what the command line writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["plain"]


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
