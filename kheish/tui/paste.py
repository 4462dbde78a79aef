"""Pasted text is text, whatever is in it.

A terminal puts what is pasted between two marks. Textual takes an escape character between them for the beginning of a
key, and up to 32 characters after it for keys that were pressed: an Enter among them would send what nobody sent. What
comes from the terminal therefore loses such characters before it is parsed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.driver import Driver
from textual.message import Message

ESCAPE = "\x1b"


class Guard:
    """Gives on what the terminal sends, piece by piece, without escape characters in what is pasted."""

    def __init__(self) -> None:
        self._is_pasting = False
        self._matched = 0
        """How much of the mark that begins a paste, or ends it, came last. That of the end is held back."""

    def pass_on(self, data: str) -> str:
        if ESCAPE not in data and not self._matched:
            return data
        passed: list[str] = []
        for character in data:
            mark, before = BRACKETED_PASTE_END if self._is_pasting else BRACKETED_PASTE_START, self._matched
            self._matched = before + 1 if character == mark[before] else int(character == ESCAPE)
            if not self._is_pasting:
                passed.append(character)
            elif self._matched <= before:
                passed += [mark[1:before], character.replace(ESCAPE, "")]
            if self._matched == len(mark):
                passed.append(mark * self._is_pasting)
                self._is_pasting, self._matched = not self._is_pasting, 0
        return "".join(passed)


class GuardedParser(XTermParser):
    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self._guard = Guard()

    def feed(self, data: str) -> Iterable[Message]:
        passed = self._guard.pass_on(data)
        return super().feed(passed) if passed or not data else ()  # nothing at all is the end of the input


def guarded(driver: type[Driver]) -> type[Driver]:
    """The driver, reading through the parser that guards; one that has no such parser is what it was."""
    module = vars(sys.modules[driver.__module__])
    if module.get("XTermParser") is XTermParser:
        module["XTermParser"] = GuardedParser
    return driver
