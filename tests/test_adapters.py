"""UAI and BIF files: what is read, and that a damaged file gives one sentence with file and line."""

import gzip
import importlib.metadata
import math
import re
import time
import tracemalloc

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.adapters import from_bif, from_uai, read_uai_evidence

UAI = """BAYES
3
2 2 3
3
1 0
2 0 1
2 1 2

2
 0.436 0.564

4
 0.128 0.872
 0.920 0.080

6
 0.210 0.333 0.457
 0.811 0.000 0.189
"""
BIF = """// a comment
network "two words" { property author nobody; }
variable rain { type discrete [ 2 ] { no, yes }; property position = (1, 2) ; }
variable wet {
  type discrete [ 3 ] { dry, damp/moist, "soaking" };
}
/* another
   comment */
probability ( rain ) { table 0.8, 0.2; }
probability ( wet | rain ) {
  default 0.5, 0.25, 0.25;
  (yes) 0.1, 0.2, 0.7;
}
"""
ONE_SENTENCE = re.compile(r"damaged\.(uai|bif|evid)(\.gz)?, line \d+: [^\n]+\.")


def written(tmp_path, text, name):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_uai_example(tmp_path):
    network = from_uai(written(tmp_path, UAI, "three.uai"))
    assert network.nodes == ("x0", "x1", "x2") and network.sizes == (2, 2, 3)
    assert network.parents["x2"] == ("x1",)
    assert network.marginals({"x0": 0})["x2"][2] == pytest.approx(0.128 * 0.457 + 0.872 * 0.189, abs=1e-15)
    evidence = read_uai_evidence(written(tmp_path, "2 0 1 2 0", "three.evid"), network)
    assert evidence == {"x0": 1, "x2": 0}
    log10 = network.log_evidence(evidence) / math.log(10.0)  # what a .PR file holds
    assert log10 == pytest.approx(math.log10(0.564 * (0.92 * 0.21 + 0.08 * 0.811)), abs=1e-15)
    assert read_uai_evidence(written(tmp_path, "1\n2 0 1 2 0", "old.evid"), network) == evidence
    assert read_uai_evidence(written(tmp_path, "0", "none.evid"), network) == {}


def test_bif_example(tmp_path):
    for name, text in (("rain.bif", BIF.encode()), ("rain.bif.gz", gzip.compress(BIF.encode()))):
        network = from_bif(written(tmp_path, text, name))
        assert dict(network.states) == {"rain": ("no", "yes"), "wet": ("dry", "damp/moist", "soaking")}
        np.testing.assert_allclose(np.exp(network.log_tables["wet"]), [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], rtol=1e-15)


def test_bif_table_has_the_last_parent_fastest(tmp_path):
    text = """variable a { type discrete [ 2 ] { 0, 1 }; } variable b { type discrete [ 2 ] { 0, 1 }; }
    variable c { type discrete [ 2 ] { 0, 1 }; } probability ( a ) { table 0.5, 0.5; } probability ( b ) { table 0.5, 0.5; }
    probability ( c | a, b ) { table 0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, 0.6; }"""
    table = np.exp(from_bif(written(tmp_path, text, "order.bif")).log_tables["c"])
    np.testing.assert_allclose(table[..., 0], [[0.1, 0.2], [0.3, 0.4]], rtol=1e-15)


def bundled():
    files = importlib.metadata.distribution("pgmpy").files or []
    return [file for file in files if file.name.endswith(".bif.gz")]


