"""What the report shows, computed once: fits, tables of bounds, and the comparison with the reference numbers."""

from elbo_exact._study.result import Study
from elbo_exact._study.run import study

__all__ = ["Study", "study"]
