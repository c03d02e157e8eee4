"""What Hypothesis calls when it is imported: ``st.from_type(Problem)`` works, and nothing heavy is loaded for it."""

from __future__ import annotations

from typing import Any

__all__ = ["register"]


def register() -> None:
    """Teach Hypothesis the type `Problem`; its strategy is imported when it is first drawn."""
    from hypothesis import strategies as st

    from elbo_exact.testing._problem import Problem

    st.register_type_strategy(Problem, _problems)


def _problems(_: Any) -> Any:
    from elbo_exact.testing.strategies import problems

    return problems()
