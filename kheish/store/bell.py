"""How threads tell an event loop that there is something to see.

`call_soon_threadsafe` has the loop read twice for each call, and after each system call it waits for the interpreter
behind all threads that want it: here one read does for all that rang since it last looked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

_RINGS_MAX = 64


class Bell:
    """Made, answered and closed on one event loop, which calls every one of `looks` when it hears it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.looks: list[Callable[[], None]] = []
        self._is_rung = False
        self._hearing_end, self._ringing_end = os.pipe()
        loop.add_reader(self._hearing_end, self._answer)

    def ring(self) -> None:
        """From any thread, after what there is to see is there. Nothing is done where it rings already."""
        if not self._is_rung:
            self._is_rung = True
            os.write(self._ringing_end, b"\0")

    def _answer(self) -> None:
        os.read(self._hearing_end, _RINGS_MAX)
        self._is_rung = False  # before they look: what comes after that rings again
        for look in self.looks:
            look()

    def close(self) -> None:
        """Once nobody rings any more."""
        self._loop.remove_reader(self._hearing_end)
        os.close(self._hearing_end)
        os.close(self._ringing_end)
