"""Where a terminal has no more than ASCII: every screen, with all that can be on it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from kheish.config import Tui
from kheish.tui.app import KheishApp
from kheish.tui.screens.approval import Approval
from kheish.tui.screens.question import Question
from kheish.tui.screens.run import Run
from kheish.tui.screens.timeline import Timeline
from tests.daemon_process import DaemonProcess, bash, calls, text, tool
from tests.tui.harness import Keys, open_app, shown, until

pytestmark = pytest.mark.slow

WORDS = "word " * 100
REPLY = f"""\
# Head

- item
- [x] task

> quote

| a | b |
|---|---|
| 1 | 2 |

---

```python
{"x" * 300}
```

{WORDS}"""
PLAN = [{"content": WORDS[:150], "status": status} for status in ("completed", "in_progress", "pending")]
QUESTION = {"question": "Which way?", "options": [{"label": "Left", "description": "short"}, {"label": "Right"}]}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("ascii"))
    try:
        made.start()
        (made.work / "a.py").write_text("".join(f"line {n}\n" for n in range(50)))
        busy = made.session("busy")
        made.client.sessions.add_rule(busy, "bash(echo *)", "allow")
        made.script(
            calls(tool("todo_write", todos=PLAN), tool("bash", command=f"echo '{WORDS}'"), reasoning="a\nb"),
            text(REPLY),
            calls(tool("todo_write", todos=PLAN),
                  tool("edit_file", path="a.py", old_text="line 20\n", new_text=f"{WORDS}\n")),
            name="busy.json",
        )  # fmt: skip
        made.finish(made.submit(busy, WORDS, model="test/busy.json"))
        made.submit(busy, "again", model="test/busy.json")
        made.until(busy, "approval.requested")
        made.submit(busy, WORDS, model="test/busy.json")
        made.submit(busy, "and this", delivery="steer")
        made.script(calls(tool("ask_user_question", questions=[QUESTION, {"question": "Why?"}])), name="question.json")
        made.submit(made.session("asks"), "go", model="test/question.json")
        made.script(bash(f"curl {WORDS} | sudo sh\necho {WORDS}"), name="danger.json")
        made.submit(made.session("danger"), "go", model="test/danger.json")
        for name in ("asks", "danger"):
            made.until(name, "question.requested", "approval.requested")
        yield made
    finally:
        made.close()


def check(app: KheishApp, where: str) -> None:
    assert sorted({c for c in shown(app) if not c.isascii()}) == [], f"{where}\n{shown(app)}"


async def walk(app: KheishApp, pilot: Keys, where: str, *keys: str) -> None:
    """Looks at the screen, and again after each key, also where there is little room."""
    for key in ("", *keys):
        if key:
            await pilot.press(key)
        await pilot.pause()
        check(app, f"{where} after {key!r}")
    for size in ((200, 60), (40, 12)):
        await pilot.resize_terminal(*size)
        await pilot.pause()
        check(app, f"{where} in {size}")


SCREENS: dict[str, tuple[str, ...]] = {
    "danger": ("A", "escape", "r", "escape", "e", "escape"),
    "busy": ("v", "n", "G"),
    "question": ("t", "a", "enter"),
    "timeline": ("enter", "escape", "k", "enter", "f"),
    "run": (),
}
"""With the keys that are pressed on each."""


@pytest.mark.parametrize("name", SCREENS)
async def test_nothing_beyond_ascii_is_drawn_on(api: DaemonProcess, name: str) -> None:
    ask = api.client.sessions.approvals("danger" if name == "danger" else "busy")[0]
    screen = {
        "danger": lambda: Approval(ask["request_id"]),
        "busy": lambda: Approval(ask["request_id"]),
        "question": lambda: Question(api.client.sessions.questions("asks")[0]["request_id"]),
        "timeline": lambda: Timeline("busy"),
        "run": lambda: Run(ask["run_id"]),
    }[name]()
    async with open_app(api, settings=Tui(ascii=True, reduced_motion=True), screen=screen) as (app, pilot):
        await until(pilot, lambda: not isinstance(screen, Approval) or (screen.view and not screen.is_deaf))
        await walk(app, pilot, name, *SCREENS[name])


async def test_nothing_beyond_ascii_is_drawn_on_home_and_a_session(api: DaemonProcess) -> None:
    async with open_app(api, settings=Tui(ascii=True, reduced_motion=True)) as (app, pilot):
        await until(pilot, lambda: "3 sessions" in shown(app))
        await walk(app, pilot, "home", "j", "n", "escape", "slash", "a", "escape", "ctrl+p")
        await pilot.press("escape")
        await pilot.resize_terminal(80, 24)
        app.open_session("busy")
        await until(pilot, lambda: "allow?" in shown(app) and "Plan" in shown(app))
        app.notify("something", title="told")
        keys = ("ctrl+e", "ctrl+home", "ctrl+u", "escape", "ctrl+b", "escape", "at", "a", "escape", "ctrl+r")
        await walk(app, pilot, "session", *keys)


async def test_without_colours_no_colour_is_written(api: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with open_app(api, session_id="busy") as (app, pilot):
        await until(pilot, lambda: "allow?" in shown(app))
        drawn = [segment.style for strip in app.screen._compositor.render_strips() for segment in strip]
        colours = {
            color.get_truecolor()
            for style in drawn
            if style is not None
            for color in (style.color, style.bgcolor)
            if color is not None and not color.is_default
        }
        assert all(c.red == c.green == c.blue for c in colours), "there are greys alone"
        assert re.search("allow", shown(app))
