"""`kheish logs`: the journal of a session or run, for people or for programs."""

from __future__ import annotations

import time
from collections import deque

from kheish.cli.output import check_reader, paint, print_json_line, say
from kheish.cli.targets import connect, find_target
from kheish.client import ApiError
from kheish.narration import Renderer
from kheish.terminal import clean, clock, day_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheish.client import Kheish, RecordView


_CONTEXT_RECORDS = 200
"""Read before the last ones: they name the calls and options that later facts refer to."""


def logs(target: str | None, follow: bool, lines: int, as_json: bool) -> int:
    client = connect()
    kind, id_ = find_target(client, target)
    renderer = Renderer()
    cursor = ""
    shown_day = day_of(time.time_ns() // 1_000_000)

    def show(record: RecordView) -> None:
        nonlocal shown_day
        if as_json:
            print_json_line(record)
            return
        for text, color in renderer.lines(record):
            if (of := day_of(record["at_ms"])) != shown_day:
                shown_day = of
                print(paint(of, "dim"), flush=follow)
            print(f"{paint(clock(record['at_ms']), 'dim')} {paint(text, color)}", flush=follow)

    kept: deque[RecordView] = deque(maxlen=lines or None)
    try:
        for record in _records(client, kind, id_, lines):
            cursor = str(record["seq"])
            if lines:
                # What is left out still names the calls that later facts refer to.
                if len(kept) == lines and not as_json:
                    deque(renderer.lines(kept[0]), maxlen=0)
                kept.append(record)
            else:
                show(record)
    finally:
        # Also of a damaged session, whose fault ends the pages.
        for record in kept:
            show(record)
    if follow:
        for event in client.events(**{f"{kind}_id": id_}, cursor=cursor, deadline_s=None):
            if event.event == "record":
                show(event.data)
            elif event.event in ("sync", "heartbeat"):
                check_reader()
            elif event.event == "bye" and "daemon" in event.data["reason"]:
                say(f"{clean(event.data['reason'])}; waiting for it", "dim")
    return 0


def _records(client: Kheish, kind: str, id_: str, lines: int) -> Iterator[RecordView]:
    """The records so far, page by page; for the last few of a session not from its beginning."""
    noun = client.runs if kind == "run" else client.sessions
    cursor: str | None = None
    if lines and kind == "session":
        try:
            cursor = str(max(0, client.sessions.get(id_)["seq"] - lines - _CONTEXT_RECORDS))
        except ApiError:
            pass  # it is damaged, and read up to its fault
    while True:
        page = noun.events(id_, cursor=cursor, limit=1000)
        yield from page["items"]
        cursor = page["next_cursor"]
        if not cursor:
            return
