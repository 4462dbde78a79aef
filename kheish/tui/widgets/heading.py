"""The first line of a screen: what it is, and what there is to say of it in a few words."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from kheish.tui.look import Look


class Heading(Static):
    DEFAULT_CSS = """
    Heading { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, look: Look, title: str, detail: str = "") -> None:
        """Both are clean."""
        self.update(Text.assemble((title, look.heading), ("  ", look.dim), (detail, look.dim)))
