"""How the CLI speaks: data on stdout, narration on stderr, no control characters from anybody, colours by choice."""

from __future__ import annotations

import json
import os
import sys

from kheish.errors import KheishError
from kheish.terminal import clean, cut, json_safe, one_line, text_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TextIO

EXIT_FAILED = 20
EXIT_STOPPED = 21
EXIT_WAITING = 22
EXIT_DEPARTED = 23
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130

_LAST_COLUMN_MIN = 12
_SHORT_DIGITS = 12
"""The ten digits of an id that tell its millisecond, and two more."""

RUN_EXIT = {"completed": 0, "failed": EXIT_FAILED, "cancelled": EXIT_STOPPED, "interrupted": EXIT_STOPPED}

_BY_CODE = {"daemon_unreachable": 3, "daemon_draining": 7, "archive_corrupt": 2}
# What is damaged, or written by a later Kheish, does not become better by trying again.
_BY_CODE |= dict.fromkeys(("session_corrupt", "blob_corrupt", "document_corrupt", "format_too_new"), 1)
_BY_STATUS = {400: 2, 405: 2, 413: 2, 401: 4, 403: 4, 404: 5, 409: 6, 429: 7, 503: 7, 504: 7}
_COLORS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
_STATUS_COLOR = {
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "waiting_for_approval": "yellow",
    "waiting_for_user_question": "yellow",
    "waiting: approval": "yellow",
    "waiting: question": "yellow",
    "cancelled": "dim",
    "interrupted": "dim",
    "ended": "dim",
    "idle": "dim",
}


def use_color(stream: TextIO) -> bool:
    """NO_COLOR (no-color.org) and dumb terminals have the last word."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def paint(text: str, color: str, stream: TextIO | None = None) -> str:
    if not color or not use_color(stream or sys.stdout):
        return text
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"


def status_text(status: str) -> str:
    """A status for a column: shorter at a terminal."""
    if not sys.stdout.isatty():
        return status
    return status.replace("waiting_for_user_", "waiting: ").replace("waiting_for_", "waiting: ")


def paint_status(status: str, stream: TextIO | None = None) -> str:
    return paint(status, _STATUS_COLOR.get(status, ""), stream)


def say(text: str = "", color: str = "") -> None:
    """Narration."""
    print(paint(text, color, sys.stderr) if color else text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Indented for people, one line for programs."""
    if sys.stdout.isatty():
        print(json_safe(json.dumps(value, ensure_ascii=False, indent=2)))
    else:
        print(json.dumps(value, ensure_ascii=True, separators=(",", ":")))


def print_json_line(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=True, separators=(",", ":")), flush=True)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], colors: dict[int, Callable[[str], str]] | None = None
) -> None:
    """Aligned columns, all of them and whole in a pipe. A terminal gets the columns that hold something, the last one
    cut to its width, or, where that is too narrow, a few lines for each row."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    kept = list(range(len(columns)))
    widths = [max(text_width(line[i]) for line in (columns, *cells)) for i in kept]
    if sys.stdout.isatty():
        kept = [i for i in kept if any(row[i] for row in cells)]
        last = kept[-1]
        room = terminal_width() - sum(widths[i] + 2 for i in kept[:-1])
        if room < min(widths[last], _LAST_COLUMN_MIN):
            return _print_cards(columns, cells, colors or {})
        widths[last] = min(widths[last], room)
        cells = [[cut(cell, room) if i == last else cell for i, cell in enumerate(row)] for row in cells]
    print(paint("  ".join(_pad(columns[i].upper(), widths[i]) for i in kept).rstrip(), "dim"))
    for row in cells:
        print("  ".join(_pad(row[i], widths[i], (colors or {}).get(i)) for i in kept).rstrip())
    return None


def _pad(cell: str, width: int, color: Callable[[str], str] | None = None) -> str:
    return (color(cell) if color else cell) + " " * (width - text_width(cell))


def _print_cards(columns: Sequence[str], cells: list[list[str]], colors: dict[int, Callable[[str], str]]) -> None:
    margin = max(text_width(name) for name in columns[1:]) + 3
    for row in cells:
        print(paint(row[0], "bold"))
        for i in range(1, len(columns)):
            if row[i]:
                value = cut(row[i], max(8, terminal_width() - margin))
                print(f" {paint(_pad(columns[i], margin - 2), 'dim')} {colors[i](value) if i in colors else value}")


def terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 80


def short_ids(ids: Iterable[str]) -> Callable[[str], str]:
    """At a terminal, as much of each of these ids as tells it from all the others; in a pipe all of it."""
    if not sys.stdout.isatty():
        return str
    known = sorted(set(ids))
    shortened = {}
    for i, id_ in enumerate(known):
        length = len(id_.partition("_")[0]) + 1 + _SHORT_DIGITS
        others = [known[j] for j in (i - 1, i + 1) if 0 <= j < len(known)]
        while length < len(id_) and any(other.startswith(id_[:length]) for other in others):
            length += 1
        shortened[id_] = id_[:length]
    return lambda id_: shortened.get(id_, id_)


def fail(error: KheishError) -> int:
    """Says what went wrong; returns the exit status."""
    for tell in (sys.stdout.flush, lambda: say(paint("kheish: ", "red", sys.stderr) + clean(error.message))):
        try:
            tell()
        except OSError:
            pass  # nobody reads it, and the status says it too
    return _BY_CODE.get(error.code) or _BY_STATUS.get(error.status, 1)


def check_reader() -> None:
    """Raises BrokenPipeError where nobody reads our output any more, which writing alone would find out too late."""
    import select

    poll = select.poll()
    poll.register(sys.stdout, 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        raise BrokenPipeError
