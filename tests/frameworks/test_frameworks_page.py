"""Every fence of the page about frameworks runs, each by itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"
FENCES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(FENCES)))
def test_fence_runs(number):
    done = subprocess.run([sys.executable, "-c", FENCES[number]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
