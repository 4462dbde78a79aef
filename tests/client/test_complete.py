"""The methods are the API: each endpoint has one, with all that it takes and what it gives, in both clients."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest

import kheish.client
from kheish.api.endpoints import ENDPOINTS
from kheish.api.router import Endpoint, Router
from kheish.client import Kheish, async_nouns, client, views
from kheish.client.http1 import Request
from tests.architecture.modules import REPOSITORY, modules_after

NOUNS = {name for name in vars(Kheish("/nowhere")) if not name.startswith("_")} - {"transport"}
NAMES = {**vars(typing), **vars(views), "Iterable": Iterable}
COMPOSED = {("approvals", "allow"), ("approvals", "deny"), ("runs", "wait"), ("sessions", "wait")}
"""Methods that send what others send."""
NOT_SENT = {
    ("POST", "/v1/sessions/{id}/input", "delivery"),  # what to do while a run is active, where such an input is refused
    ("POST", "/v1/sessions", "default_cwd"),  # sent in the place of an absent cwd
}


def methods_of(noun: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, method in inspect.getmembers(getattr(Kheish("/nowhere"), noun), inspect.ismethod):
        if not name.startswith("_"):
            yield name, method


METHODS = {(noun, name): method for noun in NOUNS for name, method in methods_of(noun) if (noun, name) not in COMPOSED}


def sent_by(method: Callable[..., Any]) -> Request:
    """The request of a call that gives every argument."""
    sent: list[Request] = []
    recorder = Kheish("/nowhere")
    recorder.send = sent.append  # type: ignore[method-assign, assignment]
    noun = type(method.__self__)(recorder)  # type: ignore[attr-defined]
    given = {name: ("x",) if "Iterable" in str(p.annotation) else "x" for name, p in parameters(method).items()}
    getattr(noun, method.__name__)(**given)
    (request,) = sent
    return request


def parameters(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(method).parameters)


def endpoint_of(request: Request) -> Endpoint:
    return Router(ENDPOINTS).find(request.method, request.path)[0]


def test_every_endpoint_has_a_method_or_is_followed() -> None:
    asked = {endpoint_of(sent_by(method)) for method in METHODS.values()}
    followed = {endpoint_of(client._place(*where, "").request()) for where in ((None, None), ("x", None), (None, "x"))}
    assert all(endpoint.stream for endpoint in followed)
    assert asked | followed == set(ENDPOINTS)


@pytest.mark.parametrize("name", sorted(METHODS), ids=".".join)
def test_a_method_sends_all_that_its_endpoint_takes(name: tuple[str, str]) -> None:
    request = sent_by(METHODS[name])
    endpoint = endpoint_of(request)
    taken = {field for shape in (endpoint.body, endpoint.query) if shape for field in shape.__struct_fields__}
    sent = {*(request.body or {}), *(request.query or {})}
    left_out = {field for method, path, field in NOT_SENT if (method, path) == (endpoint.method, endpoint.path)}
    if name == ("sessions", "list"):
        left_out |= {"page", "cursor"}  # which sessions.page sends
    assert sent == taken - left_out
    assert ("Idempotency-Key" in request.headers) == endpoint.keyed == ("key" in parameters(METHODS[name]))


@pytest.mark.parametrize("name", sorted(METHODS), ids=".".join)
def test_a_method_gives_what_its_endpoint_gives(name: tuple[str, str]) -> None:
    endpoint = endpoint_of(sent_by(METHODS[name]))
    given = hints(METHODS[name])["return"]
    if name == ("daemon", "openapi"):
        assert given == dict[str, Any] and endpoint.returns is None
    elif name[0] == "sessions" and name[1] in ("list", "page"):
        assert spelled(given) in [spelled(type_) for type_ in get_args(endpoint.returns)]
    else:
        assert spelled(given) == spelled(endpoint.returns)


def hints(method: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(method, localns=NAMES)


def spelled(type_: Any) -> str:
    """A type by the name of its view or struct."""
    return f"list of {spelled(get_args(type_)[0])}" if get_origin(type_) is list else str(type_.__name__)


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_the_asynchronous_noun_has_the_same_methods(noun: str) -> None:
    """Each a coroutine function with the same parameters, of which the awaited value is the same."""
    kind = type(getattr(Kheish("/nowhere"), noun))
    other = getattr(async_nouns, f"Async{kind.__name__}")
    public = {name for name in vars(kind) if not name.startswith("_")}
    assert public == {name for name in vars(other) if not name.startswith("_")}
    for name in public:
        assert inspect.iscoroutinefunction(getattr(other, name))
        assert inspect.signature(getattr(other, name)) == inspect.signature(getattr(kind, name))
    assert {name for name in vars(client.AsyncKheish("/nowhere")) if not name.startswith("_")} == NOUNS | {"transport"}
    assert inspect.signature(client.AsyncKheish) == inspect.signature(Kheish)


# -- the public surface ---------------------------------------------------------------------------------------------


def test_what_a_method_takes_or_gives_can_be_imported_from_the_package() -> None:
    """And every one of the names that it lists is there."""
    found: set[str] = {"AnyEvent", "StreamEvent"}
    for noun in NOUNS:
        for _, method in methods_of(noun):
            for type_ in hints(method).values():
                found |= named_in(type_)
    for event in get_args(views.StreamEvent):
        found |= named_in(get_type_hints(event)["data"])
    assert set(kheish.client.__all__) == found | {"ApiError", "AsyncKheish", "DaemonUnreachable", "Kheish"}
    assert sorted(kheish.client.__all__) == kheish.client.__all__
    assert all(getattr(kheish.client, name) is not None for name in kheish.client.__all__)
    assert not hasattr(kheish.client, "Nothing")


def named_in(type_: Any) -> set[str]:
    """The views and the choices that a type is made of; the journal's events are left to their union."""
    if type_ == views.AnyEvent:
        return set()
    names = {name for name, value in vars(views).items() if value == type_ and value not in (Any, type(None))}
    inner = get_type_hints(type_).values() if is_typeddict(type_) else get_args(type_)
    return names.union(*map(named_in, inner))


