"""The export: problem files as they are, tables with their answers, and the schema of the latter."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from elbo_exact._portable.answers import DIGITS, answers
from elbo_exact._portable.problems import MOST_STATES, Case, adversarial, gallery_cases
from elbo_exact._validate import FloatArray
from elbo_exact.gallery import load, names

__all__ = ["FORMAT", "write"]

FORMAT = "elbo_exact-fixture-1"


def write(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Write everything into an existing folder; yield each file with its number of cases when it is there.

    Raises
    ------
    ValueError
        No such folder.
    ImportError
        Without python-flint (extra ``certify``).
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"the folder for the export must exist; got {str(folder)!r}; create it first.")
    schema = resources.files(__package__).joinpath("schema.json").read_bytes()
    for name, (purpose, cases) in adversarial().items():
        yield _saved(place / f"{name}.json", _fixture(name, purpose, "elbo_exact", "BSD-3-Clause", cases), len(cases))
    for name in names():
        problem, rows = load(name), tuple(gallery_cases(name))
        fixture = _fixture(name, problem.title, problem.source, problem.license, rows)
        yield _saved(place / f"{name}.json", fixture, len(rows))
    for name in names():
        yield _saved(
            place / f"{name}.problem.json", resources.files("elbo_exact.gallery").joinpath(f"{name}.json").read_bytes(), 0
        )
    yield _saved(place / "schema.json", schema, 0)


def _fixture(name: str, title: str, source: str, license: str, cases: Sequence[Case]) -> bytes:
    entries = [
        {
            "name": case.name,
            "log_joint": _numbers(case.log_joint),
            "log_q": _numbers(case.log_q),
            "answers": answers(case.log_joint, case.log_q),
        }
        for case in cases
    ]
    head = {"format": FORMAT, "name": name, "title": title, "source": source, "license": license, "digits": DIGITS}
    return (json.dumps({**head, "cases": entries}, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _numbers(row: FloatArray) -> list[float | str] | None:
    """Shortest decimals that read back as the same doubles; "-inf" is a string, which every parser reads. None: too many of them."""
    if len(row) > MOST_STATES:
        return None
    return [x if x > -float("inf") else "-inf" for x in row.tolist()]


def _saved(target: Path, content: bytes, n_cases: int) -> dict[str, Any]:
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return {"file": str(target), "cases": n_cases, "bytes": len(content)}
