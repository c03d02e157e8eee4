"""Annealed importance sampling against plain sums in multiple precision, over laws and over all paths; its laws and corners."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest

import elbo_exact as ee
from elbo_exact._annealing import (
    R_BOUND,
    R_GAP,
    R_GAP_BOUND,
    R_VALUE,
    R_VARIANCE,
    R_VARIANCE_BOUND,
    ais,
    ais_moments,
    ais_results,
)
from elbo_exact._bound_results import Options
from elbo_exact._validate import temperatures

Array = npt.NDArray[np.float64]
mpf = mpmath.mpf
INF = math.inf
DIGITS = 500  # distances down to exp(-1000)


# The oracle: matrices as lists of lists, entry by entry, in multiple precision.
def law(logs: Sequence[Any]) -> list[Any]:
    """exp(logs), normalized."""
    weights = [mpf(0) if x == -INF else mpmath.exp(x) for x in logs]
    return [w / mpmath.fsum(weights) for w in weights]


def path_law(a: Sequence[float], b: Sequence[float], beta: float) -> list[Any]:
    """pi_b."""
    beta = mpf(beta)
    return law([-INF if x == -INF or y == -INF else beta * mpf(x) + (1 - beta) * mpf(y) for x, y in zip(a, b, strict=True)])


def heat_bath(pi: Sequence[Any], states: Sequence[tuple[int, ...]], variable: int) -> list[list[Any]]:
    """Transition matrix that redraws one variable given the others."""

    def same(y: int, z: int) -> bool:
        return all(u == v for k, (u, v) in enumerate(zip(states[y], states[z], strict=True)) if k != variable)

    n = len(states)
    groups = [mpmath.fsum(pi[y] for y in range(n) if same(y, z)) for z in range(n)]
    return [[pi[z] / groups[z] if same(y, z) and groups[z] > 0 else mpf(0) for z in range(n)] for y in range(n)]


def moved(x: Sequence[Any], matrix: Sequence[Sequence[Any]]) -> list[Any]:
    """x @ matrix."""
    return [mpmath.fsum(x[y] * matrix[y][z] for y in range(len(x))) for z in range(len(x))]


class Chain:
    """The whole forward or reverse chain, by its definition."""

    def __init__(
        self,
        a: Array,
        b: Array,
        betas: Array,
        sizes: Sequence[int] = (),
        matrices: Any = None,
        sweeps: int = 1,
        upper: bool = False,
    ) -> None:
        self.a, self.b, self.upper = a.tolist(), b.tolist(), upper
        self.betas = [mpf(float(x)) for x in betas]
        q_total = mpmath.log(mpmath.fsum(mpmath.exp(mpf(y)) for y in self.b if y > -INF))
        self.log_w = [
            -INF if x == -INF or y == -INF else mpf(x) - mpf(y) + q_total for x, y in zip(self.a, self.b, strict=True)
        ]
        self.log_evidence = mpmath.log(mpmath.fsum(mpmath.exp(mpf(x)) for x in self.a if x > -INF))
        self.start = law(self.a if upper else self.b)
        order = range(len(betas) - 2, 0, -1) if upper else range(1, len(betas) - 1)
        self.steps = [self.betas[t + 1] - self.betas[t] for t in range(len(betas) - 1)][:: -1 if upper else 1]
        states = list(itertools.product(*map(range, sizes)))
        self.kernels: list[list[list[list[Any]]]] = []
        for t in order:
            pi = path_law(self.a, self.b, float(betas[t]))
            if matrices is None:
                scan = list(range(len(sizes)))[:: -1 if upper else 1] * sweeps
                self.kernels.append([heat_bath(pi, states, variable) for variable in scan])
            else:
                n, own = len(pi), [[mpf(float(x)) for x in row] for row in matrices[t - 1]]
                back = [[pi[j] * own[j][i] / pi[i] for j in range(n)] for i in range(n)] if upper else own
                self.kernels.append([back])

    def step(self, x: list[Any], t: int) -> list[Any]:
        """The kernels after step t."""
        for matrix in self.kernels[t] if t < len(self.kernels) else ():
            x = moved(x, matrix)
        return x

    def mean(self) -> Any:
        """sum_t (b_t - b_{t-1}) mu_{t-1} . l."""
        x, total = self.start, mpf(0)
        for t, step in enumerate(self.steps):
            total += step * mpmath.fsum(m * w for m, w in zip(x, self.log_w, strict=True) if m > 0)
            x = self.step(x, t)
        return total

    def variance(self) -> Any:
        """Second moment minus squared mean of the log-weight, carried as plain M0, M1, M2."""
        n = len(self.start)
        m0, m1, m2 = self.start, [mpf(0)] * n, [mpf(0)] * n
        log_w = [mpf(0) if w == -INF else w for w in self.log_w]
        for t, step in enumerate(self.steps):
            c = [step * w for w in log_w]
            m2 = [m2[z] + 2 * c[z] * m1[z] + c[z] ** 2 * m0[z] for z in range(n)]
            m1 = [m1[z] + c[z] * m0[z] for z in range(n)]
            m0, m1, m2 = self.step(m0, t), self.step(m1, t), self.step(m2, t)
        return mpmath.fsum(m2) - mpmath.fsum(m1) ** 2

    def weight(self) -> Any:
        """sum W of W <- (W exp(c_t)) T_t from q: E exp(log-weight)."""
        x = self.start
        for t, step in enumerate(self.steps):
            x = self.step([m * mpmath.exp(step * w) if m > 0 else m for m, w in zip(x, self.log_w, strict=True)], t)
        return mpmath.fsum(x)

    def over_paths(self, function: Callable[[Any], Any]) -> Any:
        """E function(log-weight) over every path of states."""
        n, total = len(self.start), mpf(0)
        matrices = [self._product(t) for t in range(len(self.steps) - 1)]
        for path in itertools.product(range(n), repeat=len(self.steps)):
            mass = self.start[path[0]]
            for t, (y, z) in enumerate(itertools.pairwise(path)):
                mass *= matrices[t][y][z]
            total += (
                mass * function(mpmath.fsum(s * self.log_w[z] for s, z in zip(self.steps, path, strict=True))) if mass else 0
            )
        return total

    def _product(self, t: int) -> list[list[Any]]:
        n = len(self.start)
        return [self.step([mpf(y == z) for y in range(n)], t) for z in range(n)]


def random_case(rng: np.random.Generator) -> tuple[Array, Array, tuple[int, ...], int, int]:
    """(log_joint, normalized log_q, sizes, T, sweeps)."""
    sizes = [(2, 2), (2, 3), (3, 1, 2), (2, 2, 2), (4,)][rng.integers(5)]
    n = math.prod(sizes)
    scale = [0.1, 1.0, 5.0, 60.0, 200.0][rng.integers(5)]
    a, b = rng.normal(0.0, scale, n) + rng.choice([0.0, -1e3, 1e9]), rng.normal(0.0, scale, n)
    return a, b - float(ee.log_evidence(b)), sizes, int(rng.integers(1, 6)), int(rng.integers(1, 3))


def metropolis(a: Array, b: Array, beta: float, rng: np.random.Generator) -> Array:
    """A reversible matrix that leaves pi_beta invariant, then a non-reversible mixture with a cycle where all are equal."""
    log_pi = beta * (a - a.max()) + (1.0 - beta) * (b - b.max())
    n = a.size
    matrix = np.minimum(1.0, np.exp(log_pi[None, :] - log_pi[:, None])) * rng.uniform(0.3, 1.0) / n
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    return matrix


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_sweeps_within_their_bounds(seed: int, side: str) -> None:
    rng = np.random.default_rng(seed)
    a, b, sizes, n_steps, sweeps = random_case(rng)
    betas = np.sort(np.append(rng.uniform(0.0, 1.0, n_steps - 1), [0.0, 1.0]))
    (row,), _ = ais_results(a, b, betas, None, ee.LatentSpace(sizes), sweeps, side, True, Options())
    with mpmath.workdps(DIGITS):
        chain = Chain(a, b, betas, sizes, None, sweeps, side == "upper")
        mean, evidence = chain.mean(), chain.log_evidence
        assert abs(mpf(row[R_VALUE]) - mean) <= row[R_BOUND]
        distance = mean - evidence if side == "upper" else evidence - mean
        assert abs(mpf(row[R_GAP]) - distance) <= row[R_GAP_BOUND]
        assert abs(mpf(row[R_VARIANCE]) - chain.variance()) <= row[R_VARIANCE_BOUND]


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_matrices_within_their_bounds(seed: int, side: str) -> None:
    rng = np.random.default_rng([1, seed])
    n, n_steps = int(rng.integers(2, 6)), int(rng.integers(2, 5))
    a, b = rng.normal(0.0, 2.0, n), rng.normal(0.0, 2.0, n)
    b -= float(ee.log_evidence(b))
    betas = temperatures(n_steps)
    matrices = [metropolis(a, b, float(beta), rng) for beta in betas[1:-1]]
    (row,), _ = ais_results(a, b, betas, matrices, None, 1, side, True, Options())
    with mpmath.workdps(DIGITS):
        chain = Chain(a, b, betas, (), matrices, 1, side == "upper")
        assert abs(mpf(row[R_VALUE]) - chain.mean()) <= row[R_BOUND]
        assert abs(mpf(row[R_VARIANCE]) - chain.variance()) <= row[R_VARIANCE_BOUND]
        sign = 1 if side == "upper" else -1
        assert sign * (mpf(row[R_VALUE]) - chain.log_evidence) >= -row[R_BOUND]


def test_bounds_are_not_wildly_pessimistic() -> None:
    """A bound of one part in 10**11 of the spread is what a hundred kernels with counted roundings may cost."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.0, 2.0, 16), np.full(16, -math.log(16.0))
    (row,), _ = ais_results(a, b, 20, None, ee.LatentSpace((2,) * 4), 1, "lower", True, Options())
    spread = np.ptp(a - b)
    assert row[R_BOUND] <= 20 * 4 * 60 * 2.0**-53 * spread  # steps, variables, some 60 roundings of each
    assert row[R_VARIANCE_BOUND] <= 20 * 4 * 120 * 2.0**-53 * spread**2


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_moments_are_those_of_all_paths_and_the_weight_is_unbiased(side: str) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.0, 1.5, 4), rng.normal(0.0, 1.0, 4)
    b -= float(ee.log_evidence(b))
    moments = ais_moments(a, b, [0.0, 0.2, 0.7, 1.0], space=ee.LatentSpace((2, 2)), side=side)
    with mpmath.workdps(DIGITS):
        chain = Chain(a, b, np.array([0.0, 0.2, 0.7, 1.0]), (2, 2), None, 1, side == "upper")
        mean = chain.over_paths(lambda s: s)
        variance = chain.over_paths(lambda s: (s - mean) ** 2)
        assert abs(mpf(float(moments.mean)) - mean) <= moments.mean_error
        assert abs(mpf(float(moments.variance)) - variance) <= moments.variance_error
        if side == "lower":
            assert abs(chain.weight() / mpmath.exp(chain.log_evidence) - 1) < mpf(10) ** (5 - DIGITS)
        else:  # the reverse chain's inverse weight is unbiased for 1/p(x)
            inverse = chain.over_paths(lambda s: mpmath.exp(-s))
            assert abs(inverse * mpmath.exp(chain.log_evidence) - 1) < mpf(10) ** (5 - DIGITS)


