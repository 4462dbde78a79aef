"""The timeline of a session: every record, pages both ways, live at its end, and the state at any point."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from textual.widgets import Input

from kheish.client import RecordPage
from kheish.tui.app import KheishApp
from kheish.tui.screens.session import Session
from kheish.tui.screens.timeline import Timeline
from kheish.tui.widgets.rows import Rows
from kheish.tui.widgets.sheet import Sheet
from kheish.tui.window import WINDOW
from tests.daemon_process import DaemonProcess, bash, calls, text, tool
from tests.tui.harness import Keys, check_picture, open_app, shown, until

pytestmark = pytest.mark.slow

SAME = (
    (r"\d\d:\d\d:\d\d(\.\d\d\d)?", "12:00:00"), (r"[A-Z][a-z]{2},&#160;\d{4}-\d\d-\d\d", "Wed,&#160;2026-11-25"),
    (r"\d{4}-\d\d-\d\d", "2026-11-25"), (r"\b1[6-9]\d{11}\b", "1795644651411"), (r"in&#160;/[^<]*…", "in&#160;/work…"),
    (r"(run|input|approval|call|model)_[0-9A-Z]{26}", r"\1_01KAXS3M5TE4GYTMEBFAH21ZQ8"),
)  # fmt: skip
"""What differs each time, of the same width."""


def journal(daemon: DaemonProcess, name: str) -> str:
    """A session that did something, then asks."""
    session = daemon.session(name)
    writes = calls(tool("write_file", path=f"{name}.md", content="clean"))
    model = daemon.script(writes, text("It is clean."), bash("make install"), text("never"), name=name)
    run_id = daemon.submit(session, "clean up", model=model)
    request = daemon.until(session, "approval.requested")
    daemon.client.approvals.allow(request["request_id"])
    daemon.finish(run_id)
    daemon.submit(session, "now install it", model=model)
    daemon.until(session, "approval.requested", cursor=str(request["seq"]))
    return session


def rows(app: KheishApp) -> str:
    """The line under the cursor."""
    return app.screen.query_one(Rows).cursor


def details(app: KheishApp) -> Sheet:
    return app.screen.query_one(Sheet)


async def test_every_record_is_a_line_and_one_opens_with_the_state_at_that_point(shared_daemon: DaemonProcess) -> None:
    session = journal(shared_daemon, "lines")
    async with open_app(shared_daemon, screen=Timeline(session), size=(140, 34)) as (app, pilot):
        await until(pilot, lambda: "live" in shown(app))
        assert rows(app) == "8"
        await pilot.press("g", "j", "j", "enter")
        await until(pilot, lambda: "waits for an approval" in shown(app))
        assert "bash" in shown(app) and "default" in shown(app)
        bar, height = details(app).vertical_scrollbar, len(details(app).lines)
        await until(pilot, lambda: bar.window_virtual_size == height)
        await pilot.pause()


async def test_the_details_are_scrolled_after_a_key_that_the_footer_names(shared_daemon: DaemonProcess) -> None:
    session = journal(shared_daemon, "scrolled")
    async with open_app(shared_daemon, screen=Timeline(session)) as (app, pilot):
        await until(pilot, lambda: "live" in shown(app))
        assert "tab Other part" not in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: "tab Other part" in shown(app) and len(details(app).lines) > 12)
        await pilot.press("tab", "G")
        await until(pilot, lambda: details(app).scroll_y > 0)
        await pilot.press("tab", "g")
        await until(pilot, lambda: rows(app) == "1")


async def test_the_list_is_narrow_enough_for_a_small_terminal(shared_daemon: DaemonProcess) -> None:
    session = journal(shared_daemon, "small")
    shared_daemon.client.sessions.label(session, 6, "before it was installed")
    async with open_app(shared_daemon, screen=Timeline(session)) as (app, pilot):
        await until(pilot, lambda: "live" in shown(app))
        check_picture(app, "timeline", *SAME)


async def test_the_state_of_the_past_is_not_that_of_now(shared_daemon: DaemonProcess) -> None:
    """Seen while the run waits: at seq 6 the first run was over and nothing waited."""
    session = journal(shared_daemon, "past")
    async with open_app(shared_daemon, screen=Timeline(session, seq=6), size=(140, 34)) as (app, pilot):
        await until(pilot, lambda: rows(app) == "6")
        await pilot.press("enter")
        await until(pilot, lambda: "idle" in shown(app))
        await pilot.press("j")
        await until(pilot, lambda: "running" in shown(app) or "queued" in shown(app))
        await pilot.press("j")
        await until(pilot, lambda: "waits for an approval" in shown(app))
        await pilot.press("escape")
        assert not details(app).has_class("open")
        await pilot.press("escape")
        assert not isinstance(app.screen, Timeline)


async def test_it_is_live_while_the_cursor_is_at_its_end_and_stays_where_it_is_otherwise(
    shared_daemon: DaemonProcess,
) -> None:
    session = journal(shared_daemon, "live")
    client = shared_daemon.client
    async with open_app(shared_daemon, screen=Timeline(session)) as (app, pilot):
        await until(pilot, lambda: rows(app) == "8" and "live" in shown(app))
        await asyncio.to_thread(client.sessions.set_permission_mode, session, "accept_edits")
        await until(pilot, lambda: rows(app) == "9")
        await pilot.press("k")
        await asyncio.to_thread(client.sessions.set_permission_mode, session, "default")
        await until(pilot, lambda: "10 records" in shown(app))
        assert rows(app) == "8"
        await pilot.press("ctrl+end")
        await until(pilot, lambda: rows(app) == "10" and "live" in shown(app))


async def test_a_record_that_comes_while_the_end_is_read_is_not_missed(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that there is nothing more is older than it."""
    session = journal(shared_daemon, "meanwhile")
    screen = Timeline(session)
    read, held, gate = screen._read, asyncio.Event(), asyncio.Event()

    async def read_slowly(after: int, limit: int) -> RecordPage:
        page = await read(after, limit)
        if not page["items"]:
            held.set()
            await gate.wait()
        return page

    monkeypatch.setattr(screen, "_read", read_slowly)
    async with open_app(shared_daemon, screen=screen) as (app, pilot):
        await until(pilot, held.is_set)
        await asyncio.to_thread(shared_daemon.client.sessions.set_permission_mode, session, "plan")
        await until(pilot, lambda: session in app.board.rows and app.board.rows[session].seq == 9)
        gate.set()
        await until(pilot, lambda: "permission mode plan" in shown(app))


