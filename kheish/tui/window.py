"""A window on a session's journal: consecutive records as lines, as many as one may scroll through at once.

Records are numbered without a hole, so that a page before a seq begins at a seq that can be computed. The window grows
at the end that is read and lets go of the other; a filter leaves records out, which are read all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from kheish.client import AnyEvent, RecordPage, RecordView
from kheish.narration import Renderer
from kheish.terminal import clean, one_line

WINDOW = 600
PAGE = 200
WARM = 30
"""Records before a page that are read with it, so that its first lines can name the calls they speak of."""
SCANNED_MAX = 4_000
"""Records that are read for one page where a filter leaves most of them out."""

Filter = Literal["all", "no tools", "only mine", "decisions", "labelled"]
FILTERS: tuple[Filter, ...] = ("all", "no tools", "only mine", "decisions", "labelled")
DECISIONS = ("approval.", "question.", "tool_call.decided", "session.mode_changed", "session.rule_added")
STRONGEST = ("red", "yellow", "green", "bold", "cyan", "", "dim")

_REQUEST = re.compile(r"^(asks|waits for [a-z (]+[a-z)])? ?(?:approval|question)_[0-9A-Z]{26}\b")
"""The id of a request, which says nothing here; the details have it."""

Read = Callable[[int, int], Awaitable[RecordPage]]
"""(after this seq, at most so many)."""
Labels = Mapping[int, str]
"""Of records, by their seq."""


class Line(NamedTuple):
    """A record, and what is said of it; `color` as `kheish.narration` names it."""

    record: RecordView
    text: str
    color: str

    @property
    def seq(self) -> int:
        return self.record["seq"]


def is_shown(record: RecordView, by: Filter, me: str, labels: Labels) -> bool:
    """`me` is the principal of the person."""
    if by == "labelled":
        return record["seq"] in labels
    if by == "only mine":
        return record["by"]["principal"] == me
    if by == "decisions":
        return any(event["type"].startswith(DECISIONS) for event in record["events"])
    return by == "all" or not all(_is_of_tools(event) for event in record["events"])


def _is_of_tools(event: AnyEvent) -> bool:
    if event["type"] == "model_call.completed":
        return event.get("purpose", "reply") == "summary" or not event["text"].strip()
    return event["type"].startswith(("tool_call.", "process.")) or event["type"] == "model_call.started"


def line_of(record: RecordView, renderer: Renderer) -> Line:
    """One line whatever the record holds; what is not worth telling elsewhere is told dimly."""
    told = list(renderer.lines(record))
    if told:
        color = min((color for _, color in told), key=STRONGEST.index)
        return Line(record, " · ".join(_REQUEST.sub(r"\1", text).lstrip(": ") for text, _ in told), color)
    return Line(record, " · ".join(one_line(_plain(event, renderer)) for event in record["events"]), "dim")


def _plain(event: AnyEvent, renderer: Renderer) -> str:
    match event["type"]:
        case "tool_call.decided":
            call = renderer.call(event["tool_call_id"])
            return f"{event['behavior']} {call} (rule {event['rule']}, {event['mode']} mode)"
        case "model_call.started":
            again = f", attempt {event['attempt']}" if event["attempt"] > 1 else ""
            return f"model call, step {event['step']}{again}"
        case "model_call.completed" if event.get("purpose", "reply") == "summary":
            return "the summary came"
        case "model_call.completed":
            return "model: " + ", ".join(renderer.call(r["tool_call_id"]) for r in event.get("tool_requests", ()))
        case kind:
            return re.sub(r"[._]", " ", kind)


class Window:
    """`lines` are those of the records from `first_seq` to `last_seq` that the filter shows. `labels` are looked at as
    they are then."""

    def __init__(self, read: Read, by: Filter = "all", me: str = "", labels: Labels | None = None) -> None:
        self._read = read
        self.by = by
        self._me = me
        self._labels = {} if labels is None else labels
        self._clear(0)

    def _clear(self, after: int) -> None:
        self.lines: list[Line] = []
        self.first_seq, self.last_seq = after + 1, after
        self.is_at_end = False
        self._renderer = Renderer()

    async def open_at(self, seq: int) -> None:
        """Begins anew, with that record about in the middle."""
        self._clear(max(0, seq - 1 - WARM))
        await self.newer()
        await self.older()

    async def open_end(self, last_seq: int) -> None:
        """`last_seq`, as far as it is known; what came since is read too. Goes back until there is a line."""
        self._clear(last_seq)
        await self.older()
        await self.newer()
        while not self.lines and await self.older():
            pass

    def _is_shown(self, record: RecordView) -> bool:
        return is_shown(record, self.by, self._me, self._labels)

    def _skip_back(self, seq: int) -> int:
        """Where reading back from `seq` goes on: for labels alone what lies between them is passed over."""
        if self.by != "labelled":
            return seq
        return 1 + max((labelled for labelled in self._labels if labelled < seq), default=0)

    async def older(self) -> bool:
        """Reads a page before the first record; whether there was anything."""
        found: list[Line] = []
        goal, lowest, scanned = self.first_seq, self._skip_back(self.first_seq), 0
        while lowest > 1 and len(found) < PAGE and scanned < SCANNED_MAX:
            start = max(0, lowest - 1 - PAGE)
            renderer = Renderer()
            page = [r async for r in self._range(max(0, start - WARM), lowest - 1)]
            lines = [line_of(record, renderer) for record in page]
            found[:0] = [line for line in lines if line.seq > start and self._is_shown(line.record)]
            if lowest == goal == self.last_seq + 1:
                self._renderer = renderer
            scanned += lowest - 1 - start
            lowest = self._skip_back(start + 1)
        if goal != self.first_seq:
            return False
        self.first_seq = lowest
        self.lines[:0] = found
        if len(self.lines) > WINDOW:
            self.last_seq = self.lines[WINDOW].seq - 1
            del self.lines[WINDOW:]
            self.is_at_end = False
        return lowest < goal

    async def newer(self) -> bool:
        """Reads a page after the last record; whether there was anything."""
        before = self.last_seq
        count = len(self.lines)
        while len(self.lines) - count < PAGE and self.last_seq - before < SCANNED_MAX:
            after = self.last_seq
            page = (await self._read(after, PAGE))["items"]
            if self.last_seq != after:
                continue
            self.is_at_end = not page
            if not page:
                break
            for record in page:
                self._append(record)
        return self.last_seq > before

    def apply(self, record: RecordView) -> bool | None:
        """A record that has just come: whether it is a line now. None where others are missing before it."""
        if record["seq"] <= self.last_seq or not self.is_at_end:
            return False
        if record["seq"] != self.last_seq + 1:
            self.is_at_end = False
            return None
        return self._append(record)

    def _append(self, record: RecordView) -> bool:
        line = line_of(record, self._renderer)
        self.last_seq = record["seq"]
        if not self._is_shown(record):
            return False
        self.lines.append(line)
        if len(self.lines) > WINDOW:
            self.first_seq = self.lines[1].seq
            del self.lines[0]
        return True

    async def _range(self, after: int, until: int) -> AsyncIterator[RecordView]:
        while after < until:
            page = (await self._read(after, min(PAGE + WARM, until - after)))["items"]
            if not page:
                return
            for record in page:
                after = record["seq"]
                if after <= until:
                    yield record

    # -- going elsewhere -----------------------------------------------------------------------------------------

    async def seq_at(self, at_ms: int, last_seq: int) -> int:
        """The first record that is not earlier, or the last one. Times never decrease but for a clock set back."""
        low, high = 1, max(1, last_seq)
        while low < high:
            middle = (low + high) // 2
            page = (await self._read(middle - 1, 1))["items"]
            if page and page[0]["at_ms"] < at_ms:
                low = middle + 1
            else:
                high = middle
        return low

    async def find(self, text: str, seq: int, last_seq: int, *, backwards: bool = False) -> int:
        """The nearest record after `seq`, or before it, that holds a text; goes on from the other end. 0: none."""
        wanted = text.casefold()
        ranges = [(seq, last_seq), (0, seq)] if not backwards else [(0, seq - 1), (seq - 1, last_seq)]
        for after, until in ranges:
            pages = range(after, until, PAGE)
            for start in reversed(pages) if backwards else pages:
                renderer = Renderer()
                page = [r async for r in self._range(start, min(start + PAGE, until))]
                matches = [r["seq"] for r in page if self._holds(r, renderer, wanted)]
                if matches:
                    return matches[-1 if backwards else 0]
        return 0

    def _holds(self, record: RecordView, renderer: Renderer, wanted: str) -> bool:
        said = self._labels.get(record["seq"], ""), line_of(record, renderer).text
        if any(wanted in text.casefold() for text in said):
            return True
        return wanted in clean(json.dumps(record["events"], ensure_ascii=False)).casefold()


class Goal(NamedTuple):
    """Where a person wants to go: `number` is a seq or a time in milliseconds."""

    kind: Literal["seq", "time", "text"]
    number: int = 0
    text: str = ""


def goal_of(text: str, near_ms: int) -> Goal | None:
    """What a person means: `42` or `#42`, a time (`14:03`, `14:03:22`, `2026-11-25 14:03`, `-10m` before `near_ms`), or
    a text to search for. A time without a day is of the day of `near_ms`."""
    text = text.strip()
    if not text:
        return None
    if found := re.fullmatch(r"#?(\d+)", text):
        return Goal("seq", int(found[1]))
    if found := re.fullmatch(r"-(\d+)([smhd])", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
        return Goal("time", near_ms - int(timedelta(**{unit: int(found[1])}).total_seconds() * 1000))
    if re.fullmatch(r"(\d{4}-\d\d-\d\d)?[ T]?(\d{1,2}:\d\d(:\d\d)?)?", text):
        day = datetime.fromtimestamp(near_ms / 1000).strftime("%Y-%m-%d")
        whole = text if "-" in text else f"{day} {text}"
        for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"):
            try:
                return Goal("time", int(datetime.strptime(whole.replace("T", " "), form).timestamp() * 1000))
            except ValueError:
                continue
    return Goal("text", text=text)
