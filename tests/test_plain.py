"""Values for strict JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from elbo_exact._plain import plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        ([np.float64(-np.inf)], ["-Infinity"]),
        (np.array([[1.0, np.inf]]), [[1.0, "Infinity"]]),
        (np.int64(3), 3),
        (np.bool_(True), True),
        ((1, None, "a"), [1, None, "a"]),
        ({2: {"b": -np.inf}}, {"2": {"b": "-Infinity"}}),
    ],
)
def test_plain(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == expected


def test_python_reads_the_spellings_back() -> None:
    assert [float(plain(value)) for value in (math.inf, -math.inf)] == [math.inf, -math.inf]
    assert math.isnan(float(plain(math.nan)))
