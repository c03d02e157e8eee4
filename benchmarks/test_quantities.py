"""Time of each quantity beside its rivals; compare within a group only. ``--quick`` for small tables."""

import os

import numpy as np
import pytest
import rivals
from cases import QUANTITIES, contenders, sizes, tables

NAMES = ["elbo_exact", *rivals.present()]
SIZE_NUMBERS = range(len(sizes(quick=True)))


@pytest.fixture(scope="module", params=SIZE_NUMBERS, ids=["many rows", "long rows", "one row", "short rows"])
def case(request, quick):
    size, shape = list(sizes(quick).items())[request.param]
    return size, tables(shape)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_time(benchmark, monkeypatch, case, quantity, n_threads, name):
    if name == "jax" and os.environ.get("NPROC") != str(n_threads):
        pytest.skip(f"XLA fixes its threads at the start: set the variables of cases.environment({n_threads}) first.")
    if name in ("numpy", "scipy") and n_threads > 1:
        pytest.skip("these formulas use one thread.")
    size, (a, b) = case
    monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", str(n_threads))  # restored afterwards; the call sets it again
    benchmark.group = f"{quantity} at {size}"
    benchmark.extra_info.update(threads=n_threads, states=a.size)
    call = contenders(quantity, a, b, n_threads)[name]
    call()
    benchmark.pedantic(call, rounds=5)


@pytest.mark.parametrize("name", rivals.present())
def test_rivals_compute_what_we_compute(name):
    """A rival that is fast because it is wrong would be no rival."""
    a, b = tables((50, 256))
    convert, prepare = rivals.RIVALS[name].tools(1)
    results = prepare(rivals.RIVALS[name].four_quantities)(convert(a), convert(b))
    report = QUANTITIES["audit"][0](a, b)
    # Terms are at most |a| + |b| + |log evidence| < 64 in size, with weights summing to 1; the formulas round each term a few times
    # and add 256 of them in some order: fewer than 256 + 16 roundings of 2^-53 relative to 64.
    slack = (256 + 16) * 2.0**-53 * 64.0
    assert np.abs(a).max() + np.abs(b).max() + np.abs(report.log_evidence).max() < 64.0
    for quantity, values in zip(("log_evidence", "elbo", "gap", "forward_kl"), results, strict=True):
        lower, upper = report.interval(quantity)
        assert np.all((np.asarray(values) >= lower - slack) & (np.asarray(values) <= upper + slack)), quantity
        assert np.ptp(np.asarray(values)) > 1e6 * slack  # the comparison can tell rows, and so formulas, apart
