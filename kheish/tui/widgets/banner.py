"""Lines across the screen that says why nothing comes from the daemon, and when the next try is."""

from __future__ import annotations

import time
from math import ceil

from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

from kheish.terminal import one_line


class Banner(Static):
    """Hidden while there is nothing to say."""

    DEFAULT_CSS = """
    Banner {
        display: none; dock: top; height: auto; max-height: 4; padding: 0 1; background: $warning; color: $background;
        text-style: bold;
    }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._text = ""
        self._retry_at_s = 0.0
        self._start_key = ""
        self._timer: Timer | None = None

    def show(self, text: str, retry_at_s: float = 0.0, *, start_key: str = "") -> None:
        """`start_key` starts a daemon that was stopped."""
        self._text, self._retry_at_s, self._start_key = one_line(text), retry_at_s, start_key
        self.display = bool(text)
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if text and retry_at_s:
            self._timer = self.set_interval(0.5, self._draw)
        self._draw()

    def _draw(self) -> None:
        text = self._text
        if self._retry_at_s and self._start_key:
            text += f" · {self._start_key} starts it"
        elif self._retry_at_s:
            wait_s = max(0, ceil(self._retry_at_s - time.monotonic()))
            text = f"not connected, trying again in {wait_s}s · {text}"
        self.update(Content(text))
