"""Grid: nodes and weights against the theory of each rule; refinement, shifts, refusals."""

import dataclasses
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbo_exact.errors import EnumerationTooLarge
from elbo_exact.grid import Grid
from elbo_exact.space import LatentSpace

U = 2.0**-53
MAKERS = {
    "midpoint": lambda sizes, **options: Grid.midpoint((-1.0, 2.0), sizes, **options),
    "trapezoid": lambda sizes, **options: Grid.trapezoid((-1.0, 2.0), sizes, **options),
    "gauss_legendre": lambda sizes, **options: Grid.gauss_legendre((-1.0, 2.0), sizes, **options),
    "gauss_hermite": lambda sizes, **options: Grid.gauss_hermite(sizes, 0.5, 2.0, **options),
}


def integral(grid, values):
    """Exact sum of weight * value: the rounding left is that of the weights, whose logarithms are good to about 1e-15."""
    return math.fsum((np.exp(grid.log_weights) * values).tolist())


@pytest.mark.parametrize("size", [2, 3, 8, 65])
@pytest.mark.parametrize("shift", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("rule", ["midpoint", "trapezoid"])
def test_uniform_rules_integrate_linear_functions_exactly(rule, shift, size):
    grid = MAKERS[rule](size)
    grid = grid.shifted(shift) if shift else grid
    # exact in exact arithmetic; each weight carries exp(log(...)) = 2 logs + 1 exp, below 8 u, and |x| <= 2
    assert abs(integral(grid, np.ones(grid.size)) - 3.0) <= 8 * U * 3.0
    assert abs(integral(grid, grid.nodes[:, 0]) - 1.5) <= 8 * U * 6.0 + 8 * U
    assert grid.nodes.min() >= -1.0 and grid.nodes.max() <= 2.0


@given(st.integers(1, 40), st.integers(0, 6))
def test_legendre_is_exact_to_degree_2n_minus_1(size, degree):
    degree = min(degree, 2 * size - 1)
    grid = Grid.gauss_legendre((0.0, 1.0), size)
    # NumPy's nodes and weights are good to a few u each; degree * u from the power, one u per weight summed in exact fsum
    assert abs(integral(grid, grid.nodes[:, 0] ** degree) - 1 / (degree + 1)) <= (16 + 4 * degree) * U


@pytest.mark.parametrize("size", [1, 2, 5, 20, 100, 300])
def test_hermite_integrates_gaussian_moments(size):
    mean, scale = 1.5, 0.25
    grid = Grid.gauss_hermite(size, mean, scale)
    x = (grid.nodes[:, 0] - mean) / scale
    density = np.exp(-x * x / 2 + grid.log_weights) / math.sqrt(2 * math.pi) / scale
    # the log weights were compared with 60-digit arithmetic: good to 2e-13 at 300 points (x^2/2 is 600 there), 1e-14 at 20;
    # x itself loses u * mean / scale when the nodes are placed, felt twice in x^2 / 2, times |x| <= 2 sqrt(size)
    tolerance = 2e-14 + 1e-15 * size + 2 * size * 8 * U * mean / scale
    for moment, expected in ((0, 1.0), (1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        if moment <= 2 * size - 1:
            assert abs(math.fsum((density * x**moment).tolist()) - expected) <= 4 * tolerance


def test_small_rules_are_the_textbook_ones():
    assert Grid.midpoint((0, 1), 2).nodes.tolist() == [[0.25], [0.75]]
    assert Grid.trapezoid((0, 2), 3).nodes.tolist() == [[0.0], [1.0], [2.0]]
    assert np.array_equal(np.exp(Grid.trapezoid((0, 2), 3).log_weights), [0.5, 1.0, 0.5])
    legendre = Grid.gauss_legendre((-1, 1), 2)
    assert np.abs(np.abs(legendre.nodes) - 1 / math.sqrt(3)).max() <= 2 * U
    hermite = Grid.gauss_hermite(1, 3.0, 2.0)
    assert hermite.nodes.tolist() == [[3.0]]
    assert abs(hermite.log_weights[0] - math.log(2.0 * math.sqrt(2 * math.pi))) <= 4 * U


@pytest.mark.parametrize("rule", MAKERS)
def test_tensor_grids_are_in_c_order(rule):
    grid = MAKERS[rule]((2, 3, 4))
    lines = [MAKERS[rule](size) for size in (2, 3, 4)]
    states = grid.space.states()
    assert grid.space == LatentSpace((2, 3, 4)) and grid.shape == (2, 3, 4) and grid.size == 24 and grid.n_dimensions == 3
    assert grid.nodes.shape == (24, 3) and grid.log_weights.shape == (24,)
    for axis, line in enumerate(lines):
        assert np.array_equal(grid.nodes[:, axis], line.nodes[states[:, axis], 0])
    total = sum(line.log_weights[states[:, axis]] for axis, line in enumerate(lines))
    assert np.array_equal(grid.log_weights, total)


def test_bounds_and_sizes_are_matched_axis_by_axis():
    grid = Grid.midpoint([(0, 1), (10, 20)], (1, 2))
    assert grid.nodes.tolist() == [[0.5, 12.5], [0.5, 17.5]]
    assert Grid.midpoint((0, 1), (2, 2)).axes == ((0.0, 1.0), (0.0, 1.0))
    assert Grid.midpoint([(0, 1), (0, 2)], 3).sizes == (3, 3)
    assert Grid.gauss_hermite(3, mean=[0.0, 1.0], scale=2.0).axes == ((0.0, 2.0), (1.0, 2.0))
    assert Grid.gauss_hermite((3, 4)).axes == ((0.0, 1.0), (0.0, 1.0))
    assert Grid.trapezoid((0, 1), np.array([3, 4])).sizes == (3, 4)


@given(st.floats(1e-3, 1e3), st.integers(2, 200), st.sampled_from(["midpoint", "trapezoid", "gauss_legendre"]))
def test_symmetric_bounds_give_symmetric_nodes(end, size, rule):
    grid = getattr(Grid, rule)((-end, end), size)
    # leggauss symmetrizes its nodes, but 1 + node rounds, by up to u relative to the interval
    slack = 0.0 if rule != "gauss_legendre" else 4 * U * end
    assert np.abs(grid.nodes + grid.nodes[::-1]).max() <= slack
    assert np.abs(grid.log_weights - grid.log_weights[::-1]).max() <= 8 * U * (1 + np.abs(grid.log_weights).max())


@pytest.mark.parametrize("rule", MAKERS)
def test_refine_doubles_every_axis(rule):
    grid = MAKERS[rule]((3, 5))
    assert grid.refine().sizes == (6, 10)
    assert dataclasses.replace(grid.refine(), sizes=(3, 5)) == grid


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_uniform_shift_moves_interior_nodes_by_the_fraction(fraction):
    for rule, n_steps in (("midpoint", 8), ("trapezoid", 7)):
        grid = MAKERS[rule](8)
        moved = grid.shifted(fraction)
        assert moved.shape == (9,) and moved.sizes == (8,) and moved.size == 9
        inside = moved.nodes[1:-1, 0]
        # both are placed by one product, one sum, one quotient of numbers below 2 n_steps, hence 4 roundings of 2
        assert np.abs(inside - (grid.nodes[: len(inside), 0] + fraction * 3 / n_steps)).max() <= 8 * 2 * U
    assert MAKERS["midpoint"](8).shifted(0.5).shifted(0.5) == MAKERS["midpoint"](8)


def test_gauss_rules_answer_a_shift_with_more_points():
    for rule in ("gauss_hermite", "gauss_legendre"):
        assert [MAKERS[rule]((4, 7)).shifted(f).sizes for f in (0.25, 0.5, 0.75)] == [(5, 8), (6, 9), (7, 10)]


def test_trapezoid_converges_at_second_order_and_exponentially_after_decay():
    def error(grid):
        return abs(integral(grid, np.exp(grid.nodes[:, 0])) - (math.e**2 - 1 / math.e))

    for rule in ("midpoint", "trapezoid"):
        ratio = error(MAKERS[rule](65)) / error(MAKERS[rule](129))
        # h^2: (129/65)^2 = 3.94 and (128/64)^2 = 4; the next term of Euler-Maclaurin is h^2/60 relative, below 1e-4
        assert 3.9 < ratio < 4.05
    grid = Grid.trapezoid((-9, 9), 40)
    # Poisson summation: 2 exp(-2 pi^2 / h^2) with h = 18/39 is 1e-40, the tail erfc(9/sqrt 2) is 2e-19: only rounding is left
    assert abs(integral(grid, np.exp(-(grid.nodes[:, 0] ** 2) / 2)) - math.sqrt(2 * math.pi)) <= 16 * U * 2.51


def test_grids_are_frozen_comparable_values():
    grid = Grid.trapezoid((-1, 1), 5)
    assert grid == Grid.trapezoid((-1, 1), 5) and hash(grid) == hash(Grid.trapezoid((-1, 1), 5))
    assert grid != Grid.trapezoid((-1, 2), 5) and grid != grid.shifted(0.5)
    again = pickle.loads(pickle.dumps(grid))
    assert again == grid and np.array_equal(again.nodes, grid.nodes)
    with pytest.raises(ValueError, match="read-only"):
        grid.nodes[0] = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.rule = "midpoint"
    assert "nodes" not in repr(grid)


def test_too_large_grids_are_refused_before_allocation():
    tracemalloc.start()
    with pytest.raises(EnumerationTooLarge) as caught:
        Grid.trapezoid((0, 1), (4096, 4096, 4096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    expected = "enumeration needs 2**36 states (2.0 TiB) > max_bytes=2 GiB; raise max_bytes or lower sizes"
    assert str(caught.value) == expected  # 4 float64 per node: three coordinates and a log weight
    assert caught.value.n_bytes == 2**36 * 32
    assert Grid.midpoint((0, 1), 10, max_bytes=160).size == 10
    for refused in (lambda: Grid.midpoint((0, 1), 10, max_bytes=159), Grid.midpoint((0, 1), 10, max_bytes=160).refine):
        with pytest.raises(EnumerationTooLarge):
            refused()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid.gauss_hermite(301), r"^sizes\[0\] of the gauss_hermite rule must be at most 300; got 301\.$"),
        (lambda: Grid.gauss_hermite(151).refine(), "must be at most 300; got 302"),
        (lambda: Grid.gauss_legendre((0, 1), 2001), "must be at most 2000; got 2001"),
        (lambda: Grid.trapezoid((0, 1), 1), r"^sizes\[0\] of the trapezoid rule must be an integer >= 2; got 1\.$"),
        (lambda: Grid.midpoint((0, 1), 0), r"^sizes\[0\] must be an integer >= 1; got 0\.$"),
        (lambda: Grid.midpoint((0, 1), (2.5,)), r"^sizes\[0\] must be an integer >= 1; got 2\.5\.$"),
        (lambda: Grid.midpoint((0, 1), (2, 2, 2, 2)), r"^sizes must name 1 to 3 axes; got 4\.$"),
        (lambda: Grid.midpoint((0, 1), ()), r"^sizes must name 1 to 3 axes; got 0\.$"),
        (lambda: Grid.midpoint((1, 1), 3), "finite with lower < upper on axis 0; got 1.0, 1.0"),
        (lambda: Grid.midpoint([(0, 1), (2, 1)], 3), "finite with lower < upper on axis 1; got 2.0, 1.0"),
        (lambda: Grid.midpoint((0, np.inf), 3), "^bounds must be finite"),
        (lambda: Grid.midpoint((np.nan, 1), 3), "^bounds must be finite"),
        (lambda: Grid.midpoint((-1.7e308, 1.7e308), 3), "^bounds must be finite"),
        (lambda: Grid.trapezoid((1.0, 1.0 + 2.0**-52), 3), "not distinct finite float64 numbers"),
        (lambda: Grid.trapezoid((8e307, 1e308), 1000), "not distinct finite float64 numbers"),
        (lambda: Grid.midpoint((0, 1, 2), 3), r"one pair or one pair per axis; got shape \(3,\)"),
        (lambda: Grid.midpoint([(0, 1), (0, 1)], (2, 2, 2)), "got 3 sizes and 2 axes"),
        (
            lambda: Grid.gauss_hermite(3, 0.0, 0.0),
            "mean must be finite and scale > 0 on axis 0; got mean 0.0, scale 0.0",
        ),
        (lambda: Grid.gauss_hermite(3, 0.0, -1.0), "scale > 0"),
        (lambda: Grid.gauss_hermite(3, np.nan), "mean must be finite"),
        (lambda: Grid("simpson", (3,), ((0.0, 1.0),)), "^rule must be one of 'midpoint', 'trapezoid'"),
        (lambda: Grid("midpoint", (3,), ((0.0, 1.0),), shift=1.0), "^shift must be in 0 <= shift < 1"),
        (lambda: Grid("gauss_hermite", (3,), ((0.0, 1.0),), shift=0.5), "0 for Gauss rules"),
        (lambda: Grid.midpoint((0, 1), 3).shifted(0.0), r"^fraction must be between 0 and 1; got 0\.0\.$"),
        (lambda: Grid.midpoint((0, 1), 3).shifted(1.0), "^fraction must be between 0 and 1"),
        (lambda: Grid.midpoint((0, 1), 3).shifted(float("nan")), "^fraction must be between 0 and 1"),
    ],
    ids=map(str, range(26)),
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_300_point_rule_has_finite_weights_and_distinct_nodes():
    grid = Grid.gauss_hermite(300)
    assert np.isfinite(grid.log_weights).all() and (np.diff(grid.nodes[:, 0]) > 0).all()
