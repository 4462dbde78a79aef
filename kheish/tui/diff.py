"""Diffs, commands and JSON as lines for a person who decides: nothing is left out, and what cannot be seen is written
out. However long they are, the first picture comes at once: each line is drawn when it comes into sight.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import NamedTuple, Protocol, overload

from rich.style import Style
from textual.strip import Strip

from kheish.terminal import expose
from kheish.tui.code import (
    MARK_COLUMNS,
    TAB_COLUMNS,
    Row,
    coloured,
    columns_of,
    fold,
    heights,
    language_of,
    strip_of_row,
)
from kheish.tui.look import Look

SPLIT_WIDTH_MIN = 120
"""A narrower split view is drawn as a unified one."""
NUMBERS_WIDTH_MIN = 60
CONTEXT_LINES = 3
COMPARED_MAX = 1_000_000
"""Lines before times lines after that are compared; what is larger is shown as replaced."""
COLOURED_TOGETHER_CHARS_MAX = 2_000
COLOURED_LINES = 32
"""Of longer code, that are coloured together."""
KEPT_LINES_MAX = 2_000
NO_NEWLINE = "\\ No newline at end of file"

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_INDEX = re.compile(r"index [0-9a-f]+\.\.[0-9a-f]+( \d+)?")


class Hunk(NamedTuple):
    """The sign of each line is a blank, `+`, `-`, or a backslash for a remark."""

    header: str
    old_start: int
    new_start: int
    signs: str
    lines: list[str]

    @property
    def old_end(self) -> int:
        return self.old_start + self.signs.count(" ") + self.signs.count("-") - 1

    @property
    def new_end(self) -> int:
        return self.new_start + self.signs.count(" ") + self.signs.count("+") - 1


class FileDiff(NamedTuple):
    """`path` is that after the change, and before it where the file is deleted; `old_path` where it is another. Both
    are empty for what stands before the first file."""

    path: str
    old_path: str
    notes: list[str]
    hunks: list[Hunk]

    @property
    def added(self) -> int:
        return sum(hunk.signs.count("+") for hunk in self.hunks)

    @property
    def removed(self) -> int:
        return sum(hunk.signs.count("-") for hunk in self.hunks)


def files_of(diff: str) -> list[FileDiff]:
    """The files of a unified diff, with everything that stands in it but its own marks and the hashes of Git."""
    lines = diff.removesuffix("\n").split("\n") if diff else []
    files: list[FileDiff] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("diff --git "):
            files.append(FileDiff(line.rpartition(" b/")[2], "", [], []))
        elif line.startswith("--- ") and lines[at + 1 : at + 2] and lines[at + 1].startswith("+++ "):
            file = _file(line[4:], lines[at + 1][4:])
            if files and files[-1].path == file.path and not files[-1].hunks:
                notes = files.pop().notes
                file = file._replace(notes=notes or file.notes)
            files.append(file)
            at += 1
        elif (found := _HUNK.match(line)) is not None:
            files = files or [FileDiff("", "", [], [])]
            signs = _signs(lines, at + 1, int(found[2] or 1), int(found[4] or 1))
            inside = [line[1:] for line in lines[at + 1 : at + 1 + len(signs)]]
            files[-1].hunks.append(Hunk(line, int(found[1]), int(found[3]), signs, inside))
            at += len(signs)
        elif _INDEX.fullmatch(line) is None:
            files = files or [FileDiff("", "", [], [])]
            if files[-1].hunks:
                files.append(FileDiff("", "", [], []))
            files[-1].notes.append(line)
        at += 1
    return files


def _file(old: str, new: str) -> FileDiff:
    old, new = old.partition("\t")[0], new.partition("\t")[0]
    old_path, new_path = old.removeprefix("a/"), new.removeprefix("b/")
    if new == "/dev/null":
        return FileDiff(old_path, "", ["deleted"], [])
    if old == "/dev/null":
        return FileDiff(new_path, "", ["new"], [])
    return FileDiff(new_path, old_path if old_path != new_path else "", [], [])


def _signs(lines: list[str], at: int, old: int, new: int) -> str:
    """Of as many lines as the hunk says it has: one that is removed may look like the head of a file."""
    found = ""
    while old > 0 or new > 0:
        least = max(old, new)
        start = at + len(found)
        read = "".join([line[:1] or " " for line in lines[start : start + least]])
        signs = read[: len(read) - len(read.lstrip(" +-\\"))]
        found += signs
        if len(signs) < least:
            return found
        context = signs.count(" ")
        old, new = old - context - signs.count("-"), new - context - signs.count("+")
    return found + "\\" if lines[at + len(found) : at + len(found) + 1] == [NO_NEWLINE] else found


def unified(path: str, old: str | None, new: str | None) -> str:
    """The diff between two texts of a file, None where there is no file; empty where they are the same."""
    from difflib import SequenceMatcher

    if old == new:
        return ""
    before, after = _lines_of(old), _lines_of(new)
    start, shorter = 0, min(len(before), len(after))
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    left, right = before[start : len(before) - end], after[start : len(after) - end]
    if len(left) * len(right) <= COMPARED_MAX:
        found = SequenceMatcher(None, left, right).get_opcodes()
    else:
        found = [("replace", 0, len(left), 0, len(right))]
    edits = [(a + start, b + start, c + start, d + start) for tag, a, b, c, d in found if tag != "equal"]
    hunks: list[list[tuple[int, int, int, int]]] = []
    for edit in edits:
        if hunks and edit[0] - hunks[-1][-1][1] <= 2 * CONTEXT_LINES:
            hunks[-1].append(edit)
        else:
            hunks.append([edit])
    names = f"--- {'/dev/null' if old is None else f'a/{path}'}\n+++ {'/dev/null' if new is None else f'b/{path}'}\n"
    return names + "".join(f"{line}\n" for hunk in hunks for line in _hunk_lines(hunk, before, after))


def _hunk_lines(edits: list[tuple[int, int, int, int]], before: list[str], after: list[str]) -> list[str]:
    first = max(0, edits[0][0] - CONTEXT_LINES)
    last = min(len(before), edits[-1][1] + CONTEXT_LINES)
    shift = edits[0][2] - edits[0][0]
    lines: list[str] = []
    at = first
    for a, b, c, d in edits:
        lines += [f" {line}" for line in before[at:a]]
        lines += [f"-{line}" for line in before[a:b]]
        lines += [f"+{line}" for line in after[c:d]]
        at = b
    lines += [f" {line}" for line in before[at:last]]
    old_count, new_count = last - first, last - first + sum((d - c) - (b - a) for a, b, c, d in edits)
    old_start, new_start = first + (old_count > 0), first + shift + (new_count > 0)
    return [f"@@ -{old_start},{old_count} +{new_start},{new_count} @@", *lines]


def _lines_of(text: str | None) -> list[str]:
    if not text:
        return []
    lines = text.split("\n")
    if lines[-1]:
        lines[-1] += f"\n{NO_NEWLINE}"
        return lines
    return lines[:-1]


# -- lines that are drawn when they come into sight ------------------------------------------------------------------


class _Part(Protocol):
    """Some texts one under the other; `heights` says how many lines each takes."""

    heights: list[int]

    def line(self, index: int, row: int) -> Strip: ...


class LazyLines(Sequence[Strip]):
    """Lines of which each is drawn when somebody looks at it."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self._starts = list(accumulate((len(found.heights) for found in parts), initial=0))
        self._ends = list(accumulate(chain.from_iterable(found.heights for found in parts)))
        self._kept: dict[int, Strip] = {}

    @property
    def height(self) -> int:
        return self._ends[-1] if self._ends else 0

    def line(self, y: int) -> Strip:
        strip = self._kept.get(y)
        if strip is None:
            if len(self._kept) >= KEPT_LINES_MAX:
                self._kept.clear()
            index = bisect_right(self._ends, y)
            number = bisect_right(self._starts, index) - 1
            strip = self._parts[number].line(index - self._starts[number], y - (self._ends[index - 1] if index else 0))
            self._kept[y] = strip
        return strip

    def _row_of(self, number: int) -> int:
        """The line that a part begins with."""
        start = self._starts[number]
        return self._ends[start - 1] if start else 0

    def __len__(self) -> int:
        return self.height

    @overload
    def __getitem__(self, y: int) -> Strip: ...
    @overload
    def __getitem__(self, y: slice) -> list[Strip]: ...
    def __getitem__(self, y: int | slice) -> Strip | list[Strip]:
        if isinstance(y, slice):
            return [self.line(i) for i in range(self.height)[y]]
        return self.line(range(self.height)[y])


