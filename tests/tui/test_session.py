"""A session: what was said and done, what waits, and what the person writes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator

import pytest
from textual import events

from kheish.config import Tui
from kheish.tui.app import KheishApp
from kheish.tui.live import Call, Change, Note
from kheish.tui.screens.approval import Approval
from kheish.tui.screens.home import Home
from kheish.tui.screens.session import PAGE_RECORDS, Session
from kheish.tui.widgets.composer import TWICE_S, Composer
from kheish.tui.widgets.queue import Queue
from kheish.tui.widgets.transcript import Transcript
from tests.daemon_process import DaemonProcess, bash, calls, text, tool
from tests.tui.harness import Keys, check_picture, open_app, shown, until, write

pytestmark = pytest.mark.slow

ANSWER = """\
## What I found

The test `test_total` fails because **rounding** happens twice:

1. in `cart.py`, line 12
2. in `report.py`, line 40

```python
def total(items):
    return round(sum(items), 2)
```
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("session"))
    try:
        made.start()
        made.script(text("Done."), name="done.json", after_last="repeat")
        made.script(text("", hang=9), name="hang.json", after_last="repeat")
        made.script(bash("echo deployed"), text("It is out."), name="ask.json")
        yield made
    finally:
        made.close()


async def in_session(app: KheishApp, pilot: Keys) -> Session:
    await until(pilot, lambda: isinstance(app.screen, Session) and not app.screen._is_loading)
    assert isinstance(app.screen, Session)
    return app.screen


async def test_it_looks_as_it_should(api: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    (api.work / "cart.py").write_text("def total(items):\n    return round(round(sum(items), 2), 2)\n")
    api.script(
        calls(tool("read_file", path="cart.py"), tool("bash", command="echo FAILED tests/test_cart.py::test_total"),
              tool("edit_file", path="cart.py", old_text="round(round(sum(items), 2), 2)",
                   new_text="round(sum(items), 2)"), reasoning="The total is rounded twice.\nI look at the file."),
        text(ANSWER), name="look.json",
    )  # fmt: skip
    session = api.session("cart", mode="accept_edits")
    api.client.sessions.add_rule(session, "bash(echo *)", "allow")
    api.finish(api.submit(session, "why does the total test fail?", model="test/look.json"))
    for size, name in (((80, 24), "session-80x24"), ((200, 60), "session-200x60")):
        async with open_app(api, session_id=session, size=size) as (app, pilot):
            screen = await in_session(app, pilot)
            await until(pilot, lambda: "report.py" in shown(app))
            settle_times(screen)
            await pilot.pause()
            check_picture(app, name)


def settle_times(screen: Session) -> None:
    """Lets nothing that is shown differ from one time to another."""
    screen._talk.cwd = "/home/ada/shop"
    change = Change()
    for entry in screen._talk.entries:
        if isinstance(entry, Note):
            entry.text = re.sub(r"[\d.]+s,", "0.1s,", entry.text)
        elif isinstance(entry, Call):
            entry.finished_at_ms = entry.started_at_ms
        entry.revision += 1
        change.changed.append(entry)
    screen.query_one(Transcript).change(change)
    screen._draw_facts()


async def test_what_is_written_is_sent_and_answered(api: DaemonProcess) -> None:
    session = api.session("chat")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        api.script(text("Hello to you."), name="script.json", after_last="repeat")
        await write(pilot, "hello there")
        await pilot.press("enter")
        await until(pilot, lambda: "Hello to you." in shown(app) and "completed" in shown(app))
        assert app.screen.query_one(Composer).text == ""
    (record,) = [r for r in api.records(session) if r["events"][0]["type"] == "run.submitted"]
    assert record["by"]["origin"] == "tui" and record["events"][0]["text"] == "hello there"


async def test_enter_queues_and_ctrl_s_steers_and_both_are_seen(api: DaemonProcess) -> None:
    session = api.session("busy")
    api.submit(session, "wait for it", model="test/hang.json")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await until(pilot, lambda: "Enter queues" in shown(app) and "teers" in shown(app))
        await write(pilot, "later please")
        await pilot.press("enter")
        await until(pilot, lambda: "queued 1  later please" in shown(app))
        await write(pilot, "now please")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "steers    now please" in shown(app))
        assert "queued 1  later please" in shown(app), "what steers has no place in the queue"
    kinds = [event["type"] for record in api.records(session) for event in record["events"]]
    assert kinds.count("run.submitted") == 2 and kinds.count("input.steered") == 1
    api.client.sessions.end(session)


