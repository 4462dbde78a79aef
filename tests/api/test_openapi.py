"""The description of the API: of every endpoint, sound in itself, and true of real answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kheish
from kheish import __version__, limits
from kheish.api import problems
from kheish.api.endpoints import ENDPOINTS
from kheish.api.openapi import codes_of, describe
from kheish.api.problems import ANY, CODES, problem_of
from kheish.api.router import PARTS, Endpoint
from kheish.core.approvals import VERBS
from kheish.core.events import ApprovalKind, Delivery, Event, Mode
from kheish.core.model_calls import FAILURES
from kheish.errors import Conflict, Corrupt, Draining, Poisoned
from kheish.ids import is_session_name, new_id
from kheish.providers.routes import Driver
from kheish.tools.registry import load_tools
from kheish.wire.body import IDEMPOTENCY_KEY, SESSION_ID
from kheish.wire.status import STREAM_EVENTS, Problem
from tests.api.raw_http import Answer, Stream, ask, refusal
from tests.daemon_process import DaemonProcess, Json

PACKAGE = Path(kheish.__file__).parent
PAGE = PACKAGE.parent / "share" / "doc" / "kheish" / "http-api.md"
STREAM_EVENT = "#/components/schemas/StreamEvent"

DOCUMENT: Json = json.loads(describe(ENDPOINTS))


def operations() -> Iterator[tuple[Endpoint, Json]]:
    for endpoint in ENDPOINTS:
        yield endpoint, DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]


def nodes(value: Any) -> Iterator[Json]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def resolve(schema: Json) -> Json:
    while "$ref" in schema:
        target: Any = DOCUMENT
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        schema = target
    return schema


def test_it_is_openapi_3_1_with_every_endpoint_and_no_other() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["title"] and DOCUMENT["info"]["version"] == __version__
    described = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert described == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert len(described) == len(ENDPOINTS), "an endpoint is in the table once"


def test_every_reference_leads_to_a_schema() -> None:
    found = [node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node]
    assert found
    for reference in found:
        assert reference.startswith("#/components/schemas/")
        assert resolve({"$ref": reference})
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in DOCUMENT["components"]["schemas"])


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] and operation["tags"] for _, operation in operations())


def test_an_operation_says_all_that_the_endpoint_takes() -> None:
    for endpoint, operation in operations():
        by_place: dict[str, dict[str, Json]] = {"path": {}, "query": {}, "header": {}}
        for parameter in operation["parameters"]:
            assert parameter["name"] not in by_place[parameter["in"]]
            assert "schema" in parameter
            by_place[parameter["in"]][parameter["name"]] = parameter
        assert set(by_place["path"]) == set(re.findall(r"\{(\w+)\}", endpoint.path))
        assert all(parameter["required"] is True for parameter in by_place["path"].values())
        assert set(by_place["query"]) == set(endpoint.query.__struct_fields__), endpoint.path
        assert ("Idempotency-Key" in by_place["header"]) == endpoint.keyed
        assert ("Last-Event-ID" in by_place["header"]) == endpoint.stream
        assert ("requestBody" in operation) == (endpoint.body is not None)
        if endpoint.body is not None:
            body = resolve(operation["requestBody"]["content"]["application/json"]["schema"])
            assert set(body["properties"]) == set(endpoint.body.__struct_fields__)
            assert body["additionalProperties"] is False, "an unknown field is refused"


def test_an_operation_says_what_it_answers() -> None:
    problem = resolve(DOCUMENT["components"]["schemas"]["Problem"])
    assert set(problem["required"]) == set(Problem.__struct_fields__)
    for endpoint, operation in operations():
        responses = dict(operation["responses"])
        ((content_type, content),) = responses.pop(str(endpoint.status))["content"].items()
        if endpoint.if_empty:
            assert responses.pop("204") == {"description": endpoint.if_empty}
        assert {int(status) for status in responses} == set(codes_of(endpoint))
        for status, codes in codes_of(endpoint).items():
            whole, own = responses[str(status)]["content"]["application/problem+json"]["schema"]["allOf"]
            assert resolve(whole) == problem
            assert own["properties"] == {"status": {"const": status}, "code": {"enum": codes}}
        if endpoint.stream:
            assert content_type == "text/event-stream" and content["schema"]["$ref"].endswith("/StreamEvent")
        elif endpoint.returns is bytes:
            assert content_type == "application/octet-stream"
        else:
            assert content_type == "application/json" and resolve(content["schema"])


def test_every_event_of_a_stream_is_described() -> None:
    described = {row["properties"]["event"]["const"]: row for row in resolve({"$ref": STREAM_EVENT})["oneOf"]}
    assert set(described) == {event.name for event in STREAM_EVENTS}
    for event in STREAM_EVENTS:
        row = described[event.name]
        assert ("id" in row["required"]) == event.has_id == (row["properties"]["id"] is not False)
        data = resolve(row["properties"]["data"]["contentSchema"])
        assert set(data["properties"]) == set(event.data.__struct_fields__)


def test_every_fact_of_a_journal_is_described() -> None:
    facts = resolve(DOCUMENT["components"]["schemas"]["RecordView"]["properties"]["events"]["items"])
    described = {resolve(schema)["properties"]["type"]["enum"][0] for schema in facts["anyOf"]}
    assert described == {event.__struct_config__.tag for event in Event.__subclasses__()}


def test_an_answer_has_all_fields_that_are_described() -> None:
    for name in ("RunView", "SessionView", "ApprovalView", "StatusView", "CapabilitiesView", "RecordView"):
        schema = DOCUMENT["components"]["schemas"][name]
        assert set(schema["required"]) == set(schema["properties"]), name


def test_every_code_has_one_status_and_is_in_the_page() -> None:
    known = [code for codes in CODES.values() for code in codes]
    assert len(set(known)) == len(known)
    for endpoint in ENDPOINTS:
        assert {*ANY, *endpoint.codes} <= set(known), endpoint.path
    row = re.compile(r"^\| ([0-9, ]+) \| (`.+) \|$", re.MULTILINE)
    page = {statuses: re.findall(r"`([a-z_]+)`", cell) for statuses, cell in row.findall(PAGE.read_text("utf-8"))}
    for statuses, documented in page.items():
        codes = {code for status in re.findall(r"[0-9]+", statuses) for code in CODES[int(status)]}
        assert set(documented) - {"how", "principal", "at_ms"} == codes, statuses
    assert {int(status) for statuses in page for status in re.findall(r"[0-9]+", statuses)} == set(CODES)


def test_every_code_that_is_raised_here_is_known() -> None:
    """By the machine, the runtime and the API; those of a model call are in the run, not in an answer."""
    known = {code for codes in CODES.values() for code in codes}
    sources = [p for room in ("core", "runtime", "api") for p in (PACKAGE / room).rglob("*.py")]
    raised = {code for path in sources for code in re.findall(r'\bcode="([a-z_]+)"', path.read_text("utf-8"))}
    assert raised - known - {*FAILURES, "reply_too_large", "invalid_reply"} == set()
    for error in (problems.Malformed, problems.HeadTooLarge, problems.TooLarge, Draining, Corrupt, Poisoned):
        assert error.code in CODES[error.status]


@given(st.text(max_size=6) | st.from_regex(SESSION_ID))
def test_the_form_of_a_session_id_is_that_of_its_name(name: str) -> None:
    assert bool(re.fullmatch(SESSION_ID.removesuffix("$"), name)) == is_session_name(name)


def test_the_form_of_a_key_is_what_prints() -> None:
    for byte in range(256):
        assert bool(re.fullmatch(IDEMPOTENCY_KEY.removesuffix("$"), chr(byte))) == chr(byte).isprintable(), byte
    assert not re.match(IDEMPOTENCY_KEY, "x" * 201)


def test_the_form_of_an_id_takes_the_ids_that_are_made_and_their_beginnings() -> None:
    for noun in ("run", "approval", "question"):
        made = new_id(noun)
        for given_id in (made, made[:-20], made.partition("_")[2], made[-26:-20]):
            assert re.match(PARTS[f"{noun}s"].pattern, given_id), given_id
        assert not re.match(PARTS[f"{noun}s"].pattern, new_id("session"))
    assert re.match(PARTS["queue"].pattern, new_id("run"))


class Walk:
    """Asks a real daemon, and holds each answer against the type that its schema was made from."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.asked: set[tuple[str, str]] = set()

    def __call__(self, method: str, template: str, body: Any = None, query: str = "", **parts: str) -> Any:
        endpoint = next(e for e in ENDPOINTS if (e.method, e.path) == (method, template))
        self.asked.add((method, template))
        path = template.format(**parts) + query
        if endpoint.stream:
            return self.follow(path)
        answer = ask(self.daemon, method, path, body)
        self.check(endpoint, answer)
        return answer.body if endpoint.returns is bytes else answer.json

    def check(self, endpoint: Endpoint, answer: Answer) -> None:
        assert answer.status == endpoint.status, answer
        operation = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
        assert answer.headers["content-type"] in operation["responses"][str(answer.status)]["content"]
        if endpoint.returns not in (None, bytes):
            assert_is(endpoint.returns, answer.json)

    def follow(self, path: str) -> None:
        with Stream(self.daemon, path + ("?cursor=0.0" if "events" in path else "")) as stream:
            for frame in stream.until("sync"):
                event = next(event for event in STREAM_EVENTS if event.name == frame.event)
                assert (frame.id is not None) == event.has_id
                assert_is(event.data, frame.data)


