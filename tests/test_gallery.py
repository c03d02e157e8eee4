"""The gallery: every answer to all of its printed digits, and problem files that are not what they should be."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import study_of

import elbo_exact as ee
from elbo_exact import gallery
from elbo_exact._study import study
from elbo_exact.gallery import Answer, Problem
from elbo_exact.gallery._tables import ising_tables

FUZZ = int(os.environ.get("ELBO_EXACT_CAMPAIGN_FUZZ", "200"))  # damaged files


@cache
def problem(name: str) -> Problem:
    return gallery.load(name)


CASES = [(name, i) for name in gallery.names() for i in range(len(problem(name).answers))]


@pytest.mark.parametrize(("name", "index"), CASES, ids=[f"{name}-{i}-{problem(name).answers[i].quantity}" for name, i in CASES])
def test_every_answer_is_found_again_to_its_printed_digits(name: str, index: int) -> None:
    check = study_of(name).checks[index]
    assert check.answer == problem(name).answers[index]
    assert check.agrees, check


@pytest.mark.parametrize("name", [name for name in gallery.names() if name != "stouffer-toby"])
def test_a_wrong_last_digit_is_noticed(name: str) -> None:
    this = problem(name)
    answers = [wrong(answer) for answer in this.answers]
    assert not any(check.agrees for check in study(dataclasses.replace(this, answers=tuple(answers))).checks)


def wrong(answer: Answer) -> Answer:
    """The same answer, off by two units of its last digit; a name with a letter too many."""
    if answer.quantity == "map_state":
        return dataclasses.replace(answer, value=answer.value + "x")
    return dataclasses.replace(answer, value=repr(answer.number + 4.0 * answer.tolerance))


def test_the_proposal_of_a_network_is_likelihood_weighting() -> None:
    this = problem("asia")
    assert this.log_joint is not None and this.log_prior is not None
    for case, n_weights in ((0, 4), (1, 1)):
        drawn = this.log_prior[case] > -math.inf
        assert math.fsum(np.exp(this.log_prior[case, drawn])) == pytest.approx(1.0, abs=256 * 2.0**-52, rel=0.0)
        # the weight of a state is the product of the tables of the evidence: asia (one value) and dysp (four) in case 0
        weights = np.unique((this.log_joint[case, drawn] - this.log_prior[case, drawn]).round(12))
        assert len(weights) == n_weights
        assert not np.isfinite(this.log_joint[case, ~drawn]).any()


def test_soft_evidence_stays_out_of_the_proposal() -> None:
    this = problem("snow-traffic")
    assert this.log_joint is not None and this.log_prior is not None
    ratios = np.exp(this.log_joint[1] - this.log_prior[1]).round(12)
    assert sorted(set(ratios.tolist())) == [0.3, 0.7]


def test_names_are_the_files_and_every_problem_is_complete() -> None:
    assert {"coins", "linkage", "stouffer-toby", "asia", "burglary", "umbrella"} <= set(gallery.names())
    for name in gallery.names():
        this = problem(name)
        assert this.name == name and this.answers and all([this.title, this.source, this.license, this.description])
        given = this.kind in ("network", "guided-network", "ising", "gaussian")
        assert (this.log_joint is not None) == (this.log_prior is not None) == (this.space is not None) == given
        assert (this.x is None) == given
        # what is published of the last two are gradients, which have tests of their own below
        assert this.name in ("ising-torus", "rainforth", "prior-chain", "two-bits") or any(
            answer.published for answer in this.answers
        )


def test_the_torus_counts_every_edge_once() -> None:
    """Energy levels of the 4 x 4 torus (2 states at -32, 20524 at 0), and a 3 x 4 one by hand."""
    this = problem("ising-torus")
    assert this.log_joint is not None and this.log_prior is not None
    energies, counts = np.unique(np.round(-this.log_joint[0] / 0.2), return_counts=True)
    levels = {-32: 2, -24: 32, -20: 64, -16: 424, -12: 1728, -8: 6688, -4: 13568, 0: 20524}
    assert dict(zip(energies, counts, strict=True)) == levels | {-energy: n for energy, n in levels.items()}
    assert np.unique(this.log_prior).tolist() == [-16.0 * math.log(2.0)]
    small, _, space = ising_tables((3, 4), [0.5])
    for state in range(0, space.size, 37):
        spin = {
            place: 1 - 2 * bit for place, bit in zip(itertools.product(range(3), range(4)), space.states()[state], strict=True)
        }
        aligned = sum(s * spin[(i + 1) % 3, j] + s * spin[i, (j + 1) % 4] for (i, j), s in spin.items())
        assert small[0, state] == 0.5 * aligned


def test_the_gaussian_on_its_grid_has_the_evidence_of_the_continuum() -> None:
    """log p(x) = log N(x; mu, 2) = -log(4 pi)/2 - (x - mu)**2/4: the tails and the step of the grid are below rounding, which is
    u (|entry| + 8) for each of the entries, of at most 6 nats where the posterior is, and the library's own error."""
    this = problem("rainforth")
    assert this.log_joint is not None and this.log_prior is not None
    audited = ee.audit(this.log_joint[0], this.log_prior[0])
    closed = -0.5 * math.log(4.0 * math.pi) - (2.3 - 0.3) ** 2 / 4.0
    assert abs(audited.log_evidence - closed) <= audited.error.log_evidence + 14.0 * 2.0**-53
    assert abs(math.fsum(np.exp(this.log_prior[0])) - 1.0) <= 48.0 * 2.0**-53  # logarithms down to -40.5 nats


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sides": [2, 4]}, "sides must be an integer >= 3; got 2."),
        ({"sides": [4]}, "not enough values to unpack"),
        ({"sides": [40, 40]}, "bytes"),
        ({"couplings": ["inf"]}, "couplings must be finite; got 'inf'."),
    ],
)
def test_broken_tori_are_refused(change: dict[str, object], message: str) -> None:
    fields = json.loads(resources.files("elbo_exact.gallery").joinpath("ising-torus.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="problem is not a valid problem file") as caught:
        gallery.parse(json.dumps(fields | change))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "nan"}, "x must be finite"),
        ({"n_nodes": 1}, "n_nodes must be"),
        ({"reach": 0}, "reach must be > 0"),
        ({"n_nodes": 10**7}, "at most 10**6"),
    ],
)
def test_broken_gaussians_are_refused(change: dict[str, object], message: str) -> None:
    fields = json.loads(resources.files("elbo_exact.gallery").joinpath("rainforth.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="problem is not a valid problem file") as caught:
        gallery.parse(json.dumps(fields | change))
    assert message in str(caught.value)


def test_network_table_is_the_product_of_its_factors() -> None:
    this = problem("asia")
    assert this.space is not None and this.log_joint is not None and this.space.names is not None
    fields = json.loads(resources.files("elbo_exact.gallery").joinpath("asia.json").read_text(encoding="utf-8"))
    names = [variable["name"] for variable in fields["variables"]]
    for case, evidence in enumerate(fields["observed"]):
        for values in itertools.product(range(2), repeat=len(names)):
            state, p = dict(zip(names, values, strict=True)), 1.0
            for variable in fields["variables"]:
                entry = variable["table"]
                for parent in variable["parents"]:
                    entry = entry[state[parent]]
                p *= entry[state[variable["name"]]]
            agrees = all(["yes", "no"][state[name]] == value for name, value in evidence.items())
            column = this.space.index([state[name] for name in this.space.names])
            # eight factors: as many logarithms, sums and one exponential of at most 20 nats, each within 2 u of its size
            assert abs(math.exp(this.log_joint[case, column]) - p * agrees) <= 8 * 3 * 20 * 2.0**-53 * p


def test_contradicted_states_are_impossible() -> None:
    this = problem("burglary")
    assert this.space is not None and this.log_joint is not None and this.space.names is not None
    john = this.space.states()[:, this.space.names.index("john")]
    possible = this.log_joint > -math.inf
    assert not possible[0][john == 1].any() and not possible[2][john == 0].any() and possible[4].sum() == 16


def test_find_filters() -> None:
    this = problem("asia")
    assert [a.value for a in this.find("posterior", case=0, variable="bronc")] == ["0.81140", "0.811402071589"]
    assert this.find("nothing") == ()


MINIMAL = {
    "title": "t",
    "kind": "network",
    "description": "d",
    "source": "s",
    "license": "l",
    "answers": [],
    "variables": [{"name": "a", "states": ["yes", "no"], "parents": [], "table": [0.5, 0.5]}],
    "observed": [{}],
}
LATENT = {
    **{key: MINIMAL[key] for key in ("title", "description", "source", "license", "answers")},
    "kind": "latent-class",
    "columns": ["A"],
    "categories": [["1", "2"]],
    "classes": [1],
    "patterns": [[0], [1]],
    "counts": [1, 2],
}


def variable(**changes: Any) -> str:
    return json.dumps({**MINIMAL, "variables": [{**MINIMAL["variables"][0], **changes}]})  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)."),
        ("[]", "expected an object at the top."),
        ('{"title": NaN}', "NaN is not a number."),
        ('{"title": -Infinity}', "-Infinity is not a number."),
        ('{"title": 1e999}', "1e999 exceeds the range of doubles."),
        ('{"title": 1, "title": 2}', "duplicate key 'title'."),
        ("[" * 100_000, "nested too deeply."),
        ("1" * 5000, "Exceeds the limit (4300 digits) for integer string conversion"),
        (" " * 2**20 + "1", "1048577 bytes, at most 1048576 are read."),
        (b"\xff", "'utf-8' codec can't decode byte 0xff"),
        ("{}", "missing 'title'."),
        (
            json.dumps({**MINIMAL, "kind": "poem"}),
            "kind must be one of latent-class, tied-multinomial, network, guided-network, ising, gaussian; got 'poem'.",
        ),
        (json.dumps({**MINIMAL, "observed": [{"b": "yes"}]}), "observed names 'b', which is not a variable."),
        (json.dumps({**MINIMAL, "observed": [{"a": "perhaps"}]}), "observed 'a' must be one of yes, no; got 'perhaps'."),
        (json.dumps({**MINIMAL, "observed": [{"a": [1, -1]}]}), "observed 'a' must be a state or 2 likelihoods >= 0"),
        (json.dumps({**MINIMAL, "observed": []}), "observed must hold at least one case."),
        (variable(table=[0.5, 0.6]), "table of 'a' sums to 1.1; expected 1"),
        (variable(table=[-0.5, 1.5]), "table of 'a' contains NaN at index (0,)."),
        (variable(table=[1.0]), "table of 'a' must have shape (2,); got (1,)."),
        (variable(table="shared"), "missing 'shared'."),
        (variable(parents=["b"]), "missing 'b'."),
        (json.dumps({**LATENT, "counts": [1]}), "counts must be 2 numbers >= 0; got shape (1,)."),
        (json.dumps({**LATENT, "patterns": [[0], [2]]}), "patterns, column 0 must be in 0 ... 1; got 2 at index (1,)"),
        (json.dumps({**LATENT, "patterns": [[0], []]}), "list index out of range."),
    ],
)
def test_bad_files_are_refused_in_one_line(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^file is not a valid problem file: ") as caught:
        gallery.parse(text, "file")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_good_minimal_files() -> None:
    network, latent = gallery.parse(json.dumps(MINIMAL)), gallery.parse(json.dumps(LATENT))
    assert network.log_joint is not None and network.log_joint.tolist() == [np.log([0.5, 0.5]).tolist()]
    assert latent.x is not None and latent.x.tolist() == [[0], [1]]


@settings(max_examples=FUZZ)
@given(st.data())
def test_damaged_files_raise_only_value_errors(data: st.DataObject) -> None:
    text = json.dumps(data.draw(st.sampled_from([MINIMAL, LATENT])))
    first = data.draw(st.integers(0, len(text)))
    damaged = text[:first] + data.draw(st.text(max_size=8)) + text[first + data.draw(st.integers(0, 20)) :]
    with contextlib.suppress(ValueError):  # anything else is a bug of the reader
        assert gallery.parse(damaged).kind in ("network", "latent-class")


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"^name must be one of asia, .*umbrella; got '\.\./secrets'\.$"):
        gallery.load("../secrets")


