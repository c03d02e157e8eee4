"""The errors of elbo_exact: every one is a ``ValueError`` that carries the value it complains about."""

from __future__ import annotations

from typing import Any

__all__ = ["CollapsedComponent", "EnumerationTooLarge", "LogTableError", "ZeroEvidence"]


class LogTableError(ValueError):
    """A log table (or an argument that goes with it) is not what the function needs.

    Attributes
    ----------
    argument : str
        Name of the offending argument.
    value : object
        The offending value: a shape, an entry, a sum.
    """

    def __init__(self, message: str, argument: str = "", value: Any = None) -> None:
        super().__init__(message)
        self.argument = argument
        self.value = value


class EnumerationTooLarge(ValueError):
    """An enumeration would need more memory than the caller's byte budget.

    Attributes
    ----------
    n_states : int
        Number of states, an exact Python integer.
    n_bytes, max_bytes : int
        What would be needed, and what is allowed.
    """

    def __init__(self, message: str, n_states: int = 0, n_bytes: int = 0, max_bytes: int = 0) -> None:
        super().__init__(message)
        self.n_states = n_states
        self.n_bytes = n_bytes
        self.max_bytes = max_bytes


class ZeroEvidence(ValueError):
    """An observation is impossible under the model: p(x) = 0, so it has no posterior.

    Attributes
    ----------
    index : tuple of int
        Position of the first impossible observation in the leading axes.
    """

    def __init__(self, message: str, index: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.index = index


class CollapsedComponent(ValueError):
    """A M-step would shrink a Gaussian to a point or a flat: its likelihood has no maximum.

    Attributes
    ----------
    component : int or None
        Number of the component; None where all share one covariance.
    """

    def __init__(self, message: str, component: int | None = None) -> None:
        super().__init__(message)
        self.component = component

    def __reduce__(self) -> tuple[type, tuple[str, int | None]]:
        """Keep the number on the way back from another process."""
        return type(self), (str(self), self.component)
