"""What the README promises."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from elbo_exact import cli

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(.*?)\n```", TEXT, re.DOTALL)


def test_two_commands_of_one_line_each() -> None:
    assert len(COMMANDS) == 2
    assert all("\n" not in command for command in COMMANDS)
    assert all("python3 -m venv" in command for command in COMMANDS)


def test_the_first_runs_the_main_job_and_the_second_the_tests() -> None:
    assert shlex.split(COMMANDS[0])[-1] == "report"
    assert COMMANDS[1].endswith("-m pytest")
    assert COMMANDS[1].index("--upgrade") < COMMANDS[1].index("--group test")


def test_every_command_named_exists() -> None:
    named = set(re.findall(r"`elbo-exact (\w+)", TEXT))
    known = set(cli.parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr, arg-type]
    assert named <= known


def test_linked_files_exist() -> None:
    assert all((ROOT / target).exists() for target in re.findall(r"\]\(([^)#:]+)\)", TEXT))
