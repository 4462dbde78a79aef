"""The description of the API: of every endpoint, sound in itself, and true of real answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kheish import __version__
from kheish.api.endpoints import ENDPOINTS
from kheish.api.openapi import describe
from kheish.api.problems import problem_of
from kheish.api.router import Endpoint
from kheish.errors import Conflict
from kheish.wire.status import Problem, RecordView
from tests.api.raw_http import Answer, Stream, ask
from tests.daemon_process import DaemonProcess, Json

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
        responses = operation["responses"]
        assert set(responses) == {str(endpoint.status), "default"}
        assert resolve(responses["default"]["content"]["application/problem+json"]["schema"]) == problem
        ((content_type, content),) = responses[str(endpoint.status)]["content"].items()
        if endpoint.stream:
            assert content_type == "text/event-stream" and "record" in content["schema"]["description"]
        elif endpoint.returns is bytes:
            assert content_type == "application/octet-stream"
        else:
            assert content_type == "application/json" and resolve(content["schema"])


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
            for frame in stream.until("sync")[:-1]:
                assert frame.event == "record"
                assert_is(RecordView, frame.data)


def assert_is(type_: Any, value: Any) -> None:
    """The JSON value is of this type, with all its fields and no others."""
    decoded = msgspec.convert(value, type_)
    assert json.loads(msgspec.json.encode(decoded)) == value


@pytest.mark.slow
def test_real_answers_of_every_endpoint_are_as_described(api: DaemonProcess) -> None:
    walk = Walk(api)
    for path in ("/healthz", "/readyz", "/v1/status", "/v1/routes", "/v1/openapi.json"):
        walk("GET", path)
    s, r = "/v1/sessions/{id}", "/v1/runs/{id}"
    for name in ("one", "two", "three", "four", "five", "six", "seven"):
        walk("POST", "/v1/sessions", {"session_id": name, "cwd": str(api.work)})
    walk("POST", s + "/rules", {"pattern": "write_file", "behavior": "deny"}, id="one")
    walk("POST", s + "/permission-mode", {"mode": "default"}, id="one")
    attached = {"attachments": [{"file_name": "a", "content_base64": "AAEC"}], "metadata": {"a": [1]}}
    run = walk("POST", s + "/runs", {"content": "SHELL", **attached}, id="one")
    queued = walk("POST", s + "/runs", {"content": "AFTER"}, id="one")
    withdrawn = walk("POST", s + "/runs", {"content": "AFTER"}, id="one")
    walk("GET", s + "/queue", id="one")
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
    walk("GET", "/v1/runtime/permissions/matrix")
    api.submit(api.session("always"), "SHELL")
    always = api.until("always", "approval.requested")["request_id"]
    ask(api, "POST", f"/v1/approvals/{always}", {"resolution": "deny", "remember": "always", "rule": "bash(echo*)"})
    assert [rule["pattern"] for rule in walk("GET", "/v1/runtime/permissions/rules")] == ["bash(echo*)"]
    walk("DELETE", "/v1/runtime/permissions/rules", query="?pattern=bash(echo*)")
    assert walk.asked == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


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
