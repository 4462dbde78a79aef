"""A line to write on, which takes all of what is pasted: Textual's own keeps the first line and drops the others."""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from kheish.terminal import one_line


class Field(Input):
    def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        self._insert(event.text)

    def action_paste(self) -> None:
        self._insert(self.app.clipboard)

    def _insert(self, text: str) -> None:
        """As one line, blanks around it and all."""
        self.replace(one_line(f".{text}.")[1:-1], *self.selection)
