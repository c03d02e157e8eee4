"""What a user gets: the import, the public names, the metadata."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import elbo_exact

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "numba", "scipy", "matplotlib", "hypothesis", "pytest", "tqdm", "flint")
IMPORT_BUDGET = 0.030  # seconds, so that plugins and the command line stay instant


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_the_import_takes_less_than_30_ms() -> None:
    code = "import time; t = time.perf_counter(); import elbo_exact; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(5)) < IMPORT_BUDGET


def test_the_import_loads_no_dependency() -> None:
    loaded = run_python(f"import sys, elbo_exact; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize("name", elbo_exact.__all__)
def test_every_public_name_loads_and_is_listed(name: str) -> None:
    assert getattr(elbo_exact, name) is not None
    assert name in dir(elbo_exact)


@pytest.mark.parametrize("before", ["gc.enable()", "gc.disable()", "gc.freeze()"])
def test_loading_a_name_leaves_the_garbage_collector_as_it_was(before: str) -> None:
    code = f"import gc; {before}; b = gc.isenabled(), gc.get_freeze_count(); import elbo_exact; elbo_exact.LatentSpace; "
    code += "a = gc.isenabled(), gc.get_freeze_count(); print(b[0] == a[0], b[1] - 100 < a[1] <= b[1])"
    assert run_python(code) == "True True"  # a frozen object may die meanwhile, and counts no longer


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'elbow'"):
        elbo_exact.elbow  # noqa: B018 - the lookup itself raises


def test_the_type_stub_lists_the_same_names() -> None:
    tree = ast.parse((ROOT / "elbo_exact" / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__"} == set(elbo_exact.__all__)


def test_setup_cfg_holds_only_command_options() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    assert set(parser.sections()) == {"egg_info", "sdist"}


def test_the_version_is_said_alike_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert project["version"] == elbo_exact.__version__ == newest[1]
