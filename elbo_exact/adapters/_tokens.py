"""Words of a text file with their lines, read under limits: a damaged or hostile file gives one sentence and no more memory."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

__all__ = ["MAX_ENTRIES", "MAX_FILE_BYTES", "MAX_SCOPE", "MAX_VARIABLES", "Tokens", "read_ascii", "table_size"]

MAX_FILE_BYTES = 2**26  # after decompression
MAX_VARIABLES = 100_000
MAX_CATEGORIES = 10_000
MAX_SCOPE = 32  # axes of one table
MAX_ENTRIES = 2**24  # of all tables of a file
MAX_WORD = 60  # characters of a word shown in a message
INTEGER = re.compile(r"[0-9]{1,18}", re.ASCII)
# no part can match the same text in two ways, so a long word is refused in linear time
NUMBER = re.compile(r"[+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)


class Tokens:
    """Words in order; every refusal names the file and the line."""

    def __init__(self, name: str, words: Iterator[tuple[str, int]]) -> None:
        self.name = name
        self.line = 1
        self.n_entries = 0
        self._words = words

    def fail(self, message: str) -> NoReturn:
        """Refuse the file at the line of the last word."""
        raise ValueError(f"{self.name}, line {self.line}: {message}")

    def word(self, what: str) -> str:
        """The next word; a file that ends here is refused."""
        found = self.peek()
        if found is None:
            self.fail(f"expected {what}; got the end of the file.")
        return found

    def peek(self) -> str | None:
        """The next word, or None at the end."""
        found = next(self._words, None)
        if found is None:
            return None
        self.line = found[1]
        return found[0]

    def expect(self, wanted: str) -> None:
        """The next word must be this one."""
        found = self.word(repr(wanted))
        if found != wanted:
            self.fail(f"expected {wanted!r}; got {shown(found)}.")

    def integer(self, what: str, low: int, high: int) -> int:
        """An integer in decimal ASCII digits, within limits."""
        text = self.word(what)
        if not INTEGER.fullmatch(text) or not low <= int(text) <= high:
            self.fail(f"expected {what}, an integer in {low} ... {high}; got {shown(text)}.")
        return int(text)

    def number(self, what: str) -> float:
        """A finite number >= 0 in decimal ASCII digits."""
        text = self.word(what)
        return self.as_number(text, what)

    def as_number(self, text: str, what: str) -> float:
        """The value of a word."""
        value = float(text) if NUMBER.fullmatch(text) and len(text) < 400 else -1.0
        if not 0.0 <= value < float("inf"):
            self.fail(f"expected {what}, a finite number >= 0; got {shown(text)}.")
        return value


def shown(word: str) -> str:
    """A word in quotes, shortened."""
    return repr(word if len(word) <= MAX_WORD else word[:MAX_WORD] + "...")


def table_size(tokens: Tokens, sizes: list[int], what: str) -> int:
    """Entries of a table, refused above the limits before anything is allocated."""
    if len(sizes) > MAX_SCOPE:
        tokens.fail(f"expected at most {MAX_SCOPE} variables in {what}; got {len(sizes)}.")
    size = math.prod(sizes)
    tokens.n_entries += size
    if tokens.n_entries > MAX_ENTRIES:
        tokens.fail(f"expected at most {MAX_ENTRIES} entries in all tables; got {size} more with {what}.")
    return size


def read_ascii(path: str | os.PathLike[str]) -> str:
    """The text of a file, unpacked if it ends in .gz; at most 64 MiB of ASCII."""
    name = Path(path).name
    try:
        with gzip.open(path) if name.endswith(".gz") else open(path, "rb") as file:
            pieces, size = [], 0
            while size <= MAX_FILE_BYTES and (piece := file.read(2**20)):  # memory grows with what is there
                pieces.append(piece)
                size += len(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error) as problem:
        raise ValueError(f"{name}, line 1: expected a gzip file; {problem}.") from None
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{name}, line 1: expected at most {MAX_FILE_BYTES} bytes; got more.")
    data = b"".join(pieces)
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise ValueError(f"{name}, line {line}: expected ASCII text; got byte {data[problem.start]:#04x}.") from None
