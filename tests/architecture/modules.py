"""What a fresh interpreter has imported after some work, and where the repository is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

_REPORT = "\nimport json, os, sys\nos.write({fd}, json.dumps(sorted(sys.modules)).encode())"


def modules_after(code: str, *arguments: str, env: dict[str, str] | None = None, cwd: Path = REPOSITORY) -> set[str]:
    """The names in `sys.modules` once the code has run, in an interpreter of its own. What it prints is nobody's."""
    reader, writer = os.pipe()
    with open(reader, "rb") as report:
        try:
            done = subprocess.run(
                [sys.executable, "-c", code + _REPORT.format(fd=writer), *arguments],
                env=env,
                cwd=cwd,
                pass_fds=(writer,),
                capture_output=True,
                text=True,
            )
        finally:
            os.close(writer)
        assert done.returncode == 0, done.stderr
        return set(json.loads(report.read()))


def tracked_files() -> list[Path]:
    """What belongs to the repository: everything but what .gitignore names."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [path for name in names if (path := REPOSITORY / name).is_file()]