async def test_the_queue_is_edited_ordered_and_withdrawn(api: DaemonProcess) -> None:
    session = api.session("queue")
    api.submit(session, "wait for it", model="test/hang.json")
    for word in ("first", "second"):
        api.submit(session, word, model="test/done.json")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await until(pilot, lambda: "queued 2  second" in shown(app))
        await pilot.press("ctrl+u")
        await until(pilot, lambda: isinstance(app.focused, Queue))
        await pilot.press("down", "f")
        await until(pilot, lambda: "queued 1  second" in shown(app))
        await until(pilot, lambda: app.screen.query_one(Queue).cursor != "")
        await pilot.press("escape")
        await write(pilot, "mine")
        await pilot.press("ctrl+u", "e")
        await until(pilot, lambda: isinstance(app.focused, Composer) and app.focused.text == "second")
        await write(pilot, " thoughts")
        await pilot.press("enter")
        await until(pilot, lambda: "queued 1  second thoughts" in shown(app))
        assert app.screen.query_one(Composer).text == "mine", "what was being written is back"
        await pilot.press("ctrl+u", "x")
        await until(pilot, lambda: "queued 1  first" in shown(app) and "second thoughts' cancelled by" in shown(app))
    assert [r["request"]["text_preview"] for r in api.client.sessions.queue(session)] == ["first"]
    api.client.sessions.end(session)


async def test_with_readline_keys_the_place_to_write_has_those_of_a_shells_line(api: DaemonProcess) -> None:
    session = api.session("readline")
    async with open_app(api, session_id=session, settings=Tui(readline=True, reduced_motion=True)) as (app, pilot):
        screen = await in_session(app, pilot)
        await write(pilot, "one two")
        await pilot.press("alt+b", "ctrl+b", "ctrl+d", "x", "ctrl+a", "ctrl+f", "ctrl+d", "ctrl+e", "y")
        assert screen.query_one(Composer).text == "oextwoy"
        await pilot.press("ctrl+b", "ctrl+u")
        assert screen.query_one(Composer).text == "y"
        keys = {key for key, active in screen.active_bindings.items() if active.binding.action == "aside"}
        assert keys == {"f6"}


async def test_a_paused_queue_is_said_on_every_screen_and_goes_on_by_the_same_key(api: DaemonProcess) -> None:
    session = api.session("pause")
    active = api.submit(session, "wait for it", model="test/hang.json")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await asyncio.to_thread(api.submit, session, "then this", model="test/done.json")
        await until(pilot, lambda: "queued 1  then this" in shown(app))
        await pilot.press("alt+p")
        await until(pilot, lambda: "the queue is paused: Enter queues, Alt+P lets it go on" in shown(app))
        await asyncio.to_thread(api.client.runs.cancel, active)
        await until(pilot, lambda: "paused" in shown(app).splitlines()[-1] and "queued 1  then this" in shown(app))
        await pilot.press("left")
        await until(pilot, lambda: "○ paused    pause" in shown(app) and "○ queued: then this" in shown(app))
        await pilot.press("f5")
        app.open_session(session)
        await in_session(app, pilot)
        await until(pilot, lambda: "queue is paused" in shown(app))
        await pilot.press("alt+p")
        await until(pilot, lambda: "Done." in shown(app) and "paused:" not in shown(app))
    api.client.sessions.end(session)


