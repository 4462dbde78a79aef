"""Text of others at a terminal: nothing in it moves the cursor, hides, or turns its direction. And how counts and
times read."""

from __future__ import annotations

import re
import time

# What moves the cursor, and what turns the direction of a text (Unicode's Bidi_Control and their deprecated kin).
_CONTROLS = {c for c in (*range(0x20), *range(0x7F, 0xA0)) if c not in (0x09, 0x0A)}
_BIDI = {0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x2070)}
_INVISIBLE = {0x00AD, 0x200B, 0x200C, 0x200D, *range(0x2060, 0x2066), 0xFEFF, *range(0xFFF9, 0xFFFC)}
_TAGS = range(0xE0000, 0xE0080)
_STRIPPED = dict.fromkeys(_CONTROLS | _BIDI)
_SHOWN = {c: f"\\x{c:02x}" if c < 0x100 else f"\\u{c:04x}" for c in _CONTROLS | _BIDI | _INVISIBLE}
_SHOWN |= {c: f"\\U{c:08x}" for c in _TAGS}
_HIDDEN = dict.fromkeys(_SHOWN)
_JSON_ESCAPED = {c: f"\\u{c:04x}" for c in (_CONTROLS | _BIDI) if c >= 0x7F}
# A control sequence, or a control string that has its end on the same line. Source: ECMA-48, sections 5.4 and 5.6.
_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\))"


def json_safe(text: str) -> str:
    """A JSON document whose strings hold such characters only as escapes."""
    return text.translate(_JSON_ESCAPED)


def clean(text: object) -> str:
    """Text for a terminal: without escape sequences, control characters and what turns its direction."""
    found = str(text)
    if "\x1b" in found:
        found = re.sub(_SEQUENCE, "", found)
    if "\r" in found:
        found = found.replace("\r\n", "\n").replace("\r", "\n")
    return found.translate(_STRIPPED)


def last_written(text: str) -> str:
    """Lines as a terminal leaves them that a command wrote over from their beginning, as progress bars do. A line that
    just went back to it still shows what it showed."""
    if "\r" not in text:
        return text
    return "\n".join(line[line.rstrip("\r").rfind("\r") + 1 :] for line in text.split("\n"))


def expose(text: object) -> str:
    """Text that a person is asked to decide about: what cannot be seen is written out, and nothing is left out."""
    return str(text).translate(_SHOWN)


def count_hidden(text: str) -> int:
    """How many characters `expose` writes out. Piece by piece, so that other threads go on meanwhile."""
    pieces = (text[at : at + 65_536] for at in range(0, len(text), 65_536))
    return sum(len(piece) - len(piece.translate(_HIDDEN)) for piece in pieces)


def one_line(text: object, width: int = 0) -> str:
    return cut(" ".join(clean(text).split()), width)


def cut(line: str, width: int) -> str:
    """As much of a line as fits; all of it where the width is 0."""
    if not width or text_width(line) <= width:
        return line
    room, kept = width - 1, 0
    while kept < len(line) and (room := room - text_width(line[kept])) >= 0:
        kept += 1
    return line[:kept] + "…"


def text_width(text: str) -> int:
    """How many columns of a terminal a line takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 - a quick command prints ASCII

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 approval`, `2 approvals`."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def ago(at_ms: int, now_ms: int | None = None) -> str:
    """`5s`, `3m`, `2h`, `4d`."""
    seconds = max(0, ((now_ms if now_ms is not None else time.time_ns() // 1_000_000) - at_ms) // 1000)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def day_of(at_ms: int) -> str:
    return time.strftime("%a, %Y-%m-%d", time.localtime(at_ms / 1000))


def moment(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def clock(at_ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000)) + f".{at_ms % 1000:03d}"