@pytest.mark.parametrize("seed", range(40))
def test_ordered_around_log_evidence_without_tolerance(seed: int) -> None:
    rng = np.random.default_rng([2, seed])
    a, b, sizes, n_steps, sweeps = random_case(rng)
    if seed % 4 == 0:
        b = ee.log_posterior(a)
    evidence, space = ee.log_evidence(a), ee.LatentSpace(sizes)
    lower, upper = (ais(a, b, n_steps, space=space, sweeps=sweeps, side=side, unnormalized=True) for side in ("lower", "upper"))
    assert lower <= evidence <= upper


@pytest.mark.parametrize("seed", range(20))
def test_one_step_is_the_elbo_and_the_eubo(seed: int) -> None:
    rng = np.random.default_rng([3, seed])
    a, b, _, _, _ = random_case(rng)
    reference = ee.audit(a, b)
    for side, name in (("lower", "elbo"), ("upper", "eubo")):
        (row,), _ = ais_results(a, b, 1, None, None, 1, side, False, Options())
        assert abs(row[R_VALUE] - getattr(reference, name)) <= row[R_BOUND] + getattr(reference.error, name)
        divergence = "gap" if side == "lower" else "forward_kl"
        assert abs(row[R_GAP] - getattr(reference, divergence)) <= row[R_GAP_BOUND] + getattr(reference.error, divergence)


