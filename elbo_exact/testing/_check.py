"""Find out what a function takes and returns, run the strategies on it, and write a test file for it; texts only, nothing printed."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Signature", "check", "diagnosis", "replace", "signature", "surviving_mutants", "test_file"]

QUANTITIES = {
    "elbo": ("assert_elbo", "elbo"),
    "reverse_kl": ("assert_kl", "reverse_kl"),
    "log_evidence": ("assert_log_evidence", "log_evidence"),
}
ARRAYS = ("numpy", "torch", "jax")
PASSED, FAILED = 0, 1


@dataclass(frozen=True)
class Signature:
    """What a function computes, and how to call it.

    Parameters
    ----------
    target : str
        "package.module:function".
    quantity : str
        "elbo", "reverse_kl" or "log_evidence".
    arguments : tuple of str
        For each parameter "log_joint", "joint", "log_q" or "q": which table, and whether as logs.
    array : str
        "numpy", "torch" or "jax".
    """

    target: str
    quantity: str
    arguments: tuple[str, ...]
    array: str

    def call(self, function: Callable[..., Any], problem: Any) -> Any:
        """The function's value on a problem."""
        return function(*(_converted(_table(problem, name), self.array) for name in self.arguments))


def signature(target: str, quantity: str | None = None, array: str | None = None) -> Signature:
    """Read it from the names of the function, its parameters and its module.

    Raises
    ------
    ValueError
        Not "module:function", no such function, or names that do not tell.

    Examples
    --------
    >>> signature("elbo_exact:elbo").arguments
    ('log_joint', 'log_q')
    """
    function = load(target)
    name = target.rpartition(":")[2].lower()
    found = quantity or next((q for word, q in (("kl", "reverse_kl"), ("gap", "reverse_kl"), ("evidence", "log_evidence"),
                                                ("logsumexp", "log_evidence"), ("elbo", "elbo"), ("bound", "elbo")) if word in name), "elbo")  # fmt: skip
    if found not in QUANTITIES:
        raise ValueError(f"--quantity must be one of {', '.join(QUANTITIES)}; got {found!r}.")
    free = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty and p.kind in (0, 1)]
    expected = 1 if found == "log_evidence" else 2
    if len(free) != expected:
        raise ValueError(
            f"{target} must take {expected} table{'s' * (expected > 1)}; it takes {len(free)}; wrap it in a function."
        )
    second = [i for i, p in enumerate(free) if _is_q(p.name)] or [1]
    logs = any(p.name.startswith("log") for p in free) or not any("prob" in p.name for p in free)
    arguments = tuple(
        ("log_" if logs else "") + ("q" if i == second[0] and expected == 2 else "joint") for i in range(expected)
    )
    return Signature(target, found, arguments, array or _array_of(function))


def load(target: str) -> Callable[..., Any]:
    """The function "module:function", with the current folder importable."""
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"the function must be given as package.module:function; got {target!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    value = getattr(import_module(module), name, None)
    if value is None or not callable(value):
        raise ValueError(f"{module} has no function {name!r}.")
    function: Callable[..., Any] = value
    return function


def check(found: Signature, examples: int = 2000) -> str | None:
    """The smallest failing problem with what is wrong there, or None after that many problems without an error."""
    from hypothesis import HealthCheck, Phase, given, settings

    from elbo_exact.testing.strategies import problems

    function, assertion = load(found.target), assertion_of(found.quantity)
    failures: dict[str, tuple[Any, str]] = {}

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True, report_multiple_bugs=False,
              phases=(Phase.explicit, Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(problems())
    def run(problem: Any) -> None:
        try:
            assertion(found.call(function, problem), problem)
        except Exception as error:
            failures["last"] = problem, str(error) or type(error).__name__
            raise

    try:
        run()
    except Exception:
        if not failures:
            raise
        problem, message = failures["last"]
        cause = diagnosis(found)
        return f"{found.target} fails on\n  {problem!r}\n{message}" + (f"\non larger tables: {cause}" if cause else "")
    return None


def diagnosis(found: Signature) -> Any:
    """The fingerprint that explains all rows of a batch; a small table has more than one explanation.

    Batches of 8 random tables of 4 states, seeded: of full support, with a state that q misses, with one that p does not have, with q on
    one state almost, and far away, where single precision would explain any small difference and is therefore no explanation.
    """
    import numpy as np

    from elbo_exact.testing._fingerprints import fingerprint
    from elbo_exact.testing._problem import Problem

    function, rng = load(found.target), np.random.default_rng(0)
    a, logits = rng.normal(-3.0, 2.0, (8, 4)), rng.normal(0.0, 1.0, (8, 4))
    first, far = np.arange(4) == 1, a + 1e5
    for joint, own in (
        (a, logits),
        (a, np.where(first, -np.inf, logits)),
        (np.where(first, -np.inf, a), logits),
        (a, np.where(first, logits, logits - 50.0)),
        (far, logits),
    ):
        log_q = own - np.logaddexp.reduce(own, axis=-1, keepdims=True)
        try:
            with np.errstate(all="ignore"):
                values = [float(found.call(function, Problem(*rows))) for rows in zip(joint, log_q, strict=True)]
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError):  # the failure itself has told what is wrong
            return None
        cause = fingerprint(values, joint, log_q, quantity=found.quantity)
        if cause is not None and not (joint is far and cause.name == "float32"):
            return cause
    return None


