"""The window on a journal: pages both ways, bounded, without a hole; and what a person may type to go elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from kheish.client import RecordPage, RecordView
from kheish.tui.window import PAGE, SCANNED_MAX, WINDOW, Goal, Window, goal_of, is_shown

ME = "user:1000"
NOON_MS = int(datetime(2026, 11, 25, 12, 0).timestamp() * 1000)


def record(seq: int, *events: dict[str, Any], by: str = "daemon") -> RecordView:
    found: Any = {
        "session_id": "s", "seq": seq, "at_ms": NOON_MS + seq * 1000, "generation": 1, "position": 0,
        "by": {"principal": by, "origin": "cli"}, "events": list(events) or [{"type": "run.completed", "run_id": "r"}],
    }  # fmt: skip
    return found  # type: ignore[no-any-return]


class Journal:
    """Answers as the daemon does: dense seqs, pages that may be cut short."""

    def __init__(self, total: int, *, page_max: int = 1_000) -> None:
        self.records = [record(seq) for seq in range(1, total + 1)]
        self.page_max = page_max
        self.reads = 0

    async def read(self, after: int, limit: int) -> RecordPage:
        self.reads += 1
        return {"items": self.records[after : after + min(limit, self.page_max)], "next_cursor": None}


def seqs(window: Window) -> list[int]:
    return [line.seq for line in window.lines]


async def test_it_opens_at_the_end_and_reads_back_to_the_first_record_without_a_hole() -> None:
    journal = Journal(450, page_max=70)
    window = Window(journal.read)
    await window.open_end(450)
    assert window.is_at_end and seqs(window)[-1] == 450
    while await window.older():
        pass
    assert seqs(window) == list(range(1, 451))


async def test_it_never_holds_more_than_its_bound_and_comes_back_to_what_it_let_go() -> None:
    journal = Journal(3 * WINDOW)
    window = Window(journal.read)
    await window.open_end(3 * WINDOW)
    while await window.older():
        assert len(window.lines) <= WINDOW
        assert seqs(window) == list(range(window.first_seq, window.last_seq + 1))
    assert window.first_seq == 1 and not window.is_at_end
    while await window.newer():
        assert len(window.lines) <= WINDOW
        assert seqs(window) == list(range(window.first_seq, window.last_seq + 1))
    assert window.is_at_end and seqs(window)[-1] == 3 * WINDOW


async def test_a_record_that_comes_is_added_once_at_the_end_alone() -> None:
    journal = Journal(10)
    window = Window(journal.read)
    await window.open_end(10)
    assert window.apply(record(11)) is True
    assert window.apply(record(11)) is False
    assert window.apply(record(13)) is None, "12 is missing"
    assert seqs(window) == list(range(1, 12))
    journal.records += [record(11), record(12), record(13)]
    await window.newer()
    assert seqs(window) == list(range(1, 14)) and window.is_at_end


async def test_a_window_in_the_middle_takes_nothing_that_comes() -> None:
    journal = Journal(2_000)
    window = Window(journal.read)
    await window.open_at(500)
    assert window.first_seq < 500 < window.last_seq and not window.is_at_end
    assert window.apply(record(2_001)) is False


async def test_a_filter_reads_on_until_there_is_something_to_show() -> None:
    journal = Journal(1_500)
    journal.records[99] = record(100, by=ME)
    window = Window(journal.read, "only mine", ME, {})
    await window.open_end(1_500)
    assert seqs(window) == [100] and window.first_seq == 1
    assert journal.reads < 20


async def test_a_line_names_the_call_that_the_record_before_its_page_asked_for() -> None:
    journal = Journal(2 * PAGE)
    asked = {"tool_call_id": "c", "tool": "bash", "arguments": {"command": "make test"}, "provider_id": "p"}
    call = {"run_id": "r", "tool_call_id": "c", "attempt": 1, "at_ms": 0}
    completed = {"type": "model_call.completed", "run_id": "r", "text": "", "tool_requests": [asked]}
    journal.records[PAGE - 1] = record(PAGE, completed)
    journal.records[PAGE] = record(PAGE + 1, {"type": "tool_call.started", **call})
    window = Window(journal.read)
    await window.open_end(2 * PAGE)
    assert window.first_seq == PAGE + 1 and "make test" in window.lines[0].text


async def test_a_time_finds_the_first_record_from_then_on() -> None:
    window = Window(Journal(1_000).read)
    assert await window.seq_at(NOON_MS + 437 * 1000, 1_000) == 437
    assert await window.seq_at(NOON_MS + 437 * 1000 - 1, 1_000) == 437
    assert await window.seq_at(0, 1_000) == 1
    assert await window.seq_at(NOON_MS * 2, 1_000) == 1_000


async def test_a_search_goes_on_from_the_other_end_and_finds_what_no_line_shows() -> None:
    journal = Journal(900)
    for seq in (50, 700):
        journal.records[seq - 1] = record(seq, {"type": "session.mode_changed", "mode": "plan", "note": "Needle"})
    window = Window(journal.read)
    assert await window.find("needle", 1, 900) == 50
    assert await window.find("needle", 50, 900) == 700
    assert await window.find("needle", 700, 900) == 50
    assert await window.find("needle", 700, 900, backwards=True) == 50
    assert await window.find("needle", 50, 900, backwards=True) == 700
    assert await window.find("no such thing", 1, 900) == 0


async def test_only_labelled_records_are_found_over_any_distance_without_reading_what_lies_between() -> None:
    journal = Journal(30_000)
    labels = {3: "the start", 4: "after it", 15_000: "the outage", 29_990: "now"}
    window = Window(journal.read, "labelled", labels=labels)
    await window.open_end(30_000)
    while await window.older():
        pass
    assert seqs(window) == sorted(labels) and window.is_at_end and window.first_seq == 1
    assert journal.reads < 10
    assert window.apply(record(30_001)) is False


async def test_a_label_is_found_like_what_its_record_says() -> None:
    journal = Journal(900)
    window = Window(journal.read, labels={700: "Before the outage"})
    assert await window.find("the outage", 1, 900) == 700


async def test_it_goes_back_until_a_filter_lets_something_through() -> None:
    journal = Journal(3 * SCANNED_MAX)
    journal.records[9] = record(10, {"type": "session.mode_changed", "mode": "plan"})
    window = Window(journal.read, "decisions")
    await window.open_end(3 * SCANNED_MAX)
    assert seqs(window) == [10]


TOOL: dict[str, Any] = {"type": "tool_call.started", "run_id": "r", "tool_call_id": "c"}
DECIDED: dict[str, Any] = {"type": "tool_call.decided", "run_id": "r", "tool_call_id": "c"}
SILENT: dict[str, Any] = {"type": "model_call.completed", "text": " "}
SAID: dict[str, Any] = {"type": "model_call.completed", "text": "hello"}
ASKED: dict[str, Any] = {"type": "approval.requested"}


@pytest.mark.parametrize(
    ("events", "no_tools", "decisions"),
    [
        ([TOOL], False, False),
        ([SILENT, DECIDED], False, True),
        ([SAID, TOOL], True, False),
        ([TOOL, ASKED], True, True),
        ([{"type": "run.started"}], True, False),
        ([{"type": "session.rule_added"}], True, True),
    ],
)
def test_a_filter_keeps_what_it_says(events: Sequence[dict[str, Any]], no_tools: bool, decisions: bool) -> None:
    found = record(1, *events)
    assert is_shown(found, "all", ME, {})
    assert is_shown(found, "no tools", ME, {}) is no_tools
    assert is_shown(found, "decisions", ME, {}) is decisions
    assert not is_shown(found, "labelled", ME, {2: "x"}) and is_shown(found, "labelled", ME, {1: "x"})
    assert not is_shown(found, "only mine", ME, {}) and is_shown(record(1, *events, by=ME), "only mine", ME, {})


def at(*when: int) -> int:
    return int(datetime(*when).timestamp() * 1000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "goal"),
    [
        ("42", Goal("seq", 42)),
        (" #42 ", Goal("seq", 42)),
        ("14:03", Goal("time", at(2026, 11, 25, 14, 3))),
        ("9:03:07", Goal("time", at(2026, 11, 25, 9, 3, 7))),
        ("2026-11-24", Goal("time", at(2026, 11, 24))),
        ("2026-11-24 14:03", Goal("time", at(2026, 11, 24, 14, 3))),
        ("2026-11-24T14:03:09", Goal("time", at(2026, 11, 24, 14, 3, 9))),
        ("-10m", Goal("time", NOON_MS - 600_000)),
        ("-2d", Goal("time", NOON_MS - 2 * 86_400_000)),
        ("25:99", Goal("text", text="25:99")),
        ("make test", Goal("text", text="make test")),
        ("  ", None),
    ],
)
def test_what_is_typed_is_a_seq_a_time_or_a_text(typed: str, goal: Goal | None) -> None:
    assert goal_of(typed, NOON_MS) == goal
