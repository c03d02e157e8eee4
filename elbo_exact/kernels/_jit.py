"""The only place where numba is configured: two kinds of compiled functions, and a disk cache that cannot be wrong.

``@kernel`` marks a device function: it is inlined into its callers and has no cache of its own.
``@kernel(signature)`` marks an entry point: compiled for that one signature at its first call, or loaded from the disk.

Numba's own disk cache knows only the file of a function, so it returns stale code after an edit of a callee or an upgrade of
the package (numba issue 9312), and two cold processes can cross its numbered files. Here a file is named by a hash of
everything that determines its content: signature, processor, versions, and the text of every file in this folder. It appears by an atomic
rename. Nobody ever reads another version's file, and nobody overwrites a file by something else. Where nothing is writable, or
where numba is not of a tested version, kernels are compiled in each process and never cached.

The cache files are pickles: whoever can write them can run code. They belong in a private place.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import os
import pickle
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar, cast, overload

import llvmlite
import numba
import numpy as np
from numba import types, void

__all__ = ["BOOL", "FLOAT", "INT", "OUT", "OUT2", "ROW", "TABLE", "cache_report", "clear_cache", "kernel", "void"]

Function = TypeVar("Function", bound=Callable[..., Any])

NJIT, CONFIG = cast(Any, numba.njit), cast(Any, numba.config)  # numba's own annotations do not know every option
OPTIONS = {"nogil": True, "error_model": "numpy"}  # never fastmath: it deletes two-sums and folds NaN tests
TESTED_NUMBA = ((0, 61), (0, 68))  # first and last minor version whose private cache classes are known
FOLDER = Path(__file__).resolve().parent

BOOL, INT, FLOAT = types.boolean, types.int64, types.float64
ROW, TABLE = (types.Array(FLOAT, axes, "C", readonly=True) for axes in (1, 2))  # accepts writable arrays too
OUT, OUT2 = (types.Array(FLOAT, axes, "C") for axes in (1, 2))

_announced = threading.Event()


def text_stamp() -> str:
    """Hash of everything outside a signature that can change machine code: the kernels' text, and the compilers' versions."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version)
    digest.update(repr(versions).encode())
    return digest.hexdigest()


STAMP = text_stamp()  # of the text that this process imports, which an upgrade may replace before the first kernel is compiled


@functools.cache
def cache_folder() -> Path | None:
    """The first writable place of: $NUMBA_CACHE_DIR, the package's own __pycache__, the user's cache folder."""
    home_cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    named = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(named) / "elbo_exact"] if named else [FOLDER / "__pycache__", home_cache / "elbo_exact"]
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
        except OSError:
            continue
    return None


def numba_is_tested() -> bool:
    """Whether this numba's private cache classes are the ones this file was written against."""
    first, last = TESTED_NUMBA
    return first <= tuple(int(part) for part in numba.__version__.split(".")[:2]) <= last


class CodeFiles:
    """What a numba cache calls to store and find machine code: one file per key and stamp, and no index."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def path(self, key: Any) -> Path:
        """The file of a key; its name holds a hash of key and stamp."""
        digest = hashlib.sha256(repr((self.name, key, STAMP)).encode()).hexdigest()
        return self.folder / f"{self.name}.{digest[:40]}.nbc"

    def load(self, key: Any) -> Any:
        """The stored code, or None; a damaged file counts as absent."""
        try:
            digest, code = (stored := self.path(key).read_bytes())[:32], stored[32:]
            return pickle.loads(code) if hashlib.sha256(code).digest() == digest else None  # a flipped bit would crash LLVM
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, ValueError):
            return None

    def save(self, key: Any, data: Any) -> None:
        """Store by an atomic rename, so that readers see all of it or nothing; a full disk only costs the next process time."""
        from numba.core.serialize import dumps

        path = self.path(key)
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        try:
            code = dumps(without_environments(data))
            temporary.write_bytes(hashlib.sha256(code).digest() + code)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)

    def flush(self) -> None:
        """Numba's interface; stale files are removed by ``clear_cache``."""