@pytest.mark.parametrize("seed", range(10))
def test_kernels_that_forget_give_the_riemann_sums_of_thermodynamic_integration(seed: int) -> None:
    rng = np.random.default_rng([4, seed])
    a, b = rng.normal(0.0, 2.0, 5), rng.normal(0.0, 1.0, 5)
    b -= float(ee.log_evidence(b))
    betas = temperatures(4)
    forgetful = [np.tile(ee.posterior((1.0 - t) * b + t * a), (5, 1)) for t in betas[1:-1]]
    with mpmath.workdps(DIGITS):
        chain = Chain(a, b, np.array([0.0, 1.0]), (5,))
        slope = [mpmath.fsum(m * w for m, w in zip(path_law(a, b, float(t)), chain.log_w, strict=True)) for t in betas]
        for side, used in (("lower", slope[:-1]), ("upper", slope[1:])):
            (matrices,), _ = ais_results(a, b, betas, forgetful, None, 1, side, False, Options())
            (sweeps,), _ = ais_results(a, b, betas, None, ee.LatentSpace((5,)), 1, side, False, Options())
            # one variable: a heat bath forgets; the matrices hold rounded posteriors, 8 u and a few u of the exponents
            assert abs(mpf(sweeps[R_VALUE]) - mpmath.fsum(used) / 4) <= sweeps[R_BOUND]
            assert abs(mpf(matrices[R_VALUE]) - mpmath.fsum(used) / 4) <= matrices[R_BOUND] + 60 * 2.0**-53 * np.ptp(a - b)


