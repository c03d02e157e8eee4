"""The public names, for type checkers; a test compares this file with the lazy one."""

from elbo_exact import adapters as adapters
from elbo_exact import anatomy as anatomy
from elbo_exact import bounds as bounds
from elbo_exact import families as families
from elbo_exact import fit as fit
from elbo_exact import gallery as gallery
from elbo_exact import guides as guides
from elbo_exact import importance as importance
from elbo_exact import models as models
from elbo_exact import projection as projection
from elbo_exact import sklearn as sklearn
from elbo_exact import testing as testing
from elbo_exact import vae as vae
from elbo_exact._audit import Audit as Audit
from elbo_exact._audit import audit as audit
from elbo_exact._density import DensityAudit as DensityAudit
from elbo_exact._density import audit_density as audit_density
from elbo_exact._gap_report import GapReport as GapReport
from elbo_exact._gap_report import gap_report as gap_report
from elbo_exact._study import Study as Study
from elbo_exact._study import study as study
from elbo_exact.divergence import chi2_divergence as chi2_divergence
from elbo_exact.divergence import cross_entropy as cross_entropy
from elbo_exact.divergence import entropy as entropy
from elbo_exact.divergence import forward_kl as forward_kl
from elbo_exact.divergence import gap as gap
from elbo_exact.divergence import hellinger as hellinger
from elbo_exact.divergence import jeffreys as jeffreys
from elbo_exact.divergence import jensen_shannon as jensen_shannon
from elbo_exact.divergence import renyi_divergence as renyi_divergence
from elbo_exact.divergence import reverse_kl as reverse_kl
from elbo_exact.divergence import total_variation as total_variation
from elbo_exact.errors import CollapsedComponent as CollapsedComponent
from elbo_exact.errors import EnumerationTooLarge as EnumerationTooLarge
from elbo_exact.errors import LogTableError as LogTableError
from elbo_exact.errors import ZeroEvidence as ZeroEvidence
from elbo_exact.evidence import log_evidence as log_evidence
from elbo_exact.evidence import log_posterior as log_posterior
from elbo_exact.evidence import map_state as map_state
from elbo_exact.evidence import posterior as posterior
from elbo_exact.evidence import posterior_marginals as posterior_marginals
from elbo_exact.evidence import sample_posterior as sample_posterior
from elbo_exact.evidence import top_states as top_states
from elbo_exact.fit import FitResult as FitResult
from elbo_exact.fit import Outcome as Outcome
from elbo_exact.fit import fit_em as fit_em
from elbo_exact.fit import fit_em_online as fit_em_online
from elbo_exact.fit import fit_vi as fit_vi
from elbo_exact.grid import Grid as Grid
from elbo_exact.space import LatentSpace as LatentSpace
from elbo_exact.variational import elbo as elbo
from elbo_exact.variational import elbo_gradient as elbo_gradient
from elbo_exact.variational import elbo_terms as elbo_terms
from elbo_exact.variational import eubo as eubo

__version__: str = "0.1.0"
__all__ = [
    "Audit",
    "CollapsedComponent",
    "DensityAudit",
    "EnumerationTooLarge",
    "FitResult",
    "GapReport",
    "Grid",
    "LatentSpace",
    "LogTableError",
    "Outcome",
    "Study",
    "ZeroEvidence",
    "__version__",
    "adapters",
    "anatomy",
    "audit",
    "audit_density",
    "bounds",
    "chi2_divergence",
    "cross_entropy",
    "elbo",
    "elbo_gradient",
    "elbo_terms",
    "entropy",
    "eubo",
    "families",
    "fit",
    "fit_em",
    "fit_em_online",
    "fit_vi",
    "forward_kl",
    "gallery",
    "gap",
    "gap_report",
    "guides",
    "hellinger",
    "importance",
    "jeffreys",
    "jensen_shannon",
    "log_evidence",
    "log_posterior",
    "map_state",
    "models",
    "posterior",
    "posterior_marginals",
    "projection",
    "renyi_divergence",
    "reverse_kl",
    "sample_posterior",
    "sklearn",
    "study",
    "testing",
    "top_states",
    "total_variation",
    "vae",
]
