"""Every public function on every kind of bad input: the exact type and message, inputs untouched, no warning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from table_strategies import Array

import elbo_exact as ee

INF, NAN = np.inf, np.nan
Call = Callable[..., Any]

# function of (target, log_q, **options), and what it calls its target
PAIRED: dict[str, tuple[Call, str]] = {
    "audit": (ee.audit, "log_joint"),
    "elbo": (ee.elbo, "log_joint"),
    "eubo": (ee.eubo, "log_joint"),
    "gap": (ee.gap, "log_joint"),
    "elbo_gradient": (lambda a, b, **options: ee.elbo_gradient(a, b, **({"unnormalized": False} | options)), "log_joint"),
    "reverse_kl": (ee.reverse_kl, "log_p"),
    "forward_kl": (ee.forward_kl, "log_p"),
    "jeffreys": (ee.jeffreys, "log_p"),
    "chi2_divergence": (ee.chi2_divergence, "log_p"),
    "total_variation": (ee.total_variation, "log_p"),
    "hellinger": (ee.hellinger, "log_p"),
    "jensen_shannon": (ee.jensen_shannon, "log_p"),
    "cross_entropy": (ee.cross_entropy, "log_p"),
    "renyi_0": (lambda a, b, **options: ee.renyi_divergence(a, b, 0.0, **options), "log_p"),
    "renyi_1/4": (lambda a, b, **options: ee.renyi_divergence(a, b, 0.25, **options), "log_p"),
    "renyi_1": (lambda a, b, **options: ee.renyi_divergence(a, b, 1.0, **options), "log_p"),
    "renyi_2": (lambda a, b, **options: ee.renyi_divergence(a, b, 2.0, **options), "log_p"),
    "elbo_terms": (lambda a, b, **options: ee.elbo_terms(a, np.full(np.shape(a)[-1:], -np.log(8.0)), b, **options), "log_likelihood"),
}  # fmt: skip
WITHOUT_POLICY = {"elbo_gradient", "elbo_terms"}

# function of one table, and what it calls it
SINGLE: dict[str, tuple[Call, str]] = {
    "log_evidence": (ee.log_evidence, "log_joint"),
    "posterior": (ee.posterior, "log_joint"),
    "log_posterior": (ee.log_posterior, "log_joint"),
    "posterior_marginals": (lambda a: ee.posterior_marginals(a, ee.LatentSpace((2, 4))), "log_joint"),
    "map_state": (ee.map_state, "log_joint"),
    "top_states": (lambda a: ee.top_states(a, 1), "log_joint"),
    "sample_posterior": (lambda a: ee.sample_posterior(a, 2, rng=0), "log_joint"),
    "entropy": (ee.entropy, "log_q"),
}
TABLES = [(name, *PAIRED[name], "target") for name in PAIRED]
TABLES += [(name, PAIRED[name][0], "log_q", "q") for name in PAIRED]
TABLES += [(name, *SINGLE[name], "only") for name in SINGLE]
every_table = pytest.mark.parametrize(
    ("function", "argument", "role"), [row[1:] for row in TABLES], ids=[f"{r[0]}-{r[3]}" for r in TABLES]
)
every_pair = pytest.mark.parametrize(("function", "target"), PAIRED.values(), ids=PAIRED)


def good() -> Array:
    """A normalized table of 6 rows and 8 states."""
    return np.full((6, 8), -np.log(8.0))


def with_good_prior(log_likelihood: Any, log_q: Any) -> Any:
    """For a first argument that has no shape to make a prior of."""
    return ee.elbo_terms(log_likelihood, good(), log_q)


def call(function: Call, role: str, table: Any) -> Any:
    """Pass a table in its role; the other one is good and has its shape where that makes sense."""
    if role == "only":
        return function(table)
    other = good() if np.shape(table)[-1:] == (8,) else np.full(np.shape(table), -1.0)
    return function(table, other) if role == "target" else function(other, table)


def assert_refused(error: type[Exception], message: str, function: Call, *arguments: Any, **options: Any) -> Exception:
    """The exact error; no array is written to (read-only arrays would complain), and nothing warns."""
    before = [argument.copy() if isinstance(argument, np.ndarray) else None for argument in arguments]
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            argument.setflags(write=False)
    with warnings.catch_warnings(), pytest.raises(error, match=f"^{re.escape(message)}$") as caught:
        warnings.simplefilter("error")
        function(*arguments, **options)
    assert type(caught.value) is error
    for argument, copy in zip(arguments, before, strict=True):
        if copy is not None:
            assert argument.tobytes() == copy.tobytes()
    return caught.value


def with_entry(index: tuple[int, int], value: float) -> Array:
    table = good()
    table[index] = value
    return table


@every_table
def test_nan(function: Call, argument: str, role: str) -> None:
    table = with_entry((2, 5), NAN)
    table[4] = NAN
    error = assert_refused(
        ee.LogTableError, f"{argument} contains NaN at index (2, 5).", lambda t: call(function, role, t), table
    )
    assert error.argument == argument and error.value != error.value  # type: ignore[attr-defined]


@every_table
def test_plus_infinity(function: Call, argument: str, role: str) -> None:
    message = f"{argument} contains +inf at index (2, 5); a log density must be finite or -inf."
    assert_refused(ee.LogTableError, message, lambda t: call(function, role, t), with_entry((2, 5), INF))


@every_table
def test_nan_beside_impossible_and_infinite_entries(function: Call, argument: str, role: str) -> None:
    table = with_entry((3, 0), NAN)
    table[3, 1:] = -INF
    assert_refused(ee.LogTableError, f"{argument} contains NaN at index (3, 0).", lambda t: call(function, role, t), table)


@every_table
def test_no_states(function: Call, argument: str, role: str) -> None:
    message = f"{argument} has 0 states along axis=-1; at least 1 is required."
    function = with_good_prior if argument == "log_likelihood" else function
    if role == "only":
        assert_refused(ee.LogTableError, message, function, np.empty((3, 0)))
    elif role == "target":
        assert_refused(ee.LogTableError, message, function, np.empty((6, 0)), good())
    else:
        assert_refused(ee.LogTableError, message, function, good(), np.empty((6, 0)))


@every_table
def test_scalars(function: Call, argument: str, role: str) -> None:
    message = f"{argument} must have at least one axis, the states; got a scalar."
    arguments = {"only": (0.0,), "target": (0.0, good()), "q": (good(), 0.0)}[role]
    function = with_good_prior if argument == "log_likelihood" else function
    assert_refused(ee.LogTableError, message, function, *arguments)


BAD_DTYPES = [
    (np.ones((6, 8), bool), "bool"),
    (np.full((6, 8), "a"), "str32"),
    (np.full((6, 8), None), "object"),
    (np.ones((6, 8), np.complex128), "complex128"),
    (np.zeros((6, 8), "datetime64[D]"), "datetime64[D]"),
]
if np.dtype(np.longdouble).itemsize > 8:
    BAD_DTYPES.append((np.ones((6, 8), np.longdouble), np.dtype(np.longdouble).name))


@every_table
@pytest.mark.parametrize(("table", "dtype"), BAD_DTYPES, ids=[name for _, name in BAD_DTYPES])
def test_types_that_are_not_real_floats(function: Call, argument: str, role: str, table: Any, dtype: str) -> None:
    message = f"{argument} must be a real floating array; got dtype {dtype}."
    assert_refused(TypeError, message, lambda t: call(function, role, t), table.copy())


@every_table
def test_masked_arrays(function: Call, argument: str, role: str) -> None:
    message = f"{argument}: masked arrays are not supported; set masked states to -inf."
    for mask in (np.zeros((6, 8), bool), np.eye(6, 8, dtype=bool)):
        assert_refused(TypeError, message, lambda t: call(function, role, t), np.ma.masked_array(good(), mask))


@every_table
def test_large_integers(function: Call, argument: str, role: str) -> None:
    message = f"{argument} holds integers beyond 2**53, which float64 cannot represent exactly; pass float64."
    for value in (2**53 + 1, -(2**53) - 1):
        assert_refused(ee.LogTableError, message, lambda t: call(function, role, t), np.full((6, 8), value, np.int64))


class OnAnotherDevice:
    """What a tensor on an accelerator looks like from here."""

    dtype = "float32"
    shape = (6, 8)

    class device:
        type = "cuda"

        def __str__(self) -> str:
            return "cuda:0"

    device = device()  # type: ignore[assignment,misc]

    def detach(self) -> OnAnotherDevice:
        return self

    def numpy(self) -> Array:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class Unconvertible:
    """An array of a library that refuses an implicit copy."""

    shape = (6, 8)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


@every_table
def test_arrays_of_other_devices_name_the_way_out(function: Call, argument: str, role: str) -> None:
    message = f"{argument} must be on the CPU; got a tensor on cuda:0; pass {argument}.cpu().numpy()."
    assert_refused(TypeError, message, lambda t: call(function, role, t), OnAnotherDevice())
    with pytest.raises(TypeError, match=rf"^{argument} must be a real floating array; got .*{argument}\.cpu\(\)\.numpy\(\)\.$"):
        call(function, role, Unconvertible())


@every_pair
def test_shapes_differ(function: Call, target: str) -> None:
    for shape, other in (
        ((3, 8), (3, 7)),
        ((3, 8), (3, 1)),
        ((3, 1), (3, 8)),
        ((3, 8), (2, 8)),
        ((8,), (7,)),
        ((2, 3, 8), (3, 2, 8)),
    ):
        message = f"log_q must have the same shape as {target} {shape}; got {other}."
        if target == "log_likelihood" and shape[-1] == 1:
            continue  # there the prior is what disagrees first
        assert_refused(ee.LogTableError, message, function, np.full(shape, -np.log(8.0)), np.full(other, -np.log(other[-1])))


@every_pair
def test_q_without_support(function: Call, target: str) -> None:
    table = good()
    table[4] = -INF
    error = assert_refused(ee.LogTableError, "log_q has no support at index (4,).", function, good(), table)
    assert error.argument == "log_q"  # type: ignore[attr-defined]
    assert_refused(ee.LogTableError, "log_q has no support.", function, good()[0], table[4])
    assert_refused(ee.LogTableError, "log_q has no support.", function, good(), table[4])


@every_pair
def test_q_that_is_not_normalized(function: Call, target: str) -> None:
    table = good()
    table[3] += np.log(1.2)
    message = (
        f"log_q sums to 1.2 at index (3,) (log normalizer 0.182); the target comes first: are {target} and log_q swapped? "
        "Pass unnormalized=True if this is intended."
    )
    assert_refused(ee.LogTableError, message, function, good(), table)
    function(good(), table, unnormalized=True)
    function(good(), good() + 9e-7)
    with pytest.raises(ee.LogTableError, match=r"^log_q sums to 1 at index \(0,\) \(log normalizer 1\.1e-06\)"):
        function(good(), good() + 1.1e-6)
    with pytest.raises(ee.LogTableError, match=r"^log_q sums to inf at index \(0,\) \(log normalizer 1e\+03\)"):
        function(good(), good() + 1e3)


def test_entropy_without_support_or_normalization() -> None:
    table = good()
    table[4] = -INF
    assert_refused(ee.LogTableError, "log_q has no support at index (4,).", ee.entropy, table)
    with pytest.raises(ee.LogTableError, match=r"^log_q sums to 2 at index \(0,\) \(log normalizer 0\.693\)"):
        ee.entropy(good() + np.log(2.0))
    assert ee.entropy(good() + 5.0, unnormalized=True).shape == (6,)


@pytest.mark.parametrize("name", sorted({*PAIRED, "log_evidence", "entropy"} - WITHOUT_POLICY))
def test_nan_policy(name: str) -> None:
    function = PAIRED[name][0] if name in PAIRED else SINGLE[name][0]
    arguments = (good(), good()) if name in PAIRED else (good(),)
    message = "nan_policy must be one of 'raise', 'propagate'; got 'omit'."
    assert_refused(ValueError, message, function, *arguments, nan_policy="omit")
    whole = function(*arguments)
    for position in range(len(arguments)):
        for entry in (NAN, INF):
            tables = [table.copy() for table in arguments]
            tables[position][2, 5] = entry
            if entry == INF:  # never let through
                with pytest.raises(ee.LogTableError, match=r"contains \+inf at index \(2, 5\)"):
                    function(*tables, nan_policy="propagate")
                continue
            result = function(*tables, nan_policy="propagate")
            if name == "audit":
                assert result.status.tolist() == ["ok", "ok", "nan", "ok", "ok", "ok"]
                for field in ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy"):
                    assert np.isnan(getattr(result, field)[2]) and getattr(result.error, field)[2] == INF, field
                result, before = result.gap, whole.gap
            else:
                before = whole
            assert np.isnan(result[2])
            others = [0, 1, 3, 4, 5]
            assert np.array_equal(result[others], before[others])


@pytest.mark.parametrize("name", sorted({*PAIRED, "log_evidence", "entropy", "posterior", "log_posterior"} - WITHOUT_POLICY))
def test_executors_must_be_executors(name: str) -> None:
    function = PAIRED[name][0] if name in PAIRED else SINGLE[name][0]
    arguments = (good(), good()) if name in PAIRED else (good(),)
    message = "executor must have a submit method like concurrent.futures.Executor; got int."
    assert_refused(TypeError, message, function, *arguments, executor=4)


@pytest.mark.parametrize("name", [name for name in SINGLE if name not in ("log_evidence", "entropy")])
def test_rows_without_a_posterior(name: str) -> None:
    table = good()
    table[4] = -INF
    with pytest.raises(
        ee.ZeroEvidence, match=r"^log_joint has no possible state at index \(4,\): p\(x\) = 0 has no posterior"
    ) as caught:
        SINGLE[name][0](table)
    assert caught.value.index == (4,)
    assert ee.log_evidence(table)[4] == -INF


def test_impossible_rows_as_nan() -> None:
    table = good()
    table[4] = -INF
    for function in (ee.posterior, ee.log_posterior):
        result = function(table, impossible="nan")
        assert np.isnan(result[4]).all() and np.isfinite(result[:4]).all()
        assert_refused(ValueError, "impossible must be one of 'raise', 'nan'; got 'zero'.", function, good(), impossible="zero")


def test_options_of_single_functions() -> None:
    table = good()
    assert_refused(ValueError, "k must be an integer >= 1; got 0.", ee.top_states, table, 0)
    assert_refused(ValueError, "k must be an integer >= 1; got 2.0.", ee.top_states, table, 2.0)
    assert_refused(ValueError, "k must be at most the number of states 8; got 9.", ee.top_states, table, 9)
    assert_refused(ValueError, "size must be an integer >= 0; got -1.", ee.sample_posterior, table, -1)
    assert_refused(ValueError, "size must be an integer >= 0; got True.", ee.sample_posterior, table, True)
    message = "log_joint must have the 6 states of space along axis=-1; got 8."
    assert_refused(ee.LogTableError, message, ee.posterior_marginals, table, ee.LatentSpace((2, 3)))


def test_options_of_audit() -> None:
    table = good()
    assert_refused(ValueError, "certify must be one of None, 'arb'; got 'mpmath'.", ee.audit, table, table, certify="mpmath")
    with pytest.raises(ValueError, match=r"^include must be one of .*; got 'kl'\.$"):
        ee.audit(table, table, include=["kl"])
    with pytest.raises(ValueError, match=r"^include must name the order: \(\"renyi_divergence\", alpha\)"):
        ee.audit(table, table, include=["renyi_divergence"])
    result = ee.audit(table, table)
    with pytest.raises(
        AttributeError, match=r"^Audit has no quantity 'hellinger'; pass include=\('hellinger',\) to audit\(\)\.$"
    ):
        _ = result.hellinger
    with pytest.raises(ValueError, match=r"^name must be one of .*; got 'kl'\.$"):
        result.interval("kl")
    for weights, words in (
        (np.ones(5), "weights must have the shape (6,) of the rows; got (5,)."),
        (np.full(6, -1.0), "weights must be finite and not negative; got a negative, infinite or NaN weight."),
        (np.full(6, NAN), "weights must be finite and not negative; got a negative, infinite or NaN weight."),
        (np.full(6, INF), "weights must be finite and not negative; got a negative, infinite or NaN weight."),
    ):
        assert_refused(ee.LogTableError, words, result.total, weights)


@pytest.mark.parametrize("alpha", [NAN, -INF, [1.0, 2.0]])
def test_orders_of_renyi(alpha: Any) -> None:
    assert_refused(
        ValueError, f"alpha must be one real number or +inf; got {alpha!r}.", ee.renyi_divergence, good(), good(), alpha
    )


def test_the_prior_of_elbo_terms_must_be_normalized() -> None:
    with pytest.raises(ee.LogTableError, match=r"^log_prior must be normali[sz]ed; its log normalizer reaches 1 in size"):
        ee.elbo_terms(good(), good() + 1.0, good())
    for entry, words in ((NAN, "log_prior contains NaN at index (2, 5)."), (INF, "log_prior contains +inf at index (2, 5);")):
        with pytest.raises(ee.LogTableError, match=f"^{re.escape(words)}"):
            ee.elbo_terms(good(), with_entry((2, 5), entry), good())


def test_enumerations_that_cannot_be_held_are_refused_before_they_start() -> None:
    message = "enumeration needs 2**40 states (320.0 TiB) > max_bytes=2 GiB; raise max_bytes or work in blocks (states=...)"
    with pytest.raises(ee.EnumerationTooLarge) as caught:
        ee.LatentSpace((2,) * 40).states()
    assert caught.value.n_states == 2**40 and caught.value.max_bytes == 2**31
    assert str(caught.value).startswith("enumeration needs 2**40 states (") and str(caught.value).endswith(
        message.split("TiB) ")[1]
    )


# What is not bad: exact conversions.


def accepted() -> dict[str, Any]:
    """Tables that mean the same numbers as multiples of 1/8 between -4 and 0."""
    table = -np.arange(32.0).reshape(4, 8) / 8.0
    return {
        "float16": table.astype(np.float16),
        "float32": table.astype(np.float32),
        "list": table.tolist(),
        "tuple": tuple(map(tuple, table.tolist())),
        "big-endian": table.astype(">f8"),
        "read-only": np.frombuffer(table.tobytes()).reshape(4, 8),
        "subclass": table.view(type("Named", (np.ndarray,), {})),
    }


@pytest.mark.parametrize("table", accepted().values(), ids=accepted())
def test_exact_conversions(table: Any) -> None:
    plain = -np.arange(32.0).reshape(4, 8) / 8.0
    for function in (
        lambda t: ee.audit(t, plain, unnormalized=True).gap,
        lambda t: ee.gap(plain, t, unnormalized=True),
        ee.log_evidence,
    ):
        result = function(table)
        assert type(result) is np.ndarray and result.dtype == np.float64
        assert np.array_equal(result, function(plain))


def test_integers_are_numbers() -> None:
    table = -np.arange(8)
    for dtype in (np.int8, np.int32, np.int64):
        assert ee.log_evidence(table.astype(dtype)) == ee.log_evidence(table.astype(np.float64))
    assert ee.log_evidence(np.array([2**53, 0])) == 2.0**53


def network(**changes: Any) -> Any:
    given = {"states": {"a": ["n", "y"]}, "parents": {}, "tables": {"a": [0.5, 0.5]}} | changes
    return ee.models.BayesianNetwork.from_probabilities(**given)


def chain() -> Any:
    return ee.models.HiddenMarkov.random(ee.families.Categorical.random(2, 2, rng=0), rng=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ee.models.DawidSkene.from_votes([[0, 10**6]]), "enumeration needs 1000001 classes"),
        (lambda: ee.models.DawidSkene.from_votes([[0, 1]], raters=["a", "b"]), "raters must be an integer"),
        (
            lambda: ee.models.DawidSkene.from_votes([[0, 1]], raters=1),
            "raters must be a sequence of integers, one for each column; got int.",
        ),
        (lambda: network().infer("a"), "evidence must map nodes to what was seen; got str."),
        (lambda: network(parents=None), "parents must map nodes to sequences of nodes; got NoneType; {} for no edges."),
        (lambda: network().infer({}, "ab"), "nodes must be a sequence of nodes; got the string 'ab'; write ['ab']."),
        (lambda: network(tables={"a": [1.5, -0.5]}), "table of 'a' must hold finite probabilities >= 0; got -0.5."),
        (lambda: network(tables={"a": [np.nan, 0.5]}), "table of 'a' must hold finite probabilities >= 0; got nan."),
        (lambda: chain().log_evidence(3), "x must be one array, or a list of arrays, one per sequence; got int."),
        (lambda: chain().log_evidence(None), "x must be one array, or a list of arrays, one per sequence; got NoneType."),
    ],
)
def test_models_refuse_in_one_sentence(call: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_masks_of_observations_are_refused() -> None:
    x, words = (
        np.array([[0, 1], [1, 0]]),
        "masked arrays are not supported; set masked values to NaN where a value may be missing",
    )
    masked = np.ma.array(x, mask=x > 0)
    model = ee.models.Mixture.random(2, [2, 2], rng=1)
    for call in (
        lambda: ee.fit_em(model, masked),
        lambda: model.log_joint(masked),
        lambda: model.log_joint(list(masked)),
        lambda: ee.LatentSpace((2, 2)).index(masked),
        lambda: ee.families.Bernoulli.random(2, 2, rng=0).log_density(masked),
        lambda: ee.families.Categorical.random(2, 2, rng=0).log_density(masked[:, 0]),
        lambda: ee.families.Poisson([[0.0, 1.0]]).log_density(masked),
        lambda: ee.families.Gaussian([[0.0, 1.0]], [1.0], "spherical").log_density(masked.astype(float)),
        lambda: ee.models.HiddenMarkov([0.0], [[0.0]], ee.families.Categorical([[0.0, -np.inf]])).log_evidence([masked[:, 0]]),
    ):
        with pytest.raises(TypeError, match=words):
            call()
    with pytest.raises(TypeError, match="log_joint: masked arrays are not supported"):
        ee.audit([np.ma.array([0.0, 1.0], mask=[0, 1])], [[-np.log(2.0)] * 2])


def test_sizes_spaces_and_includes_that_are_none() -> None:
    table = np.log([0.5, 0.5])
    with pytest.raises(TypeError, match="space must be a LatentSpace; got tuple"):
        ee.posterior_marginals(table, (2,))
    with pytest.raises(ValueError, match=r"sizes\[0\] must be an integer >= 1; got 5.0"):
        ee.Grid.trapezoid((0, 1), 5.0)
    for include, words in (
        ([("renyi_divergence", 2.0), ("renyi_divergence", 3.0)], "include must name renyi_divergence once"),
        ([("chi2_divergence", 2.0)], "include must name chi2_divergence by its name"),
        ([("renyi_divergence", 2.0, 3.0)], "include must name renyi_divergence by its name"),
    ):
        with pytest.raises(ValueError, match=words):
            ee.audit(table, table, include=include)
