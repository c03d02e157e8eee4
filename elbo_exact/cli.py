"""The command line: each command calls one public function and prints its result.

Exit codes: 0 fine; 1 something that should hold does not (a reference number, a bound, the installation); 2 a mistake of the
user, told in one line on stderr. Output is plain text without colors, or JSON that a strict parser reads.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import elbo_exact
from elbo_exact import _fit_commands
from elbo_exact._test_commands import add_commands

__all__ = ["main", "parser"]

NAME = "elbo-exact"
OK, VIOLATED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.color = False  # Python 3.14 would color the help

    def error(self, message: str) -> NoReturn:
        """Tell it and leave with the code of a user's mistake."""
        self.exit(USAGE, f"{NAME}: error: {_one_line(message)}\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands.

    Examples
    --------
    >>> parser().parse_args(["report", "coins", "--restarts", "5"]).restarts
    5
    """
    top = Parser(prog=NAME, description="Exact variational inference on small latent spaces, each number with an error bound.")
    top.add_argument("--version", action="version", version=f"{NAME} {elbo_exact.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    report = _command(commands, "report", _report, "fit, audit and check a problem of the gallery")
    report.add_argument("problem", nargs="?", default="stouffer-toby", metavar="PROBLEM", help="default: %(default)s")
    report.add_argument("--plot", metavar="FILE", help="also draw it into a .png, .pdf or .svg file")
    report.add_argument("--restarts", type=_whole(1), default=20, metavar="N", help="random starts of EM, default %(default)s")
    report.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="where they come from, default %(default)s")

    audit = _command(commands, "audit", _audit, "every quantity of your own log tables")
    audit.add_argument("file", metavar="FILE.npz", help="arrays log_joint and log_q, states along the last axis")
    audit.add_argument("--unnormalized", action="store_true", help="log_q holds logits")
    audit.add_argument("--certify", choices=["arb"], help="correctly rounded values through ball arithmetic")

    bounds = _command(commands, "bounds", _bounds, "every bound on log p(x) around the exact value, with gap, error and cost")
    bounds.add_argument(
        "what",
        nargs="?",
        default="asia",
        metavar="PROBLEM|FILE.npz",
        help="a problem of the gallery or your own tables, default %(default)s",
    )
    bounds.add_argument("--plot", metavar="FILE", help="also draw it into a .png, .pdf or .svg file")
    bounds.add_argument("--unnormalized", action="store_true", help="log_q of the file holds logits")

    gallery = _command(commands, "gallery", _gallery, "list the problems, or show one")
    gallery.add_argument("name", nargs="?", metavar="NAME", help="show description, source and reference numbers")
    gallery.add_argument(
        "--export", metavar="DIR", help="write tables with 30-digit answers, and all problems, as JSON into an existing folder"
    )

    figures = _command(commands, "figures", _figures, "draw what bounds do, with the numbers beside each picture")
    figures.add_argument("folder", metavar="DIR", help="an existing folder for .png and .csv files")

    vae = _command(commands, "vae", _vae, "train a Gaussian VAE and show its ELBO beside the exact log p(x)")
    vae.add_argument(
        "data", nargs="?", default="digits", metavar="DATA.npz|digits", help="rows x of a file, default %(default)s"
    )
    vae.add_argument("--latent", type=_whole(1), default=2, metavar="N", help="dimensions of z, 1 to 3, default %(default)s")
    vae.add_argument("--hidden", type=_whole(1), default=64, metavar="N", help="units of the hidden layer, default %(default)s")
    vae.add_argument("--epochs", type=_whole(1), default=100, metavar="N", help="default %(default)s")
    vae.add_argument(
        "--audited", type=_whole(1), default=32, metavar="N", help="held-out rows that are audited, default %(default)s"
    )
    vae.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="of start, shuffles and noise, default %(default)s")
    vae.add_argument("--plot", metavar="DIR", help="an existing folder for five .png files")
    add_commands(functools.partial(_command, commands), _whole, _lines)
    _fit_commands.add_commands(functools.partial(_command, commands), _whole, _shown)

    _command(commands, "doctor", _doctor, "versions, threads, arithmetic, compiled kernels")
    cache = _command(commands, "cache", _cache, "where the compiled kernels are kept; compile them now; delete them")
    cache.add_argument("action", choices=["where", "warm", "clear"])
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Examples
    --------
    >>> main(["gallery", "coins"])  # doctest: +ELLIPSIS
    Five sets of ten tosses of one of two biased coins
    ...
    0
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± gets a question mark, not a traceback
    try:
        options = parser().parse_args(argv)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe has seen enough; Python must not complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return _tell("interrupted", INTERRUPTED)
    except FloatingPointError as error:
        return _tell(str(error), VIOLATED)
    except OSError as error:
        return _tell(f"{error.filename}: {error.strerror}" if error.filename else str(error), USAGE)
    except (ValueError, ImportError) as error:
        return _tell(str(error), USAGE)


def _report(options: argparse.Namespace) -> int:
    from elbo_exact import plot
    from elbo_exact._study import study
    from elbo_exact.report import study_text

    target = plot.check_target(options.plot) if options.plot else None  # a mistake must show before the work
    result = study(options.problem, restarts=options.restarts, rng=options.seed, progress=sys.stderr.isatty())
    if target is not None:
        plot.save(result, target)
    _print(options, result.to_dict, lambda: study_text(result))
    return OK if result.holds else VIOLATED


def _audit(options: argparse.Namespace) -> int:
    from elbo_exact._audit import audit
    from elbo_exact._npz import read_tables
    from elbo_exact._study.result import bounds_hold
    from elbo_exact.report import audit_text

    log_joint, log_q = read_tables(options.file)
    result = audit(log_joint, log_q, unnormalized=options.unnormalized, certify=options.certify)
    _print(options, result.to_dict, lambda: audit_text(result))
    return OK if bounds_hold(result) else VIOLATED


def _bounds(options: argparse.Namespace) -> int:
    from elbo_exact import plot
    from elbo_exact._npz import read_tables
    from elbo_exact._study import study
    from elbo_exact.bounds import ladder
    from elbo_exact.report import ladder_text

    target = plot.check_target(options.plot) if options.plot else None
    if options.what.endswith(".npz"):
        result = ladder(*read_tables(options.what), unnormalized=options.unnormalized)
    else:
        result = study(options.what).ladder
    if target is not None:
        plot.save_ladder(result, target)
    _print(options, result.to_dict, lambda: ladder_text(result))
    return OK if all(check.holds for check in result.verify()) else VIOLATED


def _gallery(options: argparse.Namespace) -> int:
    from elbo_exact.gallery import load, names
    from elbo_exact.report import gallery_text, problem_text

    if options.export is not None:
        if options.name is not None:
            raise ValueError(f"--export writes the whole gallery; got the name {options.name!r} too; leave it out.")
        from elbo_exact._portable import write

        return _told(options, write(options.export))
    if options.name is None:
        problems = [load(name) for name in names()]
        _print(options, lambda: [problem.to_dict() for problem in problems], lambda: gallery_text(problems))
    else:
        problem = load(options.name)
        _print(options, problem.to_dict, lambda: problem_text(problem))
    return OK


def _figures(options: argparse.Namespace) -> int:
    from elbo_exact._figures import write

    return _told(options, write(options.folder))


def _told(options: argparse.Namespace, files: Iterator[dict[str, Any]]) -> int:
    """Say what was written as soon as it is there."""
    from elbo_exact.report import fields_text

    done = []
    for entry in files:
        done.append(entry)
        if not options.json:
            print(fields_text(entry), flush=True)
    if options.json:
        _print(options, lambda: done, str)
    return OK


def _vae(options: argparse.Namespace) -> int:
    from elbo_exact._vae_plots import check_folder, write_pictures
    from elbo_exact._vae_study import vae_study
    from elbo_exact.report import vae_header, vae_line

    if options.plot is not None:
        check_folder(options.plot)  # a mistake must show before the work
    if not options.json:
        print(vae_header(), flush=True)
    result = vae_study(
        options.data,
        n_latent=options.latent,
        hidden=options.hidden,
        epochs=options.epochs,
        n_audited=options.audited,
        seed=options.seed,
        on_snapshot=None if options.json else lambda snapshot: print(vae_line(snapshot), flush=True),
    )
    pictures = list(write_pictures(result, options.plot)) if options.plot is not None else []
    if options.json:
        _print(options, lambda: {**result.to_dict(), "pictures": pictures}, str)
    else:
        print(f"{result.run.outcome.name}: {result.run.outcome.value} {result.run.detail}", *pictures, sep="\n")
    return OK if result.holds else VIOLATED


def _lines(lines: Callable[[argparse.Namespace], Iterator[tuple[str, bool]]]) -> Callable[[argparse.Namespace], int]:
    """A command that tells (line, fine?) as they come, and fails if one is not fine."""

    def run(options: argparse.Namespace) -> int:
        told = []
        for line, fine in lines(options):
            told.append({"line": line, "fine": fine})
            if not options.json:
                print(line, flush=True)
        if options.json:
            _print(options, lambda: told, str)
        return OK if all(entry["fine"] for entry in told) else VIOLATED

    return run


def _shown(compute: Callable[[argparse.Namespace], Any], text: Callable[[Any], str]) -> Callable[[argparse.Namespace], int]:
    """A command that computes, and shows the result as text or JSON."""

    def run(options: argparse.Namespace) -> int:
        result = compute(options)
        _print(options, lambda: result, lambda: text(result))
        return OK

    return run


def _doctor(options: argparse.Namespace) -> int:
    from elbo_exact._doctor import health
    from elbo_exact.report import fields_text

    found = health()
    state = {**found, "problems": " ".join(found["problems"]) or "none"}
    _print(options, lambda: found, lambda: fields_text(state))
    return VIOLATED if found["problems"] else OK


def _cache(options: argparse.Namespace) -> int:
    from elbo_exact._doctor import warm
    from elbo_exact.kernels._jit import cache_report, clear_cache
    from elbo_exact.report import fields_text

    removed = {"removed": clear_cache()} if options.action == "clear" else {}
    found = warm() if options.action == "warm" else {**removed, **cache_report()}
    _print(options, lambda: found, lambda: fields_text(found))
    return OK


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    command.add_argument("--json", action="store_true", help='strict JSON; infinities are the strings "Infinity", "-Infinity"')
    command.set_defaults(run=run)
    return command


def _whole(minimum: int) -> Callable[[str], int]:
    """A whole number of at least ``minimum``, for argparse."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) >= minimum):
            raise argparse.ArgumentTypeError(f"expected a whole number >= {minimum}; got {text!r}")
        return int(text)

    return convert


def _print(options: argparse.Namespace, fields: Callable[[], Any], text: Callable[[], str]) -> None:
    if not options.json:
        print(text())
        return
    from elbo_exact._plain import plain

    print(json.dumps(plain(fields()), allow_nan=False, indent=2))


def _tell(message: str, code: int) -> int:
    print(f"{NAME}: error: {_one_line(message)}", file=sys.stderr)
    return code


def _one_line(message: str) -> str:
    return " ".join(message.split())
