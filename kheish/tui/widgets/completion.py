"""What may be meant by the letters before the cursor: a short list above the composer, which keeps the focus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip

from kheish.terminal import one_line
from kheish.tui.lines import cut_columns
from kheish.tui.widgets.rows import Item, Rows

LINES_MAX = 8
_NAME_COLUMNS = 16


class Choice(NamedTuple):
    """`note` is said beside the name."""

    name: str
    note: str = ""


class Completion(Rows, can_focus=False):
    """Hidden while there is nothing to choose from. `chosen` is told of a click."""

    DEFAULT_CSS = """
    Completion {
        display: none; height: auto; margin: 0 1; background: $surface;
        scrollbar-background: $surface; scrollbar-color: $panel;
    }
    Completion > .rows--cursor { background: $primary 25%; }
    """

    def __init__(self, chosen: Callable[[], None]) -> None:
        super().__init__()
        self._chosen = chosen
        self.choices: Sequence[Choice] = ()

    @property
    def is_open(self) -> bool:
        return bool(self.choices)

    @property
    def choice(self) -> int:
        """The place of the one under the cursor; -1 while it is closed."""
        return int(self.cursor) if self.cursor else -1

    def show(self, choices: Sequence[Choice]) -> None:
        """Opens with the first of the choices under the cursor; closes where there is none."""
        self.choices = choices
        self.display = bool(choices)
        self.styles.height = min(LINES_MAX, len(choices))
        self.set([])
        self.set([Item(str(i), partial(_draw, choice)) for i, choice in enumerate(choices)])

    def close(self) -> None:
        if self.is_open:
            self.show(())

    def on_click(self, event: events.Click) -> None:
        event.prevent_default()
        index = round(self.scroll_y) + event.y
        if 0 <= index < len(self.choices):
            self._move(index)
            self._chosen()


def _draw(choice: Choice, width: int) -> Strip:
    dim = Style(dim=True)
    name = one_line(choice.name)
    if choice.note:
        name = cut_columns(name, _NAME_COLUMNS).ljust(_NAME_COLUMNS)
    name = cut_columns(name, max(1, width - 2))
    folder, slash, _ = name.rstrip("/").rpartition("/")
    head = folder + slash if not choice.note else ""
    parts = [(" ", Style()), (head, dim), (name[len(head) :], Style()), (f" {one_line(choice.note)}", dim)]
    return Strip([Segment(text, style) for text, style in parts if text])
