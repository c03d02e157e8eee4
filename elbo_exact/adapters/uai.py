"""UAI model files (2008 competition): numbers only, a preamble with sizes and scopes, then one table per scope."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.adapters._tokens import MAX_CATEGORIES, MAX_SCOPE, MAX_VARIABLES, Tokens, read_ascii, shown, table_size
from elbo_exact.models import BayesianNetwork

__all__ = ["from_uai", "read_uai_evidence"]

WORD = re.compile(r"\S+|\n", re.ASCII)


def from_uai(path: str | os.PathLike[str]) -> BayesianNetwork:
    """The Bayesian network in a UAI file whose type is ``BAYES``.

    Parameters
    ----------
    path : path
        A ``.uai`` file, or packed ``.uai.gz``, of at most 64 MiB unpacked.

    Returns
    -------
    BayesianNetwork
        Nodes ``x0``, ``x1`` ... with categories ``0``, ``1`` ...: the format has no names.

    Raises
    ------
    ValueError
        One sentence with file and line: a Markov network, other than ASCII digits, a table whose declared size is not the product of
        its variables, NaN, infinite or negative entries, rows that do not sum to 1, more or fewer words than declared.

    Notes
    -----
    The trap of the logarithm: results of the UAI competitions (``.PR`` files) are log10 Z, ours are natural logarithms. Divide by
    log(10) before comparing: ``network.log_evidence(evidence) / math.log(10)``. Probabilities in the file are no logarithms.
    The last variable of a scope is the node, the others are its parents, and the last varies fastest.
    """
    tokens = _tokens(path)
    kind = tokens.word("BAYES")
    if kind != "BAYES":
        hint = "; a Markov network has no normalized tables" if kind == "MARKOV" else ""
        tokens.fail(f"expected BAYES; got {shown(kind)}{hint}.")
    n_variables = tokens.integer("a number of variables", 1, MAX_VARIABLES)
    sizes = [tokens.integer("a number of categories", 1, MAX_CATEGORIES) for _ in range(n_variables)]
    n_tables = tokens.integer("a number of tables", 1, MAX_VARIABLES)
    if n_tables != n_variables:
        tokens.fail(f"expected {n_variables} tables, one per variable; got {n_tables}.")
    scopes = [_scope(tokens, n_variables) for _ in range(n_tables)]
    if len({scope[-1] for scope in scopes}) < n_variables:
        tokens.fail("expected every variable to be the last of one scope; got one twice.")
    names = [f"x{i}" for i in range(n_variables)]
    tables = {names[scope[-1]]: _table(tokens, scope, sizes) for scope in scopes}
    _end(tokens)
    states = {name: [str(value) for value in range(size)] for name, size in zip(names, sizes, strict=True)}
    parents = {names[scope[-1]]: [names[i] for i in scope[:-1]] for scope in scopes}
    try:
        return BayesianNetwork.from_probabilities(states, parents, tables)
    except ValueError as problem:
        raise ValueError(f"{tokens.name}, line {tokens.line}: {problem}") from None


def read_uai_evidence(path: str | os.PathLike[str], network: BayesianNetwork) -> dict[str, int]:
    """The observed variables of a ``.evid`` file for a network of `from_uai`: node to category number.

    Raises
    ------
    ValueError
        One sentence with file and line: a variable or a category that the network does not have, or a variable twice.

    Notes
    -----
    One sample: a count, then pairs of variable and category. Files of 2008 with a leading number of samples are read if that is 1.
    """
    tokens = _tokens(path)
    words: list[tuple[str, int]] = []
    while (word := tokens.peek()) is not None and len(words) <= 2 * MAX_VARIABLES + 2:
        words.append((word, tokens.line))
    tokens = Tokens(tokens.name, iter(words))
    if len(words) % 2 == 0 and len(words) >= 2:
        tokens.integer("a number of samples", 1, 1)
    nodes, sizes = network.nodes, network.sizes
    evidence: dict[str, int] = {}
    for _ in range(tokens.integer("a number of observed variables", 0, len(nodes))):
        variable = tokens.integer("a variable", 0, len(nodes) - 1)
        if nodes[variable] in evidence:
            tokens.fail(f"expected each variable once; got {variable} again.")
        evidence[nodes[variable]] = tokens.integer(f"a category of variable {variable}", 0, sizes[variable] - 1)
    _end(tokens)
    return evidence


def _tokens(path: str | os.PathLike[str]) -> Tokens:
    return Tokens(Path(path).name, _words(read_ascii(path)))


def _words(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in WORD.finditer(text):
        if match.group() == "\n":
            line += 1
        else:
            yield match.group(), line


def _scope(tokens: Tokens, n_variables: int) -> list[int]:
    length = tokens.integer("the length of a scope", 1, MAX_SCOPE)
    scope = [tokens.integer("a variable", 0, n_variables - 1) for _ in range(length)]
    if len(set(scope)) < length:
        tokens.fail("expected distinct variables in a scope; got one twice.")
    return scope


def _table(tokens: Tokens, scope: list[int], sizes: list[int]) -> FloatArray:
    shape = [sizes[i] for i in scope]
    size = table_size(tokens, shape, f"the table of variable {scope[-1]}")
    if tokens.integer("the size of a table", 0, 10**17) != size:
        tokens.fail(f"expected a table of {size} entries, the product of its variables; got another size.")
    # the list grows with the words that are there, not with the size that is declared
    table = np.array([tokens.number("a probability") for _ in range(size)]).reshape(shape)
    sums = table.sum(axis=-1)
    bad = np.abs(sums - 1.0) > 1e-4
    if bad.any():
        tokens.fail(f"expected rows of variable {scope[-1]} that sum to 1 within 1e-4; got {float(sums[bad][0]):.6g}.")
    return np.asarray(table / sums[..., None])


def _end(tokens: Tokens) -> None:
    extra = tokens.peek()
    if extra is not None:
        tokens.fail(f"expected the end of the file; got {shown(extra)}.")
