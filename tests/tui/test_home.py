"""All sessions at a glance."""

from __future__ import annotations

import asyncio

import pytest
from textual import events
from textual.widgets import Input, Static

from kheish.config import Tui
from kheish.tui.app import KheishApp
from kheish.tui.screens.home import Home
from kheish.tui.screens.session import Session
from kheish.tui.widgets.footer import Footer
from kheish.tui.widgets.rows import Rows
from tests.daemon_process import DaemonProcess, bash, calls, text, tool
from tests.tui.harness import Keys, check_picture, open_app, shown, until, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> DaemonProcess:  # type: ignore[misc]
    """A daemon with a session of every need."""
    made = DaemonProcess(tmp_path_factory.mktemp("home"))
    try:
        made.start()
        made.script(text("Done: three tests were wrong."), name="done.json", after_last="repeat")
        made.script(bash("rm -rf build && make deploy"), name="ask.json")
        made.script(text("", hang=9), name="hang.json")
        made.session("api-refactor")
        made.finish(made.submit("api-refactor", "fix the failing tests", model="test/done.json"))
        made.session("deploy")
        made.submit("deploy", "deploy it", model="test/ask.json")
        made.until("deploy", "approval.requested")
        made.session("nightly")
        made.submit("nightly", "look at the logs of the night", model="test/hang.json")
        made.until("nightly", "model_call.started")
        made.client.sessions.create("elsewhere", cwd="/")
        yield made
    finally:
        made.close()


def rows(app: object) -> list[str]:
    """The lines of the list."""
    return [line.strip() for line in shown(app).splitlines() if line.strip()]


async def loaded(app: object, pilot: Keys, count: int = 4) -> None:
    await until(pilot, lambda: f"{count} sessions" in shown(app))


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_who_needs_the_person_comes_first(furnished: DaemonProcess, size: tuple[int, int]) -> None:
    async with open_app(furnished, size=size) as (app, pilot):
        await loaded(app, pilot)
        await until(pilot, lambda: "rm -rf build" in shown(app))
        lines = rows(app)
        order = [next(i for i, line in enumerate(lines) if word in line)
                 for word in ("Needs you", "deploy", "Working", "nightly", "Done", "elsewhere")]  # fmt: skip
        assert order == sorted(order)
        assert "rm -rf build && make deploy" in shown(app), "the peek pane shows what is asked"


async def test_ages_go_on_by_the_second_and_the_list_says_what_the_pane_says(
    furnished: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KheishApp, "now_ms", 2_000_000_000_000)
    async with open_app(furnished) as (app, pilot):
        await loaded(app, pilot)
        for row in app.board.rows.values():
            row.since_ms = app.now_ms
        monkeypatch.setattr(KheishApp, "now_ms", app.now_ms + 7_000)
        await until(pilot, lambda: shown(app).count("waiting 7s") == 2)
        monkeypatch.setattr(KheishApp, "now_ms", app.now_ms + 1_000)
        await until(pilot, lambda: shown(app).count("waiting 8s") == 2)


@pytest.mark.parametrize(("size", "name"), [((80, 24), "home-80x24"), ((200, 60), "home-200x60")])
async def test_it_looks_as_it_should(
    furnished: DaemonProcess, size: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KheishApp, "now_ms", 2_000_000_000_000)
    async with open_app(furnished, size=size) as (app, pilot):
        await loaded(app, pilot)
        for row in app.board.rows.values():
            row.since_ms, row.cwd = app.now_ms - 190_000, "/home/ada/shop"
        screen = app.screen
        assert isinstance(screen, Home)
        screen.board_changed(None)
        await until(pilot, lambda: "/home/ada/shop" in shown(app) and "waiting 3m  bash" in shown(app))
        await pilot.pause()
        check_picture(app, name)