def test_a_swap_reaches_log_evidence_and_beats_its_riemann_sum() -> None:
    """F9: imperfect kernels can be better than perfect ones."""
    log_q = np.log([0.75, 0.25])
    log_joint = log_q + np.array([0.0, math.log(9.0)])
    (row,), _ = ais_results(log_joint, log_q, [0.0, 0.5, 1.0], [[[0.0, 1.0], [1.0, 0.0]]], None, 1, "lower", False, Options())
    assert abs(row[R_VALUE] - math.log(3.0)) <= row[R_BOUND] + 2.0**-52
    riemann = ais(log_joint, log_q, 2, space=ee.LatentSpace((2,)))
    assert abs(riemann - 0.8239592165) < 1e-10
    assert row[R_VALUE] > riemann + 0.2


def test_sweeps_too_can_beat_the_riemann_sum_or_not() -> None:
    rng = np.random.default_rng(0)
    beats = []
    for _ in range(200):
        a, b = rng.normal(0.0, 2.0, 8), rng.normal(0.0, 2.0, 8)
        b -= float(ee.log_evidence(b))
        sweeps = ais(a, b, 2, space=ee.LatentSpace((2, 2, 2)))
        beats.append(sweeps > ais(a, b, 2, space=ee.LatentSpace((8,))))  # one variable of eight values: a perfect kernel
    assert 0 < sum(beats) < 200


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_variance_covers_matrices_that_are_stochastic_up_to_rounding(seed: int, side: str) -> None:
    """Two levels of weight far apart and perfect kernels: the variance is tiny next to the squared log ratios."""
    rng = np.random.default_rng([2, seed])
    n, depth = int(rng.integers(2, 6)), float(rng.uniform(15.0, 50.0))
    a, b = np.zeros(n), np.full(n, -math.log(n))
    a[: int(rng.integers(1, n))] = -depth
    betas = np.sort(np.append(10.0 ** -rng.uniform(0.0, 6.0, 2), [0.0, 1.0]))
    matrices = []
    for beta in betas[1:-1]:
        pi = np.exp((1.0 - beta) * b + beta * a)
        matrices.append(np.tile(pi / pi.sum(), (n, 1)))
    (row,), _ = ais_results(a, b, betas, matrices, None, 1, side, True, Options())
    with mpmath.workdps(DIGITS):
        chain = Chain(a, b, betas, (), matrices, 1, side == "upper")
        assert abs(mpf(row[R_VARIANCE]) - chain.variance()) <= row[R_VARIANCE_BOUND]


CORNERS = [  # log_joint, log_q as probabilities; lower, upper relative to log p(x): None is finite and valid
    ([0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], -INF, None),  # zero weight
    ([0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], None, INF),  # missed mass
    ([0.4, 0.0, 0.3, 0.3], [0.3, 0.3, 0.4, 0.0], -INF, INF),  # both
    ([0.4, 0.0, 0.0, 0.6], [0.3, 0.0, 0.0, 0.7], None, None),  # impossible together: no kernel may divide by zero
]


