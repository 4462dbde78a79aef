"""The text of a model, which is Markdown, as lines; also while it streams.

The text is cut into blocks, line by line, where nothing that comes later can change what stands before: at a blank line
with something at the left margin after it, before list items and headings there, and around fences. A block is drawn
once per width and look; only the last one or two, which still grow, are drawn anew. Where the text is cut depends on
what stands before the cut alone, so that pieces and the whole make the same lines.

It is drawn as it stands: lines stay lines, a blank line separates where the text has one, numbers are those written,
HTML and link definitions are text. Nothing but the marks of Markdown is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from rich.style import Style
from textual.strip import Strip

from kheish.terminal import clean, one_line
from kheish.tui.code import (
    BLANK,
    COLOURED_CHARS_MAX,
    TAB_COLUMNS,
    Row,
    coloured,
    columns_of,
    folded,
    lexer_of,
    strip_of_row,
    wrapped,
)
from kheish.tui.links import URL
from kheish.tui.look import Look

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

BLOCK_CHARS_GOOD, BLOCK_CHARS_MAX = 1_500, 8_000
"""A block that grows longer is cut where that is hardly seen, and then before any line: drawing its end stays cheap."""
BLANK_LINES_MAX = 20
"""In a row, outside of code."""
MARKS_MAX = 400
"""A paragraph with more marks of Markdown is data, and may cost the parser any time: it is drawn as it is."""
NESTING_MAX = 20
"""Of lists and quotes; what is nested deeper is drawn as it is."""
REPAINTED_CHARS = 1_000
"""How much of code that still grows is coloured anew with each piece."""
COLUMN_MIN, GAP = 8, 2
"""A table whose columns had to be narrower is drawn as records; between columns is a gap."""

_FENCE = re.compile(r"(`{3,}(?=[^`]*$)|~{3,}) *(.*)")
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)]) +\S")
_HEADING = re.compile(r"#{1,6} ")
_BREAK = re.compile(r"<br ?/?>")
_TASK = re.compile(r"\[([ xX])\] ")
INDENT = 2
"""Of code."""
_INDENT = (" " * INDENT, Style.null())
_BOLD, _ITALIC, _STRIKE, _UNDERLINE = Style(bold=True), Style(italic=True), Style(strike=True), Style(underline=True)


class Blocks:
    """`set` is cheap and may be called with every piece; the work is done by `lines`."""

    def __init__(self) -> None:
        self._drawn_as: tuple[int, Look] | None = None
        self._text = ""
        self._taken = 0
        """How much of it, to the end of a line, the cutter has."""
        self._cutter = _Cutter()
        self._blocks: list[_Block] = []
        self._finished = 0
        """How many of the blocks are; their lines are kept together."""
        self._lines: list[Strip] = []
        self._lines_of = 0

    def set(self, text: str) -> None:
        """The whole text so far: mostly the one before and something after it."""
        if not text.startswith(self._text):
            self._taken, self._cutter = 0, _Cutter()
            self._blocks, self._finished = [], 0
            self._lines, self._lines_of = [], 0
        self._text = text

    def lines(self, width: int, look: Look) -> list[Strip]:
        """Each at most `width` columns."""
        self._cut()
        if self._drawn_as != (width, look):
            self._drawn_as = width, look
            self._lines, self._lines_of = [], 0
            for block in self._blocks:
                block.forget()
        for block in self._blocks[self._lines_of : self._finished]:
            _append(self._lines, block, width, look)
        self._lines_of = self._finished
        found = self._lines.copy()
        for block in self._blocks[self._finished :]:
            _append(found, block, width, look)
        return found

    def _cut(self) -> None:
        """Takes whole lines for good, and what follows the last of them for the moment."""
        end = self._text.rfind("\n", self._taken) + 1
        if end:
            for line in _cleaned(self._text[self._taken : end - 1]):
                for cut in self._cutter.take(line):
                    self._block(self._finished).put(cut)
                    self._finished += 1
            self._taken = end
        rest = self._cutter.copy()
        count = self._finished
        last = self._text[self._taken :]
        growing = [cut for line in _cleaned(last) for cut in rest.take(line)] if last else []
        for cut in (*growing, *rest.finish()):
            self._block(count).put(cut)
            count += 1
        del self._blocks[count:]

    def _block(self, index: int) -> _Block:
        """The same one for the block that grows, each time."""
        if index == len(self._blocks):
            self._blocks.append(_Block())
        return self._blocks[index]


def _append(lines: list[Strip], block: _Block, width: int, look: Look) -> None:
    drawn = block.draw(width, look)
    if drawn and block.cut.has_gap and lines:
        lines.append(BLANK)
    lines += drawn


def parts(text: str, chars_min: int) -> list[str]:
    """A text in parts of at least so much, each of which is drawn as it is within the whole."""
    cutter = _Cutter()
    found: list[str] = []
    lines: list[str] = []
    chars = 0
    for line in _cleaned(text):
        is_cut = bool([*cutter.take(line)]) and cutter.holds_one
        if is_cut and chars >= chars_min:
            found.append("\n".join(lines))
            lines, chars = [], 0
        lines.append(line)
        chars += len(line)
    return [*found, "\n".join(lines)]


def _cleaned(text: str) -> list[str]:
    """Its lines; one that is longer than a block may be is cut at a blank, as if it were several."""
    lines = clean(text).expandtabs(TAB_COLUMNS).split("\n")
    if len(text) <= BLOCK_CHARS_MAX:
        return lines
    return [piece for line in lines for piece in _pieces(line)]


def _pieces(line: str) -> Iterator[str]:
    start = 0
    while len(line) - start > BLOCK_CHARS_MAX:
        blank = line.rfind(" ", start + BLOCK_CHARS_GOOD, start + BLOCK_CHARS_MAX)
        end = blank + 1 if blank >= 0 else start + BLOCK_CHARS_MAX
        yield line[start:end]
        start = end
    yield line[start:]


class _Cut(NamedTuple):
    """The lines of a block, without the indent of the first. `has_gap`: a blank line stands before it. `fence`: what
    opened it, where it is code."""

    lines: list[str]
    has_gap: bool
    indent: int
    fence: str


class _Cutter:
    """Takes line after line and says which block each one finishes."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._chars = 0
        self._blanks = 0
        self._has_gap = False
        self._indent = 0
        self._fence = ""
        self._is_quoted_code = False

    def copy(self) -> _Cutter:
        found = _Cutter()
        found.__dict__.update(self.__dict__)
        found._lines = self._lines.copy()
        return found

    @property
    def holds_one(self) -> bool:
        """Whether the line that was taken last begins a block."""
        return len(self._lines) == 1

    def take(self, line: str) -> Iterator[_Cut]:
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        if self._fence:
            self._lines.append(line[min(indent, self._indent) :])
            if text and _closes(text, self._fence):
                yield from self.finish()
            return
        if not text:
            self._blanks += 1
            return
        fence = _FENCE.match(text)
        if fence is not None or self._is_cut_before(text, indent):
            yield from self.finish()
        if self._lines:
            self._lines += [""] * min(self._blanks, BLANK_LINES_MAX)
        else:
            self._has_gap, self._indent = self._blanks > 0, indent
        self._blanks = 0
        self._lines.append(line[min(indent, self._indent) :])
        self._chars += len(line)
        if fence is not None:
            self._fence = fence[1]
        elif text[0] == ">" and _FENCE.match(text.lstrip("> ")) is not None:
            self._is_quoted_code = not self._is_quoted_code

    def _is_cut_before(self, text: str, indent: int) -> bool:
        is_item = _ITEM.match(text) is not None
        if indent == 0 and (self._blanks or is_item or _HEADING.match(text)):
            return True
        if self._chars > BLOCK_CHARS_GOOD and not self._is_quoted_code:
            return is_item or (indent == 0 and "|" not in text) or self._chars > BLOCK_CHARS_MAX
        return self._chars > BLOCK_CHARS_MAX

    def finish(self) -> Iterator[_Cut]:
        if self._lines:
            yield _Cut(self._lines, self._has_gap, self._indent, self._fence)
        self._lines, self._chars, self._fence, self._is_quoted_code = [], 0, "", False


