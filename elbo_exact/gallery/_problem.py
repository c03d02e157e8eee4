"""A gallery problem: what was observed, which model it belongs to, and the numbers that a correct program prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._validate import FloatArray, categories, real_array
from elbo_exact.gallery._json import strict_json
from elbo_exact.gallery._network import network_table
from elbo_exact.gallery._tables import gaussian_tables, ising_tables
from elbo_exact.models import Monomial
from elbo_exact.space import LatentSpace

__all__ = ["Answer", "Problem", "load", "names", "parse"]


@dataclass(frozen=True)
class Answer:
    """One reference number.

    Parameters
    ----------
    quantity : str
        What it is: ``log_likelihood``, ``posterior``, ``parameter`` ...
    value : str
        As printed, so that its digits are known.
    where : dict
        Which one: ``classes``, ``step``, ``case``, ``variable``, ``state`` ...
    published : bool
        Printed in the source; otherwise computed by enumeration for this gallery.
    tolerance : float
        Half a unit of the last printed digit, unless the source is known to be off by more.
    """

    quantity: str
    value: str
    where: Mapping[str, Any]
    published: bool
    tolerance: float

    @property
    def number(self) -> float:
        """The value as a double."""
        return float(self.value)


@dataclass(frozen=True, eq=False)
class Problem:
    """One problem of the gallery; fields that its kind does not have are None.

    Parameters
    ----------
    name, title : str
        What it is called.
    kind : {"latent-class", "tied-multinomial", "network", "guided-network", "ising", "gaussian"}
        "latent-class": categorical answers whose classes are to be found. "tied-multinomial": a given EM starting model.
        "network": a discrete Bayesian network with evidence. "guided-network": one with a guide instead. "ising": spins on a torus. "gaussian": a Gaussian latent variable on
        a grid. The last four have tables instead of data to be fitted.
    description, source, license : str
        Texts for people.
    answers : tuple of Answer
        Reference numbers.
    x : ndarray
        Observations: answer patterns (N, D), or row numbers (N,) of a tied multinomial.
    counts : ndarray, shape (N,)
        How often each was seen.
    columns : tuple of str
        Names of the columns of a latent-class problem, or of the parameter groups of a tied multinomial.
    categories : tuple of tuple of str
        Names of the categories of each column or group.
    classes : tuple of int
        Numbers of latent classes worth fitting.
    model : Monomial
        Where EM starts in a tied multinomial.
    log_joint : ndarray, shape (cases, S)
        log p(evidence, latent state), of a network, of spins or of a Gaussian.
    log_prior : ndarray, shape (cases, S)
        A proposal, normalized: of a network, its latent variables drawn parents first, evidence held fixed (likelihood weighting);
        of spins, equal weight; of a Gaussian, the encoder.
    space : LatentSpace
        Latent variables of these tables, by name.
    states : dict
        State names of every variable.
    nodes : ndarray, shape (S,)
        Where a Gaussian latent variable lies in each state.
    constants : dict
        Its numbers x, mu, a and b.
    observed : tuple of dict
        Evidence, coupling or observation of each case.
    """

    name: str
    title: str
    kind: str
    description: str
    source: str
    license: str
    answers: tuple[Answer, ...]
    x: npt.NDArray[np.int64] | None = None
    counts: FloatArray | None = None
    columns: tuple[str, ...] = ()
    categories: tuple[tuple[str, ...], ...] = ()
    classes: tuple[int, ...] = ()
    model: Monomial | None = None
    log_joint: FloatArray | None = None
    log_prior: FloatArray | None = None
    space: LatentSpace | None = None
    states: Mapping[str, tuple[str, ...]] | None = None
    nodes: FloatArray | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    observed: tuple[Mapping[str, Any], ...] = ()

    def find(self, quantity: str, *, published: bool | None = None, **where: Any) -> tuple[Answer, ...]:
        """Answers of one quantity that agree with every condition given.

        Examples
        --------
        >>> [answer.value for answer in load("stouffer-toby").find("log_likelihood", published=True, classes=2)]
        ['-504.4677']
        """
        return tuple(
            answer
            for answer in self.answers
            if answer.quantity == quantity
            and published in (None, answer.published)
            and all(answer.where.get(key) == value for key, value in where.items())
        )

    def to_dict(self) -> dict[str, Any]:
        """Texts and answers as plain values; the data are fields of the object."""
        texts = ("name", "kind", "title", "description", "source", "license")
        answers = [{"quantity": a.quantity, "value": a.value, **a.where, "published": a.published} for a in self.answers]
        return {**{key: getattr(self, key) for key in texts}, "answers": answers}


def names() -> tuple[str, ...]:
    """Names of all problems, sorted.

    Examples
    --------
    >>> names()
    ('asia', 'burglary', 'coins', 'ising-torus', 'linkage', 'prior-chain', 'rainforth', 'rainy-sunny', 'snow-traffic', 'sprinkler', 'stouffer-toby', 'two-bits', 'umbrella')
    """
    files = (entry.name for entry in resources.files(__package__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


def load(name: str) -> Problem:
    """A problem of the gallery by name.

    Raises
    ------
    ValueError
        No problem of that name.

    Examples
    --------
    >>> import numpy as np, elbo_exact as ee
    >>> sprinkler = load("sprinkler")
    >>> np.exp(ee.log_evidence(sprinkler.log_joint)).round(5)
    array([0.44838])
    """
    if name not in names():
        raise ValueError(f"name must be one of {', '.join(names())}; got {name!r}.")
    return parse(resources.files(__package__).joinpath(f"{name}.json").read_bytes(), name)


def parse(text: str | bytes, name: str = "problem") -> Problem:
    """A problem from the text of a problem file, checked throughout.

    Raises
    ------
    ValueError
        Not strict JSON, or a field that is missing or does not fit the others; one line that names the file.
    """
    fields = strict_json(text, name)
    try:
        if not isinstance(fields, dict):
            raise TypeError("expected an object at the top")
        texts: dict[str, Any] = {key: str(fields[key]) for key in ("title", "kind", "description", "source", "license")}
        if texts["kind"] not in _READERS:
            raise ValueError(f"kind must be one of {', '.join(_READERS)}; got {texts['kind']!r}")
        answers = tuple(_answer(entry) for entry in fields["answers"])
        return Problem(name=name, answers=answers, **texts, **_READERS[texts["kind"]](fields))
    except KeyError as error:
        raise ValueError(f"{name} is not a valid problem file: missing {error}.") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{name} is not a valid problem file: {str(error).splitlines()[0].rstrip('.')}.") from None


def _answer(entry: Mapping[str, Any]) -> Answer:
    own = {"quantity", "value", "published", "tolerance"}
    value = str(entry["value"])
    decimals = len(value.partition(".")[2])
    return Answer(
        quantity=str(entry["quantity"]),
        value=value,
        where={key: part for key, part in entry.items() if key not in own},
        published=bool(entry.get("published", False)),
        tolerance=float(entry["tolerance"]) if "tolerance" in entry else 0.5 * 10.0**-decimals,
    )


def _latent_class(fields: Mapping[str, Any]) -> dict[str, Any]:
    labels = tuple(tuple(map(str, column)) for column in fields["categories"])
    x = np.stack(
        [
            categories([row[column] for row in fields["patterns"]], f"patterns, column {column}", len(names))
            for column, names in enumerate(labels)
        ],
        axis=1,
    )
    return {
        "x": x,
        "counts": _counts(fields, len(x)),
        "columns": tuple(map(str, fields["columns"])),
        "categories": labels,
        "classes": tuple(map(int, fields["classes"])),
    }


def _tied_multinomial(fields: Mapping[str, Any]) -> dict[str, Any]:
    groups = tuple(map(str, fields["groups"]))
    with np.errstate(divide="ignore", invalid="ignore"):
        start, constants = (np.log(real_array(fields[key], key)) for key in ("start", "constants"))
    return {
        "x": np.arange(len(constants)),
        "counts": _counts(fields, len(constants)),
        "columns": groups,
        "categories": (tuple(map(str, fields["categories"])),) * len(groups),
        "model": Monomial(start, constants, real_array(fields["exponents"], "exponents")),
    }


def _network(fields: Mapping[str, Any]) -> dict[str, Any]:
    log_joint, log_prior, space = network_table(fields["variables"], fields.get("tables", {}), fields["observed"])
    return {
        "log_joint": log_joint,
        "log_prior": log_prior,
        "space": space,
        "states": {variable["name"]: tuple(variable["states"]) for variable in fields["variables"]},
        "observed": tuple(fields["observed"]),
    }


def _guided(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A network with a guide of its own for every case: other tables for the same variables, all of them latent."""
    if len(fields["guides"]) != len(fields["observed"]) or any(fields["observed"]):
        raise ValueError("guides must be one for each case, and no case may observe anything.")
    rows = []
    for guide in fields["guides"]:
        variables = [{**variable, "table": guide[variable["name"]]} for variable in fields["variables"]]
        rows.append(network_table(variables, {}, [{}])[0][0])
    return {**_network(fields), "log_prior": np.stack(rows)}


