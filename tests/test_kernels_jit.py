"""The disk cache of the kernels: never wrong, never in the way.

Most tests run on a package of the same name with the real ``_jit.py`` and a few one-line kernels, copied to a temporary folder
and changed there, in processes of their own.
"""

from __future__ import annotations

import ast
import importlib
import os
import pickle
import pkgutil
import subprocess
import sys
import time
from pathlib import Path
from types import FunctionType

import numba
import pytest

import elbo_exact.kernels
from elbo_exact.kernels import _jit

KERNELS = Path(_jit.__file__).parent
NAMES = [module.name for module in pkgutil.iter_modules(elbo_exact.kernels.__path__)]
FILES = {
    "constants.py": "FACTOR = 3.0\n",
    "callee.py": """
from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.constants import FACTOR
@kernel
def callee(x):
    return FACTOR * x
""",
    "caller.py": """
from elbo_exact.kernels._jit import FLOAT, INT, kernel
from elbo_exact.kernels.callee import callee
@kernel(FLOAT(FLOAT))
def caller(x):
    return callee(x) + 1.0
@kernel(FLOAT(FLOAT))
def reciprocal(x):
    return 1.0 / x
""",
    "typed.py": """
import os
from elbo_exact.kernels._jit import FLOAT, INT, kernel
TYPE = {"float": FLOAT, "int": INT}[os.environ.get("TYPE", "float")]
@kernel(TYPE(TYPE))
def twice(x):
    return x + x
""",
}
CALL = "from elbo_exact.kernels.caller import caller\nprint(caller(1.0))"
LINE = "elbo_exact: compiling kernels for this machine, ten seconds for an audit, two minutes for all ("
NOT_KEPT = f"{LINE}in every process: no cache that is safe and writable)\n"


class Package:
    """The tiny package in a folder, and its cache in another."""

    def __init__(self, folder: Path) -> None:
        self.root, self.cache = folder / "site", folder / "cache"
        self.kernels = self.root / "elbo_exact" / "kernels"
        self.kernels.mkdir(parents=True)
        for name, text in ({"_jit.py": (KERNELS / "_jit.py").read_text(), "__init__.py": ""} | FILES).items():
            (self.kernels / name).write_text(text)
        (self.root / "elbo_exact" / "__init__.py").write_text("")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA")}
        self.environment |= {"PYTHONPATH": str(self.root), "NUMBA_CACHE_DIR": str(self.cache), "PYTHONDONTWRITEBYTECODE": "1"}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that must be there once."""
        text = (self.kernels / file).read_text()
        assert text.count(old) == 1
        (self.kernels / file).write_text(text.replace(old, new))

    def start(self, code: str = CALL, **environment: str) -> subprocess.Popen[str]:
        """A process that runs ``code`` with the package."""
        command, places = [sys.executable, "-c", code], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=self.environment | environment, cwd=self.root, text=True, **places)

    def run(self, code: str = CALL, **environment: str) -> tuple[str, str]:
        """What such a process prints, and what it says on stderr."""
        process = self.start(code, **environment)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out.strip(), err

    def files(self) -> list[Path]:
        """The cached code."""
        return sorted((self.cache / "elbo_exact").glob("*.nbc"))


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


# Freshness


def test_edited_constant_callee_and_flag_give_the_new_answer(package: Package) -> None:
    assert package.run()[0] == "4.0"
    package.edit("constants.py", "3.0", "5.0")
    assert package.run()[0] == "6.0"
    package.edit("callee.py", "FACTOR * x", "FACTOR * x * x * 2.0")
    assert package.run()[0] == "11.0"
    divide = "from elbo_exact.kernels.caller import reciprocal\ntry:\n    print(reciprocal(0.0))\nexcept ZeroDivisionError:\n    print(0)"
    assert package.run(divide)[0] == "inf"
    package.edit("_jit.py", '"error_model": "numpy"', '"error_model": "python"')
    assert package.run(divide)[0] == "0"
    assert len(package.files()) == 5


def test_an_upgrade_that_leaves_the_cache_behind_is_not_stale(package: Package) -> None:
    """The cache lies inside the installed package, the new files are older than it, and the way back finds the old code again."""
    del package.environment["NUMBA_CACHE_DIR"]
    first = {path: path.read_text() for path in package.kernels.glob("*.py")}
    assert package.run()[0] == "4.0"
    assert len(list((package.kernels / "__pycache__").glob("*.nbc"))) == 1
    package.edit("constants.py", "3.0", "7.0")
    for path in first:
        os.utime(path, (0, 0))
    assert package.run()[0] == "8.0"
    for path, text in first.items():
        path.write_text(text)
    assert package.run() == ("4.0", "")


def test_a_process_that_outlives_an_upgrade_does_not_store_its_old_code_as_new(package: Package) -> None:
    upgrade = f"""