@pytest.mark.parametrize(("joint", "q", "lower", "upper"), CORNERS)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_corners(joint: list[float], q: list[float], lower: float | None, upper: float | None, n_steps: int) -> None:
    with np.errstate(divide="ignore"):
        a, b = np.log(joint), np.log(q)
    missed = math.fsum(x for x, y in zip(joint, q, strict=True) if y == 0.0)
    for side, expected in (("lower", lower), ("upper", upper)):
        (row,), _ = ais_results(a, b, n_steps, None, ee.LatentSpace((2, 2)), 1, side, True, Options())
        if expected is not None:
            assert row[R_VALUE] == expected
            assert row[R_GAP] == INF and math.isnan(row[R_VARIANCE]) and row[R_BOUND] == 0.0
            continue
        limit = math.log(math.fsum(joint)) + math.log1p(-missed)
        assert (row[R_VALUE] - limit) * (1 if side == "upper" else -1) >= -row[R_BOUND] - 2.0**-51
        with mpmath.workdps(DIGITS):
            chain = Chain(a, b, temperatures(n_steps), (2, 2), None, 1, side == "upper")
            assert abs(mpf(row[R_VALUE]) - chain.mean()) <= row[R_BOUND]
            assert abs(mpf(row[R_VARIANCE]) - chain.variance()) <= row[R_VARIANCE_BOUND]


def test_impossible_observations_have_a_lower_bound_and_no_upper_one() -> None:
    a, b = np.full(4, -INF), np.log([0.25] * 4)
    assert ais(a, b, 3, space=ee.LatentSpace((2, 2))) == -INF
    assert math.isnan(ais(a, b, 3, space=ee.LatentSpace((2, 2)), side="upper"))


def test_ratios_beyond_the_range_of_doubles_have_no_bound() -> None:
    a, b = np.array([1.7e308, -1.7e308]), np.array([-1.7e308, 1.7e308])
    for side, value in (("lower", -INF), ("upper", INF)):
        (row,), _ = ais_results(a, b, 2, None, ee.LatentSpace((2,)), 1, side, True, Options(unnormalized=True))
        assert row[R_VALUE] == value and row[R_BOUND] == INF and math.isnan(row[R_VARIANCE])


def test_a_product_of_a_hundred_kernels_is_a_kernel() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=6), rng.normal(size=6)
    once = metropolis(a, b, 0.5, rng)
    many = np.linalg.matrix_power(once, 100)
    (row,), _ = ais_results(a, b, 2, [many], None, 1, "lower", False, Options(unnormalized=True))
    perfect = ais(a, b, 2, space=ee.LatentSpace((6,)), unnormalized=True)
    assert ais(a, b, 2, [once], unnormalized=True) < row[R_VALUE] <= ee.log_evidence(a) + row[R_BOUND]
    assert abs(row[R_VALUE] - perfect) < 1e-3 * abs(perfect)  # mixed, up to the second eigenvalue's hundredth power


def test_groups_that_underflow_are_weighed_again() -> None:
    """The second half lies 1500 nats below the first, where no weight relative to the maximum is a double."""
    a, b = np.array([0.0, -1.0, -1500.0, -1501.5]), np.log([0.25] * 4)
    (row,), _ = ais_results(a, b, 3, None, ee.LatentSpace((2, 2)), 1, "lower", True, Options())
    with mpmath.workdps(DIGITS):
        assert abs(mpf(row[R_VALUE]) - Chain(a, b, temperatures(3), (2, 2)).mean()) <= row[R_BOUND]
    assert row[R_BOUND] < 1e-9


def test_rows_do_not_depend_on_their_batch_or_layout() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(3, 5, 8)), rng.normal(size=(5, 8))
    space = ee.LatentSpace((2, 4))
    whole = ais(a, b, 4, space=space, unnormalized=True)
    assert whole.shape == (3, 5)
    strided = ais(np.asfortranarray(a), b, 4, space=space, unnormalized=True)
    alone = [[ais(a[i, j], b[j], 4, space=space, unnormalized=True) for j in range(5)] for i in range(3)]
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_array_equal(whole, strided)


