"""Pictures of what bounds do, computed exactly from gallery problems: numbers in ``data``, drawings in ``draw``."""

from elbo_exact._figures.files import FIGURES, write

__all__ = ["FIGURES", "write"]
