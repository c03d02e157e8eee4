"""Raters who err, each in his own way, and true classes that nobody sees (Dawid & Skene 1979, Appl. Statist. 28:20)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbo_exact._plain import AsCode
from elbo_exact._validate import FloatArray, categories_or_missing, integer, one_of
from elbo_exact.errors import LogTableError
from elbo_exact.families import Categorical
from elbo_exact.families._derivatives import n_free
from elbo_exact.families._rounding import PriorTable, log_prior, log_prior_change, rounding_loss
from elbo_exact.families._simplex import LogSimplex, U, log_simplex, maximized, pseudo_count_table, uniform_simplex
from elbo_exact.models.mixture import Mixture
from elbo_exact.space import MAX_BYTES, LatentSpace, refuse_above

__all__ = ["DawidSkene", "RatingCounts"]


class RatingCounts(NamedTuple):
    """Expected counts; also pseudo-counts of a prior."""

    weights: FloatArray  # (K,), items of each class
    confusion: FloatArray  # (R, K, C), ratings by rater, true class and answer


@dataclass(frozen=True, eq=False, repr=False)
class DawidSkene(AsCode):
    """p(x, z = k) = weight_k * product over given ratings of confusion[rater, k, answer].

    Parameters
    ----------
    log_weights : array_like, shape (K,)
        Log shares of the true classes.
    log_confusion : array_like, shape (R, K, C)
        Log probability of each answer of each rater, given the true class; usually C = K. -inf is a structural zero.
    raters : sequence of int, optional
        Whose rating each column of x is; a rater who rated more than once has several columns. By default column r is rater r.

    Raises
    ------
    LogTableError, ValueError
        Rows that do not sum to 1, shapes that do not fit, or a column without a rater.

    Notes
    -----
    Given the class, ratings are independent, repeated ones of the same rater too. Classes are named by the start: a permutation of
    them has the same likelihood.

    Examples
    --------
    A careful and a careless rater, the careless one twice:

    >>> import numpy as np, elbo_exact as ee
    >>> confusion = np.log([[[0.9, 0.1], [0.1, 0.9]], [[0.6, 0.4], [0.4, 0.6]]])
    >>> model = DawidSkene(np.log([0.5, 0.5]), confusion, raters=[0, 1, 1])
    >>> ee.posterior(model.log_joint([[0, 1, 1], [np.nan, 1, 1]])).round(4)
    array([[0.8   , 0.2   ],
           [0.3077, 0.6923]])
    """

    log_weights: FloatArray
    log_confusion: FloatArray
    raters: Sequence[int] | None = None
    _shares: LogSimplex = field(init=False, repr=False)
    _confusion: LogSimplex = field(init=False, repr=False)
    _mixture: Mixture = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shares, confusion = log_simplex(self.log_weights, "log_weights", 1), log_simplex(self.log_confusion, "log_confusion", 3)
        if confusion.given.shape[1] != shares.given.size:
            expected = f"(R, {shares.given.size}, C), a row for each log weight"
            raise LogTableError(f"log_confusion must have shape {expected}; got {confusion.given.shape}.", "log_confusion")
        families = [Categorical(table) for table in confusion.given]
        raters = _checked_raters(self.raters, len(families))
        mixture = Mixture(shares.given, tuple(families[rater] for rater in raters))
        for name, value in (("log_weights", shares.given), ("log_confusion", confusion.given), ("raters", raters)):
            object.__setattr__(self, name, value)
        for name, part in (("_shares", shares), ("_confusion", confusion), ("_mixture", mixture)):
            object.__setattr__(self, name, part)

    @classmethod
    def from_votes(
        cls,
        x: npt.ArrayLike,
        raters: Sequence[int] | None = None,
        *,
        n_classes: int | None = None,
        votes: str = "shares",
        prior: Any = None,
    ) -> DawidSkene:
        """The M-step at classes guessed from the votes on each item.

        Parameters
        ----------
        x : array_like, shape (N, D)
            Ratings; NaN is missing.
        raters : sequence of int, optional
            Whose rating each column is.
        n_classes : int, optional
            Classes and answers; by default 1 + the largest rating.
        votes : {"shares", "majority"}
            "shares": p(z = k) is the share of k among the item's ratings, the start of Dawid & Skene (1979). "majority": the most
            frequent ratings share probability 1. An item without ratings counts equally in all classes.
        prior : float or RatingCounts, optional
            Pseudo-counts. Without them answers not seen get probability 0, which EM keeps.

        Examples
        --------
        >>> DawidSkene.from_votes([[0, 0], [1, 1], [1, 0]], votes="majority").log_weights.round(4)
        array([-0.6931, -0.6931])
        """
        index = categories_or_missing(x, "x", 2**31)
        if index.ndim != 2 or 0 in index.shape:
            raise LogTableError(f"x must have shape (N, D) with N, D >= 1; got {index.shape}.", "x", index.shape)
        seen = int(index.max(initial=0, where=index < 2**31)) + 1
        size = seen if n_classes is None else integer(n_classes, "n_classes", seen)
        listed = _listed_raters(range(index.shape[1]) if raters is None else raters)
        n_raters = 1 + max(listed, default=0)
        refuse_above(
            size, 8 * (n_raters * size + len(index)), MAX_BYTES, f"{size} classes; confusion tables of", "pass smaller ratings"
        )
        table = _votes(index, size, one_of(votes, "votes", ("shares", "majority")))
        flat = np.full(size, -np.log(size))
        model = cls(flat, np.tile(flat, (n_raters, size, 1)), raters)
        return model.maximize(model.statistics(x, table), prior)

    @property
    def n_components(self) -> int:
        """Number of true classes K."""
        return int(self.log_weights.size)

    @property
    def n_parameters(self) -> int:
        """Free parameters; structural zeros are none."""
        return n_free(self._shares) + n_free(self._confusion)

    @property
    def space(self) -> LatentSpace:
        """The true class: one variable with K values."""
        return LatentSpace((self.n_components,))

    def log_joint(self, x: npt.ArrayLike, states: slice | None = None) -> FloatArray:
        """log p(x_n, z = k), in nats.

        Parameters
        ----------
        x : array_like, shape (N, D)
            Ratings numbered from 0, one column for each entry of ``raters``; NaN is missing.
        states : slice, optional
            Only these classes.

        Returns
        -------
        ndarray, shape (N, K) or (N, stop - start)
        """
        return self._mixture.log_joint(x, states)

    def log_joint_and_error(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """`log_joint` and a bound on its rounding error, both (N, K)."""
        return self._mixture.log_joint_and_error(x)

    def log_joint_change_and_error(self, other: DawidSkene, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """log p_other(x_n, k) - log p_self(x_n, k) from parameter differences, and its error bound; both (N, K)."""
        return self._mixture.log_joint_change_and_error(other._mixture, x)

    def statistics(self, x: npt.ArrayLike, weights: npt.ArrayLike) -> RatingCounts:
        """Expected counts under a weight table (N, K): every rating counts, also repeated ones of a rater."""
        parts = self._mixture.statistics(x, weights)
        confusion = np.zeros(self.log_confusion.shape)
        for rater, counts in zip(self._columns, parts.components, strict=True):
            confusion[rater] += counts
        return RatingCounts(parts.weights, confusion)

    def maximize(self, statistics: RatingCounts, prior: Any = None) -> DawidSkene:
        """The model that maximizes the expected log joint plus pseudo-counts times log parameters.

        Parameters
        ----------
        statistics : RatingCounts
        prior : float or RatingCounts, optional
            Pseudo-counts: one number for every parameter, or one for each.

        Returns
        -------
        DawidSkene
            Structural zeros stay zero; a row without any count keeps its parameters.
        """
        imaginary = self._prior(prior)
        weights = pseudo_count_table(statistics.weights, self.log_weights.shape, "statistics.weights")
        confusion = pseudo_count_table(statistics.confusion, self.log_confusion.shape, "statistics.confusion")
        log_weights = maximized(self.log_weights, weights + imaginary.weights)
        return DawidSkene(log_weights, maximized(self.log_confusion, confusion + imaginary.confusion), self.raters)

    def log_prior(self, prior: Any = None) -> tuple[float, float]:
        """Sum of pseudo-counts times log parameters, in nats, and its error bound."""
        return log_prior(self._prior_tables(prior))

    def log_prior_change(self, other: DawidSkene, prior: Any = None) -> tuple[float, float]:
        """`log_prior` of ``other`` minus that of self, from parameter differences, and its error bound."""
        return log_prior_change(self._prior_tables(prior), [other._shares, other._confusion])

    def rounding_loss(self, statistics: RatingCounts, prior: Any, relative_error: float) -> float:
        """Largest loss of the maximized objective, in nats, by the rounding of `statistics` and `maximize`."""
        imaginary, added = self._prior(prior), relative_error + len(self._columns) * U  # the sum over a rater's columns
        counts = [statistics.weights + imaginary.weights, statistics.confusion + imaginary.confusion]
        return rounding_loss(counts, added)

    def randomize(self, rng: np.random.Generator) -> DawidSkene:
        """Parameters drawn uniformly from their simplices, structural zeros kept."""
        return DawidSkene(uniform_simplex(self.log_weights, rng), uniform_simplex(self.log_confusion, rng), self.raters)

    def sample(self, n: int, *, rng: np.random.Generator | int | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Draw ratings (n, D) and true classes (n,).

        Examples
        --------
        >>> x, z = DawidSkene([0.0], [[[0.0, -float("inf")]]], raters=[0, 0]).sample(2, rng=1)
        >>> x.tolist(), z.tolist()
        ([[0, 0], [0, 0]], [0, 0])
        """
        return self._mixture.sample(n, rng=rng)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; structural zeros are -inf."""
        parts = {"log_weights": self.log_weights.tolist(), "log_confusion": self.log_confusion.tolist()}
        return {**parts, "raters": list(self._columns)}

    @property
    def _columns(self) -> tuple[int, ...]:
        assert isinstance(self.raters, tuple)  # since __post_init__
        return self.raters

    def _prior(self, prior: Any) -> RatingCounts:
        given = prior if isinstance(prior, RatingCounts) else RatingCounts(prior, prior)
        weights = pseudo_count_table(given.weights, self.log_weights.shape, "prior.weights")
        return RatingCounts(weights, pseudo_count_table(given.confusion, self.log_confusion.shape, "prior.confusion"))

    def _prior_tables(self, prior: Any) -> list[PriorTable]:
        imaginary = self._prior(prior)
        return [(self._shares, imaginary.weights), (self._confusion, imaginary.confusion)]


def _listed_raters(raters: Any) -> list[int]:
    if not isinstance(raters, Sequence | np.ndarray) or isinstance(raters, str):
        raise TypeError(f"raters must be a sequence of integers, one for each column; got {type(raters).__name__}.")
    return [integer(rater, "raters", 0) for rater in raters]


def _checked_raters(raters: Sequence[int] | None, n_raters: int) -> tuple[int, ...]:
    if raters is None:
        return tuple(range(n_raters))
    checked = tuple(integer(rater, f"raters[{column}]", 0, n_raters - 1) for column, rater in enumerate(raters))
    if not checked:
        raise ValueError("raters must name the rater of at least one column; got none.")
    return checked


def _votes(index: npt.NDArray[np.int64], n_classes: int, votes: str) -> FloatArray:
    """p(class) of every item from its ratings alone, (N, K)."""
    counts = (index[:, :, None] == np.arange(n_classes)).sum(axis=1).astype(np.float64)
    if votes == "majority":
        counts = (counts == counts.max(axis=1, keepdims=True)).astype(np.float64)
    counts = np.where(counts.sum(axis=1, keepdims=True) > 0.0, counts, 1.0)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))