@pytest.mark.parametrize(("case", "expected"), [(0, (0.0, 0.0)), (1, (0.588155842488810, -0.495040089526019))])
def test_gradient_of_the_two_bit_guide(case: int, expected: tuple[float, float]) -> None:
    """Of -ELBO in q(y = 1) = a and q(z = 1 | y = 1) = 1/10 + b, published to 15 digits."""
    this = gallery.load("two-bits")
    slope = ee.elbo_gradient(this.log_joint[case], this.log_prior[case])  # states (y, z) = 00, 01, 10, 11
    a, b = ((0.33, 0.55), (0.43, 0.27))[case]
    in_a = [-1.0 / (1.0 - a), -1.0 / (1.0 - a), 1.0 / a, 1.0 / a]
    in_b = [0.0, 0.0, -1.0 / (0.9 - b), 1.0 / (0.1 + b)]
    found = [-math.fsum(slope * part) for part in (in_a, in_b)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)  # the last printed digit, and 0 to rounding


@pytest.mark.parametrize(
    ("case", "n_steps", "expected"), [(0, 2, 0.102994902062635), (1, 3, 0.257487255156588), (2, 10, 1.648320756838347)]
)
def test_gradient_of_the_prior_chain(case: int, n_steps: int, expected: float) -> None:
    """Of -ELBO in the transition logits that p and q share: each row is (c, -c); log p adds E_q of a score, which is 0."""
    this = gallery.load("prior-chain")
    chain = ee.guides.Factors.chain(this.space)
    logits = np.log(np.concatenate([[0.5, 0.5], np.tile([0.75, 0.25, 0.25, 0.75], 9)]))
    guide = ee.guides.Structured(logits, chain)
    np.testing.assert_allclose(guide.log_q([0])[0], this.log_prior[case], rtol=1e-13, atol=1e-13)  # twenty terms
    gradient = -guide.pullback([0], ee.elbo_gradient(this.log_joint[case], this.log_prior[case])[None])
    rows = gradient[2:].reshape(9, 2, 2).sum(axis=0)
    np.testing.assert_allclose(rows, [[expected, -expected]] * 2, rtol=0, atol=2e-15 * n_steps)  # printed digits