async def test_a_long_session_is_paged_both_ways_in_a_bounded_window(shared_daemon: DaemonProcess) -> None:
    session = long_session(shared_daemon)
    screen = Timeline(session)
    async with open_app(shared_daemon, screen=screen) as (app, pilot):
        await until(pilot, lambda: rows(app) == str(LONG))
        for _ in range(LONG):
            await pilot.press("u", "g")
            await until(pilot, lambda: not screen.is_reading)
            assert len(screen.window.lines) <= WINDOW
            if rows(app) == "1":
                break
        assert rows(app) == "1" and not screen.window.is_at_end
        for _ in range(LONG):
            await pilot.press("G")
            await until(pilot, lambda: not screen.is_reading)
            if rows(app) == str(LONG):
                break
        assert rows(app) == str(LONG) and screen.window.is_at_end


async def test_a_seq_a_time_and_a_text_are_gone_to(shared_daemon: DaemonProcess) -> None:
    session = long_session(shared_daemon)
    records = shared_daemon.records(session)
    async with open_app(shared_daemon, screen=Timeline(session)) as (app, pilot):
        await until(pilot, lambda: rows(app) == str(LONG))
        await go(pilot, "42")
        await until(pilot, lambda: rows(app) == "42")
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(records[299]["at_ms"] / 1000 + 1))
        first = next((r["seq"] for r in records if r["at_ms"] >= (records[299]["at_ms"] // 1000 + 1) * 1000), LONG)
        await go(pilot, at)
        await until(pilot, lambda: rows(app) == str(first))
        await pilot.press("ctrl+home")
        await until(pilot, lambda: rows(app) == "1")
        await go(pilot, '"session.mode_changed"')
        await until(pilot, lambda: rows(app) == "300")
        await pilot.press("n")
        await until(pilot, lambda: rows(app) == "301")
        await pilot.press("N")
        await until(pilot, lambda: rows(app) == "300")


async def test_a_filter_leaves_records_out_and_keeps_the_place(shared_daemon: DaemonProcess) -> None:
    session = journal(shared_daemon, "filter")
    async with open_app(shared_daemon, screen=Timeline(session)) as (app, pilot):
        await until(pilot, lambda: rows(app) == "8")
        assert "filter.md ->" in shown(app)
        await pilot.press("f")
        await until(pilot, lambda: "no tools" in shown(app) and "filter.md ->" not in shown(app))
        await pilot.press("f")
        await until(pilot, lambda: "only mine" in shown(app) and "It is clean" not in shown(app))
        assert "now install it" in shown(app)
        await pilot.press("f")
        await until(pilot, lambda: "decisions" in shown(app) and "now install it" not in shown(app))
        assert "allow by user" in shown(app)
        await pilot.press("f")
        await until(pilot, lambda: "labelled" in shown(app) and "allow by user" not in shown(app))
        await pilot.press("f")
        await until(pilot, lambda: "filter.md ->" in shown(app))


async def label(pilot: Keys, typed: str) -> None:
    await pilot.press("m")
    pilot.app.screen.query_one(Input).value = typed
    await pilot.press("enter")


async def test_a_record_is_labelled_and_the_label_is_gone_to_from_elsewhere(shared_daemon: DaemonProcess) -> None:
    session = journal(shared_daemon, "label")
    client = shared_daemon.client
    async with open_app(shared_daemon, screen=Timeline(session, seq=2), size=(110, 30)) as (app, pilot):
        await until(pilot, lambda: rows(app) == "2")
        await label(pilot, "where it began")
        await until(pilot, lambda: "⚑ where it began  user:" in shown(app))
        assert client.sessions.get(session)["labels"] == [{"seq": 2, "label": "where it began"}]
        # Another client's, too.
        await asyncio.to_thread(client.sessions.label, session, 6, "before the install")
        await until(pilot, lambda: "⚑ before the install" in shown(app))
        await pilot.press("G", "right_square_bracket")
        await until(pilot, lambda: rows(app) == "2")
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: rows(app) == "6")
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: rows(app) == "2")
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: rows(app) == "6")
        await pilot.press("enter")
        await until(pilot, lambda: "The state at this point" in shown(app))
        assert any("label" in line.text and "before the install" in line.text for line in details(app).lines)


