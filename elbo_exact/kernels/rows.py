"""Whole rows of the gap engine: the results of a row from its record, and rows one after the other."""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import BOOL, INT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.direct import direct_elbo
from elbo_exact.kernels.gap import (
    BASE_A,
    LOG_A,
    LOG_B,
    N_RECORD,
    N_SUMS,
    PARTIAL_A,
    PARTIAL_B,
    R_CHARGED,
    R_ENTROPY,
    R_ENTROPY_BOUND,
    R_FORWARD,
    R_FORWARD_BOUND,
    R_GAP,
    R_GAP_BOUND,
    R_LOWER,
    R_LOWER_BOUND,
    R_MISSED,
    R_UPPER,
    R_UPPER_BOUND,
    REST_A,
    REST_B,
    chunk_record,
)
from elbo_exact.kernels.merge import merge_records
from elbo_exact.kernels.reduce import (
    BAD,
    BAD_Q,
    BAD_TARGET,
    NO_SUPPORT,
    OK,
    OVERFLOW,
    TOP,
    ZERO_EVIDENCE,
    log_evidence_of,
    row_of,
)
from elbo_exact.kernels.tree import CHUNK, INF, U

__all__ = ["N_OUTPUTS", "audit_rows", "gap_rows", "row_chunks", "row_from_chunks"]

# Columns of a row's results: a value, then its bound.
OUT_EVIDENCE, OUT_ELBO, OUT_GAP, OUT_FORWARD, OUT_EUBO, OUT_ENTROPY, OUT_NORMALIZER = range(0, 14, 2)
OUT_STATUS, N_OUTPUTS = 14, 15


@kernel
def elbo_of(record, evidence, evidence_bound, gap, gap_bound, n):
    """(elbo, bound): the direct sum, or L - gap where that overflows; never above L."""
    if record[R_CHARGED] > 0.0:
        return -INF, 0.0
    value, bound = direct_elbo(record[BASE_A], record[R_LOWER], record[R_LOWER_BOUND], record[REST_B], record[LOG_B], n)
    if bound == INF:
        value = evidence - gap
        bound = 1.01 * (evidence_bound + gap_bound + U * abs(value))
    if not bound < INF:
        return -INF, INF
    if value > evidence:
        return evidence, max(bound, evidence_bound)
    return value, bound


@kernel
def eubo_of(record, evidence, evidence_bound, forward, forward_bound, n):
    """(eubo, bound): the direct sum, or L + forward KL where that overflows; never below L."""
    if record[R_MISSED] > 0.0:
        return INF, 0.0
    value, bound = direct_elbo(
        record[PARTIAL_A + TOP], record[R_UPPER], record[R_UPPER_BOUND], record[REST_B], record[LOG_B], n
    )
    if bound == INF:
        value = evidence + forward
        bound = 1.01 * (evidence_bound + forward_bound + U * abs(value))
    if not bound < INF:
        return INF, INF
    if value < evidence:
        return evidence, max(bound, evidence_bound)
    return value, bound


@kernel
def refuse(status, out):
    """A row without results: what is wrong with it is in its status."""
    for column in range(0, OUT_STATUS, 2):
        out[column], out[column + 1] = np.nan, INF
    out[OUT_STATUS] = status


@kernel
def close_row(record, n, both_ways, out):
    """A row's results from its record."""
    if record[PARTIAL_A + BAD] > 0.0:
        refuse(BAD_TARGET, out)
    elif record[REST_B] < 0.0:
        refuse(BAD_Q if record[PARTIAL_B + BAD] > 0.0 else NO_SUPPORT, out)
    else:
        top_a, top_b = record[PARTIAL_A + TOP], record[PARTIAL_B + TOP]
        value, bound = log_evidence_of(top_b, record[REST_B], record[LOG_B], n)
        out[OUT_NORMALIZER], out[OUT_NORMALIZER + 1] = value, bound
        out[OUT_ENTROPY], out[OUT_ENTROPY + 1] = record[R_ENTROPY], record[R_ENTROPY_BOUND]
        evidence, evidence_bound = log_evidence_of(top_a, record[REST_A], record[LOG_A], n)
        out[OUT_EVIDENCE], out[OUT_EVIDENCE + 1] = evidence, evidence_bound
        if record[REST_A] < 0.0:
            out[OUT_ELBO], out[OUT_ELBO + 1], out[OUT_STATUS] = -INF, 0.0, ZERO_EVIDENCE
            for column in (OUT_GAP, OUT_FORWARD, OUT_EUBO):
                out[column], out[column + 1] = np.nan, INF
        else:
            close_possible_row(record, evidence, evidence_bound, n, both_ways, out)


