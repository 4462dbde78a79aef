"""The screen of an approval: keys against a real daemon, and what its journal then holds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.widgets import Input, TextArea

from kheish.tui.app import KheishApp
from kheish.tui.screens import approval as approval_module
from kheish.tui.screens import request
from kheish.tui.screens.approval import Approval, Known, Payload
from kheish.tui.widgets.choices import Choices
from tests.daemon_process import DaemonProcess, Json, bash, calls, text, tool
from tests.tui.harness import Keys, check_picture, open_app, shown, until

pytestmark = pytest.mark.slow

AGE = (r"waiting(&#160;| )\d+[smh]", r"waiting\g<1>0s")


def ask(daemon: DaemonProcess, name: str, *replies: Json) -> str:
    """A session that asks for an approval; returns the id of that."""
    session = daemon.session(name)
    daemon.submit(session, model=daemon.script(*replies, text("done"), name=f"{name}.json"))
    return str(daemon.until(session, "approval.requested")["request_id"])


def facts(daemon: DaemonProcess, session: str, type_: str) -> list[Json]:
    return [e for record in daemon.records(session) for e in record["events"] if e["type"] == type_]


async def resolved(daemon: DaemonProcess, session: str) -> Json:
    """The first decision of a session, once it is in the journal."""
    event = await asyncio.to_thread(daemon.until, session, "approval.resolved")
    return {name: event.get(name) for name in ("resolution", "remember", "rule", "updated_input", "justification")}


@contextlib.asynccontextmanager
async def approval(daemon: DaemonProcess, request_id: str, **options: Any) -> Any:
    """(application, pilot, screen) once keys count."""
    screen = Approval(request_id)
    async with open_app(daemon, screen=screen, **options) as (app, pilot):
        await hears(pilot, screen)
        yield app, pilot, screen


async def hears(pilot: Keys, screen: Approval) -> None:
    await until(pilot, lambda: screen.view is not None and not screen.is_deaf, "the dead time's end")


async def check_pictured(app: KheishApp, pilot: Keys, screen: Approval, name: str) -> None:
    """The picture of a screen, without what differs each time."""
    screen.view |= {"cwd": "/home/me/work", "run_id": "run_" + "0" * 26, "requested_at_ms": app.now_ms}
    started = "10:20:30, 5s ago; its process 4711 was ended then"
    screen._known = Known(screen._known.says, started if screen._known.started else "")
    screen.draw()
    await hears(pilot, screen)
    await until(pilot, lambda: not screen.query_one(Choices).is_dim, "the choices' light")
    await pilot.pause()
    check_picture(app, name, AGE)


def left(app: KheishApp, screen: Approval) -> bool:
    return screen not in app.screen_stack and not screen.is_running


ONCE = {"resolution": "allow", "remember": None, "rule": None, "updated_input": None, "justification": None}
"""Of a journaled decision; what is not there is as always."""


async def test_one_key_allows_what_is_shown_and_leaves(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "once", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        assert "echo hello" in shown(app)
        await pilot.press("a")
        await until(pilot, lambda: left(app, screen))
    event = facts(shared_daemon, "once", "approval.resolved")[0]
    assert (
        event["resolution"] == "allow"
        and event["digest"] == facts(shared_daemon, "once", "approval.requested")[0]["digest"]
    )
    assert await resolved(shared_daemon, "once") == ONCE


async def test_a_decision_carries_the_digest_of_what_was_shown(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(shared_daemon, "digest", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        screen.view = {**screen.view, "digest": "0" * 32}
        await pilot.press("a")
        await until(pilot, lambda: "not what you saw" in " ".join(n.message for n in app._notifications))
        await until(pilot, lambda: screen.view["digest"] != "0" * 32, "the view as it is")
    assert facts(shared_daemon, "digest", "approval.resolved") == []


async def test_keys_within_the_dead_time_decide_nothing_and_it_says_so(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(shared_daemon, "early", bash("echo hello"))
    monkeypatch.setattr(request, "DEAD_TIME_S", 3600.0)
    screen = Approval(request_id)
    async with open_app(shared_daemon, screen=screen) as (app, pilot):
        await until(pilot, lambda: "echo hello" in shown(app))
        for key in ("a", "r", "A", "e"):
            await pilot.press(key)
            await until(pilot, lambda: "too soon" in shown(app))
            screen.query_one(Choices).say("")
        assert "R Never" in shown(app), "nothing was opened"
    assert facts(shared_daemon, "early", "approval.resolved") == []


@pytest.mark.parametrize(("key", "remember", "scope"), [("s", "session", ""), ("A", "always", "user")])
async def test_a_rule_is_shown_before_a_second_key_makes_it(
    shared_daemon: DaemonProcess, key: str, remember: str, scope: str
) -> None:
    name = f"rule-{remember}"
    request_id = ask(shared_daemon, name, bash(f"echo {name} *"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press(key)
        await until(pilot, lambda: rf"allow bash(echo {name} \*)" in shown(app))
        assert "this session" in shown(app) if key == "s" else "every session" in shown(app)
        await hears(pilot, screen)
        await pilot.press("a", "s", "A", "enter")
        assert facts(shared_daemon, name, "approval.resolved") == []
        await pilot.press("y")
        await until(pilot, lambda: left(app, screen))
    rule = {"pattern": rf"bash(echo {name} \*)", "behavior": "allow", **({"scope": scope} if scope else {})}
    assert await resolved(shared_daemon, name) == {**ONCE, "remember": remember, "rule": rule}


async def test_a_rule_can_be_widened_and_is_shown_again_before_it_is_made(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "widen", bash("echo widen this"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("s")
        await until(pilot, lambda: "make this rule" in shown(app))
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.focused, Input))
        app.focused.value = "bash(echo widen *)"
        await pilot.press("enter")
        await until(pilot, lambda: "allow bash(echo widen *)" in shown(app))
        await hears(pilot, screen)
        await pilot.press("y")
        await until(pilot, lambda: left(app, screen))
    assert (await resolved(shared_daemon, "widen"))["rule"]["pattern"] == "bash(echo widen *)"


async def test_a_rule_that_does_not_speak_of_the_call_is_refused_and_nothing_is_decided(
    shared_daemon: DaemonProcess,
) -> None:
    request_id = ask(shared_daemon, "misfit", bash("echo misfit"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("s")
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.focused, Input))
        app.focused.value = "bash(ls)"
        await pilot.press("enter")
        await until(pilot, lambda: "allow bash(ls)" in shown(app))
        await hears(pilot, screen)
        await pilot.press("y")
        await until(pilot, lambda: "does not match" in " ".join(n.message for n in app._notifications))
        await pilot.press("escape")
        await until(pilot, lambda: "s Session" in shown(app))
    assert facts(shared_daemon, "misfit", "approval.resolved") == []


async def test_a_call_whose_rule_cannot_be_shown_whole_gets_none(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "long", bash("echo " + "x" * 700))
    async with approval(shared_daemon, request_id) as (app, pilot, _):
        await pilot.press("s", "A", "R")
        assert "Always" not in shown(app) and "a Once" in shown(app)
        assert "make this rule" not in shown(app)
    assert facts(shared_daemon, "long", "approval.resolved") == []


async def test_what_is_said_of_a_key_hides_no_choice(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "said", calls(tool("write_file", path="a.txt", content="one\n")))
    async with approval(shared_daemon, request_id) as (app, pilot, _):
        await until(pilot, lambda: "+1" in shown(app))
        await pilot.press("v")
        await until(pilot, lambda: "the change in one column" in shown(app))
        assert "a Once" in shown(app) and "esc Later" in shown(app)


async def test_on_a_small_terminal_most_lines_are_for_what_would_run(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "small", bash("\n".join(f"echo line {i}" for i in range(30))))
    async with approval(shared_daemon, request_id, size=(40, 15)) as (app, pilot, screen):
        assert shown(app).count("echo line") >= 5 and "esc Later" in shown(app)
        assert "where" in shown(app) and screen.view["run_id"] not in shown(app)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: screen.view["run_id"] in shown(app))


async def test_no_news_lies_over_what_is_decided_about(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "covered", bash("echo hello"))
    async with open_app(shared_daemon) as (app, pilot):
        app.notify("it covers a line")
        app.open_request(request_id)
        await until(pilot, lambda: "echo hello" in shown(app) and "it covers a line" not in shown(app))


async def test_enter_never_approves(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "enter", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("enter", "space", "enter")
        await pilot.press("s")
        await until(pilot, lambda: "make this rule" in shown(app))
        await hears(pilot, screen)
        await pilot.press("enter", "space", "enter")
        await pilot.press("escape", "escape")
        await until(pilot, lambda: left(app, screen))
        await until(pilot, lambda: "goes on waiting" in " ".join(n.message for n in app._notifications))
    assert facts(shared_daemon, "enter", "approval.resolved") == []


async def test_pasted_text_decides_nothing_however_the_terminal_brings_it(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(shared_daemon, "paste", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, _):
        app.post_message(events.Paste("a\ny\n"))
        await pilot.pause()
        monkeypatch.setattr(request, "BURST_S", 3600.0)
        await pilot.press("a", "l", "l")
        await until(pilot, lambda: "pasted text" in shown(app))
    assert facts(shared_daemon, "paste", "approval.resolved") == []


async def test_a_denial_takes_its_reason_to_the_model(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "deny", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.focused, Input))
        await pilot.press(*"a no", "enter")
        await until(pilot, lambda: left(app, screen))
    assert await resolved(shared_daemon, "deny") == {**ONCE, "resolution": "deny", "justification": "a no"}


async def test_a_comment_allows_the_call_and_reaches_the_model_and_the_transcript(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "comment", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("c")
        await until(pilot, lambda: "what the model is told" in shown(app) and "⏎ Allow" in shown(app))
        await pilot.press(*"go on", "enter")
        await until(pilot, lambda: left(app, screen))
        await asyncio.to_thread(shared_daemon.until, "comment", "run.completed")
        app.open_session("comment")
        await until(pilot, lambda: "About your call of bash: go on" in shown(app))
    assert await resolved(shared_daemon, "comment") == {**ONCE, "justification": "go on"}


async def test_a_denial_for_ever_shows_its_rule_first(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "never", bash("echo never again"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("R")
        await until(pilot, lambda: "deny bash(echo never again)" in shown(app))
        await hears(pilot, screen)
        await pilot.press("y")
        await until(pilot, lambda: left(app, screen))
    rule = {"pattern": "bash(echo never again)", "behavior": "deny", "scope": "user"}
    found = await resolved(shared_daemon, "never")
    assert (found["resolution"], found["remember"], found["rule"]) == ("deny", "always", rule)


async def test_edited_arguments_are_checked_shown_and_then_allowed(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    request_id = ask(shared_daemon, "edit", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await until(pilot, lambda: screen._schema)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.focused, TextArea))
        for written, complaint in (
            ("{", "cannot read the JSON"),
            ("[]", "must be object"),
            ('{"command": 5}', "command must be string"),
            ("{}", "must have command"),
            ('{"command": "ls", "x": 1}', "cannot have x"),
        ):
            app.focused.text = written
            await pilot.press("ctrl+s")
            await until(pilot, lambda complaint=complaint: complaint in shown(app))
            assert app.focused.text == written, "what was written stays to be mended"
        app.focused.text = '{"command": "echo changed"}'
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "edited by you" in shown(app) and "echo changed" in shown(app))
        assert facts(shared_daemon, "edit", "approval.resolved") == []
        await hears(pilot, screen)
        await pilot.press("a")
        await until(pilot, lambda: left(app, screen))
    assert await resolved(shared_daemon, "edit") == {**ONCE, "updated_input": {"command": "echo changed"}}


async def test_the_arguments_open_in_the_persons_own_editor(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/hello/edited/ "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    monkeypatch.setattr(KheishApp, "suspend", lambda app: contextlib.nullcontext())
    request_id = ask(shared_daemon, "editor", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await pilot.press("e")
        await until(pilot, lambda: "echo edited" in shown(app))
        await hears(pilot, screen)
        await pilot.press("a")
        await until(pilot, lambda: left(app, screen))
    assert (await resolved(shared_daemon, "editor"))["updated_input"] == {"command": "echo edited"}


async def test_what_was_decided_elsewhere_is_shown_with_who_and_how_until_a_key(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "elsewhere", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await asyncio.to_thread(shared_daemon.client.approvals.deny, request_id, "not today")
        await until(pilot, lambda: "denied by user:" in shown(app) and "(test): not today" in shown(app))
        await pilot.press("a")
        await until(pilot, lambda: left(app, screen))
    assert len(facts(shared_daemon, "elsewhere", "approval.resolved")) == 1


async def test_what_was_decided_elsewhere_closes_by_itself(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "SETTLED_SHOWN_S", 0.05)
    request_id = ask(shared_daemon, "closes", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await asyncio.to_thread(shared_daemon.client.approvals.allow, request_id)
        await until(pilot, lambda: left(app, screen))


async def test_opening_what_was_settled_before_says_by_whom(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "before", bash("echo hello"))
    shared_daemon.client.approvals.allow(request_id)
    async with open_app(shared_daemon, screen=Approval(request_id)) as (app, pilot):
        await until(pilot, lambda: "allowed by user:" in shown(app))


async def test_after_an_answer_comes_what_the_session_asks_next(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "several", calls(*(tool("bash", command=f"echo {n}") for n in range(2))))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await until(pilot, lambda: "1 more" in shown(app))
        await pilot.press("a")
        await until(pilot, lambda: left(app, screen) and isinstance(app.screen, Approval))
        await until(pilot, lambda: "echo 1" in shown(app))
        await hears(pilot, app.screen)
        await pilot.press("a")
        await until(pilot, lambda: not isinstance(app.screen, Approval))
    assert len(facts(shared_daemon, "several", "approval.resolved")) == 2


async def test_the_click_that_brings_the_terminal_to_the_front_decides_nothing(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "click", bash("echo hello"))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        app.post_message(events.AppBlur())
        app.post_message(events.AppFocus())
        await until(pilot, lambda: screen._swallows_click)
        await pilot.click(Choices, offset=(2, 1))
        await until(pilot, lambda: "brought the terminal to the front" in shown(app))
        screen.query_one(Choices).say("")
        assert facts(shared_daemon, "click", "approval.resolved") == []
        await pilot.click(Choices, offset=(2, 1))
        await until(pilot, lambda: left(app, screen))
    assert await resolved(shared_daemon, "click") == ONCE


async def test_where_it_would_run_and_why_it_is_asked_is_shown(shared_daemon: DaemonProcess) -> None:
    request_id = ask(
        shared_daemon,
        "why",
        {**bash("make"), "text": "First I look."},
        {**bash("make install"), "text": "It is built."},
    )
    shared_daemon.client.approvals.allow(request_id)
    await asyncio.to_thread(shared_daemon.until, "why", "tool_call.completed")
    while not (waiting := shared_daemon.client.sessions.approvals("why")):
        await asyncio.sleep(0.01)
    async with approval(shared_daemon, waiting[0]["request_id"]) as (app, pilot, _):
        await until(pilot, lambda: "It is built." in shown(app))
        assert str(shared_daemon.work) in shown(app).replace("\n            ", "")
        assert "the rule bash" in shown(app) and "First I look." not in shown(app)


async def test_nothing_of_a_call_hides_and_no_mark_of_it_moves_the_terminal(shared_daemon: DaemonProcess) -> None:
    request_id = ask(shared_daemon, "hidden", bash("echo a\u202eb\x1b[2J [red]c[/red] \u200b"))
    async with approval(shared_daemon, request_id) as (app, _, _):
        assert r"echo a\u202eb\x1b[2J [red]c[/red] \u200b" in shown(app)
        assert "invisible characters 3" in shown(app)


async def test_the_choices_stay_in_sight_under_a_payload_of_any_length(shared_daemon: DaemonProcess) -> None:
    content = "".join(f"{n:06} {'x' * 60}\n" for n in range(14_000))
    request_id = ask(shared_daemon, "huge", calls(tool("write_file", path="huge.txt", content=content)))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await until(pilot, lambda: "000000 xxx" in shown(app))
        assert "a Once" in shown(app)
        await pilot.press("G")
        await until(pilot, lambda: "013999 xxx" in shown(app))
        assert "a Once" in shown(app)
        await hears(pilot, screen)
        await pilot.press("a")
        await until(pilot, lambda: left(app, screen))


@pytest.mark.parametrize(("name", "count"), [("whole", 30_000), ("short", 3)])
async def test_a_change_is_read_beside_the_loop_and_decided_only_when_it_is_shown(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """However short it is: the first colours of a language take a tenth of a second."""
    lines = [f"value_{n} = compute({n})\n" for n in range(count)]
    (shared_daemon.work / f"{name}.py").write_text("".join(lines))
    content = "".join(line.replace("compute", "derive") for line in lines)
    request_id = ask(shared_daemon, name, calls(tool("write_file", path=f"{name}.py", content=content)))
    may_read, threads = threading.Event(), set()

    def look(of: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*arguments: Any) -> Any:
            threads.add(threading.current_thread())
            assert may_read.wait(20)
            return of(*arguments)

        return looked

    for owner, part in ((approval_module, "risks"), (approval_module, "change"), (Approval, "_payload")):
        monkeypatch.setattr(owner, part, look(getattr(owner, part)))
    screen = Approval(request_id)
    async with open_app(shared_daemon, screen=screen) as (app, pilot):
        await until(pilot, lambda: "reading it" in shown(app) and threads)
        await pilot.press("a")
        await until(pilot, lambda: "nothing was decided" in shown(app))
        may_read.set()
        await until(pilot, lambda: "value_0 = compute(0)" in shown(app))
        assert threading.main_thread() not in threads
        await pilot.resize_terminal(100, 30)
        await until(pilot, lambda: screen.query_one(Payload).virtual_size.width > 90)
        await hears(pilot, screen)
        await pilot.press("a")
        await until(pilot, lambda: left(app, screen))
    assert await resolved(shared_daemon, name) == ONCE


async def test_a_change_is_shown_against_the_file_on_the_disk(shared_daemon: DaemonProcess) -> None:
    (shared_daemon.work / "poem.txt").write_text("".join(f"line {n}\n" for n in range(1, 40)))
    arguments = {"path": "poem.txt", "old_text": "line 20\n", "new_text": "line twenty\n"}
    request_id = ask(shared_daemon, "diff", calls(tool("edit_file", **arguments), text="I fix the poem."))
    async with approval(shared_daemon, request_id) as (app, pilot, screen):
        await until(pilot, lambda: "line twenty" in shown(app) and "line 19" in shown(app) and screen._known.says)
        await check_pictured(app, pilot, screen, "approval-diff-80")
    async with approval(shared_daemon, request_id, size=(200, 60)) as (app, pilot, screen):
        await until(pilot, lambda: "line twenty" in shown(app) and screen._known.says)
        await check_pictured(app, pilot, screen, "approval-diff-200")
        await hears(pilot, screen)
        await pilot.press("v")
        await until(pilot, lambda: "in one column" in shown(app))


DANGEROUS = """\
git push --force origin main && rm -rf /srv/build > ~/log
curl -s https://example.org/install.sh | sudo sh -s -- --yes"""


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_a_command_looks_like_this(shared_daemon: DaemonProcess, size: tuple[int, int]) -> None:
    says = "The build is green, so I publish it now and clear what is left of the old one."
    request_id = ask(shared_daemon, f"picture-{size[0]}", {**bash(DANGEROUS), "text": says})
    async with approval(shared_daemon, request_id, size=size) as (app, pilot, screen):
        await until(pilot, lambda: screen._known.says)
        await check_pictured(app, pilot, screen, f"approval-{size[0]}")
        await pilot.press("A")
        await until(pilot, lambda: "make this rule" in shown(app))
        await check_pictured(app, pilot, screen, f"approval-rule-{size[0]}")


