"""A list of one-line rows with a cursor. It draws only those in sight, so that thousands cost what ten do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from kheish.tui.actions import bindings


class Item(NamedTuple):
    """A row. One without an id is a heading: the cursor passes over it. `draw` takes the width."""

    id: str
    draw: Callable[[int], Strip]


class Rows(ScrollView, can_focus=True):
    DEFAULT_CSS = """
    Rows { background: $background; scrollbar-size-vertical: 1; overflow-x: hidden; }
    Rows > .rows--cursor { background: $panel; }
    Rows:focus > .rows--cursor { background: $primary 25%; }
    """
    COMPONENT_CLASSES = {"rows--cursor"}
    BINDINGS = bindings("list")

    class Highlighted(Message):
        def __init__(self, id: str) -> None:
            super().__init__()
            self.item_id = id

    class Chosen(Message):
        """By a click on the row that has the cursor, or twice on another."""

        def __init__(self, id: str) -> None:
            super().__init__()
            self.item_id = id

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._items: Sequence[Item] = ()
        self._cursor = -1

    @property
    def cursor(self) -> str:
        """The id of the row under it; "" in an empty list."""
        return self._items[self._cursor].id if 0 <= self._cursor < len(self._items) else ""

    def set(self, items: Sequence[Item], *, stay_first: bool = False) -> None:
        """Replaces the rows. The cursor stays on its row, or where that is gone, in its place; with `stay_first` one
        that is on the first row stays there, whatever comes to it."""
        before, at = self.cursor, self._cursor
        kept = "" if stay_first and at == self._near(0) else before
        self._items = items
        self._cursor = next((i for i, item in enumerate(items) if item.id == kept and kept), -1)
        if self._cursor < 0:
            self._cursor = self._near(min(max(at, 0), len(items) - 1))
        self.virtual_size = Size(self.scrollable_content_region.width, len(items))
        self._show_cursor()
        if self.cursor != before:
            self.post_message(self.Highlighted(self.cursor))

    def move_to(self, id: str) -> None:
        for i, item in enumerate(self._items):
            if id and item.id == id:
                self._move(i)

    def _near(self, index: int) -> int:
        """The row at the index, or the next one that takes the cursor."""
        order = [*range(index, len(self._items)), *range(index - 1, -1, -1)]
        return next((i for i in order if 0 <= i < len(self._items) and self._items[i].id), -1)

    def _step(self, by: int) -> None:
        if not self._items:
            return
        index, goal = self._cursor, self._cursor
        direction = 1 if by > 0 else -1
        for _ in range(abs(by)):
            index += direction
            while 0 <= index < len(self._items) and not self._items[index].id:
                index += direction
            if not 0 <= index < len(self._items):
                break
            goal = index
        self._move(goal)

    def _move(self, index: int) -> None:
        if index == self._cursor or index < 0:
            self._show_cursor()
            return
        self._cursor = index
        self._show_cursor()
        self.post_message(self.Highlighted(self.cursor))

    def on_resize(self, event: events.Resize) -> None:
        self._show_cursor()

    def _show_cursor(self) -> None:
        height = max(1, self.scrollable_content_region.height)
        top = round(self.scroll_y)
        first = self._cursor
        while first > 0 and not self._items[first - 1].id:
            first -= 1  # the headings above come into sight too
        if first < top:
            self.scroll_to(y=max(0, first), animate=False, force=True)
        elif self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False, force=True)
        self.refresh()

    def action_down(self) -> None:
        self._step(1)

    def action_up(self) -> None:
        self._step(-1)

    def action_half_down(self) -> None:
        self._step(max(1, self.size.height // 2))

    def action_half_up(self) -> None:
        self._step(-max(1, self.size.height // 2))

    def action_first(self) -> None:
        self._move(self._near(0))

    def action_last(self) -> None:
        self._step(len(self._items))

    def on_key(self, event: events.Key) -> None:
        moves = {
            "down": self.action_down,
            "up": self.action_up,
            "home": self.action_first,
            "end": self.action_last,
            "pagedown": self.action_half_down,
            "pageup": self.action_half_up,
        }
        if (move := moves.get(event.key)) is not None:
            move()
            event.stop()

    def on_click(self, event: events.Click) -> None:
        index = round(self.scroll_y) + event.y
        if not (0 <= index < len(self._items) and self._items[index].id):
            return
        if index == self._cursor or event.chain > 1:
            self._cursor = index
            self.post_message(self.Chosen(self.cursor))
        else:
            self._move(index)

    def render_line(self, y: int) -> Strip:
        width = max(1, self.scrollable_content_region.width)
        base = self.rich_style
        index = round(self.scroll_y) + y
        if index >= len(self._items):
            return Strip.blank(width, base)
        if index == self._cursor:
            background = self.get_component_rich_style("rows--cursor").bgcolor
            base = base + (Style(reverse=True) if self.app.no_color else Style(bgcolor=background))
        strip = self._items[index].draw(width)
        return on_style(strip, base, width)


def on_style(strip: Strip, base: Style, width: int) -> Strip:
    """The strip, cut or filled to the width, in its own styles upon another."""
    cropped = strip.crop(0, width) if strip.cell_length > width else strip
    found = Strip([Segment(text, base + style if style else base) for text, style, _ in cropped], cropped.cell_length)
    return found.extend_cell_length(width, base)