class _Colours:
    """The colours of code, for as many lines at a time as are near one that is seen. Lines with a sign of `without`
    are no part of it."""

    def __init__(self, lines: list[str], language: str, look: Look, signs: str = "", without: str = "") -> None:
        self._lines = lines
        self._signs, self._without = signs, without
        self._language = language
        self._look = look
        self._together = len(lines) if sum(map(len, lines)) <= COLOURED_TOGETHER_CHARS_MAX else COLOURED_LINES
        self._known: dict[int, list[Row]] = {}

    def row(self, index: int) -> Row:
        number, rest = divmod(index, self._together)
        if number not in self._known:
            start = index - rest
            lines = self._lines[start : start + self._together]
            if self._without:
                signs = self._signs[start : start + self._together]
                lines = ["" if sign in self._without else line for sign, line in zip(signs, lines, strict=True)]
            self._known[number] = coloured(lines, self._language, self._look)
        return self._known[number][rest]


class _Code:
    """Code that is folded at the width; what goes on with a line begins with a mark."""

    def __init__(self, lines: list[str], language: str, width: int, look: Look) -> None:
        self._width = width
        self._look = look
        self._lines = lines
        self.heights = heights(lines, width)
        self._margin = MARK_COLUMNS if width > 2 * MARK_COLUMNS and max(self.heights) > 1 else 0
        self._room = max(1, width - self._margin)
        if self._margin:
            self.heights = heights(lines, self._room)
        self._colours = _Colours(lines, language, look)

    def line(self, index: int, row: int) -> Strip:
        found = fold(self._colours.row(index), self._lines[index], row, self._room)
        if self._margin:
            found = [(f"{self._look.marks.ellipsis if row else ' '} ", self._look.dim), *found]
        return strip_of_row(found, self._width)


