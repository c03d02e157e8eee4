"""Problems and their answers to 30 digits as JSON files, for programs in any language."""

from elbo_exact._portable.files import write

__all__ = ["write"]
