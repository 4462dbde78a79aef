"""`shell`: a person's command as one bash call, under the permissions of the session, and not a word about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kheish.client import ApiError
from kheish.core.contracts import ToolCallDelta
from kheish.core.events import AssistantMessage, Message, ToolMessage, ToolRequest, UserMessage
from kheish.errors import Invalid
from kheish.providers.registry import Routes
from kheish.providers.routes import load_routes
from kheish.providers.shell import Shell
from kheish.tools.registry import load_tools
from tests.daemon_process import DaemonProcess, text
from tests.providers.requests import make_request, read

COMMAND = "echo 'a  b' |\n  cat"
ASKED = AssistantMessage(
    text="",
    tool_requests=(ToolRequest(tool_call_id="t", provider_id="shell_1", tool="bash", arguments={"command": COMMAND}),),
)


async def play(*messages: str | Message, step: int = 1) -> tuple[list[Any], Any]:
    given = [UserMessage(text=m) if isinstance(m, str) else m for m in messages]
    return await read(Shell(), make_request(*given, step=step))


async def test_the_text_of_the_input_is_the_command_of_one_bash_call() -> None:
    deltas, reply = await play("hello", AssistantMessage(text="hi"), f" {COMMAND}\n")
    (call,) = reply.tool_calls
    assert (call.tool, call.arguments) == ("bash", {"command": COMMAND})
    assert load_tools()["bash"].spec.check(call.arguments) == "", "the tool takes it"
    assert (reply.text, reply.stop_reason, deltas) == ("", "tool_use", [ToolCallDelta(tool="bash")])


@pytest.mark.parametrize("is_error", [False, True])
async def test_to_the_result_it_adds_nothing(is_error: bool) -> None:
    result = ToolMessage(tool_call_id="t", provider_id="shell_1", tool="bash", text="a  b\n", is_error=is_error)
    deltas, reply = await play(COMMAND, ASKED, result, step=2)
    assert (deltas, reply.text, reply.tool_calls, reply.stop_reason) == ([], "", (), "end")


async def test_what_is_steered_into_the_run_is_no_command() -> None:
    result = ToolMessage(tool_call_id="t", provider_id="shell_1", tool="bash", text="a  b\n")
    _, reply = await play(COMMAND, ASKED, result, "rm -rf build", step=2)
    assert (reply.text, reply.tool_calls) == ("", ())


async def test_without_a_text_there_is_no_command() -> None:
    _, reply = await play(" \n")
    assert reply.tool_calls == ()


async def test_it_is_built_in_and_never_the_default(tmp_path: Path) -> None:
    (row,) = [row for row in await Routes(tmp_path, {}).describe() if row["route_id"] == "shell"]
    assert (row["driver"], row["default_model"], row["source"]) == ("shell", "bash", "built in")
    assert (row["is_default"], row["ready"]) == (False, True)


@pytest.mark.parametrize(
    "content",
    [
        'version = 1\n[routes.mine]\ndriver = "shell"\n',
        'version = 1\ndefault_route = "b"\n[routes.shell]\ndriver = "rehearsal"\n[routes.b]\ndriver = "rehearsal"\n',
        'version = 1\ndefault_route = "shell"\n[routes.b]\ndriver = "rehearsal"\n',
    ],
)
def test_no_file_makes_it_a_way_to_a_model_or_the_default_or_takes_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "routes.toml").write_text(content)
    with pytest.raises(Invalid, match="shell"):
        load_routes(tmp_path / "routes.toml")


# -- through the daemon ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_command_is_a_run_that_the_permissions_decide_about(shared_daemon: DaemonProcess) -> None:
    client, session = shared_daemon.client, shared_daemon.session("ruled")
    client.sessions.add_rule(session, "bash(echo free*)", "allow")
    client.sessions.add_rule(session, "bash(echo never*)", "deny")

    def run(command: str) -> str:
        return shared_daemon.submit(session, command, model="shell/bash")

    def results() -> list[tuple[str, bool]]:
        return [
            (event["output"], event.get("is_error", False))
            for record in shared_daemon.records(session)
            for event in record["events"]
            if event["type"] == "tool_call.completed"
        ]

    assert shared_daemon.finish(run("echo free 42"))["status"] == "completed"
    denied = shared_daemon.finish(run("echo never"))
    run_id = run("echo asked > asked")
    request = shared_daemon.until(session, "approval.requested")
    assert (request["tool"], request["arguments"]) == ("bash", {"command": "echo asked > asked"})
    assert not (shared_daemon.work / "asked").exists()
    client.approvals.allow(request["request_id"])
    done = shared_daemon.finish(run_id)
    assert (shared_daemon.work / "asked").read_text() == "asked\n"
    assert [run["status"] for run in (denied, done)] == ["completed", "completed"]
    assert [run["outputs"] for run in (denied, done)] == [[], []], "it has nothing to say"
    (free, is_error), (never, was_denied), _ = results()
    assert (free, is_error, was_denied) == ("free 42\n", False, True) and "denied" in never.lower()


@pytest.mark.slow
def test_the_model_of_the_next_input_sees_what_a_command_printed(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("seen", mode="bypass")
    shared_daemon.finish(shared_daemon.submit(session, "echo the needle", model="shell"))
    model = shared_daemon.script(text("I saw it", when="the needle"), text("I saw nothing"), name="seen.json")
    run = shared_daemon.finish(shared_daemon.submit(session, "what did it print?", model=model))
    messages = shared_daemon.client.sessions.transcript(session)["items"]
    assert run["status"] == "completed"
    assert [(m["role"], m["text"]) for m in messages][:3] == [
        ("user", "echo the needle"), ("assistant", ""), ("tool", "the needle\n"),
    ]  # fmt: skip


@pytest.mark.slow
def test_it_cannot_be_asked_for_more_than_bash(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("blank")
    with pytest.raises(ApiError) as refused:
        shared_daemon.submit(session, "  ", model="shell/bash")
    assert refused.value.code == "empty_input"
