"""The screen of questions: keys against a real daemon, and what its journal then holds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from textual.widgets import Input

from kheish.tui.app import KheishApp
from kheish.tui.screens import request
from kheish.tui.screens.question import Answer, Question
from tests.daemon_process import DaemonProcess, Json, calls, text, tool
from tests.tui.harness import Keys, check_picture, open_app, shown, until

pytestmark = pytest.mark.slow

DATABASE = {
    "question": "Which database should it use? The choice decides how it is deployed.",
    "header": "Database",
    "options": [
        {"label": "SQLite", "description": "One file, and nothing to run"},
        {"label": "PostgreSQL", "description": "A server, for several writers at once; it needs a role of its own, "
         "which somebody has to make beforehand"},
        {"label": "None"},
    ],
}  # fmt: skip
TESTS = {
    "question": "Which tests should there be?",
    "multi_select": True,
    "options": [{"label": "unit"}, {"label": "fuzz", "description": "slow"}, {"label": "soak"}],
}
NAME = {"question": "What is its name?"}
AGE = (r"waiting(&#160;| )\d+[smh]", r"waiting\g<1>0s")


def ask(daemon: DaemonProcess, name: str, *questions: Json) -> str:
    session = daemon.session(name)
    reply = calls(tool("ask_user_question", questions=list(questions)))
    daemon.submit(session, model=daemon.script(reply, text("done"), name=f"{name}.json"))
    return str(daemon.until(session, "question.requested")["request_id"])


async def answered(daemon: DaemonProcess, session: str) -> Json:
    return await asyncio.to_thread(daemon.until, session, "question.answered")


def is_waiting(daemon: DaemonProcess, session: str) -> bool:
    return len(daemon.client.sessions.questions(session)) == 1


@contextlib.asynccontextmanager
async def question(daemon: DaemonProcess, request_id: str, **options: Any) -> Any:
    """(application, pilot, screen) once keys count."""
    screen = Question(request_id)
    async with open_app(daemon, screen=screen, **options) as (app, pilot):
        await hears(pilot, screen)
        yield app, pilot, screen


async def hears(pilot: Keys, screen: Question) -> None:
    await until(pilot, lambda: screen.view is not None and not screen.is_deaf, "the dead time's end")


def left(app: KheishApp, screen: Question) -> bool:
    return screen not in app.screen_stack and not screen.is_running


async def test_questions_come_one_by_one_and_are_sent_together_after_a_last_look(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "steps", DATABASE, TESTS, NAME)
    async with question(shared_daemon, request_id) as (app, pilot, screen):
        assert "1/3" in shown(app) and "Which database" in shown(app)
        await pilot.press("2")
        await until(pilot, lambda: "2/3" in shown(app))
        for keys, marked in (("3", ["3"]), (["space"], []), ("1", ["1"]), (["j", "j", "space"], ["1", "3"])):
            await pilot.press(*keys)
            await until(pilot, lambda marked=marked: screen._answers[1].chosen == marked)
        await pilot.press("enter")
        await until(pilot, lambda: "3/3" in shown(app) and isinstance(app.focused, Input))
        await pilot.press(*"a name", "enter")
        await until(pilot, lambda: "your answers" in shown(app))
        assert "PostgreSQL" in shown(app) and "unit, soak" in shown(app) and "a name" in shown(app)
        assert is_waiting(shared_daemon, "steps")
        await hears(pilot, screen)
        await pilot.press("enter")
        await until(pilot, lambda: left(app, screen))
    assert (await answered(shared_daemon, "steps"))["answers"] == [
        {"question_id": "1", "selected_option_ids": ["2"]},
        {"question_id": "2", "selected_option_ids": ["1", "3"]},
        {"question_id": "3", "freeform_answer": "a name"},
    ]


async def test_one_goes_back_to_an_earlier_question_and_answers_it_otherwise(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "back", DATABASE, {**DATABASE, "question": "And the second?"})
    async with question(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("1")
        await until(pilot, lambda: "2/2" in shown(app))
        await pilot.press("3")
        await until(pilot, lambda: "your answers" in shown(app))
        await pilot.press("h", "h")
        await until(pilot, lambda: "1/2" in shown(app))
        await hears(pilot, screen)
        await pilot.press("j", "enter")
        await until(pilot, lambda: "2/2" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "your answers" in shown(app))
        await hears(pilot, screen)
        await pilot.press("enter")
        await until(pilot, lambda: left(app, screen))
    chosen = [a["selected_option_ids"] for a in (await answered(shared_daemon, "back"))["answers"]]
    assert chosen == [["2"], ["3"]]


async def test_own_words_are_always_possible(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "words", DATABASE)
    async with question(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.focused, Input))
        await pilot.press(*"Dq1 2", "enter")
        await until(pilot, lambda: "your answer" in shown(app))
        await hears(pilot, screen)
        await pilot.press("enter")
        await until(pilot, lambda: left(app, screen))
    assert (await answered(shared_daemon, "words"))["answers"] == [{"question_id": "1", "freeform_answer": "Dq1 2"}]


async def test_a_click_chooses(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "click", DATABASE)
    async with question(shared_daemon, request_id) as (app, pilot, screen):
        line = next(y for y, line in enumerate(shown(app).split("\n")) if "somebody" in line)
        await pilot.click(offset=(10, line))
        await until(pilot, lambda: "your answer" in shown(app) and "PostgreSQL" in shown(app))
        assert screen._answers[0].chosen == ["2"]


async def test_it_can_be_declined_with_a_reason(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "decline", DATABASE, NAME)
    async with question(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("D")
        await until(pilot, lambda: isinstance(app.focused, Input))
        await pilot.press(*"ask me later", "enter")
        await until(pilot, lambda: left(app, screen))
    event = await answered(shared_daemon, "decline")
    assert event["declined"] and event["justification"] == "ask me later" and "answers" not in event


async def test_escape_leaves_it_waiting_and_says_so(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "later", NAME)
    async with question(shared_daemon, request_id) as (app, pilot, screen):
        await until(pilot, lambda: isinstance(app.focused, Input))
        await pilot.press("escape")
        await until(pilot, lambda: left(app, screen))
        await until(pilot, lambda: "goes on waiting" in " ".join(n.message for n in app._notifications))
    assert is_waiting(shared_daemon, "later")


async def test_several_choices_need_a_mark_before_one_goes_on(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "unmarked", TESTS)
    async with question(shared_daemon, request_id) as (app, pilot, _):
        await pilot.press("enter")
        await until(pilot, lambda: "space marks" in shown(app))
        assert "Which tests" in shown(app)


async def test_keys_within_the_dead_time_answer_nothing(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(shared_daemon, "early", DATABASE)
    monkeypatch.setattr(request, "DEAD_TIME_S", 3600.0)
    screen = Question(request_id)
    async with open_app(shared_daemon, screen=screen) as (app, pilot):
        await until(pilot, lambda: "Which database" in shown(app))
        await pilot.press("1")
        await until(pilot, lambda: "too soon" in shown(app))
        assert not screen._answers[0]


async def test_an_enter_that_was_on_its_way_does_not_send_what_comes_up(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(shared_daemon, "twice", DATABASE)
    async with question(shared_daemon, request_id) as (app, pilot, _):
        monkeypatch.setattr(request, "DEAD_TIME_S", 3600.0)
        await pilot.press("enter")
        await until(pilot, lambda: "your answer" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "too soon" in shown(app))
    assert is_waiting(shared_daemon, "twice")


async def test_what_was_answered_elsewhere_is_shown_with_who(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "elsewhere", DATABASE)
    async with question(shared_daemon, request_id) as (app, pilot, screen):
        await asyncio.to_thread(shared_daemon.client.questions.answer, request_id, declined=True, justification="no")
        await until(pilot, lambda: "declined by user:" in shown(app) and "(test): no" in shown(app))
        await pilot.press("1")
        await until(pilot, lambda: left(app, screen))


async def test_the_text_of_a_question_is_data(shared_daemon: DaemonProcess) -> None:
    tricky = {"question": "a\x1b[2J[red]b\u202e?", "options": [{"label": "[b]x", "description": "\x1b]0;t\x07y"}]}
    request_id = ask(shared_daemon, "data", tricky)
    async with question(shared_daemon, request_id) as (app, _, _):
        assert "a[red]b?" in shown(app) and "[b]x" in shown(app)


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_a_question_looks_like_this(shared_daemon: DaemonProcess, size: tuple[int, int]) -> None:
    request_id = ask(shared_daemon, f"picture-{size[0]}", DATABASE, TESTS, NAME)
    async with question(shared_daemon, request_id, size=size) as (app, pilot, screen):
        await pilot.press("j")
        check_picture(app, f"question-{size[0]}", AGE)
        await pilot.press("1")
        await until(pilot, lambda: "2/3" in shown(app))
        await pilot.press("1", "j")
        await until(pilot, lambda: screen._answers[1].chosen)
        check_picture(app, f"question-several-{size[0]}", AGE)


def test_a_single_choice_replaces_the_one_before_and_several_are_marked_and_unmarked() -> None:
    single, several = Answer(), Answer()
    for option in ("1", "2"):
        single.mark(option, is_multi=False)
        several.mark(option, is_multi=True)
    assert (single.chosen, several.chosen) == (["2"], ["1", "2"])
    several.mark("1", is_multi=True)
    assert several.chosen == ["2"]
