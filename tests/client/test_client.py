"""Every method of both clients against a real daemon: what goes in arrives, what comes out is what the API says."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.client import ApiError, AsyncKheish, Kheish, StreamEvent
from kheish.client.client import Approvals, Daemon, Questions, Runs, Sessions
from kheish.limits import REQUEST_BODY_BYTES_MAX
from tests.api.conftest import obey
from tests.daemon_process import DaemonProcess

pytestmark = pytest.mark.slow

NOUNS = {"sessions": Sessions, "runs": Runs, "approvals": Approvals, "questions": Questions, "daemon": Daemon}
METHODS = {
    (noun, name)
    for noun, kind in NOUNS.items()
    for name, _ in inspect.getmembers(kind, inspect.isfunction)
    if not name.startswith("_")
}


@pytest.fixture(scope="module")
def served(shared_daemon: DaemonProcess) -> DaemonProcess:
    return obey(shared_daemon)


class Caller:
    """Calls a method of a noun by name, in either client, and remembers which."""

    def __init__(self, client: Kheish | AsyncKheish) -> None:
        self._client = client
        self.called: set[tuple[str, str]] = set()

    def __call__(self, noun: str, name: str, *positional: Any, **named: Any) -> Any:
        self.called.add((noun, name))
        answer = getattr(getattr(self._client, noun), name)(*positional, **named)
        return answer if isinstance(self._client, Kheish) else asyncio.run(_await(answer))

    def events(self, **where: Any) -> list[StreamEvent]:
        """To the end of the stream."""
        if isinstance(self._client, Kheish):
            return list(self._client.events(**where))

        async def read() -> list[StreamEvent]:
            return [event async for event in self._client.events(**where)]  # type: ignore[union-attr]

        return asyncio.run(read())


async def _await(answer: Any) -> Any:
    return await answer


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, served: DaemonProcess) -> Iterator[Caller]:
    kind: Callable[..., Any] = Kheish if request.param == "sync" else AsyncKheish
    yield Caller(kind(served.socket, origin=f"test:{request.param}", start=False))


def test_every_method_does_what_it_says(call: Caller, served: DaemonProcess, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    work = str(served.work)
    made = call("sessions", "create", name, cwd=work, permission_mode="plan", title="A title")
    assert (made["session_id"], made["permission_mode"], made["title"]) == (name, "plan", "A title")
    keyed = call("sessions", "create", cwd=work, key=f"key of {name}")
    assert call("sessions", "create", cwd=work, key=f"key of {name}")["session_id"] == keyed["session_id"]
    assert call("sessions", "create")["cwd"] == str(Path.cwd())
    assert call("sessions", "create", name)["session_id"] == name, "wherever it stands"
    assert call("sessions", "get", name) == made
    assert name in [row["session_id"] for row in call("sessions", "list", status="idle", limit=1000)]
    assert call("sessions", "list", status="waiting_for_approval") == []
    assert call("sessions", "set_permission_mode", name, "default")["permission_mode"] == "default"
    assert call("sessions", "add_rule", name, "bash(rm *)", "deny")["rules"][0]["pattern"] == "bash(rm *)"
    assert call("sessions", "rules", name)[0]["behavior"] == "deny"

    attachment = {"file_name": "a.txt", "text": "attached"}
    fields: dict[str, Any] = {
        "model": "test/script.json",
        "attachments": [attachment],
        "metadata": {"a": 1},
        "key": "k",
    }
    run = call("sessions", "submit", name, "SHELL", **fields)
    assert call("sessions", "submit", name, "SHELL", **fields)["run_id"] == run["run_id"]
    assert run["input_metadata"] == {"a": 1} and run["input_attachments"][0]["text"] == "attached"
    assert run["request"]["origin"] == f"test:{name}" and run["request"]["model"] == "script.json"
    first, second = (call("sessions", "submit", name, "AFTER", delivery="queue")["run_id"] for _ in range(2))
    assert [queued["run_id"] for queued in call("sessions", "queue", name)] == [first, second]
    assert call("sessions", "edit_queued", name, first, "AFTER it")["request"]["text_preview"] == "AFTER it"
    assert call("sessions", "withdraw_queued", name, second)["status"] == "cancelled"
    assert [r["run_id"] for r in call("sessions", "runs", name)] == [second, first, run["run_id"]]
    assert call("runs", "get", run["run_id"][:-3])["run_id"] == run["run_id"]
    assert [r["run_id"] for r in call("runs", "list", session_id=name, limit=2)] == [second, first]
    assert [r["run_id"] for r in call("runs", "list", session_id=name, active=True)] == [first, run["run_id"]]

    served.until(name, "approval.requested")
    (asked,) = call("approvals", "list", session_id=name)
    assert call("approvals", "get", asked["request_id"]) == asked
    assert asked in call("approvals", "list") and asked in call("daemon", "inbox")["approvals"]
    with pytest.raises(ApiError) as raised:
        call("approvals", "allow", asked["request_id"], if_digest="f" * 64)
    assert (raised.value.status, raised.value.code) == (409, "approval_digest_mismatch")
    assert raised.value.details == {"digest": asked["digest"]}
    allowed = call(
        "approvals",
        "resolve",
        asked["request_id"],
        "allow",
        if_digest=asked["digest"],
        remember="session",
        rule="bash(echo *)",
        updated_input={"command": "echo other"},
        justification="fine",
        key="resolve",
    )
    assert allowed["run_id"] == run["run_id"]
    frames = call.events(run_id=run["run_id"])
    assert frames[-1].event == "bye" and [f.event for f in frames].count("sync") == 1
    records = [f.data for f in frames if f.event == "record"]
    assert call("runs", "events", run["run_id"])["items"] == records
    page = call("runs", "events", run["run_id"], limit=1)
    assert page["items"] == records[:1]
    assert call("runs", "events", run["run_id"], cursor=page["next_cursor"], limit=1)["items"] == records[1:2]
    assert call.events(run_id=first)[-1].event == "bye"
    (audit,) = call("sessions", "audits", name)
    assert audit["tool"] == "bash"

    for method, kept in (("allow", False), ("deny", True)):
        waiting = call("sessions", "create", f"{name}-{method}", cwd=work)["session_id"]
        assert call("sessions", "input", waiting, "SHELL", key="i")["status"] == "waiting_for_approval"
        request_id = call("sessions", "get", waiting)["pending_approval_ids"][0]
        settled = call("approvals", method, request_id)
        assert call.events(run_id=settled["run_id"])[-1].event == "bye"
        answers = [m for m in call("sessions", "transcript", waiting)["items"] if m["role"] == "tool"]
        assert answers[0]["is_error"] is kept
    assert call("sessions", "transcript", name, first=1, limit=1)["items"][0]["role"] == "assistant"
    whole = call("sessions", "events", name, limit=1000)
    assert call("sessions", "events", name, cursor="2", limit=1)["items"] == [whole["items"][2]]

    curious = call("sessions", "create", f"{name}-curious", cwd=work)["session_id"]
    for declined in (False, True):
        call("sessions", "submit", curious, "ASK", delivery="queue")
        after = str(call("sessions", "get", curious)["seq"] - 1 if declined else 0)
        served.until(curious, "question.requested", cursor=after)
        (question,) = call("questions", "list", session_id=curious)
        assert (
            question in call("questions", "list")
            and question in call("daemon", "inbox", session_id=curious)["questions"]
        )
        assert call("questions", "get", question["request_id"]) == question
        answers = [] if declined else [{"question_id": "1", "freeform_answer": "green"}]
        answered = call(
            "questions",
            "answer",
            question["request_id"],
            answers,
            declined=declined,
            justification="so",
            key=f"a{declined}",
        )
        assert call.events(run_id=answered["run_id"])[-1].event == "bye"

    hanging = call("sessions", "submit", name, "HANG")["run_id"]
    assert call("sessions", "interrupt", name, reason="enough")["run_id"] == hanging
    other = call("sessions", "submit", name, "HANG")["run_id"]
    assert call("runs", "cancel", other, reason="no")["error"]["message"] == "no"
    assert call("sessions", "end", name, reason="over")["ended"] is True
    status = call("daemon", "status")
    assert status["pid"] == served.pid
    assert [f.event for f in _first(call, 1)] == ["sync"]
    assert call("daemon", "routes")[0]["route_id"]
    checked = call("daemon", "check_permission", "bash", input={"command": "rm -r ."}, session_id=name)
    assert checked["decision"] == "deny" and checked["matched_rule"] == "bash(rm *)"
    assert call("daemon", "check_permission", "bash", mode_override="bypass")["decision"] == "allow"
    assert "bash" in [row["tool_name"] for row in call("daemon", "permission_matrix")]
    assert call.called == METHODS, "no method without a test"


def _first(call: Caller, count: int) -> list[StreamEvent]:
    """The first events of the global stream, which has no end."""
    client = call._client
    if isinstance(client, Kheish):
        events = client.events()
        return [next(events) for _ in range(count)]

    async def read() -> list[StreamEvent]:
        found = []
        async for event in client.events():
            found.append(event)
            if len(found) == count:
                break
        return found

    return asyncio.run(read())


def test_an_error_of_the_daemon_is_raised_with_its_words(call: Caller) -> None:
    for error_of, status, code, details in (
        (lambda: call("sessions", "get", "nobody"), 404, "session_not_found", {}),
        (lambda: call("sessions", "get", "../.."), 400, "invalid_request", {"path": "session_id"}),
        (lambda: call("sessions", "create", "x", cwd="relative"), 400, "invalid_cwd", {"path": "$.cwd"}),
        (
            lambda: call("sessions", "submit", "nobody", "x", delivery="y"),
            400,
            "invalid_request",
            {"path": "$.delivery"},
        ),
        (lambda: call("sessions", "submit", "nobody", "\ud800"), 400, "malformed_json", {"path": "$"}),
        (lambda: call("runs", "get", "run_\udcff"), 404, "run_not_found", {}),
        (lambda: call.events(session_id="nobody"), 404, "session_not_found", {}),
        (lambda: call.events(run_id="nothing"), 404, "run_not_found", {}),
        (lambda: call.events(cursor="x"), 400, "invalid_cursor", {}),
    ):
        with pytest.raises(ApiError) as raised:
            error_of()
        error = raised.value
        assert (error.status, error.code, error.details) == (status, code, details)
        assert str(error).startswith("cannot "), "for people"


def test_a_body_over_the_limit_is_told_so(call: Caller) -> None:
    with pytest.raises(ApiError) as raised:
        call("sessions", "submit", "nobody", "x" * REQUEST_BODY_BYTES_MAX)
    assert (raised.value.status, raised.value.code) == (413, "body_too_large")
    assert raised.value.details == {"limit": REQUEST_BODY_BYTES_MAX}


def test_many_at_once_share_one_client(served: DaemonProcess) -> None:
    async def ask() -> list[Any]:
        client = AsyncKheish(served.socket, start=False)
        names = [f"many-{number}" for number in range(50)]
        await asyncio.gather(*(client.sessions.create(name, cwd=str(served.work)) for name in names))
        return await asyncio.gather(*(client.sessions.get(name) for name in names))

    assert [view["session_id"] for view in asyncio.run(ask())] == [f"many-{number}" for number in range(50)]


def test_leaving_a_stream_closes_its_connection(served: DaemonProcess) -> None:
    async def look() -> None:
        events = AsyncKheish(served.socket, start=False).events()
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(look())
    events = Kheish(served.socket, start=False).events()
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert any(served.client.daemon.status()["subscribers"] == 0 for _ in range(1_000))
