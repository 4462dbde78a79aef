"""The person's own editor, on a text that is handed to it as a file."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def edit_outside(text: str, argv: Sequence[str], suffix: str) -> str:
    """The text as the editor leaves it. Raises OSError, and CalledProcessError where the editor says that it failed."""
    with tempfile.TemporaryDirectory(prefix="kheish-") as folder:
        path = Path(folder, f"input{suffix}")
        path.write_text(text, "utf-8")
        subprocess.run([*argv, str(path)], check=True)
        return path.read_text("utf-8", "replace").rstrip("\n")