def assert_is(type_: Any, value: Any) -> None:
    """The JSON value is of this type, with all its fields and no others."""
    decoded = msgspec.convert(value, type_)
    assert json.loads(msgspec.json.encode(decoded)) == value


@pytest.mark.slow
def test_real_answers_of_every_endpoint_are_as_described(api: DaemonProcess) -> None:
    walk = Walk(api)
    for path in ("/healthz", "/readyz", "/v1/status", "/v1/capabilities", "/v1/routes", "/v1/openapi.json"):
        walk("GET", path)
    s, r = "/v1/sessions/{id}", "/v1/runs/{id}"
    for name in ("one", "two", "three", "four", "five", "six", "seven"):
        walk("POST", "/v1/sessions", {"session_id": name, "cwd": str(api.work)})
    walk("POST", s + "/rules", {"pattern": "write_file", "behavior": "deny"}, id="one")
    walk("POST", s + "/permission-mode", {"mode": "default"}, id="one")
    walk("POST", "/v1/runtime/debug-level", {"level": "redacted"})
    attached = {"attachments": [{"file_name": "a", "content_base64": "AAEC"}], "metadata": {"a": [1]}}
    run = walk("POST", s + "/runs", {"content": "SHELL", **attached}, id="one")
    queued = walk("POST", s + "/runs", {"content": "AFTER"}, id="one")
    withdrawn = walk("POST", s + "/runs", {"content": "AFTER"}, id="one")
    walk("GET", s + "/queue", id="one")
    walk("POST", s + "/title", {"title": "One"}, id="one")
    walk("POST", s + "/queue/pause", id="one")
    walk("POST", s + "/queue/resume", id="one")
    walk("POST", s + "/labels", {"seq": 1, "label": "the start"}, id="one")
    walk("POST", s + "/fork", {"at": 1}, id="one")
    walk("POST", s + "/budget", {"tokens": 5_000_000, "cost_usd": 5}, id="one")
    walk("POST", s + "/compact", id="one")
    walk("POST", s + "/queue/{run_id}/move", {"position": 1}, id="one", run_id=queued["run_id"])
    walk("PATCH", s + "/queue/{run_id}", {"content": "AFTER all"}, id="one", run_id=queued["run_id"])
    walk("DELETE", s + "/queue/{run_id}", id="one", run_id=withdrawn["run_id"])
    approval = api.until("one", "approval.requested")["request_id"]
    walk("POST", s + "/input", {"content": "ASK"}, id="two")
    question = walk("GET", s + "/questions", id="two")[0]["request_id"]
    for path in ("/v1/inbox", "/v1/approvals", "/v1/questions", "/v1/runs", "/v1/sessions"):
        assert walk("GET", path)
    assert walk("GET", "/v1/sessions", query="?page=true&limit=1")["next_cursor"]
    for path in ("", "/approvals", "/events", "/stream", "/transcript", "/runs", "/rules", "/permission-audits"):
        walk("GET", s + path, id="one")
    walk("GET", "/v1/approvals/{id}", id=approval)
    walk("GET", "/v1/questions/{id}", id=question)
    walk("GET", r, id=run["run_id"])
    walk("GET", "/v1/blobs/{sha256}", sha256=run["input_attachments"][0]["blob"])
    walk("POST", "/v1/approvals/{id}", {"resolution": "allow", "remember": "session"}, id=approval)
    walk("POST", "/v1/questions/{id}", {"declined": True}, id=question)
    api.finish(queued["run_id"])
    for path in ("", "/transcript", "/permission-audits", "/rules"):
        walk("GET", s + path, id="one")
    walk("GET", r, id=queued["run_id"])
    walk("GET", r + "/events", id=run["run_id"])
    walk("GET", r + "/stream", id=run["run_id"])
    walk("GET", r + "/why", id=run["run_id"])
    walk("GET", r + "/usage", query="?by=day", id=run["run_id"])
    while not (kept := walk("GET", r + "/debug", id=queued["run_id"])):
        time.sleep(0.01)  # it is written down soon after
    walk("GET", r + "/debug/{artifact}", id=queued["run_id"], artifact=kept[0]["artifact"])
    api.client.runtime.set_debug_level("off")
    walk("GET", "/v1/runtime")
    walk("GET", "/v1/usage", query="?by=session&since_ms=1")
    walk("GET", "/v1/budgets")
    walk("GET", "/v1/chains")
    walk("GET", "/v1/events/stream")
    for name, path in (("three", s + "/approvals"), ("four", s + "/approval-runs"), ("five", r + "/approvals")):
        run_id = api.submit(name, "SHELL")
        resolution = {"request_id": api.until(name, "approval.requested")["request_id"], "resolution": "deny"}
        walk("POST", path, {"resolutions": [resolution]}, id=name if path.startswith(s) else run_id)
    for name, path in (("six", s + "/questions"), ("seven", r + "/questions")):
        run_id = api.submit(name, "ASK")
        resolution = {"request_id": api.until(name, "question.requested")["request_id"], "declined": True}
        walk("POST", path, {"resolution": resolution}, id=name if path.startswith(s) else run_id)
    hanging = api.submit("two", "HANG")
    walk("POST", s + "/interrupt", {"reason": "enough"}, id="two")
    walk("GET", r, id=hanging)
    walk("POST", r + "/cancel", id=hanging)
    walk("POST", s + "/end", id="two")
    walk("POST", "/v1/runtime/permissions/check", {"tool_name": "bash", "input": {"command": "ls"}})
    walk("POST", "/v1/runtime/permissions/matrix", {"session_id": "one"})
    api.submit(api.session("always"), "SHELL")
    always = api.until("always", "approval.requested")["request_id"]
    ask(api, "POST", f"/v1/approvals/{always}", {"resolution": "deny", "remember": "always", "rule": "bash(echo*)"})
    assert [rule["pattern"] for rule in walk("GET", "/v1/runtime/permissions/rules")] == ["bash(echo*)"]
    walk("DELETE", "/v1/runtime/permissions/rules", query="?pattern=bash(echo*)")
    walk("POST", "/v1/runtime/secrets", {"name": "one", "value": "s3cret"})
    walk("GET", "/v1/runtime/secrets")
    walk("GET", "/v1/runtime/secrets/{name}", name="one")
    walk("GET", "/v1/runtime/master-key")
    walk("POST", "/v1/runtime/master-key/rotate")
    walk("POST", s + "/model", {"model": "rehearsal"}, id="one")
    walk("POST", "/v1/runtime/routes", {"route_id": "added", "driver": "rehearsal"})
    walk("PATCH", "/v1/runtime/routes/{route_id}", {"default_model": "m"}, route_id="added")
    walk("POST", "/v1/runtime/routes/{route_id}/test", {"kind": "canary"}, route_id="added")
    walk("DELETE", "/v1/runtime/routes/{route_id}", route_id="added")
    for change in (
        ("model", {"model": "rehearsal"}),
        ("permission-mode", {"mode": "plan"}),
        ("system-prompt", {"system_prompt": "Be brief."}),
        ("debug-level", {"level": "redacted"}),
        ("tool-limits", {"tool": "bash", "timeout_ms": 5}),
        ("rollback", {"target_revision": 0}),
    ):
        walk("POST", f"/v1/runtime/{change[0]}", change[1])
    for path in ("", "/revisions", "/tool-limits"):
        assert walk("GET", f"/v1/runtime{path}") or path == "/tool-limits"
    walk("DELETE", "/v1/runtime/secrets/{name}", query="?force=true", name="one")
    assert walk.asked == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