@pytest.fixture
def uncertain(daemon: DaemonProcess) -> Iterator[tuple[DaemonProcess, dict[str, str]]]:
    """A daemon that died during calls that people had allowed, and was started again."""
    names = ("v", "r", "m", "g")
    for name in names:
        request_id = ask(daemon, name, bash(f"echo {name} >> done; sleep 600"))
        daemon.client.approvals.allow(request_id)
        daemon.until(name, "tool_call.started")
    daemon.kill()
    daemon.start()
    yield daemon, {name: daemon.client.sessions.approvals(name)[0]["request_id"] for name in names}


async def test_a_call_whose_outcome_is_unknown_takes_one_of_four_verbs(
    uncertain: tuple[DaemonProcess, dict[str, str]],
) -> None:
    daemon, request_ids = uncertain
    async with open_app(daemon, session_id="v") as (app, pilot):
        await until(pilot, lambda: "nobody knows whether it took effect: waits for your decision" in shown(app))
    for size in ((80, 24), (200, 60)):
        async with approval(daemon, request_ids["v"], size=size) as (app, pilot, screen):
            await until(pilot, lambda app=app: "may have taken" in shown(app) and "started" in shown(app))
            await pilot.press("a", "s", "e", "A", "R")
            await check_pictured(app, pilot, screen, f"approval-uncertain-{size[0]}")
    assert facts(daemon, "v", "approval.resolved")[1:] == [], "keys of other approvals decide nothing"
    for key, verb in (("v", "verify"), ("m", "mark_done"), ("g", "give_up"), ("r", "retry")):
        async with approval(daemon, request_ids[key]) as (app, pilot, screen):
            await pilot.press(key)
            await until(pilot, lambda screen=screen, app=app: left(app, screen))
        assert facts(daemon, key, "approval.resolved")[-1]["resolution"] == verb