def test_a_program_that_is_not_checked_does_not_load_the_types() -> None:
    loaded = modules_after("import kheish.client\nkheish.client.Kheish('/nowhere')")
    assert "kheish.client.nouns" in loaded
    assert not {"kheish.client.views", "kheish.client.async_nouns", "typing", "msgspec", "asyncio"} & loaded
    assert "kheish.client.views" in modules_after("from kheish.client import SessionView")
    assert "kheish.client.launch" in modules_after("from kheish.client import launch")


# -- as a type checker sees it --------------------------------------------------------------------------------------

PROGRAM = """\
from typing import Literal, assert_type

from kheish.client import AnyEvent, ApprovalView, AsyncKheish, Kheish, QuestionView, Resolution, RunView, SessionView

def blocking(client: Kheish) -> None:
    reveal_type(client.sessions.get("x"))
    assert_type(client.sessions.list(), list[SessionView])
    assert_type(client.sessions.page()["next_cursor"], str | None)
    assert_type(client.approvals.allow("x"), RunView)
    assert_type(client.runs.wait("x", until="blocked")["pending_questions"], list[QuestionView])
    assert_type(client.daemon.status()["runs"]["active"], int)
    assert_type(client.daemon.blob("x"), bytes)
    for event in client.events():
        if event.event == "record":
            assert_type(event.data["events"], list[AnyEvent])
            for fact in event.data["events"]:
                if fact["type"] == "run.failed":
                    assert_type(fact["message"], str)
        elif event.event == "bye":
            assert_type(event.data["reason"], str)
    client.events().close()

async def awaited(client: AsyncKheish) -> None:
    reveal_type(await client.sessions.get("x"))
    assert_type(await client.runs.wait("x"), RunView)
    assert_type(await client.approvals.list(), list[ApprovalView])
    assert_type((await client.approvals.get("x"))["choices"], list[Resolution])
    async for event in client.events(run_id="x"):
        if event.event == "delta":
            assert_type(event.data["kind"], Literal["text", "reasoning", "tool_call", "tool_output"])
    await client.events().aclose()

def wrong(client: Kheish, other: AsyncKheish) -> None:
    client.sessions.get("x")["statuss"]
    client.sessions.submit("x", "y", delivery="later")
    other.sessions.get("x")["status"]
    view: SessionView = client.runs.get("x")
    client.questions.answer("x", [{"id": "1"}])
    client.sessions.nothing()
"""


@pytest.mark.slow
def test_a_type_checker_knows_every_answer_in_both_clients(tmp_path: Path) -> None:
    """The view is shown where it is asked for; of the rest it finds fault with what is wrong, each line of it."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path, program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    lines = [line for line in done.stdout.splitlines() if line.startswith(str(program))]
    shown = [line for line in lines if "Revealed type" in line]
    assert [line.partition('"')[2].partition(",")[0] for line in shown] == [
        "TypedDict(kheish.client.views.SessionView"
    ] * 2
    faults = {int(line.split(":")[1]) for line in lines if ": error: " in line}
    right, wrong = PROGRAM.split("def wrong")
    first = right.count("\n") + 2
    assert faults == set(range(first, first + wrong.count("\n") - 1)), done.stdout