def _closes(text: str, fence: str) -> bool:
    return text.startswith(fence) and not text.rstrip().strip(fence[0])


class _Block:
    """Lines of the text that are drawn together, and what was drawn."""

    def __init__(self) -> None:
        self.cut = _Cut([], False, 0, "")
        self._strips: list[Strip] = []
        self._is_drawn = False
        self._code = _Code()

    def put(self, cut: _Cut) -> None:
        if cut != self.cut:
            self.cut = cut
            self._is_drawn = False

    def forget(self) -> None:
        self._strips = []
        self._is_drawn = False
        self._code = _Code()

    def draw(self, width: int, look: Look) -> list[Strip]:
        if not self._is_drawn:
            self._is_drawn = True
            indent = [(" " * min(self.cut.indent, width // 2), look.text)]
            room = width - min(self.cut.indent, width // 2)
            if self.cut.fence:
                same, rows = self._code.draw(self.cut, room, look)
            else:
                same, rows = 0, _Page(self.cut.lines, look).draw(room)
            if self.cut.indent:
                rows = _beside(indent, indent, rows, width)
            self._strips = self._strips[:same] + [strip_of_row(row, width) for row in rows]
        return self._strips


class _Code:
    """Code that may still grow: the lines that stay are not drawn again."""

    def __init__(self) -> None:
        self._lines = self._chars = self._rows = 0
        """How many stay, and the rows that they are."""
        self._is_whole = False

    def draw(self, cut: _Cut, width: int, look: Look) -> tuple[int, list[Row]]:
        """How many rows of the last time stay, and those that follow."""
        info = cut.lines[0].lstrip("`~ ").strip()
        is_whole = len(cut.lines) > 1 and _closes(cut.lines[-1].lstrip(" "), cut.fence)
        lines = cut.lines[1 : len(cut.lines) - is_whole]
        if is_whole and not self._is_whole and sum(map(len, lines)) <= COLOURED_CHARS_MAX:
            self._lines = self._chars = self._rows = 0
        self._is_whole = is_whole
        same, growing = self._rows, lines[self._lines :]
        chars = sum(map(len, growing)) + len(growing)
        language, head = _head_of(info, width, look)
        rows = [] if self._lines else head
        painted = coloured(growing, language if self._chars + chars <= COLOURED_CHARS_MAX else "", look)
        stays = len(growing) if is_whole else _stays(growing) if chars > REPAINTED_CHARS else 0
        rows += _code_rows(painted[:stays], width, look)
        if stays:
            self._lines, self._rows = self._lines + stays, same + len(rows)
            self._chars += sum(map(len, growing[:stays]))
        return same, rows + _code_rows(painted[stays:], width, look)


def _stays(lines: list[str]) -> int:
    """How many lines are coloured for good: those before the last one that looks like a beginning, or all but one."""
    for i in range(len(lines) - 1, len(lines) // 2, -1):
        if lines[i][:1].strip() and not lines[i - 1]:
            return i
    return len(lines) - 1


def _head_of(info: str, width: int, look: Look) -> tuple[str, list[Row]]:
    """The language of code, and what stands above it: whatever else its fence says."""
    language, _, more = info.partition(" ")
    language = language.lower()
    is_known = not language or lexer_of(language) is not None
    head = [] if is_known and not more else wrapped([(info, look.dim)], width - INDENT)
    return language if is_known else "", _beside([_INDENT], [_INDENT], head, width)


def _code_rows(lines: list[Row], width: int, look: Look) -> list[Row]:
    room = max(1, width - INDENT)
    return _beside([_INDENT], [_INDENT], [row for line in lines for row in folded(line, room, look)], width)


class _Page:
    """Draws the lines of one block that is not code."""

    def __init__(self, source: list[str], look: Look) -> None:
        self._source = source
        self._look = look

    def draw(self, width: int) -> list[Row]:
        markdown = _markdown()
        tokens: list[Token] = []
        markdown.block.parse("\n".join(self._source), markdown, {}, tokens)
        if any(token.level >= NESTING_MAX - 2 for token in tokens):
            return [row for line in self._source for row in wrapped([(line, self._look.text)], width)]
        return self._blocks(tokens, width, self._look.text)

    def _blocks(self, tokens: Sequence[Token], width: int, style: Style) -> list[Row]:
        rows: list[Row] = []
        at = 0
        while at < len(tokens):
            token = tokens[at]
            end = _end_of(tokens, at)
            inside = tokens[at + 1 : end]
            start = token.map[0] if token.map else 0
            if rows and not self._source[start - 1].strip(" \t>"):
                rows.append([])
            match token.type:
                case "paragraph_open":
                    rows += self._text(inside[0].content, width, style)
                case "heading_open":
                    rows += self._text(inside[0].content, width, self._look.heading)
                case "bullet_list_open" | "ordered_list_open":
                    rows += self._blocks(inside, width, style)
                case "list_item_open":
                    rows += self._item(token, inside, width, style)
                case "blockquote_open":
                    bar = (f"{self._look.marks.bar} ", self._look.dim)
                    rows += _beside([bar], [bar], self._blocks(inside, width - 2, self._look.dim), width)
                case "fence" | "code_block":
                    language, head = _head_of(token.info.strip(), width, self._look)
                    lines = token.content.removesuffix("\n").split("\n") if token.content else []
                    rows += head + _code_rows(coloured(lines, language, self._look), width, self._look)
                case "table_open":
                    rows += self._table(inside, width, style)
                case "hr":
                    rows.append([(self._look.marks.rule * width, self._look.dim)])
            at = end + 1
        return rows

    def _item(self, token: Token, inside: Sequence[Token], width: int, style: Style) -> list[Row]:
        mark = (f"{token.info}{token.markup} " if token.info else f"{self._look.marks.note} ", self._look.accent)
        if inside and inside[0].type == "paragraph_open" and (task := _TASK.match(inside[1].content)) is not None:
            inside[1].content = inside[1].content[task.end() :]
            marks = self._look.marks
            is_done = task[1] != " "
            mark = (f"{marks.done} ", self._look.success) if is_done else (f"{marks.queued} ", self._look.dim)
        body = self._blocks(inside, width - len(mark[0]), style) or [[]]
        return _beside([mark], [(" " * len(mark[0]), style)], body, width)

    def _table(self, tokens: Sequence[Token], width: int, style: Style) -> list[Row]:
        table: list[list[list[Row]]] = []
        sides: list[str] = []
        for i, token in enumerate(tokens):
            if token.type == "tr_open":
                table.append([])
            elif token.type in ("th_open", "td_open"):
                is_head = token.type == "th_open"
                table[-1].append(self._lines(tokens[i + 1].content, style + _BOLD if is_head else style))
                if is_head:
                    sides.append(str(token.attrs.get("style", "")).removeprefix("text-align:"))
        natural = [max(max(map(columns_of, cell), default=0) for cell in column) for column in zip(*table, strict=True)]
        room = width - GAP * (len(natural) - 1)
        widest = next((w for w in range(max(natural), 0, -1) if sum(min(w, n) for n in natural) <= room), 0)
        if widest < min(COLUMN_MIN, max(natural)):
            return self._records(table, width)
        widths = [min(widest, n) for n in natural]
        rows = [row for cells in table[:1] for row in _cells(cells, widths, sides)]
        rows.append(_joined([[(self._look.marks.rule * w, self._look.dim)] for w in widths]))
        return rows + [row for cells in table[1:] for row in _cells(cells, widths, sides)]

    def _records(self, table: list[list[list[Row]]], width: int) -> list[Row]:
        rows: list[Row] = []
        names = [[run for line in cell for run in line] for cell in table[0]]
        for cells in table[1:] or table:
            rows += [[]] if rows else []
            for name, (first, *others) in zip(names, cells, strict=True):
                label = [*name, (": ", self._look.dim)] if table[1:] else []
                rows += [row for line in ([*label, *first], *others) for row in wrapped(line, width)]
        return rows

    def _text(self, content: str, width: int, style: Style) -> list[Row]:
        return [row for line in self._lines(content, style) for row in wrapped(line, width)]

    def _lines(self, content: str, style: Style) -> list[Row]:
        """A text with its marks of Markdown turned into styles, line by line."""
        look = self._look
        line: Row = []
        lines = [line]
        styles = [style]
        links: list[tuple[str, int]] = []

        def put(text: str, style: Style) -> None:
            if text:
                line.append((text, style))

        for token in _inline(content):
            match token.type:
                case "text" | "text_special":
                    for i, piece in enumerate(_BREAK.split(token.content) if "<" in token.content else [token.content]):
                        if i:
                            line = []
                            lines.append(line)
                        for j, word in enumerate(URL.split(piece) if "://" in piece else [piece]):
                            put(word, styles[-1] + look.link if j % 2 else styles[-1])
                case "softbreak" | "hardbreak":
                    line = []
                    lines.append(line)
                case "code_inline":
                    put(token.content, styles[-1] + look.code)
                case "strong_open":
                    styles.append(styles[-1] + _BOLD)
                case "em_open":
                    styles.append(styles[-1] + _ITALIC)
                case "s_open":
                    styles.append(styles[-1] + _STRIKE)
                case "link_open":
                    links.append((str(token.attrs.get("href", "")), len(line)))
                    styles.append(styles[-1] + look.link)
                case "link_close":
                    styles.pop()
                    url, start = links.pop()
                    label = "".join(text for text, _ in line[start:])
                    if url.removeprefix("mailto:") != label:
                        for j, part in enumerate(URL.split(f" ({url})")):
                            put(part, look.dim + _UNDERLINE if j % 2 else look.dim)
                case "image":
                    put(token.content, styles[-1] + look.link)
                    put(f" ({token.attrs.get('src', '')})", look.dim)
                case "strong_close" | "em_close" | "s_close":
                    styles.pop()
                case _:
                    put(token.content, styles[-1])
        return lines


def _end_of(tokens: Sequence[Token], at: int) -> int:
    """Where the token is that closes this one."""
    if tokens[at].nesting != 1:
        return at
    level = tokens[at].level
    return next(i for i in range(at + 1, len(tokens)) if tokens[i].level == level)


def _beside(first: Row, others: Row, body: list[Row], width: int) -> list[Row]:
    """Something before each line; nothing where there is no room for it."""
    if columns_of(first) >= width:
        return body
    return [_bare(others if i else first) if not row else (others if i else first) + row for i, row in enumerate(body)]


def _bare(row: Row) -> Row:
    """Before an empty line: nothing that is not seen."""
    return row if any(text.strip() for text, _ in row) else []


def _cells(cells: list[list[Row]], widths: list[int], sides: list[str]) -> Iterator[Row]:
    """The lines of one row of a table."""
    drawn = [
        [row for line in cell for row in wrapped(line, width)] for cell, width in zip(cells, widths, strict=True)
    ]  # fmt: skip
    for i in range(max(map(len, drawn))):
        yield _joined(
            [
                _aligned(rows[i] if i < len(rows) else [], width, side)
                for rows, width, side in zip(drawn, widths, sides, strict=True)
            ]
        )


def _aligned(row: Row, width: int, side: str) -> Row:
    room = max(0, width - columns_of(row))
    left = room if side == "right" else room // 2 if side == "center" else 0
    return [*[(" " * left, Style.null())] * (left > 0), *row, *[(" " * (room - left), Style.null())] * (room > left)]


def _joined(columns: list[Row]) -> Row:
    row = columns[0]
    for column in columns[1:]:
        row = [*row, (" " * GAP, Style.null()), *column]
    return row


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    found = MarkdownIt("commonmark", {"maxNesting": NESTING_MAX}).enable(["table", "strikethrough"])
    found.disable(["html_block", "html_inline", "reference", "entity"])
    found.normalizeLink = one_line  # type: ignore[assignment]
    return found


@lru_cache(maxsize=1_000)
def _inline(content: str) -> list[Token]:
    """The parts of a text within its block."""
    from markdown_it.token import Token

    found: list[Token] = []
    if sum(map(content.count, "*_~[!`")) <= MARKS_MAX:
        _markdown().inline.parse(content, _markdown(), {}, found)
        return found
    for i, line in enumerate(content.split("\n")):
        if i:
            found.append(Token("softbreak", "br", 0))
        found.append(Token("text", "", 0, content=line))
    return found
