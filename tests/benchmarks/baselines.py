"""What the machine itself does in this minute: the yardstick for everything else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.figures import Figure, sample_ms

RECORD = b"x" * 299 + b"\n"


def fdatasync(folder: Path, count: int) -> Figure:
    """Append 300 bytes and fdatasync, on the file system that the daemon uses."""
    fd = os.open(folder / "baseline", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append() -> None:
        os.write(fd, RECORD)
        os.fdatasync(fd)

    try:
        return Figure("raw append + fdatasync of 300 bytes", "ms", sample_ms(append, count))
    finally:
        os.close(fd)


def python_start(count: int) -> Figure:
    samples = sample_ms(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), count)
    return Figure("bare Python start", "ms", samples)
