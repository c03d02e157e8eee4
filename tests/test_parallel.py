"""Plans of tasks, the number of threads, and executors."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import elbo_exact as ee
from elbo_exact import _parallel
from elbo_exact._parallel import CHUNK, TASK_ENTRIES, THREADS, chunk_ranges, n_threads, row_ranges, run
from elbo_exact.kernels import reduce


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither our variable nor that of pytest-xdist."""
    for name in (THREADS, "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)


# Plans


@given(st.integers(0, 10**5), st.integers(1, 10**7))
def test_rows_are_planned_once_each_in_order(n_rows: int, n_states: int) -> None:
    ranges = row_ranges(n_rows, n_states)
    ends = [0, *(last for _, last in ranges)]
    assert [first for first, _ in ranges] == ends[:-1] and ends[-1] == n_rows
    assert all(first < last and (last - first - 1) * n_states < TASK_ENTRIES for first, last in ranges)


@given(st.integers(1, 10**9))
def test_chunks_are_planned_once_each_in_order(n_states: int) -> None:
    ranges = chunk_ranges(n_states)
    ends = [0, *(last for _, last in ranges)]
    assert [first for first, _ in ranges] == ends[:-1]
    assert (ends[-1] - 1) * CHUNK < n_states <= ends[-1] * CHUNK
    assert all(0 < last - first <= TASK_ENTRIES // CHUNK for first, last in ranges)


def test_the_plan_knows_the_chunks_of_the_kernels() -> None:
    assert CHUNK == reduce.CHUNK


# How many threads


def test_the_variable_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, number in (("1", 1), ("3", 3), (" 12 ", 12), ("007", 7)):
        monkeypatch.setenv(THREADS, text)
        assert n_threads() == number


@pytest.mark.parametrize("text", ["", " ", "0", "-1", "+2", "1.0", "1e1", "two", "1_0", "²", "٣", "inf"])
def test_other_texts_are_refused_when_something_is_computed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - any message: the message is compared below
        ee.log_evidence([0.0, 1.0])
    assert str(caught.value) == f"{THREADS} must be an integer >= 1; got {text!r}; unset it to use every processor."


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not tell processes their processors")
def test_the_default_is_the_affinity_of_the_process() -> None:
    mine = os.sched_getaffinity(0)
    assert n_threads() == len(mine)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert n_threads() == 1
    finally:
        os.sched_setaffinity(0, mine)


def test_systems_without_affinity_count_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert n_threads() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert n_threads() == 1


def test_a_worker_of_somebody_else_uses_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert n_threads() == 8
    with monkeypatch.context() as inside:
        inside.setenv("PYTEST_XDIST_WORKER", "gw0")
        assert n_threads() == 1
        inside.setenv(THREADS, "2")  # who sets it means it
        assert n_threads() == 2
    with monkeypatch.context() as inside:
        inside.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(daemon=True))
        assert n_threads() == 1
    for answer, number in ((lambda: object(), 1), (lambda: None, 8), (no_worker, 8)):
        with monkeypatch.context() as inside:
            inside.setitem(sys.modules, "distributed.worker", SimpleNamespace(get_worker=answer))
            assert n_threads() == number


def no_worker() -> None:
    """As in distributed outside of a worker."""
    raise ValueError("No worker found")


def test_a_daemon_process_uses_one_thread() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # its workers are daemons
        assert pool.apply(n_threads) == 1


# Running


def name_and_square(x: int) -> tuple[str, int]:
    """A task that tells where it ran."""
    return threading.current_thread().name, x * x


@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_results_come_in_the_order_of_the_plan(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, threads)
    results = run(name_and_square, [(x,) for x in range(50)])
    assert [square for _, square in results] == [x * x for x in range(50)]
    names = {name for name, _ in results}
    assert names == {"MainThread"} if threads == "1" else len(names) <= int(threads)


def test_one_task_or_none_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "4")
    monkeypatch.setattr(_parallel, "ThreadPoolExecutor", None)
    assert run(name_and_square, [(3,)]) == [("MainThread", 9)]
    assert run(name_and_square, []) == []


def test_tasks_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "3")
    meeting = threading.Barrier(3, timeout=60.0)
    assert sorted(run(meeting.wait, [()] * 3)) == [0, 1, 2]  # one after the other, the first would wait in vain


def fails_at_two(x: int) -> int:
    """A task with one bad argument."""
    if x == 2:
        raise FloatingPointError("two")
    return x


@pytest.mark.parametrize("threads", ["1", "4"])
def test_errors_of_tasks_are_raised(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, threads)
    with pytest.raises(FloatingPointError, match="^two$"):
        run(fails_at_two, [(x,) for x in range(6)])
    with ThreadPoolExecutor(2) as pool, pytest.raises(FloatingPointError, match="^two$"):
        run(fails_at_two, [(x,) for x in range(6)], pool)


def test_an_executor_gets_every_task_whatever_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "not a number")
    seen = []

    class AtOnce:
        def submit(self, function, /, *arguments):
            seen.append(arguments)
            future: Future[object] = Future()
            future.set_result(function(*arguments))
            return future

    assert [square for _, square in run(name_and_square, [(2,), (1,)], AtOnce())] == [4, 1]
    assert seen == [(2,), (1,)]


def test_threads_and_processes_of_the_caller_give_the_same_bits() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 600, 300))
    plain = ee.audit(a, b, unnormalized=True)
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        for executor in (threads, processes):
            audited = ee.audit(a, b, unnormalized=True, executor=executor)
            for name in plain.names:
                np.testing.assert_array_equal(getattr(audited, name), getattr(plain, name))
                np.testing.assert_array_equal(getattr(audited.error, name), getattr(plain.error, name))


@pytest.mark.parametrize("executor", [2, "threads", map, SimpleNamespace(submit=None)])
def test_what_is_no_executor_is_refused(executor: object) -> None:
    with pytest.raises(TypeError) as caught:
        ee.log_evidence([0.0, 1.0], executor=executor)
    kind = type(executor).__name__
    assert str(caught.value) == f"executor must have a submit method like concurrent.futures.Executor; got {kind}."


def test_an_error_in_a_thread_reaches_the_caller_and_stops_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "2")
    started = []

    def task(i: int) -> int:
        started.append(i)
        if i == 3:
            raise KeyError(i)
        return i

    with pytest.raises(KeyError):
        run(task, [(i,) for i in range(10**4)])
    assert len(started) < 10**4
