"""Runs of styled text as lines of a width: wrapped between words, or folded as code is; and the colours of code.

Widths are columns: what a character, with all that joins it, takes is never cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from rich.cells import cell_len, get_character_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from kheish.tui.look import Look

Run = tuple[str, Style]
Row = list[Run]

COLOURED_CHARS_MAX = 8_000
"""Of code that is coloured in one go: about 20 ms."""
COLOURED_LINE_CHARS_MAX = 1_000
"""A longer line is data rather than code, and may cost a lexer any time."""
MEASURED_CHARS_MAX = 4_000
"""Of a line that is folded by its characters' widths; a longer one is folded as if all were wide."""
TAB_COLUMNS = 4
MARK_COLUMNS = 2
"""Of what begins the lines that go on with a folded one: the ellipsis and a blank."""

BLANK = Strip([], 0)
_JOINER = "\u200d"


def clusters(text: str) -> Iterator[tuple[int, int]]:
    """Where each character ends, together with what joins it, and the columns they take."""
    sizes = [get_character_cell_size(c) for c in text]
    if 0 not in sizes and _JOINER not in text:
        yield from enumerate(sizes, 1)
        return
    at, end = 0, len(text)
    while at < end:
        after = at + 1 + (text[at] == _JOINER)
        while after < end and not sizes[after]:
            after += 1 + (text[after] == _JOINER)
        yield min(after, end), cell_len(text[at:after])
        at = after


def breaks(text: str, width: int) -> list[tuple[int, int]]:
    """Where each line of a text that is wrapped between words starts and ends. Blanks at a break go."""
    found: list[tuple[int, int]] = []
    start, end = 0, len(text)
    if text.isascii():
        while end - start > width:
            cut = text.rfind(" ", start, start + width + 1)
            cut = cut if cut > start else start + width
            found.append((start, cut))
            start = cut
            while start < end and text[start] == " ":
                start += 1
        return [*found, (start, end)] if start < end or not found else found
    at = column = start_column = 0
    last: tuple[int, int, int] | None = None
    for after, columns in clusters(text):
        is_wide, is_blank = columns > 1, text[at:after] == " "
        if is_wide:
            last = at, at, column
        while not is_blank and at > start and column + columns - start_column > width:
            cut, start_next, column_next = last if last and last[0] > start else (at, at, column)
            found.append((start, cut))
            start, start_column, last = start_next, column_next, None
        column += columns
        if is_wide or is_blank:
            last = at if is_blank else after, after, column
        at = after
    found.append((start, end))
    return [(start, start + len(text[start:cut].rstrip(" "))) for start, cut in found]


