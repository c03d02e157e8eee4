"""The public test tools: no false alarm on correct code of four kinds, and every mutant caught."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.vendor.pretty import pretty

import elbo_exact as ee
from elbo_exact.testing import (
    Problem,
    _hypothesis,
    assert_elbo,
    assert_every_particle,
    assert_gradient,
    assert_kl,
    assert_log_evidence,
    assert_lower_bound,
    assert_monotone,
    assert_posterior,
    assert_unbiased,
    assert_upper_bound,
    fingerprint,
    oracle,
)
from elbo_exact.testing.mutants import mutants
from elbo_exact.testing.strategies import (
    CORNERS,
    bayesian_networks,
    guides,
    hidden_markov_models,
    latent_spaces,
    log_simplices,
    log_tables,
    mixtures,
    problems,
)

many = settings(max_examples=int(os.environ.get("ELBO_EXACT_EXAMPLES", "300")), suppress_health_check=[HealthCheck.too_slow])


def numpy_elbo(log_joint: Any, log_q: Any) -> Any:
    q = np.exp(log_q)
    with np.errstate(invalid="ignore"):
        return np.where(q > 0, q * (log_joint - log_q), 0).sum(-1)


@many
@given(problems())
def test_correct_numpy_raises_no_alarm(problem: Problem) -> None:
    a, b = problem.log_joint, problem.log_q
    assert_elbo(numpy_elbo(a, b), a, b)
    assert_elbo(numpy_elbo(a.astype(np.float32), b.astype(np.float32)), a, b)
    assert_lower_bound(numpy_elbo(a, b), a)
    assert_log_evidence(np.logaddexp.reduce(a), a)
    assert_log_evidence(np.logaddexp.reduce(a.astype(np.float32)), a)
    log_p = a - np.logaddexp.reduce(a)
    assert_posterior(np.exp(log_p), a)
    assert_kl(-numpy_elbo(log_p, b), a, b)
    assert_kl(-numpy_elbo(b, log_p), a, b, direction="forward")
    assert_upper_bound(np.logaddexp.reduce(a) - numpy_elbo(b, log_p), a)


@many
@given(problems())
def test_the_naive_oracle_agrees_with_the_engine(problem: Problem) -> None:
    a, b = problem.log_joint, problem.log_q
    assert_elbo(oracle.elbo(a.tolist(), b.tolist()), a, b)
    assert_kl(oracle.reverse_kl(a.tolist(), b.tolist()), a, b)
    assert_log_evidence(oracle.log_evidence(a.tolist()), a)


@many
@given(problems(corners=tuple(c for c in CORNERS if c != "disconnected")))
def test_gradient_by_hand_raises_no_alarm(problem: Problem) -> None:
    a, b = problem.log_joint, problem.log_q
    value = numpy_elbo(a, b)
    if np.isfinite(value):
        with np.errstate(invalid="ignore"):
            assert_gradient(np.where(np.isfinite(b), np.exp(b) * (a - b - value), 0.0), a, b)


@many
@given(problems())
def test_correct_torch_raises_no_alarm(problem: Problem) -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float64, torch.float32):
        a, b = (torch.tensor(row, dtype=dtype) for row in (problem.log_joint, problem.log_q))
        q = b.exp()
        assert_elbo(torch.where(q > 0, q * (a - b), 0.0).sum(), problem.log_joint, problem.log_q)


@many
@given(problems())
def test_correct_jax_raises_no_alarm(problem: Problem) -> None:
    jnp = pytest.importorskip("jax.numpy")
    a, b = jnp.asarray(problem.log_joint, jnp.float32), jnp.asarray(problem.log_q, jnp.float32)
    q = jnp.exp(b)
    assert_elbo(jnp.where(q > 0, q * (a - b), 0.0).sum(), problem.log_joint, problem.log_q)


ASSERTIONS = {
    "elbo": lambda f: lambda p: assert_elbo(f(p.log_joint, p.log_q), p.log_joint, p.log_q, scales={"plate": 3.0}),
    "reverse_kl": lambda f: lambda p: assert_kl(f(p.log_joint, p.log_q), p.log_joint, p.log_q),
    "log_evidence": lambda f: lambda p: assert_log_evidence(f(p.log_joint, p.log_q), p.log_joint),
}
TABLES = [m for m in mutants() if m.quantity in ASSERTIONS]


@pytest.mark.parametrize("mutant", TABLES, ids=lambda m: f"{m.quantity}: {m.name}")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_mutant_is_caught(mutant: Any) -> None:
    check = ASSERTIONS[mutant.quantity](mutant)
    found: list[str] = []

    @settings(max_examples=200, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(problems())
    def run(problem: Problem) -> None:
        try:
            check(problem)
        except AssertionError as error:
            found.append(str(error))
            raise

    with pytest.raises((AssertionError, ExceptionGroup)):
        run()
    assert any(mutant.fingerprint in message for message in found), found[-1]


def test_the_zoo_is_large_and_says_what_each_mutant_stands_for() -> None:
    zoo = mutants()
    assert len(zoo) >= 20 and len({m.name for m in zoo}) == len(zoo)
    assert all(m.bug for m in zoo)


ROWS = np.log([0.3, 0.05, 0.02]), np.log([0.5, 0.2, 0.3])


@pytest.mark.parametrize("mutant", mutants("iwae"), ids=lambda m: m.name)
def test_every_iwae_mutant_is_caught(mutant: Any) -> None:
    rng, curve = np.random.default_rng(1), ee.importance.curve(*ROWS, 5)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(
            lambda size: [float(mutant(*ROWS, 5, rng)) for _ in range(size)],
            float(curve.lower),
            variance=float(curve.variance),
            max_samples=20_000,
        )


@pytest.mark.parametrize("seed", range(5))
def test_a_right_iwae_passes(seed: int) -> None:
    rng, curve = np.random.default_rng(seed), ee.importance.curve(*ROWS, 5)

    def estimator(size: int) -> Any:
        z = rng.choice(3, size=(size, 5), p=np.exp(ROWS[1]))
        return np.logaddexp.reduce((ROWS[0] - ROWS[1])[z], axis=-1) - math.log(5)

    assert_unbiased(estimator, float(curve.lower), variance=float(curve.variance))


def test_the_level_of_the_sequential_test_holds() -> None:
    # 400 right estimators with a long tail, each watched for 2,000 values at alpha = 0.1. The count of rejections is at most
    # Binomial(400, 0.1), which exceeds 40 + 36 with probability below exp(-36**2 / (2 * (36 + 12))) = 1.4e-6 (Bernstein); the seed is fixed.
    rng, rejected = np.random.default_rng(7), 0
    for _ in range(400):
        try:
            assert_unbiased(rng.exponential(1.0, 2000) - 1.0, 0.0, variance=1.0, alpha=0.1)
        except AssertionError:
            rejected += 1
    assert rejected <= 76


def test_without_variance_each_value_decides() -> None:
    assert_unbiased(np.full(10, 2.0), 2.0, variance=0.0)
    with pytest.raises(AssertionError, match="first 3 values"):
        assert_unbiased([2.0, 2.0, 2.1], 2.0, variance=0.0)
    with pytest.raises(AssertionError, match="value 1 of the estimator is nan"):
        assert_unbiased([2.0, math.nan], 2.0, variance=1.0)
    with pytest.raises(ValueError, match="alpha"):
        assert_unbiased([2.0], 2.0, variance=1.0, alpha=0.0)


@pytest.mark.parametrize("mutant", mutants("em"), ids=lambda m: m.name)
def test_every_em_mutant_falls(mutant: Any) -> None:
    rates = np.where(np.arange(60)[:, None] < 48, 0.9, 0.1)  # the start of the mutants is the truth
    x = (np.random.default_rng(3).random((60, 6)) < rates).astype(float)
    with pytest.raises(AssertionError, match="falls"):
        assert_monotone(mutant(x, 30), n_terms=60)


def test_every_particle_at_the_posterior() -> None:
    assert_every_particle((ROWS[0] - ee.log_posterior(ROWS[0]))[[0, 2, 1]], ROWS[0])
    with pytest.raises(AssertionError, match="particle"):
        assert_every_particle((ROWS[0] - ROWS[1])[[0, 2]], ROWS[0])


def test_messages_name_the_smallest_wrong_number_and_its_index() -> None:
    a, b = np.log([[0.3, 0.1], [0.2, 0.2]]), np.log([[0.5, 0.5], [0.5, 0.5]])
    actual = np.add(ee.elbo(a, b), [0.0, 1e-3])
    with pytest.raises(AssertionError, match=r"elbo is wrong at index \(1,\) \(1 of 2\)") as info:
        assert_elbo(actual, a, b)
    assert "expected -0.91629073187415" in str(info.value) and "off by   0.001" in str(info.value)
    with pytest.raises(AssertionError, match="expected shape"):
        assert_elbo(actual.sum(), a, b)
    with pytest.raises(AssertionError, match="lower bound is wrong"):
        assert_lower_bound(0.0, a[0])
    with pytest.raises(AssertionError, match="upper bound is wrong"):
        assert_upper_bound(-2.0, a[0])
    with pytest.raises(AssertionError, match="sign: the gradient of the loss"):
        assert_gradient(-ee.elbo_gradient(a, b), a, b)
    with pytest.raises(AssertionError, match="posterior is wrong"):
        assert_posterior([0.5, 0.5], a[0])
    with pytest.raises(ValueError, match="float16"):
        assert_elbo(np.float16(1.0), a[0], b[0])


def test_fingerprints_that_need_context() -> None:
    prior = np.log([0.2, 0.3, 0.5])
    a, b = ROWS
    exact = float(ee.elbo(a, b))
    assert fingerprint(exact, a, b) is None
    assert fingerprint(exact - np.sum(np.exp(b) * prior), a, b, log_prior=prior).name == "missing prior"
    assert fingerprint(100 * exact, a, b, scales={"N": 100}).name == "scaled by N"
    logits = b + 0.7
    assert fingerprint(np.sum(np.exp(logits) * (a - logits)), a, logits).name == "unnormalised q"
    assert fingerprint(exact + 0.1234, a, b) is None


def test_bugs_that_coincide_are_all_named() -> None:
    a, b = np.log([0.3, 0.1]), np.log([0.5, 0.5])  # two states: a mean over the states is a half
    with pytest.raises(AssertionError, match="mean for sum: .*\n  the same number comes from: .*divided by 2"):
        assert_elbo(ee.elbo(a, b) / 2.0, a, b)


WRONG = {
    "base-10 logs": lambda a, b: ee.elbo(a, b) / math.log(10.0),
    "infinity replaced": lambda a, b: np.nan_to_num(ee.elbo(np.where(np.arange(3) == 1, -np.inf, a), b)),
    "base-2 logs": lambda a, b: np.sum(np.exp(b) * (a - b / math.log(2.0))),
    "entropy twice": lambda a, b: ee.elbo(a, b) - np.sum(np.exp(b) * b),
    "KL scaled by 2": lambda a, b: ee.log_evidence(a) - 2.0 * ee.gap(a, b),
    "KL scaled by 0.5": lambda a, b: ee.log_evidence(a) - 0.5 * ee.gap(a, b),
}


@pytest.mark.parametrize("name", WRONG)
def test_fingerprints_beyond_the_zoo(name: str) -> None:
    a, b = ROWS
    actual = WRONG[name](a, b)
    table = np.where(np.arange(3) == 1, -np.inf, a) if name == "infinity replaced" else a
    found = fingerprint(actual, table, b)
    assert found is not None and found.name == name


@given(problems())
def test_problems_print_as_code(problem: Problem) -> None:
    assert eval(repr(problem)) == problem and hash(problem) == hash(eval(repr(problem)))


_hypothesis.register()  # as the entry point does once the package is installed


@given(st.from_type(Problem))
def test_hypothesis_knows_the_type(problem: Problem) -> None:
    assert abs(float(ee.log_evidence(problem.log_q))) < 1e-12 and np.isfinite(ee.log_evidence(problem.log_joint))


@given(log_tables(n_rows=2), log_simplices(), latent_spaces(), mixtures())
def test_other_strategies_draw_what_they_say(table: Any, simplex: Any, space: Any, mixture: Any) -> None:
    assert table.shape[0] == 2 and np.isfinite(ee.log_evidence(table)).all()
    assert abs(float(ee.log_evidence(simplex))) < 1e-12
    assert 1 <= space.size <= 64
    assert mixture.log_joint(np.zeros((1, len(mixture.components)))).shape[-1] == mixture.n_components


NAMES = vars(ee.models) | vars(ee.families) | vars(ee.guides) | {"LatentSpace": ee.LatentSpace}


@given(st.one_of(mixtures(), hidden_markov_models(), bayesian_networks(), guides()))
def test_models_print_as_code_that_makes_them_again(drawn: Any) -> None:
    again = eval(repr(drawn), dict(NAMES))
    assert type(again) is type(drawn) and repr(again) == repr(drawn) == pretty(drawn)


def test_tables_print_as_code_to_the_bit() -> None:
    @settings(max_examples=50, database=None, derandomize=True)
    @given(log_tables(n_rows=2, min_states=2), log_simplices(min_states=2))
    def run(table: Any, simplex: Any) -> None:
        seen.append((table, simplex))
        assert np.isfinite(table).all() or (simplex == simplex[0]).all()

    seen: list[tuple[Any, Any]] = []
    with pytest.raises(AssertionError) as caught:
        run()
    shown = "\n".join(caught.value.__notes__)
    calls = [
        line.partition("=")[2].rstrip(",") for line in shown.splitlines() if line.strip().startswith(("table=", "simplex="))
    ]
    for drawn, text in zip(seen[-1], calls, strict=True):
        assert text.startswith("np.array([") and eval(text).tobytes() == drawn.tobytes()


@given(hidden_markov_models(), st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_drawn_chains_are_sums_over_paths(model: Any, symbols: list[int]) -> None:
    x = np.array(symbols) % model.emission[0].n_categories
    paths = [
        model.log_initial[path[0]]
        + sum(model.log_transition[i, j] for i, j in itertools.pairwise(path))
        + sum(model.emission[0].log_probabilities[z, s] for z, s in zip(path, x, strict=True))
        for path in itertools.product(range(model.n_states), repeat=len(x))
    ]
    found, exact = float(model.log_evidence([x])[0]), float(ee.log_evidence(paths))
    assert found == exact or abs(found - exact) <= 2.0**-40 * max(1.0, abs(exact))


@given(bayesian_networks())
def test_drawn_networks_are_distributions(network: Any) -> None:
    x = np.array(list(itertools.product(*map(range, network.sizes))), float)
    visible = network.hide()
    assert abs(float(ee.log_evidence(visible.log_joint(x)[:, 0]))) <= 1e-12


@given(guides())
def test_drawn_guides_are_distributions(guide: Any) -> None:
    table = guide.log_q(np.zeros(len(guide.logits([0] * (guide.params.size // guide.factors.n_logits)))))
    assert np.abs(ee.log_evidence(table)).max() <= 1e-12


def test_every_strategy_reaches_its_corners() -> None:
    corners = {
        "no transition": (hidden_markov_models(), lambda model: bool(np.isneginf(model.log_transition).any())),
        "zeros in a table": (bayesian_networks(), lambda net: any(np.isneginf(x).any() for x in net.log_tables.values())),
        "two parents": (bayesian_networks(), lambda net: bool(net.hidden) and max(map(len, net.parents.values())) == 2),
        "zeros of a guide": (guides(), lambda guide: bool(np.isneginf(guide.params).any())),
    }
    for name, (strategy, reached) in corners.items():
        found = find(
            strategy, reached, settings=settings(phases=[Phase.generate], max_examples=2000, deadline=None, database=None)
        )
        assert reached(found), name


def test_strategies_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="min_states"):
        problems(min_states=3, max_states=2)
    with pytest.raises(ValueError, match="corners"):
        problems(corners=("odd",))
    with pytest.raises(ValueError, match="as many states"):
        Problem([0.0], [])


def test_plugins_load_nothing_heavy() -> None:
    code = (
        "import sys, elbo_exact.testing._pytest, elbo_exact.testing._hypothesis\n"
        "print({'numpy', 'numba', 'scipy', 'hypothesis'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


LEAST_OF = 7
ALLOWED_SECONDS = 0.03  # the promise of the plugin; imports of both hooks, without the interpreter's own start


def test_plugins_cost_less_than_thirty_milliseconds() -> None:
    code = (
        "import time, importlib, os, sys\nt = time.perf_counter()\n"
        "import elbo_exact.testing._pytest as p, elbo_exact.testing._hypothesis\np.pytest_configure(None)\n"
        "print(time.perf_counter() - t)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(LEAST_OF)]
    assert min(float(run.stdout) for run in runs) < ALLOWED_SECONDS


def test_first_call_in_a_fresh_process_misses_no_deadline(tmp_path: Any) -> None:
    (tmp_path / "test_it.py").write_text(
        "from hypothesis import find, given\nfrom elbo_exact.testing import assert_elbo, assert_posterior, oracle\n"
        "import elbo_exact as ee\nfrom elbo_exact.testing.strategies import problems\n\n@given(problems())\n"
        "def test_it(p):\n    assert_elbo(oracle.elbo(p.log_joint.tolist(), p.log_q.tolist()), p.log_joint, p.log_q)\n"
        "    assert_posterior(ee.posterior(p.log_joint), p.log_joint)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
