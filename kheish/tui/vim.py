"""Vim's NORMAL mode over a text area: one table of motions, one of commands, and operators over the motions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from textual.document._document import Location
from textual.widgets import TextArea

_WORD_START = re.compile(r"\b\w|(?<![^\w\s])[^\w\s]")
_WORD_END = re.compile(r"\w\b|[^\w\s](?![^\w\s])")


class Motion(NamedTuple):
    """`is_inclusive`: an operator takes the character under the goal too; `is_linewise`: it takes whole lines."""

    goal: Callable[[TextArea], Location]
    is_inclusive: bool = False
    is_linewise: bool = False


def _sideways(by: int) -> Callable[[TextArea], Location]:
    def goal(area: TextArea) -> Location:
        row, column = area.cursor_location
        return row, min(max(0, column + by), len(area.document[row]))

    return goal


def _next(pattern: re.Pattern[str], *, back: bool = False) -> Callable[[TextArea], Location]:
    def goal(area: TextArea) -> Location:
        document, text = area.document, area.text
        at = document.get_index_from_location(area.cursor_location)  # type: ignore[attr-defined]
        if back:
            starts = [found.start() for found in pattern.finditer(text, 0, at)]
            index = starts[-1] if starts else 0
        else:
            match = pattern.search(text, at + 1)
            index = match.start() if match else len(text)
        location: Location = document.get_location_from_index(index)  # type: ignore[attr-defined]
        return location

    return goal


def _line_end(area: TextArea) -> Location:
    row = area.cursor_location[0]
    return row, len(area.document[row])


MOTIONS: dict[str, Motion] = {
    "h": Motion(_sideways(-1)),
    "l": Motion(_sideways(1)),
    "j": Motion(lambda area: area.get_cursor_down_location(), is_linewise=True),
    "k": Motion(lambda area: area.get_cursor_up_location(), is_linewise=True),
    "w": Motion(_next(_WORD_START)),
    "b": Motion(_next(_WORD_START, back=True)),
    "e": Motion(_next(_WORD_END), is_inclusive=True),
    "0": Motion(lambda area: (area.cursor_location[0], 0)),
    "$": Motion(_line_end),
    "gg": Motion(lambda area: (0, 0), is_linewise=True),
    "G": Motion(lambda area: (area.document.line_count - 1, 0), is_linewise=True),
}
SHORT = {"x": "dl", "D": "d$", "C": "c$"}
PREFIXES = ("d", "c", "g", "dg", "cg")


class Vim:
    """`press` takes what is typed in NORMAL mode. `changed` is told of a change of the mode."""

    def __init__(self, area: TextArea, changed: Callable[[], None]) -> None:
        self.is_normal = False
        self._area = area
        self._changed = changed
        self._typed = ""
        self._register = ""

    @property
    def mode(self) -> str:
        return f"NORMAL {self._typed}".rstrip() if self.is_normal else "INSERT"

    def leave_insert(self) -> None:
        self.is_normal, self._typed = True, ""
        self._move(_sideways(-1)(self._area))
        self._changed()

    def _insert(self) -> None:
        self.is_normal = False

    def press(self, character: str) -> None:
        typed = self._typed + character
        self._typed = ""
        keys = SHORT.get(typed, typed)
        if keys in COMMANDS:
            COMMANDS[keys](self, self._area)
        elif keys in MOTIONS:
            self._move(MOTIONS[keys].goal(self._area))
        elif keys[0] in "dc" and keys[1:] in (*MOTIONS, keys[0]):
            self._operate(keys[0], keys[1:])
        elif keys in PREFIXES:
            self._typed = keys
        self._changed()

    def _move(self, location: Location) -> None:
        """In NORMAL mode the cursor is upon a character."""
        row, column = location
        if self.is_normal:
            column = min(column, max(0, len(self._area.document[row]) - 1))
        self._area.move_cursor((row, column))

    def _operate(self, operator: str, motion_name: str) -> None:
        area, document = self._area, self._area.document
        motion = MOTIONS.get(motion_name)
        here = area.cursor_location
        goal = motion.goal(area) if motion else here
        (top, left), (bottom, right) = sorted((here, goal))
        if motion is None or motion.is_linewise:
            self._register = "\n".join(document[row] for row in range(top, bottom + 1)) + "\n"
            start, end = (top, 0), (bottom, len(document[bottom]))
            if operator == "d":
                if bottom + 1 < document.line_count:
                    end = (bottom + 1, 0)
                elif top:
                    start = (top - 1, len(document[top - 1]))
        else:
            if motion_name == "w" and bottom > top:
                bottom, right = top, len(document[top])
            start, end = (top, left), (bottom, min(right + motion.is_inclusive, len(document[bottom])))
            if operator + motion_name == "cw":
                end = end[0], end[1] - len(text := area.get_text_range(start, end)) + len(text.rstrip())
            self._register = area.get_text_range(start, end)
        area.delete(start, end, maintain_selection_offset=False)
        if operator == "c":
            self._insert()
        self._move(area.cursor_location)

    def _put(self) -> None:
        area = self._area
        row, column = area.cursor_location
        length = len(area.document[row])
        if self._register.endswith("\n"):
            area.insert("\n" + self._register[:-1], (row, length))
            self._move((row + 1, 0))
        elif self._register:
            end = area.insert(self._register, (row, min(column + 1, length))).end_location
            self._move((end[0], max(0, end[1] - 1)))

    def _open(self, *, above: bool) -> None:
        self._insert()
        row = self._area.cursor_location[0]
        self._area.insert("\n", (row, 0) if above else (row, len(self._area.document[row])))
        self._move((row if above else row + 1, 0))

    def _insert_at(self, goal: Callable[[TextArea], Location] | None = None) -> None:
        self._insert()
        if goal is not None:
            self._move(goal(self._area))


COMMANDS: dict[str, Callable[[Vim, TextArea], None]] = {
    "i": lambda vim, area: vim._insert_at(),
    "a": lambda vim, area: vim._insert_at(_sideways(1)),
    "I": lambda vim, area: vim._insert_at(MOTIONS["0"].goal),
    "A": lambda vim, area: vim._insert_at(_line_end),
    "o": lambda vim, area: vim._open(above=False),
    "O": lambda vim, area: vim._open(above=True),
    "p": lambda vim, area: vim._put(),
    "u": lambda vim, area: area.undo(),
}