async def test_escape_twice_interrupts_and_once_does_not(api: DaemonProcess) -> None:
    session = api.session("stop")
    run_id = api.submit(session, "wait for it", model="test/hang.json")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await pilot.press("escape")
        await until(pilot, lambda: "Escape again interrupts the run" in shown(app))
        await pilot.pause(TWICE_S + 0.2)
        assert api.client.runs.get(run_id)["status"] == "running"
        await pilot.press("escape", "escape")
        await until(pilot, lambda: "interrupted by" in shown(app))
    assert api.client.runs.get(run_id)["status"] == "interrupted"


async def test_what_waits_is_announced_and_takes_no_key_from_who_writes(api: DaemonProcess) -> None:
    session = api.session("ask")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await write(pilot, "half a sen")
        await asyncio.to_thread(api.submit, session, "deploy", model="test/ask.json")
        await until(pilot, lambda: "Ctrl+Y allow? bash: echo deployed" in shown(app))
        await write(pilot, "tence")
        assert isinstance(app.screen, Session) and app.screen.query_one(Composer).text == "half a sentence"
        await pilot.press("ctrl+y")
        await until(pilot, lambda: isinstance(app.screen, Approval))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Session))
        assert app.screen.query_one(Composer).text == "half a sentence"
        (asked,) = api.client.approvals.list(session_id=session)
        await asyncio.to_thread(api.client.approvals.allow, asked["request_id"])
        await until(pilot, lambda: "It is out." in shown(app))
        await until(pilot, lambda: "allowed by user:" in shown(app), "who answered elsewhere is told")


async def test_streamed_text_is_seen_as_it_comes(api: DaemonProcess) -> None:
    session = api.session("stream")
    words = [f"word{i} " for i in range(40)]
    api.script({"text": "".join(words), "deltas": words, "pace_ms": 20}, name="slow.json")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await asyncio.to_thread(api.submit, session, "talk", model="test/slow.json")
        await until(pilot, lambda: "word3" in shown(app) and "word39" not in shown(app))
        await until(pilot, lambda: "word39" in shown(app) and "completed" in shown(app))
        assert shown(app).count("word7 ") == 1


async def test_a_screen_that_opens_within_a_reply_shows_it_from_its_beginning(api: DaemonProcess) -> None:
    session = api.session("within")
    api.script({"deltas": [f"word{i} " for i in range(1_000)], "pace_ms": 20}, name="endless.json")
    run_id = api.submit(session, "talk", model="test/endless.json")
    with contextlib.closing(api.events(run_id=run_id)) as events_of_run:
        next(event for event in events_of_run if event.event == "delta")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await until(pilot, lambda: "● word0 word1 " in shown(app))
    await asyncio.to_thread(api.client.runs.cancel, run_id)


async def test_a_long_session_is_a_window_whose_pages_come_as_one_scrolls(api: DaemonProcess) -> None:
    session = api.session("long")
    for i in range(120):
        run_id = api.submit(session, f"input number {i:03}", model="test/done.json")
    api.finish(run_id)
    async with open_app(api, session_id=session) as (app, pilot):
        screen = await in_session(app, pilot)
        await until(pilot, lambda: "input number 119" in shown(app))
        assert 0 < len(screen._talk.records) <= 200 < screen._last_seq
        transcript = screen.query_one(Transcript)
        seen: set[str] = set()
        for _ in range(400):
            seen |= {word for word in shown(app).split() if word.isdigit() and len(word) == 3}
            if "input number 000" in shown(app):
                break
            transcript.scroll_up(animate=False)
            app.post_message(events.Key("pageup", None))
            await pilot.pause(0.01)
        assert "input number 000" in shown(app) and screen._talk.first_seq == 1
        await pilot.press("ctrl+end")
        await until(pilot, lambda: "input number 119" in shown(app))
        await pilot.press("ctrl+home")
        await until(pilot, lambda: "input number 000" in shown(app))
        for _ in range(400):
            if "input number 119" in shown(app):
                break
            app.post_message(events.Key("pagedown", None))
            await pilot.pause(0.01)
        assert "input number 119" in shown(app) and screen._is_at_end


