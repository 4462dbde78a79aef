"""Plain text of others as lines of a width: cleaned, wrapped or cut by columns, bounded."""

from __future__ import annotations

import re

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from kheish.terminal import clean, counted

LINE_CHARS_MAX = 4_000
"""Of one line of data; nobody reads more of it."""
CLUSTER_CHARS = 8
"""How many characters of a word are looked at for each column: with all that joins them they are hardly more."""


def wrap(text: str, width: int, *, is_whole: bool = False) -> list[str]:
    """Cleaned lines of at most `width` columns, broken between words where that can be. One that is very long is cut,
    unless all `is_whole`."""
    found: list[str] = []
    for line in clean(text).expandtabs(4).split("\n"):
        if len(line) > LINE_CHARS_MAX and not is_whole:
            line = f"{line[:LINE_CHARS_MAX]} … {counted(len(line) - LINE_CHARS_MAX, 'more character')}"
        if len(line) <= width and line.isascii():
            found.append(line)
        else:
            found += _wrap_line(line, max(1, width))
    return found


def _wrap_line(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())][: width // 2]
    found: list[str] = []
    current, room = "", width
    for word in _words(line):
        length = cell_len(word.rstrip())
        if length > room and current.strip():
            found.append(current.rstrip())
            current, room = indent, width - len(indent)
            word = word.lstrip()
            length = cell_len(word.rstrip())
        while length > room:
            head = chop_cells(word[: CLUSTER_CHARS * width], max(1, room))[0]
            found.append(current + head)
            word = word[len(head) :]
            current, room = "", width
            length -= cell_len(head)
        current += word
        room -= cell_len(word)
    if current.strip() or not found:
        found.append(current.rstrip())
    return found


def _words(line: str) -> list[str]:
    """Each with the blanks that follow it."""
    found: list[str] = []
    start, in_blank = 0, False
    for i, c in enumerate(line):
        if c == " ":
            in_blank = i > start or in_blank
        elif in_blank:
            found.append(line[start:i])
            start, in_blank = i, False
    found.append(line[start:])
    return found


def cut_columns(line: str, width: int, ellipsis: str = "…") -> str:
    """As much of a line as fits."""
    if len(line) <= width and line.isascii():
        return line
    if cell_len(line[: 2 * width + 1]) <= width:
        return line
    kept = chop_cells(line[: 2 * width], max(1, width - len(ellipsis)))
    return (kept[0] if kept else "") + ellipsis


def without_margin(text: str, bar: str) -> str:
    """Lines as they were before they were drawn: without bars, and without the margin that all of them have but the
    first, where that begins in the middle."""
    lines = [re.sub(rf"^(\s*){re.escape(bar)} ?", r"\1", line) for line in text.split("\n")]
    margins = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    margin = min(margins[1:] if margins[:1] == [0] else margins, default=0)
    first, *rest = lines
    return "\n".join([first if first[:1].strip() else first[margin:], *(line[margin:] for line in rest)])


def strip_of(*parts: tuple[str, Style | None]) -> Strip:
    """A line of texts in their styles."""
    return Strip([Segment(text, style) for text, style in parts if text])


def fill(strip: Strip, width: int, style: Style) -> Strip:
    """The line in a style that reaches to the edge."""
    return strip.apply_style(style).extend_cell_length(width, style)
