"""What the functions of ``importance`` return: values, their error bounds, a dictionary, an aligned table."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

__all__ = ["GradientMoments", "ImportanceCurve", "ResamplingLaw"]

SHOWN = 20  # rows of a printed table


class _Result:
    """A dictionary and a table out of fields of the shape (..., len(K)), or (...) for one K."""

    FIELDS: ClassVar[tuple[str, ...]] = ()
    TABLE: ClassVar[tuple[str, ...]] = ()
    num_samples: Any
    error: SimpleNamespace

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and floats; infinities stay floats."""
        values = {name: np.asarray(getattr(self, name)).tolist() for name in self.FIELDS}
        errors = {name: np.asarray(getattr(self.error, name)).tolist() for name in self.FIELDS}
        return {"num_samples": np.asarray(self.num_samples).tolist(), **values, "error": errors}

    def __str__(self) -> str:
        """An aligned table: one line per row and K, every value with its error bound."""
        counts = np.atleast_1d(self.num_samples)
        columns = {name: _lines(getattr(self, name), counts.size, self.num_samples) for name in self.TABLE}
        bounds = {name: _lines(getattr(self.error, name), counts.size, self.num_samples) for name in self.TABLE}
        n_rows = len(columns[self.TABLE[0]])
        head = (["row"] if n_rows > 1 else []) + ["num_samples", *self.TABLE]
        cells = [head]
        for i in range(min(n_rows, SHOWN)):
            for k, count in enumerate(counts):
                values = [f"{columns[name][i, k]:.13g} ± {bounds[name][i, k]:.0e}" for name in self.TABLE]
                cells.append([*([str(i)] if n_rows > 1 else []), str(count), *values])
        if n_rows > SHOWN:
            cells.append(["..."] * len(head))
        widths = [max(len(line[j]) for line in cells) for j in range(len(head))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _lines(values: Any, n_counts: int, num_samples: Any) -> Any:
    """(rows, len(K)) of a field."""
    array = np.asarray(values)
    return array.reshape(-1, n_counts) if np.ndim(num_samples) else array.reshape(-1, 1)


@dataclass(frozen=True)
class ImportanceCurve(_Result):
    """The K-sample bounds of each row as K grows; every field has its error bound under the same name in ``error``.

    Attributes
    ----------
    num_samples : int or ndarray of int64
        The K, as they were asked for.
    log_evidence : float or ndarray, shape (...)
        log p(x).
    lower, upper : float or ndarray, shape (...) or (..., len(K))
        E log of the mean of K weights, and the same with one of the K from the posterior: below and above log_evidence.
    lower_gap, upper_gap : float or ndarray
        Their distances from log_evidence, to full relative precision, never negative.
    variance : float or ndarray
        Variance of the log of the mean of K weights; NaN where it can be log 0.
    mean_inverse_ess : float or ndarray
        Expected sum of squared normalized weights, between 1/K and 1.
    ess_fraction : float or ndarray, shape (...)
        1/(1 + chi-square of the posterior from q): the effective share of a large number of samples.
    error : namespace
        The bound of each value.
    """

    num_samples: Any
    log_evidence: Any
    lower: Any
    upper: Any
    lower_gap: Any
    upper_gap: Any
    variance: Any
    mean_inverse_ess: Any
    ess_fraction: Any
    error: SimpleNamespace
    TABLE: ClassVar[tuple[str, ...]] = ("lower", "upper", "lower_gap", "upper_gap", "variance", "mean_inverse_ess")
    FIELDS: ClassVar[tuple[str, ...]] = ("log_evidence", *TABLE, "ess_fraction")


@dataclass(frozen=True)
class ResamplingLaw(_Result):
    """The law of one state resampled from K weighted samples; bounds in ``error``.

    Attributes
    ----------
    num_samples : int or ndarray of int64
        The K.
    law : ndarray, shape (..., S) or (..., len(K), S)
        Probability of each state; sums to 1 - all_zero.
    all_zero : float or ndarray, shape (...) or (..., len(K))
        Probability that all K weights are zero.
    error : namespace
        The bound of each value.
    """

    num_samples: Any
    law: Any
    all_zero: Any
    error: SimpleNamespace
    TABLE: ClassVar[tuple[str, ...]] = ("all_zero",)
    FIELDS: ClassVar[tuple[str, ...]] = ("law", "all_zero")


@dataclass(frozen=True)
class GradientMoments(_Result):
    """Mean, variance and signal-to-noise ratio of a K-sample gradient; bounds in ``error``.

    Attributes
    ----------
    num_samples : int or ndarray of int64
        The K.
    mean, variance : float or ndarray, shape (...) or (..., len(K))
        Exact moments of the estimator.
    snr : float or ndarray
        abs(mean)/sqrt(variance).
    error : namespace
        The bound of each value.
    """

    num_samples: Any
    mean: Any
    variance: Any
    snr: Any
    error: SimpleNamespace
    TABLE: ClassVar[tuple[str, ...]] = ("mean", "variance", "snr")
    FIELDS: ClassVar[tuple[str, ...]] = TABLE
