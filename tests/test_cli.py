"""The command line: what each command prints, its exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact import cli
from elbo_exact._doctor import warm
from elbo_exact.gallery import names

HELP_BUDGET = 0.100  # seconds; what argparse and an interpreter need is 30 ms
PROGRAM = [sys.executable, "-m", "elbo_exact"]
TABLE = np.log([[0.3, 0.1], [0.05, 0.2]])
Q = np.log([[0.6, 0.4], [0.2, 0.8]])


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """Compiled beforehand, so that no program here has to say that it compiles."""
    warm()


@pytest.fixture
def npz(tmp_path: Path) -> str:
    np.savez(tmp_path / "tables.npz", log_joint=TABLE, log_q=Q)
    return str(tmp_path / "tables.npz")


def run(*arguments: str) -> int:
    """The exit code of a command in this process."""
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def strict(text: str) -> Any:
    """JSON without Python's extensions."""
    return json.loads(text, parse_constant=pytest.fail)


def test_help_is_instant_and_loads_nothing() -> None:
    code = (
        "import time, sys; start = time.perf_counter(); from elbo_exact import cli\n"
        "try: cli.main(['report', '--help'])\n"
        "except SystemExit: pass\n"
        "print(time.perf_counter() - start, file=sys.stderr)\n"
        "print([name for name in ('numpy', 'numba', 'scipy', 'matplotlib') if name in sys.modules], file=sys.stderr)"
    )
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    seconds, loaded = zip(*(each.stderr.splitlines() for each in done), strict=True)
    assert set(loaded) == {"[]"} and "--restarts" in done[0].stdout
    assert min(map(float, seconds)) < HELP_BUDGET


def test_the_program_starts_and_says_its_version() -> None:
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"elbo-exact {ee.__version__}\n"


def test_report_prints_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "coins") == 0
    out, err = capsys.readouterr()
    assert "Five sets of ten tosses" in out and " ".join(out.split()).endswith(ee.study("coins").sentence) and err == ""


def test_the_default_problem_is_the_survey() -> None:
    assert cli.parser().parse_args(["report"]).problem == "stouffer-toby"


