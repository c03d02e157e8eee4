"""One small variational problem that prints as the code that makes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Problem"]


class Problem:
    """A row of log p(x, z) and a row of log q(z), with a paste-ready repr.

    Parameters
    ----------
    log_joint, log_q : sequence of float, length S
        Log probabilities; ``log_q`` is normalized up to rounding.

    Raises
    ------
    ValueError
        Two lengths, or none.

    Examples
    --------
    >>> Problem([0.0, float("-inf")], [-0.5, -1.0])
    Problem([0.0, float("-inf")], [-0.5, -1.0])
    """

    __slots__ = ("_log_joint", "_log_q")

    def __init__(self, log_joint: Iterable[float], log_q: Iterable[float]) -> None:
        self._log_joint = tuple(float(x) for x in log_joint)
        self._log_q = tuple(float(x) for x in log_q)
        if len(self._log_joint) != len(self._log_q) or not self._log_q:
            raise ValueError(
                f"log_q must have as many states as log_joint, at least 1; got {len(self._log_q)} and {len(self._log_joint)}."
            )

    @property
    def log_joint(self) -> Any:
        """A new (S,) float64 array."""
        return _array(self._log_joint)

    @property
    def log_q(self) -> Any:
        """A new (S,) float64 array."""
        return _array(self._log_q)

    @property
    def n_states(self) -> int:
        """S."""
        return len(self._log_q)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and (self._log_joint, self._log_q) == (other._log_joint, other._log_q)

    def __hash__(self) -> int:
        return hash((self._log_joint, self._log_q))

    def __repr__(self) -> str:
        return f"Problem({_row(self._log_joint)}, {_row(self._log_q)})"


def _array(row: tuple[float, ...]) -> Any:
    import numpy as np  # not at the top: the pytest and Hypothesis hooks import this file

    return np.array(row, np.float64)


def _row(row: tuple[float, ...]) -> str:
    infinite = {float("inf"): 'float("inf")', float("-inf"): 'float("-inf")'}
    return f"[{', '.join(infinite.get(x, repr(x)) for x in row)}]"