@pytest.mark.slow
def test_a_daemon_says_what_it_can_do(api: DaemonProcess) -> None:
    """By the tables that it works by: nothing is said that is not there, and nothing left out."""
    can = ask(api, "GET", "/v1/capabilities").json
    assert can["operations"] == [operation["operationId"] for _, operation in operations()]
    assert can["version"] == __version__ and can["drivers"] == list(get_args(Driver))
    assert can["stream_events"] == [event.name for event in STREAM_EVENTS]
    assert can["permission_modes"] == list(get_args(Mode)) and can["deliveries"] == list(get_args(Delivery))
    assert can["resolutions"] == {kind: list(verbs) for kind, verbs in VERBS.items()}
    assert set(can["resolutions"]) == set(get_args(ApprovalKind))
    specs = {name: tool.spec for name, tool in load_tools().items()}
    assert {tool["name"]: tool["effect"] for tool in can["tools"]} == {n: spec.effect for n, spec in specs.items()}
    for tool in can["tools"]:
        assert tool["input_schema"] == specs[tool["name"]].input_schema
    assert can["limits"]["input_chars_max"] == limits.INPUT_CHARS_MAX
    for name, value in can["limits"].items():
        assert value == getattr(limits, name.upper())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("/v1/sessions?limit=1&limit=1", (400, "invalid_request")),
        ("/v1/sessions?status=idle,asleep", (400, "invalid_request")),
        (f"/v1/blobs/{'0' * 64}?offset={2**60}", (400, "invalid_request")),
        ("/v1/sessions?cursor=12", (400, "invalid_cursor")),
        ("/v1/sessions/form/transcript?first=null", (400, "invalid_request")),
        ("/v1/runs/run_", (404, "run_not_found")),
        ("/v1/runs/01l", (404, "run_not_found")),
        ("/v1/approvals/app", (404, "approval_not_found")),
        ("/v1/approvals/question_01", (404, "approval_not_found")),
        ("/v1/questions/question_", (404, "question_not_found")),
    ],
)
def test_what_does_not_have_the_form_is_refused(api: DaemonProcess, path: str, refused: tuple[int, str]) -> None:
    run_id = api.submit(api.session("form"), "SHELL")
    api.until("form", "approval.requested", cursor=str(ask(api, "GET", "/v1/sessions/form").json["seq"] - 1))
    assert refusal(ask(api, "GET", path)) == refused
    ask(api, "POST", f"/v1/runs/{run_id}/cancel", {})


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/events/stream", "/v1/sessions/resumed/stream", "/v1/runs/{run}/stream"])
def test_a_cursor_has_to_be_one_also_where_the_header_takes_its_place(api: DaemonProcess, path: str) -> None:
    path = path.format(run=api.submit(api.session("resumed")))
    for last_id in ("0.0" if "events" in path else "0", "tail"):
        answer = ask(api, "GET", f"{path}?cursor=x", Last_Event_ID=last_id)
        assert refusal(answer) == (400, "invalid_cursor")


@pytest.mark.slow
def test_the_daemon_hands_out_the_document(api: DaemonProcess) -> None:
    answer = ask(api, "GET", "/v1/openapi.json")
    assert answer.headers["content-type"] == "application/json" and answer.json == DOCUMENT


def test_a_problem_keeps_its_members_whatever_its_details_are() -> None:
    status, data = problem_of(Conflict("cannot", code="mine", status=7, title="x", type="y", detail="z", path="$"))
    assert status == 409
    assert json.loads(data) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "code": "mine",
        "detail": "cannot",
        "path": "$",
    }
