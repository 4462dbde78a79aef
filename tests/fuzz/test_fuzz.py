"""The short form of `python -m tests.fuzz`: one round over every operation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kheish.api.endpoints import ENDPOINTS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_what_a_daemon_does_is_what_its_description_says() -> None:
    """Of every operation a request was answered as it should be, and of none one as it should not."""
    command = [sys.executable, "-m", "tests.fuzz", "--examples", "3", "--seed", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-4_000:]}"
    header = next(line for line in done.stdout.splitlines() if line.startswith("operation ")).split()
    assert header[:3] == ["operation", "requests", "200"]
    for endpoint in ENDPOINTS:
        name = re.escape(f"{endpoint.method} {endpoint.path}")
        assert re.search(rf"^{name} +[1-9]", done.stdout, re.MULTILINE), name
