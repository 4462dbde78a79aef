"""Where a context was compacted, as the screens show it."""

from __future__ import annotations

from typing import Any

import pytest

from kheish.narration import Renderer
from kheish.tui.entries import Drawing
from kheish.tui.live import Compacted, Note, Reply
from kheish.tui.look import THEMES, look_of
from kheish.tui.screens.run import draw_step
from kheish.tui.story import Story
from kheish.tui.window import is_shown, line_of
from kheish.tui.words import context_text
from tests.tui.test_live import CALL, STARTED, Told, reply, submitted

LOOK = look_of(THEMES[0].to_color_system().generate(), is_dark=True)
SUM_UP = {**CALL, "model_call_id": "m2", "purpose": "summary", "route": "r", "model": "m"}
SUMMARY = {
    **reply("The gist.\nAll of it.", usage={"input_tokens": 70, "output_tokens": 5}),
    "model_call_id": "m2",
    "purpose": "summary",
}
COMPACTED = {
    "type": "context.compacted", "run_id": "run_1", "model_call_id": "m2", "at_ms": 30, "reason": "window",
    "messages": 12, "tokens_before": 160_000, "tokens_after": 9_000, "summary": "The gist.\n\x1b[8mAll of it.",
    "shown": [{"role": "user", "text": "first"}],
}  # fmt: skip
TEXT = "context compacted, it came near the model's window: 12 messages summed up, about 160,000 -> 9,000 tokens"


@pytest.fixture
def told() -> Told:
    told = Told()
    told.tell(submitted(window_tokens=200_000), STARTED, SUM_UP)
    told.tell(SUMMARY, COMPACTED, {**CALL, "route": "r", "model": "m"})
    return told


def drawn(entry: Any, *, is_expanded: bool, width: int = 60) -> list[str]:
    drawing = Drawing(entry)
    drawing.is_expanded = is_expanded
    return [line.text.rstrip() for line in drawing.draw(width, LOOK, 1, 0)]


def test_a_summary_is_no_reply_and_its_place_is_an_entry(told: Told) -> None:
    told.tell(reply("The answer.", usage={"input_tokens": 9_100, "output_tokens": 20}))
    assert told.kinds() == ["Said", "Compacted", "Reply"]
    assert [e.text for e in told.talk.entries if isinstance(e, Reply)] == ["The answer."]
    assert told.talk.usage["input_tokens"] == 9_170, "it is paid all the same"


def test_the_share_of_the_window_follows_the_compaction_and_the_replies(told: Told) -> None:
    assert (told.talk.context_tokens, told.talk.window_tokens) == (9_000, 200_000)
    told.tell(reply("The answer.", usage={"input_tokens": 9_100, "cache_read_tokens": 900, "output_tokens": 20}))
    assert told.talk.context_tokens == 10_020
    hop = {"route": "b", "model": "n", "window_tokens": 50_000}
    told.tell(submitted("run_2", hops=[{"route": "a", "model": "n", "window_tokens": 8}, hop]))
    told.tell({**STARTED, "run_id": "run_2"}, {**CALL, "run_id": "run_2", "route": "b", "model": "n"})
    assert told.talk.window_tokens == 50_000
    told.tell({**CALL, "run_id": "run_2", "route": "shell", "model": "bash"})
    assert told.talk.window_tokens == 50_000, "of a way that is not known nothing is"


@pytest.mark.parametrize(
    ("tokens", "window_tokens", "text"),
    [(0, 200_000, ""), (52_000, 0, "context 52k"), (52_000, 200_000, "context 52k (26%)")],
)
def test_the_status_line_shows_the_share_where_the_window_is_known(tokens: int, window_tokens: int, text: str) -> None:
    assert context_text(tokens, window_tokens) == text


def test_the_summary_is_folded_to_a_line_and_shown_clean(told: Told) -> None:
    (entry,) = [e for e in told.talk.entries if isinstance(e, Compacted)]
    *head, folded, _ = drawn(entry, is_expanded=False)
    assert " ".join(line.strip() for line in head).endswith("9,000 tokens")
    assert folded.endswith("The gist. (2 lines)")
    *_, first, second, _ = drawn(entry, is_expanded=True)
    assert first.endswith("The gist.") and second.endswith("All of it.")
    assert "\x1b" not in second


def test_without_a_summary_there_is_only_the_line() -> None:
    told = Told()
    told.tell(submitted(), STARTED, CALL, {**COMPACTED, "summary": "", "messages": 0, "reason": "too_large"})
    (entry,) = [e for e in told.talk.entries if isinstance(e, Compacted)]
    assert "long results cut" in entry.text and "the provider found it too large" in entry.text
    assert drawn(entry, is_expanded=True, width=200)[1:] == [""]


def test_who_asked_for_a_compaction_is_told() -> None:
    told = Told()
    told.tell({"type": "context.compaction_requested"}, by="user:7")
    told.tell({"type": "model_call.failed", "code": "nothing_to_compact", "message": "it is short"})
    assert [e.text for e in told.talk.entries if isinstance(e, Note)] == [
        "user:7 asked for a compaction before the next model call",
        "no summary: it is short",
    ]


def test_a_summary_that_fails_is_told_with_the_reason_and_what_became_of_the_context() -> None:
    told = Told()
    failed = {"type": "model_call.failed", "run_id": "run_1", "code": "rate_limited", "message": "429: later"}
    told.tell(submitted(), STARTED, SUM_UP)
    told.tell({**failed, "model_call_id": "m2"}, {**COMPACTED, "summary": ""}, {**CALL, "model_call_id": "m3"})
    told.tell({**failed, "model_call_id": "m3"}, {**failed, "type": "run.failed"})
    notes = [(e.text, e.tone) for e in told.talk.entries if isinstance(e, Note)]
    assert notes[0] == ("no summary: rate_limited: 429: later", "warning")
    assert len(notes) == 2 and notes[1][0].startswith("failed"), (
        "a reply that fails is told once, by the end of its run"
    )
    assert [type(e).__name__ for e in told.talk.entries[1:3]] == ["Note", "Compacted"]


def test_the_story_of_a_run_has_the_summary_in_the_step_that_it_makes_room_for(told: Told) -> None:
    told.tell(reply("The answer.", usage={"input_tokens": 9_100, "output_tokens": 20}))
    story = Story("run_1")
    for record in told.talk.records:
        story.apply(record)
    (step,) = story.steps
    assert [(attempt.purpose, attempt.outcome) for attempt in step.attempts] == [
        ("summary", "completed"),
        ("reply", "completed"),
    ]
    assert step.usage == {"input_tokens": 9_100, "output_tokens": 20}, "that of its reply"
    lines = [line.text for line in draw_step(step, 200, LOOK, 0)]
    assert any("summary 1  completed" in line for line in lines)
    assert any(TEXT in line for line in lines)


def test_the_timeline_tells_of_the_summary_in_words(told: Told) -> None:
    records = told.talk.records[-2:]
    assert line_of(records[0], Renderer()).text.endswith("asks for a summary of what went before")
    assert line_of({**records[1], "events": [records[1]["events"][0]]}, Renderer()).text == "the summary came"
    assert TEXT in line_of(records[1], Renderer()).text
    assert is_shown(records[1], "decisions", "", {}) is False
