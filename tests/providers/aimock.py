"""An independent model server, which knows nothing of us: `@copilotkit/aimock` from the npm registry."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "@copilotkit/aimock@1.43.0"
INSTALL_TIMEOUT_S = 20.0


class Unavailable(Exception):
    """It cannot be had here; says why."""


def install(folder: Path) -> Path:
    """Installs it below a folder; returns its program. Raises Unavailable."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("there is no node and npm here")
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, cwd=folder)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"npm did not install {PACKAGE} within {INSTALL_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise Unavailable(f"npm cannot install {PACKAGE}: {done.stderr.strip()[-300:]}")
    return folder / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"


@contextlib.contextmanager
def serving(program: Path, folder: Path, fixtures: list[dict[str, Any]]) -> Iterator[str]:
    """Its URL, while it answers with these fixtures and with nothing else."""
    file = folder / "fixtures.json"
    file.write_text(json.dumps({"fixtures": fixtures}))
    command = ["node", str(program), "--port", "0", "--fixtures", str(file), "--strict", "--chunk-size", "4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found.group()
                break
        else:
            raise AssertionError(f"the model server left: {''.join(said)}")
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