def assertion_of(quantity: str) -> Callable[[Any, Any], None]:
    """(actual, problem) to the public assertion of that quantity."""
    from elbo_exact import testing

    assertion = getattr(testing, QUANTITIES[quantity][0])
    if quantity == "log_evidence":
        return lambda actual, problem: assertion(actual, problem.log_joint)
    return lambda actual, problem: assertion(actual, problem.log_joint, problem.log_q)


def test_file(found: Signature) -> str:
    """A pytest file that tests the function on every problem of the strategies."""
    module, _, name = found.target.partition(":")
    assertion = QUANTITIES[found.quantity][0]
    given = "problem.log_joint" if found.quantity == "log_evidence" else "problem.log_joint, problem.log_q"
    make = {"numpy": "{}", "torch": "torch.tensor({})", "jax": "jnp.asarray({})"}[found.array]
    heads = {"numpy": [], "torch": ["import torch"], "jax": ["import jax.numpy as jnp"]}[found.array]
    plain = [
        f"problem.{argument}" if argument.startswith("log_") else f"np.exp(problem.log_{argument})"
        for argument in found.arguments
    ]
    heads = ["import numpy as np"] * any(text.startswith("np.") for text in plain) + heads
    call = f"{name}({', '.join(make.format(text) for text in plain)})"
    lines = [
        *heads,
        "from hypothesis import given",
        "",
        f"from elbo_exact.testing import {assertion}",
        "from elbo_exact.testing.strategies import problems",
        f"from {module} import {name}",
        "",
        "",
        "@given(problems())",
        f"def test_{name.removeprefix('test_')}_is_exact(problem):",
        f"    {assertion}({call}, {given})",
    ]
    return "\n".join(lines)


test_file.__test__ = False  # type: ignore[attr-defined] # its name begins like a test's


def surviving_mutants(found: Signature, tests: str | Path) -> Iterator[tuple[str, bool]]:
    """(mutant, caught?) for every mutant of the function's quantity, each in its own run of the user's test file.

    A mutant takes the function's place in its module before the test file is imported. Caught means that pytest reports failed tests;
    the unchanged function must pass first.

    Raises
    ------
    ValueError
        The tests fail without a mutant, or pytest finds none.
    """
    from elbo_exact.testing.mutants import mutants

    code, output = _pytest(found, tests, None)
    if code != PASSED:
        raise ValueError(f"{tests} must pass before mutants can tell anything; pytest ended with {code}: {output[-300:]}")
    for mutant in mutants(found.quantity):
        code, output = _pytest(found, tests, mutant.name)
        if code not in (PASSED, FAILED):
            raise ValueError(f"pytest could not run {tests} with mutant {mutant.name!r}: {output[-300:]}")
        yield mutant.name, code == FAILED


def replace(target: str, name: str) -> None:
    """Put a mutant in the place of the function; called by the pytest plugin."""
    from elbo_exact.testing.mutants import by_name

    found, mutant = signature(target), by_name(name)
    joint = next(i for i, argument in enumerate(found.arguments) if argument.endswith("joint"))

    def mutated(*tables: Any) -> Any:
        import numpy as np

        arrays = [np.asarray(table, np.float64) for table in tables]
        if not found.arguments[0].startswith("log_"):
            arrays = [np.log(array) for array in arrays]
        ordered = (arrays[joint], *(array for i, array in enumerate(arrays) if i != joint))
        with np.errstate(all="ignore"):
            return np.asarray(mutant(*ordered))[()]

    module, _, function = target.partition(":")
    setattr(import_module(module), function, mutated)


def _pytest(found: Signature, tests: str | Path, mutant: str | None) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    if mutant is not None:
        environment |= {"ELBO_EXACT_TARGET": found.target, "ELBO_EXACT_MUTANT": mutant}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "elbo_exact",
        str(tests),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _is_q(name: str) -> bool:
    return name in ("q", "b", "guide") or "_q" in name or name.startswith(("q_", "logq", "guide"))


def _table(problem: Any, name: str) -> Any:
    import numpy as np

    return getattr(problem, name) if name.startswith("log_") else np.exp(getattr(problem, f"log_{name}"))


def _array_of(function: Callable[..., Any]) -> str:
    """The array library that the function's module has imported, by its own names."""
    names = vars(inspect.getmodule(function) or function)
    values = {str(getattr(value, "__name__", "")).partition(".")[0] for value in names.values() if inspect.ismodule(value)}
    return next((library for library in ("torch", "jax") if library in values), "numpy")


def _converted(table: Any, array: str) -> Any:
    if array == "torch":
        return import_module("torch").tensor(table)
    return import_module("jax.numpy").asarray(table) if array == "jax" else table
