"""Lines that are read: a page of a screen, drawn as far as it is in sight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import overload

from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.selection import Selection
from textual.strip import Strip

from kheish.tui.actions import bindings
from kheish.tui.lines import strip_of, wrap
from kheish.tui.look import Look
from kheish.tui.widgets.lines_view import LinesView
from kheish.tui.widgets.rows import on_style

NAME_WIDTH = 12
DRAWN_AHEAD_LINES = 300
"""Of what is drawn in a thread: to scroll through what is short costs the loop nothing."""
Draw = Callable[[int], Sequence[Strip]]
"""Makes the lines for a width."""


class Sheet(LinesView, can_focus=True):
    """`draw` makes the lines for a width; it is asked again when that changes."""

    DEFAULT_CSS = """
    Sheet {
        background: $background; scrollbar-size-vertical: 1; scrollbar-gutter: stable; overflow-x: hidden;
        padding: 0 1; height: 1fr;
    }
    """
    BINDINGS = bindings("list")

    class Drawn(Message):
        """What was drawn beside the loop is shown."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._draw: Draw = lambda _: ()
        self._is_beside = False
        self.lines: Sequence[Strip] = ()
        self._drawn_width = 0

    def show(self, draw: Draw, *, from_top: bool = False, beside: bool = False) -> None:
        """The place stays, unless `from_top`. `beside` the loop it is drawn in a thread: then `Drawn` tells of it."""
        self._draw, self._is_beside = draw, beside
        self._redraw()
        if from_top:
            self.action_first()

    def _redraw(self) -> None:
        self._drawn_width = self.scrollable_content_region.width
        if self._drawn_width > 0:
            self.workers.cancel_group(self, "draw")
            if self._is_beside:
                self.run_worker(self._redraw_beside(self._drawn_width), group="draw")
            else:
                self._take(self._draw(self._drawn_width))

    async def _redraw_beside(self, width: int) -> None:
        draw, height = self._draw, self.size.height

        def drawn() -> Sequence[Strip]:
            lines = draw(width)
            lines[: max(height, DRAWN_AHEAD_LINES)]  # those that are seen first
            return lines

        self._take(await asyncio.to_thread(drawn))
        self.post_message(self.Drawn())

    def _take(self, lines: Sequence[Strip]) -> None:
        self.lines = lines
        self.virtual_size = Size(self._drawn_width, len(lines))
        self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        if self.scrollable_content_region.width != self._drawn_width:
            self._redraw()

    def render_line(self, y: int) -> Strip:
        width, base = max(1, self.scrollable_content_region.width), self.rich_style
        line = round(self.scroll_y) + y
        if line >= len(self.lines):
            return Strip.blank(width, base)
        return self.marked(on_style(self.lines[line], base, width), line)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selection.extract("\n".join(line.text.rstrip() for line in self.lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def _move(self, lines: int) -> None:
        self.scroll_to(y=self.scroll_y + lines, animate=False)

    def action_down(self) -> None:
        self._move(1)

    def action_up(self) -> None:
        self._move(-1)

    def action_half_down(self) -> None:
        self._move(max(1, self.size.height // 2))

    def action_half_up(self) -> None:
        self._move(-max(1, self.size.height // 2))

    def action_first(self) -> None:
        self.scroll_to(y=0, animate=False)

    def action_last(self) -> None:
        self.scroll_to(y=self.max_scroll_y, animate=False)


class Joined(Sequence[Strip]):
    """Lines followed by others, of which each is made only when it is in sight."""

    def __init__(self, first: Sequence[Strip], then: Sequence[Strip]) -> None:
        self._first = first
        self._then = then

    def __len__(self) -> int:
        return len(self._first) + len(self._then)

    @overload
    def __getitem__(self, index: int) -> Strip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Strip]: ...
    def __getitem__(self, index: int | slice) -> Strip | list[Strip]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        before = len(self._first)
        return self._first[index] if index < before else self._then[index - before]


def fact(name: str, value: str, width: int, look: Look, style: Style | None = None) -> list[Strip]:
    """`name` and what is said of it, in two columns; nothing where there is nothing to say."""
    lines = wrap(value, max(8, width - NAME_WIDTH)) if value else []
    return [
        strip_of((f"{name if i == 0 else '':<{NAME_WIDTH}}", look.dim), (line, style or look.text))
        for i, line in enumerate(lines)
    ]


def heading(text: str, look: Look, detail: str = "") -> list[Strip]:
    """A part of a sheet begins."""
    return [strip_of(), strip_of((text, look.heading), (f"  {detail}" if detail else "", look.dim))]
