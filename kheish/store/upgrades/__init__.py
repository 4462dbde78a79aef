"""Formats of the state root and the numbered steps between them.

Format 1 is the first, so that there is no step yet. A step `n` turns what format `n` wrote into format `n + 1`; a
later format than ours is refused, never guessed (the rule of pebble's patches and of pueue's state upgrades).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kheish.errors import NewerFormat

FORMAT = 1
"""The format that this version writes."""

STEPS: tuple[Callable[[Path], None], ...] = ()
"""`STEPS[n - 1]` upgrades one session directory from format `n`; each may be repeated after a crash."""


def check_format(found: int, what: str = "the state root") -> None:
    """Refuse what a later Kheish wrote."""
    if found > FORMAT:
        raise NewerFormat(
            f"cannot read {what}: it has format {found} and this Kheish knows formats up to {FORMAT}; "
            "run the newer version that wrote it",
            found=found,
            known=FORMAT,
        )
