"""What is known of each bound: side, formula, when it is tight, cost, source, and what it needs of the support of q."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOGUE", "Entry", "catalogue"]


@dataclass(frozen=True)
class Entry:
    """One bound on log p(x).

    Attributes
    ----------
    name : str
        Its function in `elbo_exact.bounds`.
    side : str
        "lower", "upper", "both" (by a parameter), "exact" or "estimate", which is no bound.
    formula, tight, cost, citation : str
        With w = p(x, z)/q(z), l = log w, S states.
    needs_support : bool
        Whether it is +inf unless supp p lies within supp q.
    zero_weight : str
        What it returns where q has mass on an impossible state.
    """

    name: str
    side: str
    formula: str
    tight: str
    cost: str
    citation: str
    needs_support: bool
    zero_weight: str


CATALOGUE = (
    Entry("elbo", "lower", "E_q l", "q = p", "S", "Jordan et al. 1999, Mach. Learn. 37:183", False, "-inf"),
    Entry("eubo", "upper", "E_p l", "q = p", "S", "Ji & Shen 2019, arXiv:1911.05904", True, "finite, valid"),
    Entry(
        "renyi", "both", "log E_q w**(1-a) / (1-a)", "q = p, or a = 0", "S", "Li & Turner 2016, arXiv:1602.02311", True,
        "-inf for a >= 1, else finite, valid",
    ),
    Entry("cubo", "upper", "log E_q w**n / n, n > 1", "q = p", "S", "Dieng et al. 2017, arXiv:1611.00328", True, "finite, valid"),
    Entry(
        "perturbative", "lower", "log max_V exp(-V) E_q sum_(k <= K) (V+l)**k/k!, K odd", "q = p", "S K, and a root",
        "Bamler et al. 2017, arXiv:1709.07433", False, "-inf",
    ),
    Entry(
        "tvo", "both", "sum_k (b_k+1 - b_k) E_pi_b l at the left or right ends", "q = p; T -> inf", "S T",
        "Masrani, Le & Wood 2019, arXiv:1907.00031", True, "lower -inf, upper finite, valid; both finite when restricted",
    ),
    Entry(
        "thermodynamic", "exact", "integral of E_pi_b l over b in [0, 1]", "always", "S T", "Gelman & Meng 1998, Stat. Sci. 13:163",
        False, "-inf at b = 0; log(1 - q0) joins the integral",
    ),
    Entry(
        "iwae", "lower", "E log mean_k w_k, z_k ~ q", "q = p; K -> inf", "S x nodes (about 250)", "Burda et al. 2016, arXiv:1509.00519",
        False, "-inf",
    ),
    Entry(
        "iwae_upper", "upper", "E log mean_k w_k, z_1 ~ p, others ~ q", "q = p; K -> inf", "S x nodes (about 250)",
        "Sobolev & Vetrov 2019, NeurIPS", True, "finite, valid",
    ),
    Entry(
        "ais", "both", "sum_t (b_t - b_t-1) mu_t-1 . l, or its reverse", "q = p; T -> inf", "S T n (Gibbs), S**2 T (dense)",
        "Neal 2001, Stat. Comput. 11:125; Grosse et al. 2015, arXiv:1511.02543", True, "lower -inf, upper finite, valid",
    ),
    Entry(
        "jackknife", "estimate", "sum_j (-1)**j (K-j)**m/((m-j)! j!) L_(K-j)", "q = p; K -> inf", "as iwae", "Nowozin 2018, ICLR",
        False, "-inf",
    ),
    Entry("sumo", "lower", "L_(m+1) after m terms", "q = p; m -> inf", "as iwae", "Luo et al. 2020, ICLR", False, "-inf"),
)  # fmt: skip


def catalogue() -> tuple[Entry, ...]:
    """Every bound of `elbo_exact.bounds` with its side, formula, source and needs.

    Examples
    --------
    >>> [entry.name for entry in catalogue() if entry.side == "estimate"]
    ['jackknife']
    """
    return CATALOGUE