@pytest.mark.parametrize("name", [name for name in names() if name != "stouffer-toby"])
def test_report_json_is_the_study(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", name, "--json") == 0
    assert strict(capsys.readouterr().out) == ee.study(name).to_dict()


def test_restarts_and_seed_reach_the_study(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from elbo_exact import _study

    seen: list[Any] = []
    coins = ee.study("coins")
    monkeypatch.setattr(_study, "study", lambda problem, **settings: seen.append((problem, settings)) or coins)
    assert run("report", "--restarts", "7", "--seed", "5") == 0
    assert seen == [("stouffer-toby", {"restarts": 7, "rng": 5, "progress": sys.stderr.isatty()})]


def test_a_reference_number_that_disagrees_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from elbo_exact import _study

    class Disagreeing:
        holds = False

        def to_dict(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(_study, "study", lambda problem, **settings: Disagreeing())
    assert run("report", "--json") == 1


def test_report_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert run("report", "sprinkler", "--plot", str(tmp_path / "a.png")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_audit_prints_the_audit(npz: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = ee.audit(TABLE, Q)
    assert run("audit", npz) == 0
    out = capsys.readouterr().out
    for value, bound in zip(result.elbo, result.error.elbo, strict=True):
        assert f"{value:.8g} ± {bound:.0e}" in out
    assert run("audit", npz, "--json") == 0
    assert strict(capsys.readouterr().out) == result.to_dict()


def test_audit_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("flint")
    np.savez(tmp_path / "a.npz", log_joint=TABLE, log_q=Q + 1.0)
    assert run("audit", str(tmp_path / "a.npz")) == 2
    assert "Pass unnormalized=True if this is intended." in capsys.readouterr().err
    assert run("audit", str(tmp_path / "a.npz"), "--unnormalized", "--certify", "arb", "--json") == 0
    found = strict(capsys.readouterr().out)
    assert found["certified"] == "arb"
    assert found["elbo"] == ee.audit(TABLE, Q + 1.0, unnormalized=True, certify="arb").elbo.tolist()


def test_audit_writes_infinities_as_strings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", log_joint=[[0.0, -np.inf], [-np.inf, -np.inf]], log_q=np.log([[0.5, 0.5], [0.5, 0.5]]))
    assert run("audit", str(tmp_path / "a.npz"), "--json") == 0
    found = strict(capsys.readouterr().out)
    assert found["elbo"] == ["-Infinity", "-Infinity"] and found["gap"] == ["Infinity", "NaN"]
    assert found["status"] == ["ok", "zero_evidence"]


def test_bounds_that_do_not_hold_are_exit_code_1(npz: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from elbo_exact import _audit

    right = _audit.audit

    def wrong(*arguments: Any, **settings: Any) -> Any:
        result = right(*arguments, **settings)
        object.__setattr__(result, "elbo", result.log_evidence + 1e-9)
        return result

    monkeypatch.setattr(_audit, "audit", wrong)
    assert run("audit", npz) == 1


def test_gallery_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gallery") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(names())
    assert run("gallery", "--json") == 0
    assert [entry["name"] for entry in strict(capsys.readouterr().out)] == list(names())
    assert run("gallery", "asia") == 0
    out = capsys.readouterr().out
    assert "Source: Lauritzen & Spiegelhalter (1988)" in out and "-5.868876836405" in out
    assert run("gallery", "asia", "--json") == 0
    assert strict(capsys.readouterr().out) == ee.gallery.load("asia").to_dict()


def test_doctor_exits_0_when_healthy_and_1_when_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("doctor") == 0
    assert "problems" in capsys.readouterr().out
    assert run("doctor", "--json") == 0
    assert strict(capsys.readouterr().out)["problems"] == []
    monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", "0")
    assert run("doctor", "--json") == 1
    assert "ELBO_EXACT_NUM_THREADS" in strict(capsys.readouterr().out)["problems"][0]


def test_cache_in_a_folder_of_its_own(tmp_path: Path) -> None:
    settings = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def cache(action: str) -> Any:
        done = subprocess.run([*PROGRAM, "cache", action, "--json"], capture_output=True, text=True, env=settings, check=True)
        return strict(done.stdout)

    place = tmp_path / "elbo_exact"
    assert cache("where")["folder"] == str(place) and cache("where")["files"] == 0
    (place / "elbo_exact.old.nbc").write_bytes(b"old")
    (place / "mine.txt").write_bytes(b"kept")
    assert cache("where")["files"] == 1
    assert cache("clear") == {**cache("where"), "removed": 1}
    assert [path.name for path in place.iterdir()] == ["mine.txt"]


def test_cache_prints_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cache", "where") == 0 and run("cache", "warm") == 0
    out = capsys.readouterr().out
    assert "folder" in out and "seconds" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "argument COMMAND: invalid choice: 'dance'"),
        (["report", "nope"], "name must be one of asia, burglary, "),
        (["report", "--restarts", "0"], "argument --restarts: expected a whole number >= 1; got '0'"),
        (["report", "--seed", "-1"], "argument --seed: expected "),
        (["report", "--seed", "1e3"], "argument --seed: expected a whole number >= 0; got '1e3'"),
        (["report", "--plot", "a.gif"], "the plot file must end in .png, .pdf, .svg; got 'a.gif'."),
        (
            ["report", "--plot", "none/a.png"],
            "the plot file must lie in an existing folder; got 'none/a.png'; create 'none' first.",
        ),
        (["gallery", "nope"], "name must be one of asia, burglary, "),
        (["audit"], "the following arguments are required: FILE.npz"),
        (["audit", "none.npz"], "none.npz: No such file or directory"),
        (["audit", "."], ".: Is a directory"),
        (["audit", "text.npz"], "text.npz is not a valid table file: it is not a readable zip archive"),
        (["audit", "shapes.npz"], "log_q must have the same shape as log_joint (2, 2); got (2, 3)."),
        (["audit", "nan.npz"], "log_joint contains NaN at index (0, 1)."),
        (["audit", "two\nlines.npz"], "two lines.npz: No such file or directory"),
        (["audit", "a.npz", "--certify", "magic"], "argument --certify: invalid choice: 'magic'"),
        (["cache", "eat"], "argument action: invalid choice: 'eat'"),
        (["doctor", "now"], "unrecognized arguments: now"),
    ],
    ids=range(19),
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.npz").write_text("hello", encoding="utf-8")
    np.savez("shapes.npz", log_joint=TABLE, log_q=np.zeros((2, 3)))
    np.savez("nan.npz", log_joint=[[0.0, np.nan]], log_q=np.log([[0.5, 0.5]]))
    before = sorted(os.listdir())
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"elbo-exact: error: {message}") and err.count("\n") == 1 and err.endswith("\n")
    assert sorted(os.listdir()) == before


def test_a_bad_plot_file_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from elbo_exact import _study

    monkeypatch.setattr(_study, "study", lambda *arguments, **settings: pytest.fail("too late"))
    assert run("report", "--plot", "a.gif") == 2


def test_other_endings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error, code in ((KeyboardInterrupt(), 130), (FloatingPointError("flushed"), 1), (OSError(28, "No space left"), 2)):

        def fail(options: Any, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr(cli, "_doctor", fail)
        assert run("doctor") == code
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["report", "asia"], ["gallery", "--json"]])
def test_a_closed_pipe_is_no_error(arguments: list[str]) -> None:
    subprocess.run([*PROGRAM, *arguments], capture_output=True, check=True)  # on a cold cache a line tells what it waits for
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_terminal_encoding(encoding: str) -> None:
    settings = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([*PROGRAM, "report", "sprinkler"], capture_output=True, env=settings, check=True)
    assert done.stderr == b"" and b"Wet grass" in done.stdout


def test_no_color_and_no_bar_where_nobody_looks() -> None:
    done = subprocess.run([*PROGRAM, "report", "coins"], capture_output=True, check=True)
    assert b"\x1b" not in done.stdout + done.stderr and done.stderr == b""


def test_a_bar_on_a_terminal() -> None:
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    leader, follower = pty.openpty()
    os.set_blocking(leader, False)
    termios.tcsetwinsize(follower, (24, 80))  # a new terminal has no columns, and so no bar
    code = "import sys; from elbo_exact._study.run import _bar; print(list(_bar([1, 2], 'EM')), sys.stderr.isatty())"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=follower, check=True)
    shown = os.read(leader, 4096)  # before the other end closes: then Linux forgets what was written
    os.close(follower)
    os.close(leader)
    assert done.stdout.strip() == b"[1, 2] True" and b"EM" in shown