@pytest.mark.parametrize("file", bundled(), ids=lambda file: file.name)
def test_bundled_networks_are_read(file):
    network = from_bif(file.locate())
    text = gzip.decompress(file.locate().read_bytes()).decode()
    assert len(network.nodes) == len(re.findall(r"(?m)^variable ", text))
    assert sum(map(len, network.parents.values())) == sum(
        scope.count(",") + 1 for scope in re.findall(r"(?m)^probability \([^|)]*\|([^)]*)\)", text)
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("BAYES", "MARKOV", "line 1: expected BAYES; got 'MARKOV'; a Markov network has no normalized tables."),
        ("3\n2 2 3", "٣\n2 2 3", "line 2: expected ASCII text; got byte 0xd9."),
        ("3\n2 2 3", "1_0\n2 2 3", "line 2: expected a number of variables, an integer in 1 ... 100000; got '1_0'."),
        ("3\n2 2 3", "999999999999999999\n2 2 3", "line 2: expected a number of variables, an integer in 1 ... 100000"),
        ("2 2 3\n", "2 2 99999999\n", "line 3: expected a number of categories, an integer in 1 ... 10000; got '99999999'."),
        ("2 0 1", "2 0 7", "line 6: expected a variable, an integer in 0 ... 2; got '7'."),
        ("2 0 1", "2 1 1", "line 6: expected distinct variables in a scope; got one twice."),
        ("2 0 1", "2 1 0", "line 7: expected every variable to be the last of one scope; got one twice."),
        ("2 0 1", "99 0 1", "line 6: expected the length of a scope, an integer in 1 ... 32; got '99'."),
        ("4\n 0.128", "8\n 0.128", "line 12: expected a table of 4 entries, the product of its variables"),
        ("0.128", "nan", "line 13: expected a probability, a finite number >= 0; got 'nan'."),
        ("0.128", "inf", "line 13: expected a probability, a finite number >= 0; got 'inf'."),
        ("0.128", "1e999", "line 13: expected a probability, a finite number >= 0; got '1e999'."),
        ("0.128", "-0.128", "line 13: expected a probability, a finite number >= 0; got '-0.128'."),
        ("0.128", "0.228", "line 14: expected rows of variable 1 that sum to 1 within 1e-4; got 1.1."),
        ("0.189", "", "line 18: expected a probability; got the end of the file."),
        ("0.189", "0.189 1", "line 18: expected the end of the file; got '1'."),
    ],
)
def test_damaged_uai(tmp_path, old, new, message):
    assert UAI.count(old) >= 1
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_uai(written(tmp_path, UAI.replace(old, new, 1), "damaged.uai"))
    assert ONE_SENTENCE.fullmatch(str(caught.value))


def test_damaged_uai_cycle(tmp_path):
    text = "BAYES 2 2 2 2 2 1 0 2 0 1 4 1 0 1 0 4 1 0 1 0"
    with pytest.raises(ValueError, match="line 1: parents must not form a cycle; got x0 <- x1 <- x0."):
        from_uai(written(tmp_path, text, "damaged.uai"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a number of observed variables; got the end of the file."),
        ("1 9 0", "expected a variable, an integer in 0 ... 2; got '9'."),
        ("1 0 2", "expected a category of variable 0, an integer in 0 ... 1; got '2'."),
        ("2 0 1 0 1", "expected each variable once; got 0 again."),
        ("1 0 1 0 1", "expected the end of the file; got '0'."),
        ("3 1 0 1", "expected a number of samples, an integer in 1 ... 1; got '3'."),
    ],
)
def test_damaged_evidence(tmp_path, text, message):
    network = from_uai(written(tmp_path, UAI, "three.uai"))
    with pytest.raises(ValueError, match=re.escape(f"damaged.evid, line 1: {message}")):
        read_uai_evidence(written(tmp_path, text, "damaged.evid"), network)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("variable wet", "vareable wet", "line 4: expected network, variable or probability; got 'vareable'."),
        ("[ 2 ]", "[ 3 ]", "line 3: expected 3 distinct categories; got 2, 2 of them distinct."),
        ("no, yes", "no, no", "line 3: expected 2 distinct categories; got 2, 1 of them distinct."),
        ("discrete [ 2 ]", "continuous", "line 3: expected 'discrete'; got 'continuous'."),
        ("variable wet", "variable rain", "got 'rain' again or one more."),
        ("wet | rain", "wet | snow", "line 10: expected a variable declared before; got 'snow'."),
        ("wet | rain", "wet | wet", "line 10: expected one probability of 'wet' given distinct others; got another."),
        ("(yes)", "(maybe)", "line 12: expected one of no, yes; got 'maybe'."),
        ("(yes)", "(yes, no)", "line 12: expected 1 categories, one per parent; got 2."),
        ("0.1, 0.2, 0.7", "0.1, 0.2", "line 12: expected 3 probabilities; got 2."),
        ("0.1, 0.2, 0.7", "0.1, 0.2, 0.7, 0", "line 12: expected 3 probabilities; got more."),
        ("0.1, 0.2, 0.7", "0.1, x, 0.7", "line 12: expected a probability, a finite number >= 0; got 'x'."),
        ("0.1, 0.2, 0.7", "0.1, 0.2, 0.6", "expected rows of 'wet' that sum to 1 within 0.02; got 0.9."),
        ("default 0.5, 0.25, 0.25;", "", "expected rows of 'wet' that sum to 1 within 0.02; got a row without values."),
        ("comment */", "comment", "line 7: expected the end of a comment; got the end of the file."),
        ("probability ( rain ) { table 0.8, 0.2; }", "", "expected a probability of 'rain'; got none."),
    ],
)
def test_damaged_bif(tmp_path, old, new, message):
    assert BIF.count(old) >= 1
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_bif(written(tmp_path, BIF.replace(old, new, 1), "damaged.bif"))
    assert ONE_SENTENCE.fullmatch(str(caught.value))