@kernel
def close_possible_row(record, evidence, evidence_bound, n, both_ways, out):
    """Gap, ELBO, forward KL and EUBO of a row that has a posterior; mass that q or p misses makes an exact infinity."""
    gap, gap_bound = record[R_GAP], record[R_GAP_BOUND]
    if record[R_CHARGED] > 0.0:
        gap, gap_bound = INF, 0.0
    elbo, elbo_bound = elbo_of(record, evidence, evidence_bound, gap, gap_bound, n)
    out[OUT_GAP], out[OUT_GAP + 1], out[OUT_ELBO], out[OUT_ELBO + 1] = gap, gap_bound, elbo, elbo_bound
    overflow = gap_bound == INF or elbo_bound == INF
    if both_ways:
        forward, forward_bound = record[R_FORWARD], record[R_FORWARD_BOUND]
        if record[R_MISSED] > 0.0:
            forward, forward_bound = INF, 0.0
        eubo, eubo_bound = eubo_of(record, evidence, evidence_bound, forward, forward_bound, n)
        out[OUT_FORWARD], out[OUT_FORWARD + 1], out[OUT_EUBO], out[OUT_EUBO + 1] = forward, forward_bound, eubo, eubo_bound
        overflow = overflow or forward_bound == INF or eubo_bound == INF
    out[OUT_STATUS] = OVERFLOW if overflow else OK


@kernel
def records_of(a, b, first, last, both_ways, scratch, sums, records):
    """Records of chunks first .. last - 1 of one row into records[chunk - first]."""
    for chunk in range(first, last):
        begin, end = chunk * CHUNK, min((chunk + 1) * CHUNK, a.size)
        v, w = scratch[0, : end - begin], scratch[1, : end - begin]
        chunk_record(a[begin:end], b[begin:end], v, w, both_ways, sums, records[chunk - first])


@kernel
def close_records(records, n, both_ways, sums, out):
    """A row's results from the records of all its chunks."""
    if records.shape[0] == 1:
        close_row(records[0], n, both_ways, out)
    else:
        record = np.empty(N_RECORD)
        merge_records(records, n, both_ways, sums, record)
        close_row(record, n, both_ways, out)


@kernel(void(ROW, ROW, INT, INT, OUT2))
def row_chunks(log_joint, log_q, first, last, records):
    """Records of some chunks of one row, for threads that share it; one way alone would save a tenth and double the code."""
    scratch, sums = np.empty((2, min(CHUNK, log_joint.size))), np.empty(N_SUMS)
    records_of(log_joint, log_q, first, last, True, scratch, sums, records)


@kernel(void(OUT2, INT, BOOL, OUT2))
def row_from_chunks(records, n, both_ways, out):
    """Every quantity of one row from the records of its chunks."""
    close_records(records, n, both_ways, np.empty(N_SUMS), out[0])


@kernel
def rows(log_joint, log_q, first, last, both_ways, out):
    """Results of rows first .. last - 1 into out[row - first]; a table of one row serves every row of the other."""
    n = log_joint.shape[1]
    records = np.empty(((n + CHUNK - 1) // CHUNK, N_RECORD))
    scratch, sums = np.empty((2, min(CHUNK, n))), np.empty(N_SUMS)
    for i in range(first, last):
        a, b = row_of(log_joint, i), row_of(log_q, i)
        records_of(a, b, 0, records.shape[0], both_ways, scratch, sums, records)
        close_records(records, n, both_ways, sums, out[i - first])


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def audit_rows(log_joint, log_q, first, last, out):
    """Every quantity of some rows."""
    rows(log_joint, log_q, first, last, True, out)


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def gap_rows(log_joint, log_q, first, last, out):
    """Log evidence, gap and ELBO only: the same bits as ``audit_rows`` in fewer operations."""
    rows(log_joint, log_q, first, last, False, out)