async def test_what_is_asked_again_under_other_rules_takes_the_place_of_what_was_asked(daemon: DaemonProcess) -> None:
    request_id = ask(daemon, "again", bash("echo hello"))
    async with approval(daemon, request_id) as (app, pilot, screen):
        daemon.kill()
        (daemon.config / "config.toml").write_text('[permissions]\ndeny = ["bash(ls)"]\n')
        await asyncio.to_thread(daemon.start)
        await until(pilot, lambda: screen.request_id != request_id and screen.view["request_id"] == screen.request_id)
        await hears(pilot, screen)
        await pilot.press("a")
        await until(pilot, lambda: left(app, screen))
    assert await resolved(daemon, "again") == ONCE


# -- a budget that is used up ---------------------------------------------------------------------------------------


async def ask_budget(daemon: DaemonProcess, name: str) -> str:
    """A session whose run has used its two steps up."""
    session = daemon.session(name)
    look = calls(tool("list_files", path="."))
    model = daemon.script(look, look, text("as far as I came"), name=f"{name}.json", after_last="repeat")
    daemon.submit(session, model=model, budget={"steps": 2, "tokens": 1_000_000})
    return str(daemon.until(session, "approval.requested")["request_id"])


async def test_a_budget_is_raised_by_what_is_written(shared_daemon: DaemonProcess) -> None:
    request_id = await ask_budget(shared_daemon, "budget")
    async with approval(shared_daemon, request_id, session_id="budget") as (app, pilot, screen):
        assert "Raise this budget?" in shown(app) and "2 of 2 steps" in shown(app) and "used     " in shown(app)
        assert "Once" not in shown(app) and "no rule" not in shown(app)
        await pilot.press("a", "e")
        await pilot.press("r")
        field = screen.query_one("#field", Input)
        await until(pilot, lambda: field.display and field.has_focus)
        await pilot.press("x", "enter")
        await until(pilot, lambda: "cannot read" in shown(app))
        await pilot.press("backspace", "3", "enter")
        await until(pilot, lambda: left(app, screen))
        await until(pilot, lambda: "as far as I came" in shown(app) and "raised by user:" in shown(app))
    (event,) = facts(shared_daemon, "budget", "approval.resolved")
    assert (event["resolution"], event["raise_by"]) == ("raise", {"steps": 3})


async def test_a_budget_that_is_not_raised_stops_its_run(shared_daemon: DaemonProcess) -> None:
    request_id = await ask_budget(shared_daemon, "halt")
    async with approval(shared_daemon, request_id, session_id="halt") as (app, pilot, screen):
        await pilot.press("s")
        await until(pilot, lambda: left(app, screen))
        await until(pilot, lambda: "budget_exhausted" in shown(app))
    assert facts(shared_daemon, "halt", "approval.resolved")[0]["resolution"] == "stop"
