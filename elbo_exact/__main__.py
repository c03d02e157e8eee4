"""``python -m elbo_exact`` is ``elbo-exact``."""

import sys

from elbo_exact.cli import main

sys.exit(main())
