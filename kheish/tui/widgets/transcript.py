"""The conversation as one widget that draws the lines in sight, whatever its length.

Entries are drawn when they come into sight and kept as lines; those that were never seen have a guessed height. Where a
guess was wrong, or the width changes, the line that the person reads stays where it is. At its end it follows what
comes; whoever scrolls up stays there, and a mark says that there is more below.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from kheish.tui.entries import Drawing, drawings_of, text_of
from kheish.tui.lines import without_margin
from kheish.tui.links import url_at
from kheish.tui.live import Call, Change, Entry, Said
from kheish.tui.look import Look
from kheish.tui.widgets.lines_view import LinesView
from kheish.tui.widgets.rows import on_style

DRAWN_KEPT = 150
"""Entries whose lines are kept; it is more than a screen holds."""
_EDGE_LINES = 40
"""How near to its end a window asks for more."""


class Transcript(LinesView, can_focus=True):
    FOCUS_ON_CLICK = False  # who marks or unfolds something writes on where they wrote
    DEFAULT_CSS = """
    Transcript {
        background: $background; scrollbar-size-vertical: 1; scrollbar-gutter: stable; padding: 0 1; overflow-x: hidden;
    }
    """

    class NearTop(Message):
        """The first entry comes into sight: there may be older ones."""

    class NearBottom(Message):
        """The last entry of a window that is not at the end of the session comes into sight."""

    class Followed(Message):
        """Whether the end is in sight and what comes is followed."""

        def __init__(self, is_following: bool) -> None:
            super().__init__()
            self.is_following = is_following

    class Chosen(Message):
        """An entry was clicked."""

        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    class LinkChosen(Message):
        """An address was clicked."""

        def __init__(self, url: str) -> None:
            super().__init__()
            self.url = url

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """It never goes sideways: those keys are the screen's."""
        return action not in ("scroll_left", "scroll_right", "page_left", "page_right")

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
        self._look_id = 0
        self._drawings: list[Drawing] = []
        self._by_entry: dict[int, Drawing] = {}
        self._ends: list[int] = []
        self._drawn: dict[int, Drawing] = {}
        """Those whose lines are kept, the one that was in sight last at its end."""
        self._is_all_expanded = False
        self._unseen = 0
        self.is_following = True
        self._is_settling = False

    # -- what it shows -------------------------------------------------------------------------------------------

    @property
    def unseen(self) -> int:
        """Entries that came while it did not follow."""
        return self._unseen

    def show(self, entries: Sequence[Entry], *, at: str = "end") -> None:
        """Replaces everything; goes to the `end` or the `start`."""
        self._drawings = [drawing for entry in entries for drawing in self._make(entry)]
        self._by_entry = {id(d.entry): d for d in reversed(self._drawings)}
        self._unseen = 0
        self._follow(at == "end")
        if at == "start":
            self.set_reactive(ScrollView.scroll_y, 0.0)
            self.set_reactive(ScrollView.scroll_target_y, 0.0)
        self._settle((0, 0) if at == "start" and entries else None)

    def replace(self, entries: Sequence[Entry]) -> None:
        """Another window that overlaps with this one: the line that is read stays. Entries are known by their seq."""
        anchor = self._anchor()
        before = self._drawings[anchor[0]] if anchor else None
        offset = anchor[1] if anchor else 0
        self._drawings = [drawing for entry in entries for drawing in self._make(entry)]
        self._by_entry = {id(d.entry): d for d in reversed(self._drawings)}
        at = next((i for i, d in enumerate(self._drawings) if before and _same(d, before)), None)
        if at is not None:
            self._draw(self._drawings[at], self._width, self._now_ms())
        self._settle((at, offset) if at is not None else None)

    def change(self, change: Change) -> None:
        for entry in change.added:
            made = self._make(entry)
            self._drawings += made
            self._by_entry[id(entry)] = made[0]
        if not self.is_following:
            has_grown = bool(change.changed) and self._drawings[-1].entry is change.changed[-1]
            self._unseen = max(self._unseen + len(change.added), int(has_grown))
        self._settle()

    def _make(self, entry: Entry) -> list[Drawing]:
        made = drawings_of(entry)
        for drawing in made:
            drawing.is_expanded = self._is_all_expanded
        return made

    def look_changed(self, look: Look) -> None:
        self._look = look
        self._look_id += 1
        self._settle()

    def expand_all(self) -> bool:
        """Or collapses all; whether they are expanded now."""
        anchor = self._anchor()
        self._is_all_expanded = not self._is_all_expanded
        for drawing in self._drawings:
            drawing.is_expanded = self._is_all_expanded
        self._settle((anchor[0], 0) if anchor else None)
        return self._is_all_expanded

    def expand_entry(self, entry: Entry) -> None:
        drawing = self._by_entry.get(id(entry))
        if drawing is not None:
            drawing.is_expanded = not drawing.is_expanded
            self._settle()

    def tick(self) -> None:
        """Draws what shows a time that runs."""
        if any(isinstance(d.entry, Call) and d.entry.phase == "running" for d in self._drawings[-50:]):
            self._settle()

    def follow_end(self) -> None:
        self._follow(True)
        self._settle()

    def go_to_input(self, by: int) -> None:
        """To the input before what is in sight, or the one after it: to the beginning of the window, or the end, where
        there is none."""
        anchor = self._anchor()
        if anchor is None:
            return
        index, offset = anchor
        inputs = [i for i, drawing in enumerate(self._drawings) if isinstance(drawing.entry, Said)]
        if by < 0:
            before = [i for i in inputs if (i, 0) < (index, offset if offset >= 0 else 1)]
            self._follow(False)
            self._settle((before[-1] if before else 0, 0))
            if not before:
                self.post_message(self.NearTop())
        elif self.scroll_y < self.max_scroll_y and (after := [i for i in inputs if i > index]):
            self._follow(False)
            self._settle((after[0], 0))
        else:
            self.follow_end()

    # -- where things are ----------------------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        return max(10, self.scrollable_content_region.width)

    @property
    def _height(self) -> int:
        return max(1, self.scrollable_content_region.height)

    @staticmethod
    def _now_ms() -> int:
        return time.time_ns() // 1_000_000

    def _measure(self) -> None:
        width = self._width
        self._ends = list(accumulate(d.height(width) for d in self._drawings))

    def _top(self, index: int) -> int:
        return self._ends[index - 1] if index else 0

    def _at(self, y: int) -> int:
        """The entry that holds a line."""
        return min(bisect_right(self._ends, y), len(self._drawings) - 1)

    def _anchor(self) -> tuple[int, int] | None:
        """The entry at the top of what is in sight, and its line there: counted from its end, and negative, where it
        was not drawn, since its end is what is in sight already."""
        if not self._drawings or not self._ends:
            return None
        y = min(round(self.scroll_y), self._ends[-1] - 1)
        index = self._at(max(0, y))
        drawing = self._drawings[index]
        if drawing.is_drawn(self._width, self._look_id, self._now_ms() // 1000):
            return index, y - self._top(index)
        return index, y - self._ends[index]

    def _settle(self, anchor: tuple[int, int] | None = None) -> None:
        """Draws what is in sight and puts it in its place."""
        if self._is_settling or not self.is_attached:
            return
        self._is_settling = True
        try:
            if anchor is None and not self.is_following:
                anchor = self._anchor()
            self._draw_in_sight(anchor)
        finally:
            self._is_settling = False
        self._forget_out_of_sight()
        self.refresh()

    def _draw(self, drawing: Drawing, width: int, now_ms: int) -> list[Strip]:
        self._drawn.pop(id(drawing), None)
        self._drawn[id(drawing)] = drawing
        return drawing.draw(width, self._look, self._look_id, now_ms)

    def _forget_out_of_sight(self) -> None:
        while len(self._drawn) > DRAWN_KEPT:
            self._drawn.pop(next(iter(self._drawn))).forget()

    def _draw_in_sight(self, anchor: tuple[int, int] | None) -> None:
        width, height, now_ms = self._width, self._height, self._now_ms()
        drawings = self._drawings
        if self.is_following or anchor is None:
            missing = height
            for drawing in reversed(drawings):
                missing -= len(self._draw(drawing, width, now_ms))
                if missing <= 0:
                    break
            self._measure()
            y = max(0, (self._ends[-1] if self._ends else 0) - height)
        else:
            index, offset = anchor
            missing = height
            for i in range(index, len(drawings)):
                lines = self._draw(drawings[i], width, now_ms)
                if i == index:
                    if offset < 0:
                        offset = max(0, len(lines) + offset)
                    offset = min(offset, max(0, len(lines) - 1))
                    missing += offset
                missing -= len(lines)
                if missing <= 0:
                    break
            self._measure()
            y = self._top(index) + offset
        total = self._ends[-1] if self._ends else 0
        if self.virtual_size != Size(width, total):
            self.virtual_size = Size(width, total)
            self._refresh_scrollbars()
        y = max(0, min(y, total - height))
        if round(self.scroll_y) != y:
            self.scroll_to(y=y, animate=False, force=True)

    # -- moving --------------------------------------------------------------------------------------------------

    def scroll_to(self, x: float | None = None, y: float | None = None, **options: Any) -> None:
        """At once: a line that glides cannot stay where it is when the lines above it turn out longer."""
        super().scroll_to(x, y, **{**options, "animate": False})

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self._is_settling or not self._drawings:
            return
        self._follow(new_value >= self.max_scroll_y - 0.5)
        self._settle()
        if new_value < _EDGE_LINES and new_value < old_value:
            self.post_message(self.NearTop())
        elif self.max_scroll_y - new_value < _EDGE_LINES and new_value > old_value:
            self.post_message(self.NearBottom())

    def _follow(self, is_following: bool) -> None:
        if is_following:
            self._unseen = 0
        if self.is_following != is_following:
            self.is_following = is_following
            self.post_message(self.Followed(is_following))

    def on_resize(self, event: events.Resize) -> None:
        self._settle()

    def on_click(self, event: events.Click) -> None:
        y = round(self.scroll_y) + event.y
        if self._drawings and self._ends and y < self._ends[-1] and self.text_selection is None:
            at = event.get_content_offset(self)
            if at is not None and (url := self._url_at(at.x, y)):
                self.post_message(self.LinkChosen(url))
            else:
                self.post_message(self.Chosen(self._drawings[self._at(y)].entry))

    def _url_at(self, x: int, y: int) -> str:
        """The address that is shown at a column of a line."""
        index = self._at(y)
        drawing, row = self._drawings[index], y - self._top(index)
        if row >= len(drawing.lines) or x >= drawing.lines[row].cell_length:
            return ""
        strip = drawing.lines[row]
        under = next((segment.style for segment in strip.crop(x, x + 1) if segment.text), None)
        is_link = under is not None and bool(under.underline)
        return url_at(strip.text, len(strip.crop(0, x).text), text_of(drawing.entry), is_link=is_link)

    # -- drawing -------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width = self._width
        base = self.rich_style
        line = round(self.scroll_y) + y
        if not self._ends or line >= self._ends[-1]:
            return Strip.blank(width, base)
        index = self._at(line)
        lines = self._drawings[index].lines
        at = line - self._top(index)
        if at >= len(lines):
            return Strip.blank(width, base)
        return self.marked(on_style(lines[at], base, width), line)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        first = selection.start.y if selection.start else 0
        last = selection.end.y if selection.end else (self._ends[-1] if self._ends else 0)
        lines: list[str] = []
        for drawing, end in zip(self._drawings, self._ends, strict=True):
            height = drawing.height(self._width)
            if end < first or end - height > last:
                lines += [""] * height
                continue
            drawn = drawing.draw(self._width, self._look, self._look_id, self._now_ms())
            lines += [line.text.rstrip() for line in drawn][:height] + [""] * (height - len(drawn))
        return without_margin(selection.extract("\n".join(lines)), self._look.marks.bar), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()


def _same(drawing: Drawing, other: Drawing) -> bool:
    one, two = drawing.entry, other.entry
    return type(one) is type(two) and one.seq == two.seq and _name(one) == _name(two) and drawing.part == other.part


def _name(entry: Entry) -> object:
    return getattr(entry, "tool_call_id", None) or getattr(entry, "text", None)