async def test_a_label_is_changed_and_an_empty_one_takes_it_away(shared_daemon: DaemonProcess) -> None:
    session = journal(shared_daemon, "relabel")
    shared_daemon.client.sessions.label(session, 3, "here")
    async with open_app(shared_daemon, screen=Timeline(session, seq=3), size=(110, 30)) as (app, pilot):
        await until(pilot, lambda: "⚑ here" in shown(app))
        await pilot.press("m")
        assert pilot.app.screen.query_one(Input).value == "here"
        await pilot.press("end", "!", "enter")
        await until(pilot, lambda: "⚑ here!" in shown(app))
        await label(pilot, "")
        await until(pilot, lambda: "⚑" not in shown(app))
        assert shared_daemon.client.sessions.get(session)["labels"] == []


async def test_who_labels_the_newest_record_stays_there_and_is_told_of_a_paused_queue(
    shared_daemon: DaemonProcess,
) -> None:
    session = journal(shared_daemon, "newest")
    shared_daemon.client.sessions.pause_queue(session)
    async with open_app(shared_daemon, screen=Timeline(session), size=(110, 30)) as (app, pilot):
        await until(pilot, lambda: "live" in shown(app))
        newest = rows(app)
        await label(pilot, "stopped here")
        await until(pilot, lambda: "⚑ stopped here" in shown(app) and "labelled record" in shown(app))
        assert rows(app) == newest
        await pilot.press("enter")
        await until(pilot, lambda: any(line.text.split() == ["queue", "paused"] for line in details(app).lines))


