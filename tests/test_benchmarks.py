"""The benchmark of a whole trace runs, at a shape that takes a second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL_TRACE = Path(__file__).parents[1] / "benchmarks" / "full_trace.py"


@pytest.mark.slow
def test_full_trace() -> None:
    command = [sys.executable, str(FULL_TRACE), "--small", "--repeat", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "active features" in done.stdout
    assert "residual" in done.stdout
