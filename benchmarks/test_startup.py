"""Start of a process, and memory: the limits that the page reports are asserted here. Linux reports the peak in /proc."""

import sys

import pytest
from startup import memory_of, start_cold_and_warm

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc.")


def test_start_cold_and_warm():
    start = start_cold_and_warm(repetitions=11)
    assert start["cold"]["import and audit"] < 20.0
    assert start["said"].startswith("elbo_exact: compiling kernels"), "a cold start says what it waits for"
    assert start["fastest"]["import and audit"] < 0.6  # the fastest of eleven: busy neighbours only ever add time
    assert start["warm said"] == "", "a warm start has nothing to say"


@linux_only
@pytest.mark.parametrize("n_threads", [1, 2])
def test_audit_memory_is_below_one_percent_of_its_input(n_threads):
    used = memory_of("audit", 10**7, n_threads)
    assert used["extra"] < 0.01 * used["input"]


@linux_only
def test_memory_measurement_sees_temporary_arrays():
    used = memory_of("numpy", 10**6, 1)
    assert used["extra"] > 0.5 * used["input"]  # four formulas hold at least one temporary of one table's size