from elbo_exact.kernels.caller import caller
from pathlib import Path
path = Path({str(package.kernels / "constants.py")!r})
path.write_text("FACTOR = 9.0")
print(caller(1.0))"""
    assert package.run(upgrade)[0] == "4.0"
    assert package.run()[0] == "10.0"


# Processes at the same time


def test_cold_processes_with_other_signatures_and_kernels_do_not_cross(package: Package) -> None:
    code = """
import sys
from elbo_exact.kernels.caller import caller, reciprocal
from elbo_exact.kernels.typed import twice
calls = [lambda: twice(3), lambda: caller(1.0), lambda: reciprocal(4.0)]
i = int(sys.stdin.readline())
print([calls[(i + k) % 3]() for k in range(3)][-i % 3], twice(3))"""
    kinds = ["float", "int"] * 3
    processes = [package.start("import os\n" + code.replace("sys.stdin.readline()", str(i)), TYPE=kind)
                 for i, kind in enumerate(kinds)]  # fmt: skip
    answers = [process.communicate()[0].strip() for process in processes]
    assert answers == [f"{value} {value}" for value in ("6.0", "6") * 3]
    assert len(package.files()) == 4
    for kind, value in (("float", "6.0 6.0"), ("int", "6 6")):
        assert package.run(code.replace("sys.stdin.readline()", "0"), TYPE=kind) == (value, "")


def test_an_interrupted_write_is_never_seen(package: Package) -> None:
    """The process is killed between the last byte and the rename, and another one while it writes."""
    dies = "import os, signal\nfrom pathlib import Path\n{} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n" + CALL
    for moment in ("os.replace", "Path.write_bytes"):
        process = package.start(dies.format(moment))
        process.communicate()
        assert process.returncode == -9
        assert package.files() == []
    assert len(list((package.cache / "elbo_exact").iterdir())) == 1  # what the first process had written
    assert package.run()[0] == "4.0"
    assert package.run() == ("4.0", "")


def test_a_late_writer_replaces_a_file_by_the_same_code(package: Package) -> None:
    """While the first process is about to rename, a second one compiles and stores."""
    waits = f"""
import os, subprocess, sys
replace = os.replace
def late(*names):
    assert subprocess.run([sys.executable, "-c", {CALL!r}], capture_output=True, text=True).stdout == "4.0\\n"
    replace(*names)
os.replace = late
{CALL}"""
    assert package.run(waits)[0] == "4.0"
    assert len(package.files()) == 1
    assert package.run() == ("4.0", "")


# Places


def test_a_second_process_loads_and_does_not_compile(package: Package) -> None:
    value, said = package.run()
    assert (value, said) == ("4.0", f"{LINE}once; kept in {package.cache / 'elbo_exact'})\n")
    stored = [(path.name, path.read_bytes()) for path in package.files()]
    refuse = "from numba.core import dispatcher\ndispatcher._FunctionCompiler.compile = None\n"
    assert package.run(refuse + CALL) == ("4.0", "")
    assert [(path.name, path.read_bytes()) for path in package.files()] == stored


def test_every_stored_kernel_loads_without_the_registries_of_the_compiler() -> None:
    """They take longer than all the rest of a warm start; code that needed a symbol of theirs would end the process here."""
    load = f"""
import importlib, sys
from numba.core import dispatcher
from elbo_exact.kernels import _jit
_jit._announced.set()
def refuse(*arguments):
    raise LookupError
