"""What a write changed, small enough to be shown with its result."""

from __future__ import annotations

import difflib
from typing import Any

from kheish.limits import DIFF_BYTES_MAX, DIFF_INPUT_BYTES_MAX


def changes(path: str, old: bytes, new: bytes) -> dict[str, Any]:
    """`added` and `removed` lines and a unified `diff`, all absent where the texts are too large to compare fast."""
    if len(old) + len(new) > DIFF_INPUT_BYTES_MAX:
        return {}
    lines = [
        line.rstrip("\r\n")
        for line in difflib.unified_diff(
            old.decode("utf-8", "replace").splitlines(keepends=True),
            new.decode("utf-8", "replace").splitlines(keepends=True),
            f"a/{path}" if old else "/dev/null",
            f"b/{path}",
        )
    ]
    counted: dict[str, Any] = {
        "added": sum(line.startswith("+") for line in lines[2:]),
        "removed": sum(line.startswith("-") for line in lines[2:]),
    }
    diff = "\n".join(lines)
    return {**counted, "diff": diff} if len(diff.encode()) <= DIFF_BYTES_MAX else counted