async def test_labelled_records_are_shown_alone_and_what_is_labelled_then_joins_them(
    shared_daemon: DaemonProcess,
) -> None:
    session = journal(shared_daemon, "alone")
    client = shared_daemon.client
    client.sessions.label(session, 2, "early")
    async with open_app(shared_daemon, screen=Timeline(session), size=(110, 30)) as (app, pilot):
        await until(pilot, lambda: "live" in shown(app))
        for _ in range(4):
            await pilot.press("f")
        screen = app.screen
        assert isinstance(screen, Timeline)
        await until(pilot, lambda: [line.seq for line in screen.window.lines] == [2] and rows(app) == "2")
        await asyncio.to_thread(client.sessions.label, session, 7, "late")
        await until(pilot, lambda: [line.seq for line in screen.window.lines] == [2, 7])
        await asyncio.to_thread(client.sessions.label, session, 2, "")
        await until(pilot, lambda: [line.seq for line in screen.window.lines] == [7])
        await pilot.press("f", "ctrl+home")
        await until(pilot, lambda: rows(app) == "1")
        await go(pilot, "late")
        await until(pilot, lambda: rows(app) == "7")


async def test_what_a_tool_said_moves_no_cursor_and_is_whole_in_the_details(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("hostile", mode="bypass")
    evil = bash("printf 'a\\033[31m\\033]0;owned\\007 [bold]x[/bold] b'")
    model = shared_daemon.script(evil, text("done"), name="hostile")
    shared_daemon.finish(shared_daemon.submit(session, model=model))
    async with open_app(shared_daemon, screen=Timeline(session), size=(140, 40)) as (app, pilot):
        await until(pilot, lambda: "live" in shown(app))
        assert "[bold]x[/bold]" in shown(app) and "owned" not in shown(app).split("->")[1].splitlines()[0]
        await go(pilot, "-> a")
        await pilot.press("enter")
        await until(pilot, lambda: "The record" in shown(app))
        text_shown = "\n".join(line.text for line in details(app).lines)
        assert "\x1b" not in text_shown and "owned" in text_shown


async def go(pilot: Keys, typed: str) -> None:
    await pilot.press("slash")
    pilot.app.screen.query_one(Input).value = typed
    await pilot.press("enter")


LONG = 1_301


def long_session(daemon: DaemonProcess) -> str:
    """Of records that are quickly made; the same one for all tests that read it."""
    name = "long"
    if not (daemon.state / "sessions" / name).exists():
        daemon.session(name)
        with ThreadPoolExecutor(16) as pool:
            for _ in pool.map(lambda i: daemon.client.sessions.add_rule(name, f"bash(x{i})", "allow"), range(298)):
                pass
            for mode in ("plan", "default"):
                daemon.client.sessions.set_permission_mode(name, mode)
            for _ in pool.map(lambda i: daemon.client.sessions.add_rule(name, f"bash(y{i})", "allow"), range(1000)):
                pass
    return name


async def test_a_session_goes_on_from_a_record_in_one_of_its_own(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("forked")
    shared_daemon.client.sessions.add_rule(session, "bash(echo *)", "allow")
    model = shared_daemon.script({**bash("echo hello"), "text": "I say it."}, text("It is said."), name="fork.json")
    shared_daemon.finish(shared_daemon.submit(session, "say hello", model=model))
    records = shared_daemon.records(session)
    asked = next(r["seq"] for r in records if r["events"][0]["type"] == "model_call.completed")
    async with open_app(shared_daemon, screen=Timeline(session, seq=asked)) as (app, pilot):
        await until(pilot, lambda: rows(app) == str(asked))
        await pilot.press("F")
        await until(pilot, lambda: "the nearest records to fork at" in " ".join(n.message for n in app._notifications))
        await pilot.press("G")
        await until(pilot, lambda: rows(app) == str(records[-1]["seq"]))
        await pilot.press("F")
        await until(pilot, lambda: isinstance(app.screen, Session) and "forked from forked" in shown(app))
        for said in ("say hello", "I say it.", "echo hello", "It is said."):
            assert said in shown(app)
        assert app.screen.session_id != session  # type: ignore[attr-defined]
    assert shared_daemon.records(session) == records


async def test_the_record_that_is_opened_stays_in_sight_beside_its_details(shared_daemon: DaemonProcess) -> None:
    session = long_session(shared_daemon)
    async with open_app(shared_daemon, screen=Timeline(session), size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: rows(app) == str(LONG))
        await until(pilot, lambda: any(line.startswith(f" {LONG} ") for line in shown(app).splitlines()))
        await pilot.press("enter")
        await until(pilot, lambda: "The state at this point" in shown(app))
        await until(pilot, lambda: any(line.startswith(f" {LONG} ") for line in shown(app).splitlines()))