async def test_shift_tab_changes_the_permission_mode(api: DaemonProcess) -> None:
    session = api.session("mode")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await pilot.press("shift+tab")
        await until(pilot, lambda: "accept edits" in shown(app))
    assert api.client.sessions.get(session)["permission_mode"] == "accept_edits"


async def test_ctrl_g_asks_for_a_compaction_once_something_was_said(api: DaemonProcess) -> None:
    session = api.session("compact")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await pilot.press("ctrl+g")
        await until(pilot, lambda: "nothing was said" in " ".join(n.message for n in app._notifications))
        api.script(text("A long story."))
        api.finish(api.submit(session))
        await until(pilot, lambda: "A long story." in shown(app))
        await pilot.press("ctrl+g")
        await until(pilot, lambda: "compaction" in shown(app))
    context = api.client.sessions.get(session)["context"]
    assert context and context["compaction_requested"]


async def test_a_shell_line_runs_as_a_run_of_its_own(api: DaemonProcess) -> None:
    session = api.session("shell")
    api.client.sessions.add_rule(session, "bash(echo *)", "allow")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await write(pilot, "!echo from the shell")
        await pilot.press("enter")
        await until(pilot, lambda: "completed" in shown(app))
        assert "from the shell" in shown(app)
    (run,) = api.client.sessions.runs(session)
    assert run["request"]["provider"] == "shell" and run["status"] == "completed"


async def test_it_survives_the_death_of_the_daemon_and_misses_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    api = DaemonProcess(tmp_path_factory.mktemp("death"))
    try:
        api.start()
        api.script(bash("echo one"), text("All is well."), name="ask.json")
        session = api.session("phoenix")
        api.submit(session, "go", model="test/ask.json")
        api.until(session, "approval.requested")
        async with open_app(api, session_id=session) as (app, pilot):
            await in_session(app, pilot)
            await until(pilot, lambda: "allow? bash: echo one" in shown(app))
            await asyncio.to_thread(api.kill)
            await until(pilot, lambda: "trying again" in shown(app) or "starts it" in shown(app))
            await asyncio.to_thread(api.start)
            await until(pilot, lambda: app.link.is_up and "trying again" not in shown(app))
            assert shown(app).count("waits for your decision") == 1
            (asked,) = api.client.approvals.list(session_id=session)
            await asyncio.to_thread(api.client.approvals.allow, asked["request_id"])
            await until(pilot, lambda: "All is well." in shown(app) and "completed" in shown(app))
            assert shown(app).count("All is well.") == 1
            assert [e.seq for e in app.screen._talk.entries] == sorted(e.seq for e in app.screen._talk.entries)  # type: ignore[attr-defined]
    finally:
        api.close()


async def test_leaving_goes_back_to_all_sessions(api: DaemonProcess) -> None:
    session = api.session("leave")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await pilot.press("left")
        await until(pilot, lambda: isinstance(app.screen, Home))


async def test_a_side_question_is_answered_elsewhere_while_the_run_goes_on(api: DaemonProcess) -> None:
    session = api.session("main")
    api.client.sessions.add_rule(session, "bash(echo *)", "allow")
    run_id = api.submit(session, "wait for it", model="test/hang.json")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        app.screen._talk.model = "test/done.json"  # type: ignore[attr-defined]
        await pilot.press("ctrl+b")
        await until(pilot, lambda: "Beside the work" in shown(app))
        for number in (1, 2):
            await write(pilot, f"what is it doing {number}?")
            await pilot.press("enter")
            await until(pilot, lambda n=number: shown(app).count("completed in") == n)  # type: ignore[misc]
        assert shown(app).count("Done.") == 2
        await pilot.press("escape")
        await until(pilot, lambda: "Beside the work" not in shown(app))
    assert api.client.runs.get(run_id)["status"] == "running"
    assert len(api.client.sessions.runs(session)) == 1
    first = api.client.sessions.runs("main-aside")[-1]
    assert "wait for it" in first["input_attachments"][0]["text"]
    api.client.sessions.end(session)