def test_matrices_of_each_row_and_shared_ones() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    own = np.stack([metropolis(x, y, 0.5, rng) for x, y in zip(a, b, strict=True)])
    whole = ais(a, b, 2, [own], side="upper", unnormalized=True)
    alone = [ais(a[i], b[i], 2, [own[i]], side="upper", unnormalized=True) for i in range(3)]
    np.testing.assert_array_equal(whole, alone)
    stay = ais(a, b, 2, [np.eye(4)], unnormalized=True)
    single = ais(a, b, 1, unnormalized=True)
    for i in range(3):  # a kernel that stays: the ELBO again
        slack = ais_results(a[i], b[i], 2, [np.eye(4)], None, 1, "lower", False, Options(unnormalized=True))[0][0, R_BOUND]
        assert abs(stay[i] - single[i]) <= 2.0 * slack


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"betas": [0.0, 0.5, 0.5, 1.0], "space": ee.LatentSpace((2,))}, "rise strictly from 0 to 1"),
        ({"betas": [0.0, 0.9], "space": ee.LatentSpace((2,))}, "rise strictly from 0 to 1"),
        ({"betas": 0, "space": ee.LatentSpace((2,))}, "betas must be an integer >= 1"),
        ({"betas": 2}, "pass space=LatentSpace"),
        ({"betas": 2, "kernels": [np.eye(2)], "space": ee.LatentSpace((2,))}, "both given"),
        ({"betas": 3, "kernels": [np.eye(2)]}, "kernels must be 2 matrices"),
        ({"betas": 2, "kernels": [np.eye(3)]}, r"kernels\[0\] must have shape \(2, 2\)"),
        (
            {"betas": 2, "kernels": [[[0.9, 0.2], [0.1, 0.9]]]},
            r"kernels\[0\] must have rows that sum to 1; a row is off by 0.1",
        ),
        ({"betas": 2, "kernels": [[[1.5, -0.5], [0.0, 1.0]]]}, r"kernels\[0\] must hold probabilities"),
        (
            {"betas": 2, "kernels": [[[0.5, 0.5], [0.4, 0.6]]]},
            r"kernels\[0\] must leave pi_b at b = 0.5 invariant; it moves 0\.",
        ),
        ({"betas": 2, "space": ee.LatentSpace((3,))}, "must have the 3 states of space"),
        ({"betas": 2, "space": ee.LatentSpace((2,)), "side": "both"}, "side must be one of"),
        ({"betas": 2, "space": ee.LatentSpace((2,)), "sweeps": 0}, "sweeps must be an integer >= 1"),
    ],
)
def test_refusals(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ais(np.log([0.2, 0.3]), np.log([0.5, 0.5]), **arguments)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((2,), {"space": (2, 2)}, r"space must be a LatentSpace; got \(2, 2\)"),
        ((2, 5), {}, "kernels must be a sequence of matrices; got 5"),
        (([[0.0, 1.0], [0.0]],), {}, "betas must be a real floating array"),
    ],
)
def test_arguments_of_another_kind_are_named(arguments: tuple[Any, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        ais(np.zeros(4), np.log([0.25] * 4), *arguments, **options)


def test_rows_with_nan_are_refused_or_passed_through() -> None:
    a, b = np.log([[0.3, 0.1, 0.05, 0.15], [0.1, np.nan, 0.2, 0.3], [0.3, 0.1, 0.05, 0.15]]), np.log([0.25] * 4)
    space = ee.LatentSpace((2, 2))
    with pytest.raises(ee.LogTableError, match="NaN"):
        ais(a, b, 5, space=space)
    for side in ("lower", "upper"):
        moments = ais_moments(a, b, 5, space=space, side=side, nan_policy="propagate")
        alone = ais_moments(a[0], b, 5, space=space, side=side)
        for column, value in zip(moments, alone, strict=True):
            assert np.isnan(column[1])
            assert column[0] == column[2] == value


def test_an_executor_changes_no_bit() -> None:
    a, b = np.random.default_rng(1).normal(size=(2000, 16)), np.log([1.0 / 16.0] * 16)
    space = ee.LatentSpace((4, 4))
    with ThreadPoolExecutor(2) as threads:
        assert np.array_equal(ais(a, b, 50, space=space, executor=threads), ais(a, b, 50, space=space))
    with pytest.raises(RuntimeError, match="after shutdown"):
        ais(a, b, 50, space=space, executor=threads)  # so it was used