async def test_typing_filters_and_escape_takes_it_back(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await loaded(app, pilot)
        await pilot.press("slash", *"night")
        await until(pilot, lambda: "1 session" in shown(app) and "deploy" not in shown(app))
        await pilot.press("escape")
        await loaded(app, pilot)


async def test_who_needs_the_person_is_counted_whatever_the_list_shows(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await loaded(app, pilot)
        await until(pilot, lambda: "1 needs you" in shown(app) and "not shown" not in shown(app))
        await pilot.press("slash", *"night")
        await until(pilot, lambda: "1 session" in shown(app) and "1 needs you, 1 not shown" in shown(app))


@pytest.mark.parametrize(("typed", "found"), [("apref", "api-refactor"), ("the night", "nightly"), ("dpl", "deploy")])
async def test_letters_of_a_name_or_words_of_what_is_known_find_a_session(
    furnished: DaemonProcess, typed: str, found: str
) -> None:
    async with open_app(furnished) as (app, pilot):
        await loaded(app, pilot)
        await pilot.press("slash")
        app.screen.query_one("#filter", Input).value = typed
        await until(pilot, lambda: "1 session" in shown(app) and app.screen.query_one(Rows).cursor == found)


async def test_only_this_directory_or_all(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await loaded(app, pilot)
        await pilot.press("ctrl+a")
        await until(pilot, lambda: "elsewhere" not in shown(app))
        await pilot.press("ctrl+a")
        await until(pilot, lambda: "elsewhere" in shown(app))


async def test_enter_attaches_and_left_comes_back_without_stopping_anything(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await loaded(app, pilot)
        app.screen.query_one(Rows).move_to("nightly")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Session) and "look at the logs" in shown(app))
        await pilot.press("left")
        await until(pilot, lambda: isinstance(app.screen, Home))
    assert furnished.client.sessions.get("nightly")["status"] == "running"


async def test_a_new_session_is_made_here_and_opened(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await pilot.press("n", *"spike", "enter")
        await until(pilot, lambda: isinstance(app.screen, Session) and app.screen.session_id == "spike")
    view = furnished.client.sessions.get("spike")
    assert view["cwd"] == str(furnished.work)
    furnished.client.sessions.end("spike")


async def test_a_session_is_renamed_and_ended_only_by_the_word(furnished: DaemonProcess) -> None:
    furnished.session("old-name")
    async with open_app(furnished) as (app, pilot):
        await until(pilot, lambda: "old-name" in shown(app))
        app.screen.query_one(Rows).move_to("old-name")
        await pilot.press("R")
        await write(pilot, "The outage")
        await pilot.press("enter")
        await until(pilot, lambda: "The outage" in shown(app))
        await pilot.press("x", "enter")
        await pilot.press("x", *"no", "enter")
        assert not furnished.client.sessions.get("old-name")["ended"]
        await pilot.press("x", *"end", "enter")
        await until(pilot, lambda: "ended" in shown(app))
    assert furnished.client.sessions.get("old-name")["ended"]


async def test_a_message_is_sent_without_attaching(furnished: DaemonProcess) -> None:
    furnished.session("quiet")
    async with open_app(furnished) as (app, pilot):
        await until(pilot, lambda: "quiet" in shown(app))
        app.screen.query_one(Rows).move_to("quiet")
        await pilot.press("r")
        await write(pilot, "wake up")
        await pilot.press("enter")
        await until(pilot, lambda: "wake up" in shown(app))
        assert isinstance(app.screen, Home)
    assert furnished.client.sessions.get("quiet")["headline"] == "wake up"
    furnished.client.sessions.end("quiet")


async def test_names_and_texts_of_others_are_no_markup(furnished: DaemonProcess) -> None:
    furnished.client.sessions.create("hostile", cwd=str(furnished.work), title="[red]x[/] \x1b[31m\u202eevil")
    async with open_app(furnished) as (app, pilot):
        await until(pilot, lambda: "[red]x[/] evil" in shown(app))
        assert "\x1b" not in shown(app) and "\u202e" not in shown(app)
        app.screen.query_one(Rows).move_to("hostile")
        await pilot.pause()
        assert "[red]x[/]" in str(app.screen.query_one("#peek", Static).visual)
    furnished.client.sessions.end("hostile")


async def test_what_happens_elsewhere_is_seen_at_once(furnished: DaemonProcess) -> None:
    furnished.session("live")
    async with open_app(furnished) as (app, pilot):
        await until(pilot, lambda: "live" in shown(app))
        run = await asyncio.to_thread(furnished.submit, "live", "from another shell", model="test/ask.json")
        await until(pilot, lambda: app.board.rows["live"].need == "needs you")
        await until(pilot, lambda: "2 need you" in shown(app))
        await asyncio.to_thread(furnished.client.runs.cancel, run)
        await until(pilot, lambda: "cancelled" in shown(app))
    furnished.client.sessions.end("live")


async def test_a_field_that_is_open_keeps_its_keys(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await pilot.press("slash", *"nqxrs")
        await pilot.pause()
        assert app.screen.query_one("#filter", Input).value == "nqxrs" and isinstance(app.screen, Home)


@pytest.mark.parametrize("theme", ["kheish-light", "kheish-contrast", "ansi-dark", "textual-dark"])
async def test_every_theme_draws(furnished: DaemonProcess, theme: str) -> None:
    async with open_app(furnished, settings=Tui(theme=theme, reduced_motion=True)) as (app, pilot):
        await until(pilot, lambda: "sessions" in shown(app) and "deploy" in shown(app))
        app.theme = "kheish-dark"
        await pilot.pause()
        assert "deploy" in shown(app)


async def test_the_cursor_is_seen_without_colours(furnished: DaemonProcess) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_COLOR", "1")
        async with open_app(furnished) as (app, pilot):
            await until(pilot, lambda: "deploy" in shown(app))
            rows = app.screen.query_one(Rows)
            rows.move_to("deploy")
            await pilot.pause()
            lines = [rows.render_line(y) for y in range(rows.size.height)]
            assert sum(any(s.style and s.style.reverse for s in line) for line in lines) == 1


async def test_the_keys_of_the_footer_can_be_clicked(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await loaded(app, pilot, len(furnished.client.sessions.list()))
        line = shown(app).splitlines()[-1]
        await pilot.click(Footer, offset=(line.index("Filter"), 0))
        await until(pilot, lambda: isinstance(app.focused, Input))


async def test_the_cursor_on_the_first_row_stays_on_who_needs_most(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        rows = app.screen.query_one(Rows)
        await until(pilot, lambda: rows.cursor == "deploy")
        app.board.rows["nightly"].asks["approval_0"] = {"tool": "bash", "input": {"command": "true"}}
        app.board.rows["nightly"].since_ms = 1
        app.screen.board_changed(None)
        await until(pilot, lambda: rows.cursor == "nightly", "who has waited longest is first now")
        rows.move_to("elsewhere")
        del app.board.rows["nightly"].asks["approval_0"]
        app.screen.board_changed(None)
        await until(pilot, lambda: "Working" in shown(app))
        assert rows.cursor == "elsewhere", "a row that was chosen is kept"


async def test_a_reply_goes_to_the_session_it_was_begun_for(furnished: DaemonProcess) -> None:
    furnished.session("addressee")
    async with open_app(furnished) as (app, pilot):
        rows = app.screen.query_one(Rows)
        await until(pilot, lambda: "addressee" in shown(app))
        rows.move_to("addressee")
        await pilot.press("r")
        await write(pilot, "to you alone")
        rows.move_to("nightly")
        await pilot.press("enter")
        await until(pilot, lambda: app.board.rows["addressee"].headline == "to you alone")
    furnished.client.sessions.end("addressee")


async def test_one_comes_back_to_the_row_that_one_left(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await until(pilot, lambda: app.screen.query_one(Rows).cursor == "deploy")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Session) and not app.screen._is_loading)
        app.board.rows["nightly"].asks["approval_0"] = {"tool": "bash", "input": {"command": "true"}}
        app.board.rows["nightly"].since_ms = 1
        await pilot.press("left")
        await until(pilot, lambda: isinstance(app.screen, Home))
        assert app.screen.query_one(Rows).cursor == "deploy"


async def test_a_low_terminal_is_for_the_list(furnished: DaemonProcess) -> None:
    async with open_app(furnished, size=(40, 12)) as (app, pilot):
        await until(pilot, lambda: "nightly" in shown(app) and "deploy" in shown(app))
        assert "asked by the rule" not in shown(app)


async def test_only_sessions_with_a_name_or_all(furnished: DaemonProcess) -> None:
    nameless = furnished.client.sessions.create(cwd=str(furnished.work))["session_id"]
    async with open_app(furnished, size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: nameless[:10] in shown(app))
        await pilot.press("N")
        await until(pilot, lambda: nameless[:10] not in shown(app) and "api-refactor" in shown(app))
        await asyncio.to_thread(furnished.client.sessions.set_title, nameless, "Named now")
        await until(pilot, lambda: "Named now" in shown(app))
        await asyncio.to_thread(furnished.client.sessions.set_title, nameless, "")
        await until(pilot, lambda: "Named now" not in shown(app))
        await pilot.press("N")
        await until(pilot, lambda: nameless[:10] in shown(app))


async def test_a_line_that_could_not_be_used_can_be_mended(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await until(pilot, lambda: "deploy" in shown(app))
        await pilot.press("n")
        await write(pilot, "no/name")
        await pilot.press("enter")
        await until(pilot, lambda: len(app._notifications) == 1 and isinstance(app.focused, Input))
        assert "no/name" in shown(app).split("\n")[-2]
        await pilot.press("backspace", "escape")
        assert isinstance(app.focused, Rows)


async def test_all_that_is_pasted_into_a_line_is_sent(furnished: DaemonProcess) -> None:
    async with open_app(furnished) as (app, pilot):
        await until(pilot, lambda: "deploy" in shown(app))
        app.screen.query_one(Rows).move_to("api-refactor")
        await pilot.press("r")
        await write(pilot, "look: ")
        app.post_message(events.Paste("one\n\ttwo \x1b[31mred\x1b[0m\r\nthree"))
        await until(pilot, lambda: app.screen.query_one("#reply", Input).value == "look: one two red three")
        await write(pilot, "!")
        await pilot.press("escape")


async def test_beside_the_list_stands_what_a_session_said_last_or_why_it_failed(furnished: DaemonProcess) -> None:
    furnished.script({"error": {"code": "auth", "message": "no [b]such[/] key"}}, name="fails.json")
    furnished.session("broken")
    furnished.finish(furnished.submit("broken", "try", model="scripted/fails.json"))
    async with open_app(furnished, size=(80, 40)) as (app, pilot):
        await until(pilot, lambda: "broken" in shown(app))
        app.screen.query_one(Rows).move_to("broken")
        await until(pilot, lambda: "[b]such[/] key" in shown(app))
        app.screen.query_one(Rows).move_to("api-refactor")
        await until(pilot, lambda: "[b]such[/] key" not in shown(app) and "three tests were wrong" in shown(app))


async def test_the_key_that_answers_is_seen_however_long_the_question_is(furnished: DaemonProcess) -> None:
    furnished.script(calls(tool("ask_user_question", questions=[{"question": "Why? " * 300}])), name="long.json")
    furnished.session("long")
    run = furnished.submit("long", "ask", model="test/long.json")
    furnished.until("long", "question.requested")
    async with open_app(furnished, size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "question  long" in shown(app))
        app.screen.query_one(Rows).move_to("long")
        await until(pilot, lambda: "Why? Why?" in shown(app) and "r answers" in shown(app))
        app.screen.query_one(Rows).move_to("deploy")
        await until(pilot, lambda: "r decides" in shown(app))
    furnished.client.runs.cancel(run)
    furnished.client.sessions.end("long")
