"""The commands ``check`` and ``write`` of the command line: tests of other people's functions."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["add_commands", "check_lines", "write_lines"]


def add_commands(command: Callable[..., argparse.ArgumentParser], whole: Callable[[int], Any], run: Callable[..., Any]) -> None:
    """Add both commands; ``run`` prints lines and returns the exit code."""
    check = command("check", run(check_lines), "test your own function on exact problems, or your own tests on mutants")
    write = command("write", run(write_lines), "print a pytest file for your own function")
    for each in (check, write):
        each.add_argument("function", metavar="MODULE:FUNCTION", help="importable from the current folder")
        each.add_argument("--quantity", help="elbo, reverse_kl or log_evidence; default: from the function's name")
        each.add_argument("--array", choices=["numpy", "torch", "jax"], help="what it takes; default: what its module imports")
    check.add_argument("--examples", type=whole(1), default=2000, metavar="N", help="number of problems, default %(default)s")
    check.add_argument("--mutants", metavar="TESTS.py", help="which mutants of the function does this test file catch?")


def check_lines(options: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    """(line, fine?) of one check."""
    from elbo_exact.testing import _check

    found = _check.signature(options.function, options.quantity, options.array)
    if options.mutants is None:
        failure = _check.check(found, options.examples)
        yield failure or f"{options.function}: {found.quantity} of {options.examples} problems, no error", failure is None
        return
    for name, caught in _check.surviving_mutants(found, options.mutants):
        yield f"{'caught  ' if caught else 'SURVIVES'}  {name}", caught


def write_lines(options: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    """The test file, as one line."""
    from elbo_exact.testing import _check

    yield _check.test_file(_check.signature(options.function, options.quantity, options.array)), True
