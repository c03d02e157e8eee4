"""pyro.contrib.funsor against the oracle, in a process of its own: funsor has one backend per process, and NumPyro sets JAX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_factors_outside_a_plate_are_counted_per_element():
    program = Path(__file__).with_name("funsor_program.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
