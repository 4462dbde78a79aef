"""`rehearsal`: what a person can try without a language model, and that it never pretends to be one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from kheish.core.contracts import TextDelta, ToolCallDelta
from kheish.core.events import AssistantMessage, Message, ToolMessage, ToolRequest, UserMessage
from kheish.providers.rehearsal import NOTICE, Rehearsal
from kheish.tools.registry import load_tools
from tests.daemon_process import DaemonProcess
from tests.providers.requests import make_request, read

OPTIONS = [{"label": "a"}, {"label": "b c"}]


async def play(*messages: str | Message, ordinal: int = 1) -> tuple[list[Any], Any]:
    given = [UserMessage(text=m) if isinstance(m, str) else m for m in messages]
    return await read(Rehearsal(), make_request(*given, ordinal=ordinal))


async def test_its_first_line_says_what_it_is_and_the_three_ways_to_a_model() -> None:
    deltas, reply = await play("hello", ordinal=0)
    first, *rest = reply.text.splitlines()
    assert first.startswith("This is a rehearsal: there is no language model")
    ways = ("ANTHROPIC_API_KEY or OPENAI_API_KEY", "local server", "routes.toml", "`kheish routes path`")
    assert [way for way in ways if way not in first] == []
    assert rest[-1] == "You said: hello"
    assert deltas == [TextDelta(text=reply.text)]
    assert (reply.model, reply.stop_reason) == ("rehearsal", "end")


async def test_it_says_so_once_a_session_even_where_it_calls_a_tool() -> None:
    _, reply = await play("!ls", ordinal=0)
    assert reply.text == NOTICE
    assert [call.tool for call in reply.tool_calls] == ["bash"]
    _, reply = await play("!ls")
    assert reply.text == ""


@pytest.mark.parametrize(
    ("said", "tool", "arguments"),
    [
        ("!make test", "bash", {"command": "make test"}),
        ("  ! echo 'a  b' | cat\n", "bash", {"command": "echo 'a  b' | cat"}),
        ("?Which way", "ask_user_question", {"questions": [{"question": "Which way", "options": []}]}),
        ("?Which | a | b c | a |", "ask_user_question", {"questions": [{"question": "Which", "options": OPTIONS}]}),
        ("?| a | b c", "ask_user_question", {"questions": [{"question": "?", "options": OPTIONS}]}),
        ("read src/main.py", "read_file", {"path": "src/main.py"}),
        ("read a file", "read_file", {"path": "a file"}),
        ("write a.txt one two", "write_file", {"path": "a.txt", "content": "one two\n"}),
        ("write a.txt", "write_file", {"path": "a.txt", "content": ""}),
    ],
)
async def test_what_it_is_told_to_do_it_does(said: str, tool: str, arguments: dict[str, Any]) -> None:
    deltas, reply = await play(said)
    (call,) = reply.tool_calls
    assert (call.tool, call.arguments) == (tool, arguments)
    assert load_tools()[tool].spec.check(call.arguments) == "", "the tool takes it"
    assert (reply.stop_reason, deltas) == ("tool_use", [ToolCallDelta(tool=tool)])


@pytest.mark.parametrize(
    ("said", "repeated"),
    [
        ("fix the\n\n  failing   test", "You said: fix the failing test"),
        ("!", "You said: !"),
        (" ? ", "You said: ?"),
        ("read", "You said: read"),
        ("write", "You said: write"),
        ("reading is fun", "You said: reading is fun"),
    ],
)
async def test_anything_else_it_repeats_in_one_line(said: str, repeated: str) -> None:
    _, reply = await play(said)
    assert (reply.text, reply.tool_calls) == (repeated, ())


async def test_what_a_tool_returned_it_passes_on() -> None:
    request = ToolRequest(tool_call_id="t", provider_id="p", tool="bash", arguments={"command": "ls"})
    asked = AssistantMessage(text="", tool_requests=(request,))
    result = ToolMessage(tool_call_id="t", provider_id="p", tool="bash", text="a\nb")
    assert (await play("!ls", asked, result))[1].text == "bash returned:\na\nb"
    failed = ToolMessage(tool_call_id="t", provider_id="p", tool="bash", text="no", is_error=True)
    assert (await play("!ls", asked, failed))[1].text == "bash returned (it failed):\nno"
    assert (await play("!ls", asked, result, "and now?"))[1].text == "You said: and now?"


async def test_the_same_conversation_has_the_same_answer() -> None:
    for said, ordinal in itertools.product(("hello", "!ls", "?a | b"), (0, 1)):
        assert await play(said, ordinal=ordinal) == await play(said, ordinal=ordinal)


@pytest.mark.slow
def test_a_person_can_try_everything_by_hand(shared_daemon: DaemonProcess) -> None:
    """A tool, an approval, a question and files through a real daemon."""
    client, session = shared_daemon.client, shared_daemon.session("by-hand")

    def say(content: str) -> str:
        return shared_daemon.submit(session, content, model="rehearsal")

    def said(run_id: str) -> str:
        run = shared_daemon.finish(run_id)
        assert run["status"] == "completed"
        return str(run["outputs"][-1])

    first = said(say("hello"))
    assert first == f"{NOTICE}You said: hello"

    run_id = say("!echo from $((1 + 1)) bash")
    request = shared_daemon.until(session, "approval.requested")
    assert request["arguments"] == {"command": "echo from $((1 + 1)) bash"}
    client.approvals.allow(request["request_id"])
    assert said(run_id) == "bash returned:\nfrom 2 bash\n"

    run_id = say("?Which way | left | right")
    question = shared_daemon.until(session, "question.requested")
    assert [option["label"] for option in question["questions"][0]["options"]] == ["left", "right"]
    client.questions.answer(question["request_id"], [{"question_id": "1", "selected_option_ids": ["2"]}])
    assert "-> right" in said(run_id)

    client.sessions.set_permission_mode(session, "accept_edits")
    said(say("write notes.txt remember the milk"))
    assert (shared_daemon.work / "notes.txt").read_text() == "remember the milk\n"
    assert "remember the milk" in said(say("read notes.txt"))
    assert said(say("read nothing.txt")).startswith("read_file returned (it failed):")
