"""`scripted`: what a script file says, reply for reply, and that its place outlives the daemon."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kheish.core.contracts import ReasoningDelta, Reply, ReplyToolCall, TextDelta, ToolCallDelta
from kheish.core.events import AssistantMessage, Message, ToolMessage, Usage, UserMessage
from kheish.errors import ProviderError
from kheish.providers import scripted
from kheish.providers.scripted import Scripted
from tests.daemon_process import DaemonProcess, bash, calls, text, tool
from tests.providers.requests import make_request, read

Json = dict[str, Any]


class Play:
    """A script in a directory, and a session's model calls, one after another."""

    def __init__(self, directory: Path, *replies: Json, **more: Any) -> None:
        self.path = directory / "script.json"
        self.write(*replies, **more)
        self.provider = Scripted(directory)
        self.messages: list[Message] = []
        self.ordinal = 0

    def write(self, *replies: Json, **more: Any) -> None:
        self.path.write_text(json.dumps({"version": 1, "replies": list(replies), **more}))

    def request(self, attempt: int = 1) -> Any:
        return make_request(*self.messages, ordinal=self.ordinal, attempt=attempt, model="script.json")

    async def attempt(self, attempt: int = 1) -> tuple[list[Any], Reply]:
        return await read(self.provider, self.request(attempt))

    async def say(self, *messages: str | Message) -> str:
        """The text that answers these inputs; the conversation goes on with it."""
        self.messages += [UserMessage(text=m) if isinstance(m, str) else m for m in messages]
        reply = (await self.attempt())[1]
        self.messages.append(AssistantMessage(text=reply.text))
        self.ordinal += 1
        return reply.text


def result(output: str) -> ToolMessage:
    return ToolMessage(tool_call_id="t", provider_id="p", tool="bash", text=output)


async def test_replies_come_in_their_order(tmp_path: Path) -> None:
    play = Play(tmp_path, text("one"), text("two"), text("three"))
    assert [await play.say("x") for _ in range(3)] == ["one", "two", "three"]


async def test_a_reply_with_when_answers_whatever_contains_its_text_and_takes_nobodys_turn(tmp_path: Path) -> None:
    play = Play(tmp_path, text("one"), text("help comes", when="fire"), text("two"), text("drip", when="water"))
    said = [await play.say(given) for given in ("hello", "there is fire!", "fire and water", "and now", "water")]
    assert said == ["one", "help comes", "help comes", "two", "drip"]


async def test_when_looks_at_all_that_came_since_the_last_reply_and_at_nothing_older(tmp_path: Path) -> None:
    play = Play(tmp_path, text("one"), text("two"), text("seen", when="needle"))
    assert await play.say("go") == "one"
    assert await play.say(result("a needle"), result("hay"), "a steered input") == "seen"
    assert await play.say("hay") == "two"


async def test_deltas_are_streamed_one_by_one_and_joined_in_the_reply(tmp_path: Path) -> None:
    reply = {"deltas": ["Hel", "lo"], "reasoning": "hm", "usage": {"input_tokens": 3}, "stop_reason": "max_tokens"}
    play = Play(tmp_path, reply)
    deltas, made = await play.attempt()
    assert deltas == [ReasoningDelta(text="hm"), TextDelta(text="Hel"), TextDelta(text="lo")]
    assert (made.text, made.reasoning, made.stop_reason) == ("Hello", "hm", "max_tokens")
    assert (made.usage, made.model) == (Usage(input_tokens=3), "script.json")


async def test_a_paced_delta_waits_for_its_pace(tmp_path: Path) -> None:
    play = Play(
        tmp_path, text("now"), {"deltas": ["later"], "pace_ms": 3_600_000}, {"deltas": ["a", "b"], "pace_ms": 1}
    )
    assert await play.say("x") == "now"
    waiting = asyncio.ensure_future(play.attempt())
    await asyncio.wait([waiting], timeout=0.01)
    assert not waiting.done()
    waiting.cancel()
    play.ordinal += 1
    assert await play.say("x") == "ab"