async def test_of_a_damaged_session_all_before_the_fault_is_shown(tmp_path_factory: pytest.TempPathFactory) -> None:
    api = DaemonProcess(tmp_path_factory.mktemp("damaged"))
    try:
        api.start()
        session = api.session("cracked")
        model = api.script(*(text(f"The {word} answer.") for word in ("first", "second", "third")), name="three.json")
        for words in ("one", "two", "three"):
            api.finish(api.submit(session, words, model=model))
        api.stop()
        (journal,) = (api.state / "sessions" / session).glob("journal-*")
        journal.write_bytes(journal.read_bytes().replace(b"The second answer.", b"The second answeR."))
        api.start()
        async with open_app(api, session_id=session) as (app, pilot):
            screen = await in_session(app, pilot)
            await until(pilot, lambda: "The first answer." in shown(app))
            assert "read-only" in shown(app) and "answeR" not in shown(app)
            assert "cannot read cracked/journal" in shown(app) and not app._notifications, "what is wrong is said once"
            assert screen.query_one(Composer).disabled and screen.check_action("queue", ()) is False
            await pilot.press("left")
            await until(pilot, lambda: isinstance(app.screen, Home))
    finally:
        api.close()


async def test_the_footer_follows_the_board(api: DaemonProcess) -> None:
    session = api.session("followed")
    async with open_app(api, session_id=session) as (app, pilot):
        screen = await in_session(app, pilot)
        await until(pilot, lambda: shown(app).endswith("idle"))
        row = app.board.rows[session]
        row.last_status = "failed"
        screen.board_changed([row])
        await until(pilot, lambda: shown(app).endswith("failed"))


async def test_in_a_narrow_terminal_the_facts_make_room_for_the_keys_but_the_mode_stays(api: DaemonProcess) -> None:
    session = api.session("narrow", mode="accept_edits")
    api.submit(session, "wait for it", model="test/hang.json")
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await until(pilot, lambda: "running" in shown(app).splitlines()[-1])
        line = shown(app).splitlines()[-1]
        assert [word for word in ("Send", "Steer", "Interrupt", "Sessions") if word in line] == line.split()[1:8:2]
        assert line.endswith("accept edits · running")
    api.client.sessions.end(session)


async def test_the_way_back_is_shown_where_nothing_can_be_written_any_more(api: DaemonProcess) -> None:
    session = api.session("ended")
    api.client.sessions.end(session)
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await until(pilot, lambda: "this session has ended" in shown(app))
        await until(pilot, lambda: "← Sessions" in shown(app).splitlines()[-1])
        await pilot.press("left")
        await until(pilot, lambda: not isinstance(app.screen, Session))


async def test_at_forty_columns_the_way_back_is_shown_and_the_mode_too(api: DaemonProcess) -> None:
    for mode, line in (("default", " ⏎ Send  ← Sessions           completed"),
                       ("accept_edits", " ⏎ Send          accept edits · completed")):  # fmt: skip
        session = api.session(f"forty-{mode}", mode=mode)
        api.finish(api.submit(session, "go", model="scripted/done.json"))
        async with open_app(api, session_id=session, size=(40, 20)) as (app, pilot):
            await in_session(app, pilot)
            await until(pilot, lambda line=line: shown(app).splitlines()[-1].split() == line.split())