def mutations(text, seed, n):
    """Damage of every kind: bytes changed, cut, doubled, swapped for words that break parsers."""
    rng = np.random.default_rng(seed)
    words = [b"nan", b"-1", b"1e999", b"99999999999999999999999", b"{", b"}", b"(", b";", b'"', b"/*", b"\x00", b"\xff", b"0x1"]
    for _ in range(n):
        data = bytearray(text.encode())
        for _ in range(rng.integers(1, 4)):
            at, to = sorted(rng.integers(0, len(data) + 1, 2).tolist())
            kind = rng.integers(4)
            if kind == 0:
                data[at : at + 1] = bytes([rng.integers(256)])
            elif kind == 1:
                del data[at : min(to, at + int(rng.integers(1, 40)))]
            elif kind == 2:
                data[at:at] = data[at : min(to, at + 60)]
            else:
                data[at:at] = b" " + words[rng.integers(len(words))] + b" "
        yield bytes(data)


@pytest.mark.parametrize(("reader", "text", "kind"), [(from_uai, UAI, "uai"), (from_bif, BIF, "bif")])
def test_fuzzed_files_give_a_network_or_one_sentence(tmp_path, reader, text, kind):
    path, refused = tmp_path / f"damaged.{kind}", 0
    for data in mutations(text, 1, 1500):
        path.write_bytes(data)
        try:
            network = reader(path)
        except ValueError as problem:
            refused += 1
            if not ONE_SENTENCE.fullmatch(str(problem)):
                raise AssertionError((data, str(problem))) from problem
        else:
            assert isinstance(network, ee.models.BayesianNetwork)
    assert refused > 750


@pytest.mark.parametrize(
    ("reader", "name", "text"),
    [
        (from_uai, "damaged.uai", "BAYES 20 " + "10000 " * 20 + "20 " + "20 " + " ".join(map(str, range(20))) + " 1 0" * 19),
        (from_uai, "damaged.uai", "BAYES 1 10000 1 1 0 10000 1"),
        (from_uai, "damaged.uai", "BAYES 1 2 1 1 0 2 0." + "1" * 2**21 + "x"),
        (from_bif, "damaged.bif", "variable a { type discrete [ 2 ] { " + "b" * 2**21 + " }; }"),
        (from_bif, "damaged.bif", '"' * 2**16),
        (from_bif, "damaged.bif", "/*" * 2**20),
        (from_bif, "damaged.bif", "network " + "{" * 2**16),
        (
            from_bif,
            "damaged.bif",
            "".join(f"variable v{i} {{ type discrete [ 100 ] {{ {', '.join(map(str, range(100)))} }}; }}\n" for i in range(9))
            + "probability ( v0 | v1, v2, v3, v4, v5, v6, v7, v8 ) { }",
        ),
        (  # many tables, each below the limit, filled from one line
            from_bif,
            "damaged.bif",
            "".join(f"variable v{i} {{ type discrete [ 100 ] {{ {', '.join(map(str, range(100)))} }}; }}\n" for i in range(60))
            + "".join(f"probability ( v{i} | v58, v59 ) {{ default 1{', 0' * 99}; }}\n" for i in range(58)),
        ),
    ],
)
def test_hostile_files_cost_little_time_and_memory(tmp_path, reader, name, text):
    path = written(tmp_path, text, name)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ValueError, match="damaged") as caught:
            reader(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ONE_SENTENCE.fullmatch(str(caught.value)) and len(str(caught.value)) < 300
    assert peak < 32 * len(text) + 2**24 * (8 + 2)  # all tables a file may have, and one while it is made
    assert time.perf_counter() - start < 10.0


def test_gzip_bombs_and_damaged_gzip(tmp_path):
    bomb = gzip.compress(bytes(2**26 + 2))
    assert len(bomb) < 2**17
    for data in (bomb, b"no gzip", gzip.compress(BIF.encode())[:-20], gzip.compress(BIF.encode())[:20] + b"\xff" * 40):
        with pytest.raises(ValueError, match="damaged") as caught:
            from_bif(written(tmp_path, data, "damaged.bif.gz"))
        assert ONE_SENTENCE.fullmatch(str(caught.value))


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_uai(tmp_path / "none.uai")


def test_unknown_adapter():
    with pytest.raises(AttributeError, match="has no attribute 'from_nothing'"):
        _ = ee.adapters.from_nothing
    assert "from_uai" in dir(ee.adapters)
