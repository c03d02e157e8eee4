"""JSON without surprises: no NaN or infinities, no duplicate keys, no huge files, and one line per error."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["MAX_BYTES", "strict_json"]

MAX_BYTES = 2**20


def strict_json(text: str | bytes, name: str) -> Any:
    """Parse JSON, refusing what Python's parser would let through.

    Raises
    ------
    ValueError
        Larger than 1 MiB, not UTF-8, not JSON, a constant NaN or Infinity, a number that overflows, a duplicate key, nesting too deep.

    Examples
    --------
    >>> strict_json('{"a": [1, 2.5]}', "example")
    {'a': [1, 2.5]}
    >>> strict_json('{"a": 1, "a": 2}', "example")
    Traceback (most recent call last):
    ...
    ValueError: example is not a valid problem file: duplicate key 'a'.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{name} is not a valid problem file: {len(text)} bytes, at most {MAX_BYTES} are read.")
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(decoded, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError(f"{name} is not a valid problem file: nested too deeply.") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError included
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{name} is not a valid problem file: {reason}.") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def _finite(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise ValueError(f"{literal[:40]} exceeds the range of doubles")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
    return result
