"""How the CLI speaks: data on stdout, narration on stderr, no control characters from anybody, colours by choice."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from kheish.errors import KheishError

EXIT_FAILED = 20
EXIT_STOPPED = 21
EXIT_WAITING = 22
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130

RUN_EXIT = {"completed": 0, "failed": EXIT_FAILED, "cancelled": EXIT_STOPPED, "interrupted": EXIT_STOPPED}

_BY_STATUS = {400: 2, 405: 2, 413: 2, 401: 4, 403: 4, 404: 5, 409: 6, 429: 7, 503: 7, 504: 7}
_COLORS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
_CONTROL = {c: None for c in (*range(0x20), *range(0x7F, 0xA0)) if c not in (0x09, 0x0A)}
_CONTROL.update(dict.fromkeys((0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)))
_STATUS_COLOR = {
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "waiting_for_approval": "yellow",
    "waiting_for_user_question": "yellow",
    "cancelled": "dim",
    "interrupted": "dim",
    "ended": "dim",
    "idle": "dim",
}


def clean(text: object) -> str:
    """Text for a terminal: without control characters and without what turns its direction."""
    return str(text).translate(_CONTROL)


def one_line(text: object, width: int = 0) -> str:
    line = " ".join(clean(text).split())
    return line if not width or len(line) <= width else line[: max(0, width - 1)] + "…"


def use_color(stream: TextIO) -> bool:
    """NO_COLOR (no-color.org) and dumb terminals have the last word."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def paint(text: str, color: str, stream: TextIO | None = None) -> str:
    if not color or not use_color(stream or sys.stdout):
        return text
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"


def paint_status(status: str, stream: TextIO | None = None) -> str:
    return paint(status, _STATUS_COLOR.get(status, ""), stream)


def say(text: str = "", color: str = "") -> None:
    """Narration."""
    print(paint(text, color, sys.stderr) if color else text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Indented for people, one line for programs."""
    if sys.stdout.isatty():
        print(clean(json.dumps(value, ensure_ascii=False, indent=2)))
    else:
        print(json.dumps(value, ensure_ascii=True, separators=(",", ":")))


def print_json_line(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=True, separators=(",", ":")), flush=True)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], colors: dict[int, Callable[[str], str]] | None = None
) -> None:
    """Aligned columns; the last one is cut to the width of a terminal and left whole in a pipe."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max([len(c), *(len(row[i]) for row in cells)]) for i, c in enumerate(columns)]
    if sys.stdout.isatty():
        room = terminal_width() - sum(widths[:-1]) - 2 * (len(columns) - 1)
        widths[-1] = max(8, min(widths[-1], room))
        cells = [[*row[:-1], one_line(row[-1], widths[-1])] for row in cells]
    header = "  ".join(c.upper().ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip()
    print(paint(header, "dim"))
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        for index, color in (colors or {}).items():
            padded[index] = color(row[index]) + " " * (widths[index] - len(row[index]))
        print("  ".join(padded).rstrip())


def terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 80


def ago(at_ms: int, now_ms: int | None = None) -> str:
    """`5s`, `3m`, `2h`, `4d`."""
    seconds = max(0, ((now_ms if now_ms is not None else time.time_ns() // 1_000_000) - at_ms) // 1000)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def clock(at_ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000)) + f".{at_ms % 1000:03d}"


def short(id_: str) -> str:
    """The end of an id that people can tell apart and commands take: `run_01KB...` keeps its beginning."""
    return id_


def fail(error: KheishError) -> int:
    """Says what went wrong; returns the exit status."""
    sys.stdout.flush()
    say(paint("kheish: ", "red", sys.stderr) + clean(error.message))
    if error.code == "daemon_unreachable":
        return 3
    return _BY_STATUS.get(error.status, 1)
