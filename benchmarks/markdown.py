"""Words and tables that the sections of the page share."""

from __future__ import annotations

from typing import Any

from measure import QUIET

__all__ = ["mark", "table", "verdict"]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def mark(record: dict[str, Any]) -> str:
    """A dagger where no attempt found the machine quiet."""
    return " †" if record["others"] > QUIET else ""


def verdict(met: bool, dagger: str = "") -> str:
    """A word that can be searched for; a dagger where the measurement was disturbed and the word means little."""
    return ("met" if met else "**not met**") + dagger