def without_environments(data: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numba's reduced code but its last field, the globals of inlined functions: only printing and exceptions read them, and to load
    them would import each function's module, 0.08 s for numba's own arrays alone."""
    return (*data[:-1], ())


def load_code(cache: Any, signature: Any, target_context: Any) -> Any:
    """Numba's own loading without its registries of types, SciPy's BLAS among them: they serve compiling, and cost 0.3 s."""
    from numba.core.runtime.nrt import rtsys

    rtsys.initialize(target_context)
    return cache._load_overload(signature, target_context)


def use_cache(dispatcher: Any, function: Callable[..., Any]) -> Path | None:
    """Give a dispatcher the safe cache and return its folder, or leave it without any."""
    folder = cache_folder()
    if folder is None or not numba_is_tested() or text_stamp() != STAMP:  # the last: an upgrade under a running process
        return None
    try:
        from numba.core.caching import CompileResultCacheImpl, FunctionCache

        cache: Any = object.__new__(FunctionCache)
        cache._name, cache._py_func, cache._cache_path = repr(function), function, str(folder)
        cache._impl = object.__new__(CompileResultCacheImpl)
        cache._impl._locator = SimpleNamespace(ensure_cache_path=lambda: None)
        cache._cache_file = CodeFiles(f"{function.__module__}.{function.__qualname__}", folder)
        cache.load_overload = functools.partial(load_code, cache)
        cache.enable()
        dispatcher._cache = cache
    except (ImportError, AttributeError):
        return None
    return folder


@functools.cache
def device_pipeline() -> Any:
    """Numba's compiler for functions that are linked into their callers and never run: it makes no machine code of them.

    That was a fifth of all compiling. What callers get, optimized intermediate code, and so their bits, are the same.
    """
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler import Compiler

    class NeverRun(JITCodeLibrary):
        def _finalize_final_module(self) -> None:
            self._finalize_dynamic_globals()
            self._finalized = True

        def get_pointer_to_function(self, name: str) -> int:
            self._ensure_finalized()
            return 0

        @property
        def codegen(self) -> Any:
            return SimpleNamespace(set_env=lambda name, environment: None)

    class DeviceCompiler(Compiler):
        def __init__(self, typing_context: Any, target_context: Any, library: Any, *arguments: Any) -> None:
            own = NeverRun(target_context.codegen(), uuid.uuid4().hex)
            super().__init__(typing_context, target_context, own, *arguments)

    return DeviceCompiler


class Device:
    """A function that compiled code inlines; numba wraps it when a caller is compiled, so loading stored code does not pay for it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.py_func = function

    @functools.cached_property
    def dispatcher(self) -> Any:
        """Numba's function."""
        pipeline = {"pipeline_class": device_pipeline()} if numba_is_tested() else {}
        return NJIT(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **pipeline, **OPTIONS)(self.py_func)

    @property
    def _numba_type_(self) -> Any:
        """What numba asks of a name in the code that it compiles."""
        return types.Dispatcher(self.dispatcher)


class Kernel:
    """An entry point with one signature, compiled or loaded at its first call."""

    def __init__(self, function: Callable[..., Any], signature: Any) -> None:
        functools.update_wrapper(self, function)
        self.py_func, self.signature = function, signature
        self._lock = threading.Lock()
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Run; the first call in a process waits for the compiler or the disk."""
        return (self._compiled or self.compile())(*arguments)

    def compile(self) -> Callable[..., Any]:
        """The compiled function of the signature."""
        with self._lock:
            if self._compiled is None:
                dispatcher = NJIT(**OPTIONS)(self.py_func)
                dispatcher._compiler = Announcing(dispatcher._compiler, use_cache(dispatcher, self.py_func))
                dispatcher.compile(self.signature)
                dispatcher.disable_compile()
                self._compiled = dispatcher
            return self._compiled


class Announcing:
    """A numba function compiler that says once per process what a cold start waits for."""

    def __init__(self, compiler: Any, folder: Path | None) -> None:
        self._compiler, self._folder = compiler, folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiler, name)

    def compile(self, arguments: Any, return_type: Any) -> Any:
        """Compile, and tell the user on stderr before the first time. The garbage collector rests, which takes a tenth of the time."""
        if not _announced.is_set():
            _announced.set()
            kept = f"once; kept in {self._folder}" if self._folder else "in every process: no cache that is safe and writable"
            print(
                f"elbo_exact: compiling kernels for this machine, ten seconds for an audit, two minutes for all ({kept})",
                file=sys.stderr,
                flush=True,
            )
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._compiler.compile(arguments, return_type)
        finally:
            if collects:
                gc.enable()


@overload  # two types of one function, whose docstring is below
def kernel(signature_or_function: Function, /) -> Function: ...
@overload
def kernel(signature_or_function: Any, /) -> Callable[[Function], Function]: ...
def kernel(signature_or_function: Any, /) -> Any:
    """Compile a device function (bare) or an entry point (with a signature); with NUMBA_DISABLE_JIT=1 leave it as it is."""
    if isinstance(signature_or_function, FunctionType):
        return signature_or_function if CONFIG.DISABLE_JIT else Device(signature_or_function)

    def decorate(function: Function) -> Function:
        return function if CONFIG.DISABLE_JIT else cast(Function, Kernel(function, signature_or_function))

    return decorate


def cache_report() -> dict[str, Any]:
    """What ``elbo-exact doctor`` shows of the cache: place, health, stamp, and what lies there."""
    folder = cache_folder()
    files = sorted(folder.glob("elbo_exact.*.nbc")) if folder else []
    return {
        "folder": str(folder) if folder else None,
        "writable": folder is not None,
        "in_use": folder is not None and numba_is_tested() and not CONFIG.DISABLE_JIT,
        "stamp": STAMP[:16],
        "numba": numba.__version__,
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "newest": time.strftime("%Y-%m-%d %H:%M", time.localtime(max(p.stat().st_mtime for p in files))) if files else None,
    }


def clear_cache() -> int:
    """Delete all cached code of this package; the number of files removed."""
    folder = cache_folder()
    files = [path for ending in ("nbc", "tmp") for path in folder.glob(f"elbo_exact.*.{ending}")] if folder else []
    for path in files:
        path.unlink(missing_ok=True)
    return len(files)
