"""Bayesian Interchange Format (Cozman 1998): networks of text blocks, one per variable and one per conditional table."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.adapters._rows import SUM_TOLERANCE, divided_rows
from elbo_exact.adapters._tokens import (
    MAX_CATEGORIES,
    MAX_VARIABLES,
    Tokens,
    read_ascii,
    shown,
    table_size,
)
from elbo_exact.models import BayesianNetwork

__all__ = ["from_bif"]

# alternatives begin with different characters: one pass, no backtracking
TOKEN = re.compile(r'//[^\n]*|/\*|"[^"\n]*"|[{}()\[\],;|]|[^\s{}()\[\],;|"]+|\n|"', re.ASCII)


def from_bif(path: str | os.PathLike[str]) -> BayesianNetwork:
    """The network in a BIF file, ``.bif`` or ``.bif.gz``.

    Parameters
    ----------
    path : path
        A file of at most 64 MiB, unpacked.

    Returns
    -------
    BayesianNetwork
        Nodes in the order of the file, categories under their names.

    Raises
    ------
    ValueError
        One sentence with file and line. Nothing in the file is executed, and no table is allocated before its size was checked.

    Notes
    -----
    Tables are printed with few digits. A row that sums to 1 within 0.02 is divided by its sum; others are refused. Properties are
    skipped. Entries come as one ``table`` (the node slowest, the last parent fastest) or as rows ``(parents) values``, with an optional
    ``default``.
    """
    name = Path(path).name
    tokens = Tokens(name, _words(name, read_ascii(path)))
    states: dict[str, list[str]] = {}
    parents: dict[str, list[str]] = {}
    tables: dict[str, FloatArray] = {}
    while (word := tokens.peek()) is not None:
        if word == "network":
            _network(tokens)
        elif word == "variable":
            _variable(tokens, states)
        elif word == "probability":
            _probability(tokens, states, parents, tables)
        else:
            tokens.fail(f"expected network, variable or probability; got {shown(word)}.")
    missing = next((node for node in states if node not in tables), None)
    if missing is not None or not states:
        tokens.fail(f"expected a probability of {missing!r}; got none." if states else "expected a variable; got none.")
    try:
        return BayesianNetwork.from_probabilities(states, parents, tables)
    except ValueError as problem:
        raise ValueError(f"{name}, line {tokens.line}: {problem}") from None


def _words(name: str, text: str) -> Iterator[tuple[str, int]]:
    """Words with their lines, without comments; quotes around names are taken off."""
    line, position = 1, 0
    while match := TOKEN.search(text, position):
        word, position = match.group(), match.end()
        if word == "\n":
            line += 1
        elif word == "/*":
            end = text.find("*/", position)
            if end < 0:
                raise ValueError(f"{name}, line {line}: expected the end of a comment; got the end of the file.")
            line += text.count("\n", position, end)
            position = end + 2
        elif not word.startswith("//"):
            yield word.strip('"') if len(word) > 1 else word, line


def _network(tokens: Tokens) -> None:
    while tokens.word("'{'") != "{":
        pass
    while (word := tokens.word("'}'")) != "}":
        if word == "{":
            tokens.fail("expected properties of the network; got '{'.")


def _variable(tokens: Tokens, states: dict[str, list[str]]) -> None:
    name = _name(tokens, "the name of a variable")
    if name in states or len(states) >= MAX_VARIABLES:
        tokens.fail(f"expected at most {MAX_VARIABLES} variables, each once; got {shown(name)} again or one more.")
    tokens.expect("{")
    while (word := tokens.word("'}'")) != "}":
        if word == "type":
            if name in states:
                tokens.fail(f"expected one type of {shown(name)}; got a second one.")
            states[name] = _categories(tokens)
        elif word == "property":
            _skip_property(tokens)
        else:
            tokens.fail(f"expected type, property or '}}'; got {shown(word)}.")
    if name not in states:
        tokens.fail(f"expected a type of {shown(name)}; got none.")


def _categories(tokens: Tokens) -> list[str]:
    tokens.expect("discrete")
    tokens.expect("[")
    count = tokens.integer("a number of categories", 1, MAX_CATEGORIES)
    tokens.expect("]")
    tokens.expect("{")
    found = _list(tokens, "}", "a category")
    if len(found) != count or len(set(found)) < count:
        tokens.fail(f"expected {count} distinct categories; got {len(found)}, {len(set(found))} of them distinct.")
    tokens.expect(";")
    return found


def _probability(
    tokens: Tokens, states: dict[str, list[str]], parents: dict[str, list[str]], tables: dict[str, FloatArray]
) -> None:
    tokens.expect("(")
    node, given = _scope(tokens)
    for name in (node, *given):
        if name not in states:
            tokens.fail(f"expected a variable declared before; got {shown(name)}.")
    if node in tables or len({node, *given}) <= len(given):
        tokens.fail(f"expected one probability of {shown(node)} given distinct others; got another.")
    sizes = [len(states[name]) for name in (*given, node)]
    table_size(tokens, sizes, f"the table of {shown(node)}")
    tokens.expect("{")
    table = np.full(sizes, np.nan)
    default: list[float] | None = None
    while (word := tokens.word("'}'")) != "}":
        if word == "table":
            # as written the node varies slowest and the last parent fastest
            values = _numbers(tokens, table.size)
            table[...] = np.moveaxis(np.array(values).reshape([sizes[-1], *sizes[:-1]]), 0, -1)
        elif word == "default":
            default = _numbers(tokens, sizes[-1])
        elif word == "(":
            chosen = _list(tokens, ")", "a category")
            index = _row(tokens, chosen, [states[name] for name in given])
            if not np.isnan(table[index]).all():
                tokens.fail(f"expected one row for these categories of the parents; got another of {shown(node)}.")
            table[index] = _numbers(tokens, sizes[-1])
        elif word == "property":
            _skip_property(tokens)
        else:
            tokens.fail(f"expected table, default, a row or '}}'; got {shown(word)}.")
    if default is not None:
        table = np.where(np.isnan(table), default, table)
    tables[node] = _normalized(tokens, table, node)
    parents[node] = given


def _scope(tokens: Tokens) -> tuple[str, list[str]]:
    node, given = _name(tokens, "a variable"), []
    word = tokens.word("'|' or ')'")
    if word == "|":
        given = _list(tokens, ")", "a parent")
    elif word != ")":
        tokens.fail(f"expected '|' or ')'; got {shown(word)}.")
    return node, given


def _row(tokens: Tokens, chosen: list[str], categories: list[list[str]]) -> tuple[int, ...]:
    if len(chosen) != len(categories):
        tokens.fail(f"expected {len(categories)} categories, one per parent; got {len(chosen)}.")
    for category, allowed in zip(chosen, categories, strict=True):
        if category not in allowed:
            tokens.fail(f"expected one of {', '.join(allowed[:8])}; got {shown(category)}.")
    return tuple(allowed.index(category) for category, allowed in zip(chosen, categories, strict=True))


def _numbers(tokens: Tokens, count: int) -> list[float]:
    values: list[float] = []
    while (word := tokens.word("';'")) != ";":
        if word != ",":
            values.append(tokens.as_number(word, "a probability"))
        if len(values) > count:
            break
    if len(values) != count:
        tokens.fail(f"expected {count} probabilities; got {'more' if len(values) > count else len(values)}.")
    return values


def _normalized(tokens: Tokens, table: FloatArray, node: str) -> FloatArray:
    divided, worst = divided_rows(table)
    if divided is None:
        came = "a row without values" if math.isnan(worst) else f"{worst:.6g}"
        tokens.fail(f"expected rows of {shown(node)} that sum to 1 within {SUM_TOLERANCE}; got {came}.")
    return divided


def _list(tokens: Tokens, end: str, what: str) -> list[str]:
    found: list[str] = []
    while (word := tokens.word(repr(end))) != end:
        if word in "{}()[];|":
            tokens.fail(f"expected {what} or {end!r}; got {shown(word)}.")
        if word != ",":
            found.append(word)
        if len(found) > MAX_CATEGORIES:
            tokens.fail(f"expected at most {MAX_CATEGORIES} names; got more.")
    return found


def _name(tokens: Tokens, what: str) -> str:
    word = tokens.word(what)
    if word in "{}()[],;|":
        tokens.fail(f"expected {what}; got {shown(word)}.")
    return word


def _skip_property(tokens: Tokens) -> None:
    while tokens.word("';'") != ";":
        pass
