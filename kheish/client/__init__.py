"""The daemon's API as methods, in sync and async form; starts the daemon where there is none.

    from kheish.client import Kheish
    session = Kheish().sessions.create("name")

May import the foundations and wire; the standard library does the rest, so that a quick command stays quick.
"""

from __future__ import annotations

from kheish.client.client import AsyncKheish, Kheish
from kheish.client.errors import ApiError, DaemonUnreachable
from kheish.client.follow import StreamEvent

__all__ = ["ApiError", "AsyncKheish", "DaemonUnreachable", "Kheish", "StreamEvent"]