class _Texts:
    """Lines in styles of their own."""

    def __init__(self, rows: list[Row], width: int) -> None:
        self._rows = rows
        self._texts = ["".join(text for text, _ in row) for row in rows]
        self._width = width
        self.heights = heights(self._texts, width)

    def line(self, index: int, row: int) -> Strip:
        return strip_of_row(fold(self._rows[index], self._texts[index], row, self._width), self._width)


def _exposed(line: str) -> str:
    return line if line.isascii() and line.isprintable() else expose(line).expandtabs(TAB_COLUMNS)


def shell_lines(command: str, width: int, look: Look) -> LazyLines:
    """A command, whole."""
    return LazyLines([_Code([_exposed(line) for line in command.split("\n")], "bash", width, look)])


def json_lines(value: object, width: int, look: Look) -> LazyLines:
    """A value as indented JSON, whole."""
    lines = json.dumps(value, indent=2, ensure_ascii=False, default=str).split("\n")
    return LazyLines([_Code([_exposed(line) for line in lines], "json", width, look)])


def fact_lines(facts: Mapping[str, object], width: int, look: Look) -> LazyLines:
    """What is no call's arguments, a line for each."""
    lines = [_exposed(f"{name:<8} {value}") for name, value in facts.items()]
    return LazyLines([_Code(lines, "", width, look)])


# -- diffs -----------------------------------------------------------------------------------------------------------


class Diff(LazyLines):
    """A unified diff, as one column or, where `split`, there is room and lines took the place of others, before and
    after side by side. `hunk_rows` are the lines where each hunk begins."""

    def __init__(self, text: str, width: int, look: Look, split: bool = False) -> None:
        self.files = files_of(text)
        parts: list[_Part] = []
        hunks: list[int] = []
        split = split and width >= SPLIT_WIDTH_MIN
        for file in self.files:
            make = _Split if split and file.added and file.removed else _Unified
            if parts:
                parts.append(_Texts([[]], width))
            parts.append(_Texts(_head(file, width, look), width))
            name = file.path.rpartition("/")[2]
            dot = name.rfind(".")
            language = language_of(name[dot:] if dot > 0 else name) if name else ""
            digits = len(str(max((max(hunk.old_end, hunk.new_end) for hunk in file.hunks), default=0)))
            for hunk in file.hunks:
                hunks.append(len(parts))
                parts.append(_Texts([[(_exposed(hunk.header), look.dim)]], width))
                parts.append(make(hunk, language, digits, width, look))
        super().__init__(parts)
        self.hunk_rows = [self._row_of(number) for number in hunks]


def _head(file: FileDiff, width: int, look: Look) -> list[Row]:
    rows: list[Row] = []
    if file.path:
        was = [(f"{_exposed(file.old_path)} -> ", look.dim)] if file.old_path else []
        counts = [(f"  +{file.added}", look.success), (f" -{file.removed}", look.error)] if file.hunks else []
        rows.append([*was, (_exposed(file.path), look.strong), *counts])
    return rows + [[(_exposed(note), look.dim)] for note in file.notes]