def folds(text: str, width: int) -> Sequence[int]:
    """Where each line of a text that is cut at its width starts."""
    if text.isascii():
        return range(0, len(text) or 1, width)
    if len(text) > MEASURED_CHARS_MAX:
        return range(0, len(text), max(1, width // 2))
    return _measured_folds(text, width)


@lru_cache(maxsize=16)
def _measured_folds(text: str, width: int) -> Sequence[int]:
    """Each line asks for those of the text that it is a part of."""
    found, at, column = [0], 0, 0
    for after, columns in clusters(text):
        if column + columns > width and column:
            found.append(at)
            column = 0
        column += columns
        at = after
    return found


def heights(lines: list[str], width: int) -> list[int]:
    """How many lines each of them is when it is cut at its width."""
    return [1 if len(line) <= width and line.isascii() else _height(line, width) for line in lines]


def _height(line: str, width: int) -> int:
    fits = not line.isascii() and len(line) <= width and cell_len(line) <= width
    return 1 if fits else len(folds(line, width))


def fold(row: Row, text: str, number: int, width: int) -> Row:
    """One of the lines that a text is when it is cut at its width."""
    starts = folds(text, width)
    if len(starts) == 1:
        return row
    return part(row, starts[number], starts[number + 1] if number + 1 < len(starts) else len(text))


def part(row: Row, start: int, end: int) -> Row:
    """What stands between two offsets of a line."""
    found: Row = []
    at = 0
    for text, style in row:
        after = at + len(text)
        if after > start and at < end:
            found.append((text[max(0, start - at) : end - at], style))
        at = after
    return found


def wrapped(row: Row, width: int) -> list[Row]:
    """Lines of at most `width` columns, broken between words where that can be."""
    text = "".join(run[0] for run in row)
    if len(text) <= width and text.isascii():
        return [row]
    return [part(row, start, end) for start, end in breaks(text, max(1, width))]


def folded(row: Row, width: int, look: Look) -> list[Row]:
    """Lines of at most `width` columns, cut anywhere; those after the first begin with a mark. Nothing is left out."""
    text = "".join(run[0] for run in row)
    if (len(text) <= width and text.isascii()) or columns_of(row) <= width:
        return [row]
    mark = f"{look.marks.ellipsis} " if width > 2 * MARK_COLUMNS else ""
    starts = folds(text, max(1, width - len(mark)))
    rows = [part(row, start, end) for start, end in zip(starts, (*starts[1:], len(text)), strict=True)]
    return [rows[0], *([(mark, look.dim), *row] for row in rows[1:])]


def columns_of(row: Iterable[Run]) -> int:
    return sum(cell_len(text) for text, _ in row)


def strip_of_row(row: Row, width: int) -> Strip:
    """The line itself, cut where even one character is too wide."""
    if not row:
        return BLANK
    strip = Strip([Segment(text, style) for text, style in row], columns_of(row))
    return strip if strip.cell_length <= width else strip.crop(0, width)


def coloured(lines: list[str], language: str, look: Look) -> list[Row]:
    """Each line in the colours of its language; where that is not known, or the code is too long, in the text's own."""
    plain = [[(line, look.text)] if line else [] for line in lines]
    if (
        not language
        or not lines
        or sum(map(len, lines)) > COLOURED_CHARS_MAX
        or max(map(len, lines)) > COLOURED_LINE_CHARS_MAX
    ):
        return plain
    lexer = lexer_of(language)
    if lexer is None:
        return plain
    palette = _palette(look.code_theme, look.text)
    row: Row = []
    rows = [row]
    try:
        for _, kind, text in lexer.get_tokens_unprocessed("\n".join(lines) + "\n"):
            style = palette[kind]
            for i, piece in enumerate(text.split("\n")):
                if i:
                    row = []
                    rows.append(row)
                if piece and row and row[-1][1] is style:
                    row[-1] = row[-1][0] + piece, style
                elif piece:
                    row.append((piece, style))
    except Exception:  # a lexer that fails on some text costs its colours
        return plain
    rows.pop()
    return rows if ["".join(text for text, _ in row) for row in rows] == lines else plain


@lru_cache(maxsize=64)
def lexer_of(language: str) -> Any:
    """A lexer of Pygments; None where it has none of this name."""
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    try:
        return get_lexer_by_name(language)
    except ClassNotFound:
        return None


@lru_cache(maxsize=64)
def language_of(extension: str) -> str:
    """The language of files whose names end so (`.py`, `Makefile`), empty where none is known."""
    from pygments.lexers import find_lexer_class_for_filename

    found = find_lexer_class_for_filename(f"x{extension}" if extension.startswith(".") else extension)
    return found.aliases[0] if found is not None and found.aliases else ""


class _Palette(dict[object, Style]):
    """The style of each kind of token; what lies under it is not the theme's matter."""

    def __init__(self, theme: str, text: Style) -> None:
        super().__init__()
        from pygments.styles import get_style_by_name  # type: ignore[import-untyped]

        self._theme = get_style_by_name(theme)
        self._text = text

    def __missing__(self, kind: Any) -> Style:
        known = kind
        while not self._theme.styles_token(known):
            known = known.parent
        wanted = self._theme.style_for_token(known)
        style = self._text + Style(
            color=f"#{wanted['color']}" if wanted["color"] else None,
            bold=wanted["bold"] or None,
            italic=wanted["italic"] or None,
        )
        self[kind] = style
        return style


@lru_cache(maxsize=8)
def _palette(theme: str, text: Style) -> _Palette:
    return _Palette(theme, text)
