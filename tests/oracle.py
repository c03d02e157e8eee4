"""The public naive oracle under its short name; its own tests are closed forms in test_testing_oracle.py."""

from elbo_exact.testing.oracle import *