async def test_no_line_is_cut_where_the_scrollbar_comes(api: DaemonProcess) -> None:
    session = api.session("full")
    digits = "".join(f"{i}" for i in range(1_000, 2_000))
    api.script(text(digits), name="full.json", after_last="repeat")
    api.finish(api.submit(session, "talk", model="test/full.json"))
    async with open_app(api, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await until(pilot, lambda: digits[-20:] in shown(app))
        seen = "".join(re.findall(r"^   (\d+)", shown(app), re.MULTILINE))
        assert len(seen) > 500 and digits.endswith(seen)


async def test_who_marks_something_has_it_copied_and_writes_on(api: DaemonProcess) -> None:
    session_id = api.session("marked")
    api.finish(api.submit(session_id, "what was asked", model="scripted/done.json"))
    async with open_app(api, session_id=session_id) as (app, pilot):
        screen = await in_session(app, pilot)
        await until(pilot, lambda: "what was asked" in shown(app))
        y = next(i for i, line in enumerate(shown(app).split("\n")) if "what was asked" in line)
        await write(pilot, "and this")
        await pilot.mouse_down(offset=(3, y))
        await pilot.hover(offset=(6, y))
        await pilot.mouse_up(offset=(6, y))
        await until(pilot, lambda: app.clipboard == "what")
        await pilot.press("ctrl+c")
        assert screen.query_one(Composer).text == "and this", "what is marked was copied once more"
        await write(pilot, " too")
        assert screen.query_one(Composer).text == "and this too"
        await pilot.press("ctrl+c")
        assert not screen.query_one(Composer).text


async def test_of_a_long_run_the_window_shows_its_end_and_all_keys_know_of_it(api: DaemonProcess) -> None:
    """The run began, and inputs were queued, before the records that are shown."""
    long = "say all of it " * 20 + "!"
    steps = [calls(tool("list_files", path=".")) for _ in range(PAGE_RECORDS // 2)]
    model = api.script(text("", when="steps are done", hang=1), *steps, text("", hang=9), name="steps.json")
    session_id = api.session("long-run")
    run_id = api.submit(session_id, "do much", model=model)
    queued_id = api.submit(session_id, long, model=model)
    while api.client.runs.get(run_id)["step"] <= len(steps):
        pass
    api.client.sessions.set_permission_mode(session_id, "plan")
    api.client.sessions.set_title(session_id, "The long one")
    async with open_app(api, session_id=session_id) as (app, pilot):
        screen = await in_session(app, pilot)
        assert screen._talk.first_seq > 3
        await until(pilot, lambda: "Enter queues" in shown(app) and "queued 1" in shown(app))
        await pilot.press("ctrl+u", "e")
        await until(pilot, lambda: screen.query_one(Composer).text == long)
        await pilot.press("escape", "escape")
        await pilot.press("ctrl+home")
        await until(pilot, lambda: screen._talk.first_seq == 1 and "Enter queues" in shown(app))
        assert "The long one" in shown(app) and " plan · " in shown(app), (
            "the present, though the window is of the past"
        )
        await pilot.press("escape", "escape")
        await until(pilot, lambda: api.client.runs.get(run_id)["status"] == "interrupted")
        api.client.runs.cancel(queued_id)
        await until(pilot, lambda: "Enter sends" in shown(app))


async def test_what_is_said_of_keys_is_true_of_those_that_were_bound_anew(api: DaemonProcess) -> None:
    session_id = api.session("rebound")
    run_id = api.submit(session_id, model="scripted/hang.json")
    api.submit(session_id, "later", model="scripted/hang.json")
    keys = {"session.queue_focus": "f7", "session.steer": "ctrl+g", "session.compact": "f8"}
    async with open_app(api, session_id=session_id, settings=Tui(keys=keys, reduced_motion=True)) as (app, pilot):
        await in_session(app, pilot)
        await until(pilot, lambda: "Enter queues, Ctrl+G steers the run" in shown(app))
        assert "F7 edits" in shown(app)
        await pilot.press("f7")
        await until(pilot, lambda: isinstance(app.focused, Queue) and "F7 edits" not in shown(app))
    api.client.runs.cancel(run_id)