class _Lines:
    """The lines of a hunk: signs, texts, numbers, and the colours of the file before and after."""

    def __init__(self, hunk: Hunk, language: str, look: Look) -> None:
        self._look = look
        self._hunk = hunk
        self.signs = hunk.signs
        self.texts = [
            line if line.isascii() and line.isprintable() else expose(line).expandtabs(TAB_COLUMNS)
            for line in hunk.lines
        ]
        self._old = _Colours(self.texts, language, look, hunk.signs, "+\\")
        self._new = _Colours(self.texts, language, look, hunk.signs, "-\\")

    def number(self, index: int, *, is_old: bool) -> str:
        """Of a line in the file before or after; empty where it is not there."""
        other = "+" if is_old else "-"
        if self.signs[index] in (other, "\\"):
            return ""
        start = self._hunk.old_start if is_old else self._hunk.new_start
        return str(start + index - self.signs.count(other, 0, index) - self.signs.count("\\", 0, index))

    def side(self, index: int, row: int, room: int, numbers: str, width: int) -> Row:
        """One line of one side in its columns: number, sign, text, to the edge."""
        look, sign, text = self._look, self.signs[index], self.texts[index]
        text = text.lstrip() if sign == "\\" else text
        runs = [(text, look.dim)] if sign == "\\" else (self._old if sign == "-" else self._new).row(index)
        under = {"+": look.added, "-": look.removed}.get(sign, Style.null())
        found: Row = [(numbers if row == 0 else " " * len(numbers), look.dim + under)] if numbers else []
        mark = look.marks.ellipsis if row else " " if sign == "\\" else sign
        found.append((f"{mark} ", {"+": look.success, "-": look.error}.get(sign, look.dim) + under))
        found += [(piece, style + under) for piece, style in fold(runs, text, row, room)]
        left = width - columns_of(found)
        return [*found, (" " * left, under)] if left > 0 else found


class _Unified:
    def __init__(self, hunk: Hunk, language: str, digits: int, width: int, look: Look) -> None:
        self._lines = _Lines(hunk, language, look)
        self._digits = digits if width >= NUMBERS_WIDTH_MIN else 0
        self._width = width
        self._room = max(1, width - MARK_COLUMNS - (2 * digits + 2 if self._digits else 0))
        self.heights = heights(self._lines.texts, self._room)

    def line(self, index: int, row: int) -> Strip:
        lines, numbers = self._lines, ""
        if self._digits:
            old, new = lines.number(index, is_old=True), lines.number(index, is_old=False)
            numbers = f"{old:>{self._digits}} {new:>{self._digits}} "
        return strip_of_row(lines.side(index, row, self._room, numbers, self._width), self._width)


class _Split:
    def __init__(self, hunk: Hunk, language: str, digits: int, width: int, look: Look) -> None:
        self._lines = _Lines(hunk, language, look)
        self._digits = digits
        self._width = width
        self._half = (width - 1) // 2
        self._room = max(1, self._half - MARK_COLUMNS - digits - 1)
        self._left, self._right = _pairs(self._lines.signs)
        self._heights = [*heights(self._lines.texts, self._room), 0]
        height = self._heights.__getitem__
        self.heights = list(map(max, map(height, self._left), map(height, self._right)))

    def line(self, index: int, row: int) -> Strip:
        left = self._side(self._left[index], row, is_old=True)
        right = self._side(self._right[index], row, is_old=False)
        return strip_of_row([*left, (" ", Style.null()), *right], self._width)

    def _side(self, index: int, row: int, *, is_old: bool) -> Row:
        if row >= self._heights[index]:
            return [(" " * self._half, Style.null())]
        number = self._lines.number(index, is_old=is_old)
        return self._lines.side(index, row, self._room, f"{number:>{self._digits}} ", self._half)


_RUN = re.compile(r"([ \\]+)|(-[-\\]*)?(\+[+\\]*)?")
NOTHING = -1


def _pairs(signs: str) -> tuple[list[int], list[int]]:
    """Which lines stand beside each other: the removed ones beside those added in their place, or nothing."""
    left: list[int] = []
    right: list[int] = []
    for run in _RUN.finditer(signs):
        both, old, new = (range(*run.span(group)) for group in (1, 2, 3))
        left += both or [*old, *[NOTHING] * (len(new) - len(old))]
        right += both or [*new, *[NOTHING] * (len(old) - len(new))]
    return left, right