def _ising(fields: Mapping[str, Any]) -> dict[str, Any]:
    log_joint, log_prior, space = ising_tables(fields["sides"], fields["couplings"])
    cases = tuple({"coupling": str(coupling)} for coupling in fields["couplings"])
    states = dict.fromkeys(space.names or (), ("up", "down"))
    return {"log_joint": log_joint, "log_prior": log_prior, "space": space, "states": states, "observed": cases}


def _gaussian(fields: Mapping[str, Any]) -> dict[str, Any]:
    log_joint, log_q, space, nodes = gaussian_tables(fields)
    states = {"z": tuple(f"{node:.6g}" for node in nodes)}
    return {
        "log_joint": log_joint,
        "log_prior": log_q,
        "space": space,
        "states": states,
        "nodes": nodes,
        "constants": {name: float(fields[name]) for name in ("x", "mu", "a", "b")},
        "observed": ({"x": str(fields["x"])},),
    }


def _counts(fields: Mapping[str, Any], n_rows: int) -> FloatArray:
    counts = real_array(fields["counts"], "counts")
    if counts.shape != (n_rows,) or not (counts >= 0.0).all():
        raise ValueError(f"counts must be {n_rows} numbers >= 0; got shape {counts.shape}")
    return counts


_READERS = {
    "latent-class": _latent_class,
    "tied-multinomial": _tied_multinomial,
    "network": _network,
    "guided-network": _guided,
    "ising": _ising,
    "gaussian": _gaussian,
}