async def test_tool_calls_have_ids_of_their_own_and_malformed_ones_keep_their_text(tmp_path: Path) -> None:
    play = Play(tmp_path, calls(tool("bash", command="ls"), {"tool": "bash", "malformed": '{"comm'}))
    deltas, made = await play.attempt()
    assert deltas == [ToolCallDelta(tool="bash"), ToolCallDelta(tool="bash")]
    assert made.stop_reason == "tool_use"
    assert made.tool_calls == (
        ReplyToolCall(provider_id="scripted_1_1", tool="bash", arguments={"command": "ls"}),
        ReplyToolCall(provider_id="scripted_1_2", tool="bash", arguments={}, malformed='{"comm'),
    )


async def test_an_error_fails_the_first_attempts_and_then_the_reply_comes(tmp_path: Path) -> None:
    error = {"code": "rate_limited", "message": "slow down", "retry_after_ms": 1500, "times": 2}
    play = Play(tmp_path, text("there", error=error))
    for attempt in (1, 2):
        with pytest.raises(ProviderError) as caught:
            await play.attempt(attempt)
        assert (caught.value.code, caught.value.message) == ("rate_limited", "slow down")
        assert caught.value.retry_after_ms == 1500
    assert (await play.attempt(3))[1].text == "there"


async def test_a_hang_never_answers_its_attempts_and_errors_come_after_it(tmp_path: Path) -> None:
    play = Play(tmp_path, text("there", hang=1, error={"code": "timeout"}))
    hanging = asyncio.ensure_future(play.attempt(1))
    await asyncio.wait([hanging], timeout=0.01)
    assert not hanging.done()
    hanging.cancel()
    with pytest.raises(ProviderError):
        await play.attempt(2)
    assert (await play.attempt(3))[1].text == "there"


@pytest.mark.parametrize(
    ("after_last", "expected"),
    [("repeat", ["one", "two", "two", "two", "two"]), ("cycle", ["one", "two", "one", "two", "one"])],
)
async def test_after_the_last_reply_a_script_may_go_on(tmp_path: Path, after_last: str, expected: list[str]) -> None:
    play = Play(tmp_path, text("one"), text("two"), after_last=after_last)
    assert [await play.say("x") for _ in range(5)] == expected


async def test_after_the_last_reply_a_script_fails_and_says_at_which_call(tmp_path: Path) -> None:
    play = Play(tmp_path, text("one"), text("seen", when="needle"))
    await play.say("x")
    with pytest.raises(ProviderError, match=r"script\.json has no reply for model call 2") as caught:
        await play.attempt()
    assert caught.value.code == "invalid"
    assert await play.say("needle") == "seen"


async def test_a_changed_script_is_read_again(tmp_path: Path) -> None:
    play = Play(tmp_path, text("one"), text("two"))
    await play.say("x")
    play.write(text("one"), text("another"))
    os.utime(play.path, ns=(1, 1))
    assert await play.say("x") == "another"


@pytest.mark.parametrize(("every_ms", "step", "said"), [(3_600_000, 2, "two"), (0, 2, "new"), (3_600_000, 1, "new")])
async def test_a_run_at_work_looks_at_its_script_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_ms: int, step: int, said: str
) -> None:
    monkeypatch.setattr(scripted, "SCRIPT_LOOK_EVERY_MS", every_ms)
    play = Play(tmp_path, text("one"), text("two"))
    await play.say("x")
    play.write(text("one"), text("new"))
    os.utime(play.path, ns=(1, 1))
    _, reply = await read(play.provider, make_request(ordinal=1, step=step, model="script.json"))
    assert reply.text == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"version": 1, "replies": [{}, {"txt": "x"}]}', r"unknown field `txt` - at `\$\.replies\[1\]`"),
        ('{"version": 1, "replies": [{"text": 3}]}', r"Expected `str`, got `int` - at `\$\.replies\[0\]\.text`"),
        (
            '{"version": 1, "replies": [{}, {}, {"tool_calls": [{"arguments": {}}]}]}',
            r"missing required field `tool` - at `\$\.replies\[2\]\.tool_calls\[",
        ),
        (
            '{"version": 1, "replies": [{"error": {"code": "tired"}}]}',
            r"code must be one of rate_limited, .* - at `\$\.replies\[0\]\.error`",
        ),
        ('{"version": 1, "replies": [{"usage": {"input_tokens": "x"}}]}', r"\$\.replies\[0\]\.usage\.input_tokens"),
        ('{"version": 1, "replies": [], "after_last": "stop"}', r"\$\.after_last"),
        ('{"version": 2, "replies": []}', r"\$\.version"),
        ('{"version": 1, "replies": [}', r"JSON is malformed: .*byte 27"),
        ('{"version": 1, "replies": [{"text": "\xe9"}]}', "'utf-8' codec can't decode byte 0xe9"),
    ],
)
async def test_a_fault_in_a_script_names_the_file_and_the_reply(tmp_path: Path, content: str, said: str) -> None:
    play = Play(tmp_path)
    play.path.write_text(content, encoding="latin-1")
    with pytest.raises(ProviderError, match=said) as caught:
        await play.attempt()
    assert str(play.path) in caught.value.message
    assert caught.value.code == "route_not_ready"