dispatcher._FunctionCompiler.compile = refuse
loaded = 0
for name in {NAMES}:
    for value in vars(importlib.import_module("elbo_exact.kernels." + name)).values():
        if isinstance(value, _jit.Kernel):
            try:
                value.compile()
                loaded += 1
            except LookupError:
                pass
assert not {{"scipy.linalg", "numba.np.linalg", "numba.np.arrayobj"}} & set(sys.modules)
print(loaded)
"""
    audit = "import elbo_exact, numpy\nelbo_exact.audit(numpy.zeros(2), numpy.log([0.5, 0.5]))"
    subprocess.run([sys.executable, "-c", audit], check=True)  # so that there is one at least
    done = subprocess.run([sys.executable, "-c", load], check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 1


def test_a_cold_start_prints_one_line_for_all_kernels(package: Package) -> None:
    both = "from elbo_exact.kernels.caller import caller, reciprocal\nprint(caller(1.0), reciprocal(4.0), caller(2.0))"
    value, said = package.run(both)
    assert (value, said.count("\n")) == ("4.0 0.25 7.0", 1)
    assert said.startswith(LINE)
    assert package.run(both) == ("4.0 0.25 7.0", "")


def test_a_named_place_that_cannot_exist_means_no_cache(package: Package, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = {"NUMBA_CACHE_DIR": str(tmp_path / "file" / "below")}
    assert package.run(**place) == ("4.0", NOT_KEPT)
    assert package.run(**place) == ("4.0", NOT_KEPT)
    report = "from elbo_exact.kernels._jit import cache_report, clear_cache\nr = cache_report()\n"
    report += "print(r['folder'], r['writable'], r['in_use'], r['files'], r['newest'], clear_cache())"
    assert package.run(report, **place)[0] == "None False False 0 None 0"


def test_a_read_only_installation_and_home_mean_no_cache(package: Package, tmp_path: Path) -> None:
    """Files where the folders should be: chmod would not stop root."""
    del package.environment["NUMBA_CACHE_DIR"]
    (package.kernels / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    assert package.run(HOME=str(tmp_path / "home"), XDG_CACHE_HOME="") == ("4.0", NOT_KEPT)
    assert package.run(XDG_CACHE_HOME=str(tmp_path / "home")) == ("4.0", NOT_KEPT)
    value, said = package.run(XDG_CACHE_HOME=str(tmp_path / "other"))
    assert (value, said) == ("4.0", f"{LINE}once; kept in {tmp_path / 'other' / 'elbo_exact'})\n")


def test_a_disk_that_fills_up_costs_only_time(package: Package) -> None:
    full = "import os\ndef replace(*_):\n    raise OSError(28, 'No space left on device')\nos.replace = replace\n"
    assert package.run(full + CALL)[0] == "4.0"
    assert list((package.cache / "elbo_exact").iterdir()) == []


def test_the_report_counts_and_clearing_leaves_other_files_alone(package: Package) -> None:
    package.run()
    (package.cache / "elbo_exact" / "other.nbc").write_text("")
    report = "from elbo_exact.kernels._jit import STAMP, cache_report, clear_cache\nr = cache_report()\n"
    report += "print(r['folder'], r['writable'], r['in_use'], r['files'], r['bytes'], r['newest'], r['stamp'] == STAMP[:16])\n"
    report += "print(clear_cache(), cache_report()['files'])"
    size, day = (
        package.files()[0].stat().st_size,
        time.strftime("%Y-%m-%d %H:%M", time.localtime(package.files()[0].stat().st_mtime)),
    )
    said = package.run(report)[0].splitlines()
    assert said == [f"{package.cache / 'elbo_exact'} True True 1 {size} {day} True", "1 0"]
    assert [path.name for path in package.files()] == ["other.nbc"]


# Damage

DAMAGE = {
    "empty": lambda data: b"",
    "all but one byte": lambda data: data[:-1],
    "text": lambda data: b"not a pickle\n" * 20,
    "another pickle": lambda data: pickle.dumps(("another", 3)),
    "a flipped bit in the code": lambda data: flipped(data, len(data) // 2),
    "a flipped bit near the end": lambda data: flipped(data, len(data) - 40),
}


def flipped(data: bytes, place: int) -> bytes:
    """The same bytes but for one bit."""
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_compiled_again_and_replaced(package: Package, kind: str) -> None:
    package.run()
    (file,) = package.files()
    data = file.read_bytes()
    file.write_bytes(DAMAGE[kind](data))
    value, said = package.run()
    assert (value, said.count("\n")) == ("4.0", 1)
    assert package.files() == [file] and len(file.read_bytes()) == len(data)


# Versions of numba, and no compiler


def test_an_unknown_numba_runs_uncached(package: Package) -> None:
    first, last = _jit.TESTED_NUMBA
    package.edit("_jit.py", f"TESTED_NUMBA = ({first}, {last})", "TESTED_NUMBA = ((0, 1), (0, 2))")
    value, said = package.run()
    assert (value, package.files()) == ("4.0", [])
    assert said.startswith(f"{LINE}in every process") and said.count("\n") == 1


@pytest.mark.parametrize("name", ["FunctionCache", "CompileResultCacheImpl"])
def test_a_numba_without_the_private_classes_runs_uncached(package: Package, name: str) -> None:
    assert package.run(f"import numba.core.ccallback\ndel numba.core.caching.{name}\n{CALL}")[0] == "4.0"
    assert package.files() == []


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("0.60.0", False),
        ("0.61.0", True),
        ("0.61.0rc1", True),
        ("0.68.3", True),
        ("0.69.0dev0+7.g1234567", False),
        ("1.0.0", False),
    ],
)
def test_which_versions_are_tested(version: str, tested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba, "__version__", version)
    assert _jit.numba_is_tested() is tested


def test_without_jit_kernels_are_plain_functions(package: Package) -> None:
    kinds = (
        "from elbo_exact.kernels.caller import callee, caller\nprint(type(callee).__name__, type(caller).__name__, caller(1.0))"
    )
    assert package.run(kinds, NUMBA_DISABLE_JIT="1") == ("function function 4.0", "")
    assert package.files() == []


# Options, on the real package


def test_no_decorator_adds_an_option() -> None:
    """All options are in one place, and none of them lets the compiler change a result."""
    assert _jit.OPTIONS == {"nogil": True, "error_model": "numpy"}
    found = 0
    for name in NAMES:
        for value in vars(importlib.import_module(f"elbo_exact.kernels.{name}")).values():
            if isinstance(value, _jit.Device):
                allowed = _jit.OPTIONS | {"nopython": True, "boundscheck": None, "forceinline": True}
                found += 1
                assert value.dispatcher.targetoptions == allowed | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    assert found > 100 or numba.config.DISABLE_JIT


@pytest.mark.parametrize("name", NAMES)
def test_numba_is_configured_in_one_place(name: str) -> None:
    tree = ast.parse((KERNELS / f"{name}.py").read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    if name != "_jit":
        assert not used & {"njit", "jit", "vectorize", "guvectorize", "stencil", "cfunc", "prange", "cache", "jit_options"}


def test_entry_points_take_read_only_tables_and_remember_their_python_form() -> None:
    kinds = _jit.Kernel if not numba.config.DISABLE_JIT else FunctionType
    found = 0
    for name in NAMES:
        module = importlib.import_module(f"elbo_exact.kernels.{name}")
        for value in vars(module).values():
            if isinstance(value, _jit.Kernel) and value.__module__ == module.__name__:
                found += 1
                assert isinstance(value.py_func, FunctionType)
                arrays = [argument for argument in value.signature.args if isinstance(argument, numba.types.Array)]
                dtype = numba.types.float32 if value.__name__.endswith("_single") else _jit.FLOAT  # training only
                places = {numba.types.int32, numba.types.int64}  # of what is summed, only read
                assert all(array.layout == "C" for array in arrays), value.__name__
                assert all(array.dtype == dtype or (array.dtype in places and not array.mutable) for array in arrays), (
                    value.__name__
                )
                assert arrays and arrays[-1].mutable, value.__name__  # the last one is written to
    assert found >= 10 or kinds is FunctionType
