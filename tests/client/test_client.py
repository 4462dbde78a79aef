"""Every method of both clients against a real daemon: what goes in arrives, what comes out is of the type it has."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict
from unittest.mock import ANY

import pytest

from kheish.client import ApiError, AsyncKheish, Kheish, StreamEvent, views
from kheish.limits import REQUEST_BODY_BYTES_MAX, STREAM_HEARTBEAT_S
from tests.api.conftest import obey
from tests.client.test_complete import NOUNS, hints, methods_of
from tests.daemon_process import DaemonProcess

pytestmark = pytest.mark.slow

METHODS = {(noun, name): method for noun in NOUNS for name, method in methods_of(noun)}
EVENTS = {get_args(get_type_hints(kind)["event"])[0]: kind for kind in get_args(views.StreamEvent)}


@pytest.fixture(scope="module")
def served(shared_daemon: DaemonProcess) -> DaemonProcess:
    return obey(shared_daemon)


class Caller:
    """Calls a method of a noun by name, in either client, and remembers which."""

    def __init__(self, client: Kheish | AsyncKheish) -> None:
        self.name = "sync" if isinstance(client, Kheish) else "async"
        self._client = client
        self.called: set[tuple[str, str]] = set()

    def __call__(self, noun: str, name: str, *positional: Any, **named: Any) -> Any:
        self.called.add((noun, name))
        answer = getattr(getattr(self._client, noun), name)(*positional, **named)
        if isinstance(self._client, AsyncKheish):
            answer = asyncio.run(_await(answer))
        assert is_of(hints(METHODS[noun, name])["return"], answer), (noun, name, answer)
        return answer

    def events(self, **where: Any) -> list[StreamEvent]:
        """To the end of the stream."""
        if isinstance(self._client, Kheish):
            events = list(self._client.events(**where))
        else:
            events = asyncio.run(self._read(where))
        for event in events:
            assert isinstance(event, StreamEvent)  # type: ignore[misc, arg-type]
            assert is_of(get_type_hints(EVENTS[event.event])["data"], event.data), event
        return events

    async def _read(self, where: dict[str, Any]) -> list[StreamEvent]:
        return [event async for event in self._client.events(**where)]  # type: ignore[union-attr]


async def _await(answer: Any) -> Any:
    return await answer


def is_of(type_: Any, value: Any) -> bool:
    """Whether a value of JSON is of a type, with every key that it has to have and none besides."""
    args = get_args(type_)
    if is_typeddict(type_):
        if not isinstance(value, dict):
            return False
        shape = get_type_hints(type_, include_extras=True)
        needed = {name for name, part in shape.items() if get_origin(part) is not NotRequired}
        return needed <= set(value) <= set(shape) and all(is_of(shape[name], part) for name, part in value.items())
    match get_origin(type_):
        case origin if origin in (Union, UnionType):
            return any(is_of(part, value) for part in args)
        case origin if origin is Literal:
            return value in args
        case origin if origin is NotRequired:
            return is_of(args[0], value)
        case origin if origin is list:
            return isinstance(value, list) and all(is_of(args[0], part) for part in value)
        case origin if origin is dict:
            return isinstance(value, dict) and all(is_of(args[1], part) for part in value.values())
    return type_ is Any or type(value) is type_ or (type_ is float and type(value) is int)


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
    assert call("sessions", "list", status="waiting_for_approval", cwd=work) == []
    page = call("sessions", "page", status="idle", cwd=work, limit=1)
    assert len(page["items"]) == 1
    assert call("sessions", "page", cwd=work, cursor=page["next_cursor"], limit=1)["items"] != page["items"]
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
    assert call("sessions", "move_queued", name, first, 2)["queued_position"] == 2
    assert call("sessions", "pause_queue", name)["queue_paused"] is True
    assert call("sessions", "resume_queue", name)["queue_paused"] is False
    assert call("sessions", "set_title", name, "A title")["title"] == "A title"
    assert call("sessions", "label", name, 1, "the start")["labels"] == [{"seq": 1, "label": "the start"}]
    fork = {"at": 1, "new_session_id": f"{name}-fork", "title": "Another way", "key": "fork"}
    forked = call("sessions", "fork", name, **fork)
    assert call("sessions", "fork", name, **fork) == forked
    assert (forked["session_id"], forked["title"]) == (f"{name}-fork", "Another way")
    assert call("sessions", "set_budget", name, tokens=1_000_000)["budget"]["limit"]["tokens"] == 1_000_000
    assert call("daemon", "budgets") == []
    assert call("sessions", "compact", name)["context"]["compaction_requested"] is True
    assert call("sessions", "edit_queued", name, first, "AFTER it")["request"]["text_preview"] == "AFTER it"
    assert call("sessions", "withdraw_queued", name, second)["status"] == "cancelled"
    assert [r["run_id"] for r in call("sessions", "runs", name)] == [second, first, run["run_id"]]
    assert call("runs", "get", run["run_id"][:-3])["run_id"] == run["run_id"]
    assert [r["run_id"] for r in call("runs", "list", session_id=name, limit=2)] == [second, first]
    assert [r["run_id"] for r in call("runs", "list", session_id=name, active=True)] == [first, run["run_id"]]

    assert call("runs", "wait", run["run_id"], until="blocked")["status"] == "waiting_for_approval"
    assert call("sessions", "wait", name, until="blocked")["status"] == "waiting_for_approval"
    assert call("runs", "wait", run["run_id"], timeout_s=0)["status"] == "waiting_for_approval", "it is not over"
    assert call("sessions", "wait", name, timeout_s=0.05)["queued_run_ids"] == [first]
    (asked,) = call("approvals", "list", session_id=name)
    assert call("sessions", "approvals", name) == [asked]
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
    assert call("runs", "wait", first)["status"] == "completed"
    assert call("sessions", "wait", name)["status"] == "idle"
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
        assert call("sessions", "questions", curious) == [question]
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
    assert call("daemon", "chains") == []
    assert call("daemon", "usage", by="session", since_ms=0)["total"]["calls"] >= 2
    assert call("runs", "usage", run["run_id"], by="day")["total"]["calls"] == 2
    assert call("runs", "why", run["run_id"])["lines"][0] == "the run takes test/script.json"
    assert call("daemon", "health")["status"] == "ok" and call("daemon", "readiness")["status"] == "ready"
    assert call("daemon", "openapi")["openapi"] == "3.1.0"
    assert "submit_run" in call("daemon", "capabilities")["operations"]
    checked = call("permissions", "check", "bash", input={"command": "rm -r ."}, session_id=name)
    assert checked["decision"] == "deny" and checked["matched_rule"] == "bash(rm *)"
    assert call("permissions", "check", "bash", mode_override="bypass")["decision"] == "allow"
    assert "bash" in [row["tool_name"] for row in call("permissions", "matrix", session_id=name)]
    assert call("secrets", "set", name, "s3cret")["version"] == 1
    kept = call("secrets", "set", name, "an0ther")
    assert kept["version"] == 2 and kept in call("secrets", "list")
    assert call("secrets", "get", name) == kept == call("secrets", "delete", name, force=True)
    assert call("secrets", "rotate_master_key") == call("secrets", "master_key")

    added = call("routes", "add", name, "rehearsal", default_model="m", multimodal_input=True)
    assert (added["default_model"], added["multimodal_input"]) == ("m", True)
    changed = call("routes", "set", name, multimodal_input=False)
    assert (changed["default_model"], changed["multimodal_input"]) == ("m", False)
    assert call("routes", "test", name)["ok"] and call("routes", "test", name, kind="auth")["kind"] == "auth"
    assert call("sessions", "set_model", name, f"{name}/x")["model"] == f"{name}/x"
    assert call("sessions", "set_model", name, "")["model"] == ""
    before = call("runtime", "get")["revision"]
    assert call("runtime", "set_model", name, expected_revision=before)["route_id"] == name
    assert call("runtime", "set_permission_mode", "plan")["settings"]["permission_mode"] == "plan"
    assert call("runtime", "set_system_prompt", "Be brief.")["settings"]["system_prompt"] == "Be brief."
    assert call("runtime", "set_debug_level", "full")["settings"]["debug_level"] == "full"
    view = call("runtime", "set_tool_limits", "bash", timeout_ms=500, output_bytes=2048)
    assert view["settings"]["tool_limits"] == call("runtime", "tool_limits")
    assert call("runtime", "rollback", before)["settings"] == call("runtime", "revisions")[6]["settings"]
    assert call("routes", "remove", name)["route_id"] == name

    for noun, method in (("sessions", "resolve_approvals"), ("sessions", "resolve_approvals_of_run"),
                         ("runs", "resolve_approvals")):  # fmt: skip
        asking = call("sessions", "create", f"{name}-{noun}-{method}", cwd=work)["session_id"]
        run_id = call("sessions", "submit", asking, "LONG")["run_id"]
        (request_id,) = call("runs", "wait", run_id, until="blocked")["pending_approval_ids"]
        resolutions = [{"request_id": request_id, "resolution": "allow", "remember": "always", "rule": "bash(seq *)"}]
        where = asking if noun == "sessions" else run_id
        assert call(noun, method, where, resolutions, key="all")["session_id"] == asking
        assert call(noun, method, where, resolutions, key="all")["session_id"] == asking, "once"
        assert call("runs", "wait", run_id)["status"] == "completed"
        (removed,) = call("permissions", "remove_rule", "bash(seq *)")
        assert removed["behavior"] == "allow" and removed not in call("permissions", "rules")
    records = call("sessions", "events", asking, limit=1000)["items"]
    (done,) = [e for record in records for e in record["events"] if e["type"] == "tool_call.completed"]
    assert call("daemon", "blob", done["blob"]).endswith(b"\n9000\n")
    assert call("daemon", "blob", done["blob"], offset=2, limit=3) == b"2\n3"

    level = call("runtime", "set_debug_level", "redacted")["settings"]["debug_level"]
    assert level == call("runtime", "get")["settings"]["debug_level"] == "redacted"
    for noun in ("sessions", "runs"):
        asking = call("sessions", "create", f"{name}-{noun}-answer", cwd=work)["session_id"]
        run_id = call("sessions", "submit", asking, "ASK")["run_id"]
        (request_id,) = call("runs", "wait", run_id, until="blocked")["pending_question_ids"]
        answers = [{"question_id": "1", "selected_option_ids": ["2"]}]
        where = asking if noun == "sessions" else run_id
        assert call(noun, "answer_question", where, request_id, answers, justification="so", key="a")
        assert call("sessions", "wait", asking)["status"] == "idle"
    while not (kept := call("runs", "debug", run_id)):
        time.sleep(0.01)  # it is written down soon after
    assert call("runs", "debug_artifact", run_id, kept[0]["artifact"])["exchanges"]
    assert call("runtime", "set_debug_level", "off")["settings"]["debug_level"] == "off"
    assert call.called == set(METHODS), "no method without a test"


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
        (lambda: call("sessions", "get", "../.."), 400, "invalid_request", {"path": ANY}),
        (lambda: call("sessions", "create", "x", cwd="relative"), 400, "invalid_cwd", {"path": "$.cwd"}),
        (
            lambda: call("sessions", "submit", "nobody", "x", delivery="y"),
            400,
            "invalid_request",
            {"path": "$.delivery"},
        ),
        (lambda: call("sessions", "submit", "nobody", "\ud800"), 400, "malformed_json", {"path": "$"}),
        (lambda: call("runs", "get", "run_\udcff"), 404, "run_not_found", ANY),
        (lambda: call.events(session_id="nobody"), 404, "session_not_found", {}),
        (lambda: call.events(run_id="nothing"), 404, "run_not_found", ANY),
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


def test_a_keyed_session_of_a_directory_is_the_same_from_wherever_it_is_asked_for(
    call: Caller, served: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = call("sessions", "create", cwd=str(served.work), key=f"once {tmp_path}")
    monkeypatch.chdir(tmp_path)
    assert call("sessions", "create", cwd=str(served.work), key=f"once {tmp_path}")["session_id"] == made["session_id"]


def test_many_at_once_share_one_client(served: DaemonProcess) -> None:
    async def ask() -> list[Any]:
        client = AsyncKheish(served.socket, start=False)
        names = [f"many-{number}" for number in range(50)]
        await asyncio.gather(*(client.sessions.create(name, cwd=str(served.work)) for name in names))
        return await asyncio.gather(*(client.sessions.get(name) for name in names))

    assert [view["session_id"] for view in asyncio.run(ask())] == [f"many-{number}" for number in range(50)]


@pytest.mark.parametrize("noun", ["runs", "sessions"])
def test_a_wait_for_the_end_outlasts_an_approval(call: Caller, served: DaemonProcess, noun: str) -> None:
    session = served.session(f"waited-{call.name}-{noun}")
    run_id = served.submit(session, "SHELL")
    request_id = served.until(session, "approval.requested")["request_id"]
    await_subscribers(served, 0)
    waiter = Waiter(lambda: call(noun, "wait", run_id if noun == "runs" else session))
    await_subscribers(served, 1)
    served.client.approvals.allow(request_id)
    assert waiter.result()["status"] == ("completed" if noun == "runs" else "idle")


@pytest.mark.parametrize("noun", ["runs", "sessions"])
def test_a_wait_is_over_when_its_time_is(call: Caller, served: DaemonProcess, noun: str) -> None:
    session = served.session(f"timed-{call.name}-{noun}")
    run_id = served.submit(session, "HANG")
    waiter = Waiter(lambda: call(noun, "wait", run_id if noun == "runs" else session, timeout_s=0.1))
    assert waiter.result()["status"] == "running"


def await_subscribers(served: DaemonProcess, count: int) -> None:
    assert any(served.client.daemon.status()["subscribers"] == count for _ in range(10_000))


class Waiter(threading.Thread):
    """Waits beside the test."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._wait = wait
        self._found: list[Any] = []
        self.start()

    def run(self) -> None:
        self._found.append(self._wait())

    def result(self) -> Any:
        """Before the next heartbeat, which would let a wait look at its time."""
        self.join(STREAM_HEARTBEAT_S - 5)
        return self._found[0]


def test_leaving_a_stream_closes_its_connection(served: DaemonProcess) -> None:
    async def look() -> None:
        events = AsyncKheish(served.socket, start=False).events()
        await anext(events)
        await events.aclose()

    asyncio.run(look())
    events = Kheish(served.socket, start=False).events()
    next(events)
    events.close()
    await_subscribers(served, 0)