async def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"none\.json: No such file") as caught:
        await read(Scripted(tmp_path), make_request(model="none.json"))
    assert caught.value.code == "route_not_ready"


@pytest.mark.slow
def test_a_script_goes_on_at_the_same_reply_after_sigkill(daemon: DaemonProcess) -> None:
    daemon.script(
        calls(tool("list_files", path="."), **text("one")),
        text("two", hang=1),
        text("three"),
        {"when": "and last", "text": "four", "hang": 1},
    )
    session = daemon.session("s")
    run_id = daemon.submit(session)
    daemon.until(session, "tool_call.completed")
    daemon.kill()
    daemon.start()
    run = daemon.finish(run_id)
    assert (run["status"], run["outputs"], run["step"]) == ("completed", ["two"], 2)
    assert daemon.finish(daemon.submit(session, "more"))["outputs"] == ["three"]
    run_id = daemon.submit(session, "and last")
    daemon.kill()
    daemon.start()
    assert daemon.finish(run_id)["outputs"] == ["four"]
    events = [event for record in daemon.journal(session) for event in record["events"]]
    assert [e["text"] for e in events if e["type"] == "model_call.completed"] == ["one", "two", "three", "four"]
    assert [e["attempt"] for e in events if e["type"] == "model_call.died"] == [1, 1]


@pytest.mark.slow
def test_through_the_daemon_errors_are_retried_and_journaled(shared_daemon: DaemonProcess) -> None:
    error = {"code": "overloaded", "message": "not now", "retry_after_ms": 20}
    model = shared_daemon.script(text("there", error=error), name="errors.json")
    run = shared_daemon.finish(shared_daemon.submit(shared_daemon.session("errors"), model=model))
    assert (run["status"], run["outputs"]) == ("completed", ["there"])
    records = shared_daemon.journal("errors")
    retries = [(r["at"], e) for r in records for e in r["events"] if e["type"] == "model_call.retrying"]
    ((at_ms, retry),) = retries
    assert (retry["attempt"], retry["code"], retry["message"]) == (1, "overloaded", "not now")
    assert retry["retry_at_ms"] - at_ms >= 20


@pytest.mark.slow
def test_through_the_daemon_a_malformed_call_is_answered_and_not_run(shared_daemon: DaemonProcess) -> None:
    model = shared_daemon.script(
        calls({"tool": "bash", "malformed": '{"command": "touch made'}), text("sorry"), name="malformed.json"
    )
    session = shared_daemon.session("malformed", "bypass")
    assert shared_daemon.finish(shared_daemon.submit(session, model=model))["outputs"] == ["sorry"]
    answer = shared_daemon.until(session, "tool_call.completed")
    assert answer["is_error"] and "not a JSON object" in answer["output"]
    assert '{"command": "touch made' in answer["output"]
    assert "tool_call.started" not in shared_daemon.types(session)


@pytest.mark.slow
def test_through_the_daemon_a_fault_in_the_script_fails_the_run_and_is_named(shared_daemon: DaemonProcess) -> None:
    model = shared_daemon.script(text("fine"), {"txt": "x"}, name="faulty.json")
    run = shared_daemon.finish(shared_daemon.submit(shared_daemon.session("faulty"), model=model))
    assert (run["status"], run["error"]["code"]) == ("failed", "route_not_ready")
    assert "faulty.json" in run["error"]["message"] and "$.replies[1]" in run["error"]["message"]


@pytest.mark.slow
def test_through_the_daemon_two_sessions_play_one_script_each_from_its_beginning(shared_daemon: DaemonProcess) -> None:
    model = shared_daemon.script(bash("true"), text("end"), name="shared.json")
    for name in ("first", "second"):
        run = shared_daemon.finish(shared_daemon.submit(shared_daemon.session(name, "bypass"), model=model))
        assert run["outputs"] == ["end"]
