"""What is refused says so with a status, a stable code, and the place of the fault; and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from kheish.api.endpoints import ENDPOINTS
from kheish.limits import INPUT_CHARS_MAX, QUEUED_RUNS_MAX, REQUEST_BODY_BYTES_MAX, SECRET_CHARS_MAX
from tests.api.raw_http import Connection, ask, exchange, refusal
from tests.daemon_process import DaemonProcess

pytestmark = pytest.mark.slow

S = "/v1/sessions/refuse"
RUNS = f"{S}/runs"
DENY_X = {"resolutions": [{"request_id": "x", "resolution": "deny"}]}


def attached(*attachments: Any) -> Any:
    return {"content": "a", "attachments": list(attachments)}


@pytest.fixture(scope="module", autouse=True)
def session(api: DaemonProcess) -> str:
    return api.session("refuse")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"content": "a"} trailing',
        b"\xff\xfe",
        b"nonsense",
        b'{"content": NaN}',
        b'{"content": "\\ud800"}',
        b'{"content": "\xed\xa0\x80"}',
        b'{"content": "\xff"}',
        b'{"content": "a\nb"}',
        b'{"content": "\\x41"}',
        b"{'content': 'a'}",
    ],
)
def test_what_is_no_json_is_malformed(api: DaemonProcess, body: bytes) -> None:
    answer = ask(api, "POST", RUNS, body)
    assert refusal(answer) == (400, "malformed_json")
    assert answer.json["path"] == "$"


@pytest.mark.parametrize(
    ("method", "path", "body", "fault"),
    [
        ("POST", RUNS, [], "$"),
        ("POST", RUNS, "text", "$"),
        ("POST", RUNS, None, "$.content"),
        ("POST", RUNS, {}, "$.content"),
        ("POST", RUNS, {"content": 7}, "$.content"),
        ("POST", RUNS, {"content": None}, "$.content"),
        ("POST", RUNS, {"content": " \n"}, "$.content"),
        ("POST", RUNS, {"content": "a", "contents": "a"}, "$.contents"),
        ("POST", RUNS, {"content": "a", "delivery": "later"}, "$.delivery"),
        ("POST", RUNS, {"content": "a", "metadata": []}, "$.metadata"),
        ("POST", RUNS, attached({"file_name": "a", "text": "x"}, {"text": "x"}), "$.attachments[1].file_name"),
        ("POST", RUNS, attached({"file_name": "a"}), "$.attachments[0]"),
        ("POST", RUNS, attached({"file_name": "a", "text": "", "content_base64": ""}), "$.attachments[0]"),
        ("POST", RUNS, attached({"file_name": "a", "content_base64": "*"}), "$.attachments[0].content_base64"),
        ("POST", RUNS, attached({"file_name": "a", "content_base64": "é"}), "$.attachments[0].content_base64"),
        ("POST", RUNS, attached(*[{"file_name": "a", "text": ""}] * 33), "$.attachments"),
        ("POST", RUNS, {"content": "a" * (INPUT_CHARS_MAX + 1)}, "$.content"),
        ("POST", RUNS, {"content": "a", "metadata": {"n": 2**70}}, "$"),
        ("POST", RUNS, {"content": "a", "metadata": {"n": 10**400}}, "$"),
        ("POST", "/v1/sessions", {"session_id": 1}, "$.session_id"),
        ("POST", "/v1/sessions", {"permission_mode": "yolo"}, "$.permission_mode"),
        ("POST", "/v1/sessions", {"title": "x" * 201}, "$.title"),
        ("POST", f"{S}/permission-mode", {"mode": "yolo"}, "$.mode"),
        ("POST", f"{S}/permission-mode", {}, "$.mode"),
        ("POST", f"{S}/rules", {"pattern": "", "behavior": "deny"}, "$.pattern"),
        ("POST", f"{S}/rules", {"pattern": "bash", "behavior": "maybe"}, "$.behavior"),
        ("POST", f"{S}/end", {"reason": "x" * 4001}, "$.reason"),
        ("POST", f"{S}/approvals", {"resolutions": []}, "$.resolutions"),
        ("POST", f"{S}/approvals", {"resolutions": [{"resolution": "allow"}]}, "$.resolutions[0].request_id"),
        ("POST", f"{S}/questions", {"resolution": {}}, "$.resolution.request_id"),
        ("POST", "/v1/approvals/a", {"resolution": "perhaps"}, "$.resolution"),
        ("POST", "/v1/approvals/a", {"resolution": "allow", "updated_input": "ls"}, "$.updated_input"),
        ("POST", "/v1/approvals/a", {"resolution": "allow", "remember": "for ever"}, "$.remember"),
        ("POST", "/v1/questions/a", {"answers": [{}]}, "$.answers[0].question_id"),
        ("POST", "/v1/questions/a", {"answers": [{"question_id": "1"}] * 5}, "$.answers"),
        ("POST", "/v1/runtime/permissions/check", {"tool_name": "bash", "mode_override": "x"}, "$.mode_override"),
        ("POST", "/v1/runtime/secrets", {"name": "Upper", "value": "x"}, "$.name"),
        ("POST", "/v1/runtime/secrets", {"name": "a/b", "value": "x"}, "$.name"),
        ("POST", "/v1/runtime/secrets", {"name": "a", "value": " \n"}, "$.value"),
        ("POST", "/v1/runtime/secrets", {"name": "a", "value": "x" * (SECRET_CHARS_MAX + 1)}, "$.value"),
        ("POST", "/v1/runtime/secrets", {"name": "a"}, "$.value"),
        ("GET", "/v1/runtime/secrets/Upper", None, "name"),
        ("GET", "/v1/runtime/secrets/..%2f..%2fx", None, "name"),
        ("DELETE", "/v1/runtime/secrets/a?force=perhaps", None, "$.force"),
        ("PATCH", f"{S}/queue/run_x", {"content": ""}, "$.content"),
        ("GET", "/v1/sessions?limit=0", None, "$.limit"),
        ("GET", "/v1/sessions?limit=many", None, "$.limit"),
        ("GET", "/v1/sessions?limit=" + "9" * 5000, None, "$.limit"),
        ("GET", "/v1/sessions?page=perhaps", None, "$.page"),
        ("GET", "/v1/sessions?colour=red", None, "$.colour"),
        ("GET", "/v1/runs?limit=-1", None, "$.limit"),
        ("GET", "/v1/status?x=1", None, "$.x"),
        ("GET", "/v1/sessions/refuse/transcript?first=-1", None, "$.first"),
        ("GET", f"/v1/blobs/{'0' * 64}?offset=-1", None, "$.offset"),
    ],
)  # fmt: skip
def test_a_wrong_request_names_the_place(api: DaemonProcess, method: str, path: str, body: Any, fault: str) -> None:
    answer = ask(api, method, path, body)
    status, code = refusal(answer)
    assert (status, answer.json["path"]) == (400, fault), answer.body
    assert code == ("empty_input" if body == {"content": " \n"} else "invalid_request")


@pytest.mark.parametrize("depth", [300, 990, 100_000])
def test_json_that_is_nested_too_deep_is_refused(api: DaemonProcess, depth: int) -> None:
    body = b'{"content": "a", "metadata": {"deep": ' + b"[" * depth + b"]" * depth + b"}}"
    assert refusal(ask(api, "POST", RUNS, body)) == (400, "invalid_request")


def test_json_that_is_nested_deeply_is_kept(api: DaemonProcess) -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    answer = ask(api, "POST", f"/v1/sessions/{api.session('deep')}/runs", {"content": "a", "metadata": {"deep": deep}})
    assert answer.json["input_metadata"] == {"deep": deep}
    assert api.finish(answer.json["run_id"])["input_metadata"] == {"deep": deep}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "endpoint_not_found"),
        ("GET", "/v1", 404, "endpoint_not_found"),
        ("GET", "/v1/sessions/", 404, "endpoint_not_found"),
        ("GET", "/v1/nonsense", 404, "endpoint_not_found"),
        ("GET", "/v2/status", 404, "endpoint_not_found"),
        ("GET", "/v1/status/", 404, "endpoint_not_found"),
        ("GET", "//v1/status", 404, "endpoint_not_found"),
        ("GET", "/v1/sessions/refuse/nonsense", 404, "endpoint_not_found"),
        ("GET", "/v1/sessions/nobody", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/events", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/stream", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/transcript", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/runs", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/queue", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/approvals", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/questions", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/rules", 404, "session_not_found"),
        ("GET", "/v1/sessions/nobody/permission-audits", 404, "session_not_found"),
        ("GET", "/v1/runs?session_id=nobody", 404, "session_not_found"),
        ("GET", "/v1/runs/run_nothing", 404, "run_not_found"),
        ("GET", "/v1/runs/run_nothing/events", 404, "run_not_found"),
        ("GET", "/v1/runs/run_nothing/stream", 404, "run_not_found"),
        ("POST", "/v1/runs/run_nothing/cancel", 404, "run_not_found"),
        ("DELETE", "/v1/sessions/refuse/queue/run_nothing", 404, "run_not_found"),
        ("GET", "/v1/approvals/approval_nothing", 404, "approval_not_found"),
        ("GET", "/v1/questions/question_nothing", 404, "question_not_found"),
        ("GET", f"/v1/blobs/{'0' * 64}", 404, "blob_not_found"),
        ("GET", "/v1/blobs/short", 400, "invalid_request"),
        ("GET", f"/v1/blobs/{'0' * 64}?limit=99999999", 400, "invalid_request"),
        ("GET", "/v1/sessions/refuse/events?cursor=x", 400, "invalid_cursor"),
        ("GET", "/v1/sessions/refuse/events?cursor=-1", 400, "invalid_cursor"),
        ("GET", "/v1/sessions/refuse/stream?cursor=1.2", 400, "invalid_cursor"),
        ("GET", "/v1/sessions?cursor=x", 400, "invalid_cursor"),
        ("GET", "/v1/events/stream?cursor=12", 400, "invalid_cursor"),
        ("GET", "/v1/events/stream?cursor=1.x", 400, "invalid_cursor"),
    ],
)
def test_what_is_not_there_is_not_found(api: DaemonProcess, method: str, path: str, status: int, code: str) -> None:
    assert refusal(ask(api, method, path)) == (status, code)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("sessions/nobody/runs", {"content": "a"}, "session_not_found"),
        ("sessions/nobody/input", {"content": "a"}, "session_not_found"),
        ("sessions/nobody/interrupt", {}, "session_not_found"),
        ("sessions/nobody/end", {}, "session_not_found"),
        ("sessions/nobody/permission-mode", {"mode": "plan"}, "session_not_found"),
        ("sessions/nobody/rules", {"pattern": "bash", "behavior": "deny"}, "session_not_found"),
        ("sessions/refuse/approvals", DENY_X, "approval_not_found"),
        ("sessions/refuse/approval-runs", DENY_X, "approval_not_found"),
        ("sessions/refuse/questions", {"resolution": {"request_id": "x", "declined": True}}, "question_not_found"),
        ("runs/run_nothing/approvals", DENY_X, "run_not_found"),
        ("runs/run_nothing/questions", {"resolution": {"request_id": "x", "declined": True}}, "run_not_found"),
        ("approvals/x", {"resolution": "deny"}, "approval_not_found"),
        ("questions/x", {"declined": True}, "question_not_found"),
        ("runtime/permissions/check", {"tool_name": "bash", "session_id": "nobody"}, "session_not_found"),
    ],
)  # fmt: skip
def test_a_command_to_nothing_is_not_found(api: DaemonProcess, path: str, body: Any, code: str) -> None:
    assert refusal(ask(api, "POST", f"/v1/{path}", body)) == (404, code)


def test_an_unknown_tool_is_invalid(api: DaemonProcess) -> None:
    answer = ask(api, "POST", "/v1/runtime/permissions/check", {"tool_name": "magic"})
    assert refusal(answer) == (400, "tool_not_found") and answer.json["path"] == "$.tool_name"


@pytest.mark.parametrize(
    "name", ["..", ".hidden", "a%2Fb", "..%2F..%2Fetc", "%00", "a%00b", "a%0Ab", "%C3%A9", "a" * 129]
)
def test_a_path_part_that_is_no_name_leads_nowhere(api: DaemonProcess, name: str) -> None:
    for tail in ("", "/events", "/stream", "/runs"):
        assert refusal(ask(api, "GET", f"/v1/sessions/{name}{tail}")) == (400, "invalid_request"), tail
    assert not (api.state / "sessions" / "a").exists() and not list(api.state.rglob("etc"))


def test_an_encoded_slash_does_not_part_a_path(api: DaemonProcess) -> None:
    assert refusal(ask(api, "GET", "/v1/sessions%2Frefuse")) == (404, "endpoint_not_found")
    assert refusal(ask(api, "POST", "/v1/sessions/refuse%2Fend", {})) == (405, "method_not_allowed"), "it is a name"
    assert refusal(ask(api, "GET", "/v1/sessions/refuse%252Fend"))[0] == 400
    assert ask(api, "GET", "/v1/sessions/%72efuse").json["session_id"] == "refuse", "but a letter may be encoded"
    assert ask(api, "GET", "/v1/sessions/refuse").json["ended"] is False


def test_a_wrong_method_is_told_the_right_ones(api: DaemonProcess) -> None:
    connection = Connection(api)
    for path in sorted({endpoint.path for endpoint in ENDPOINTS}):
        allowed = {endpoint.method for endpoint in ENDPOINTS if endpoint.path == path}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - allowed:
            answer = connection.ask(method, path.replace("{", "").replace("}", ""), b"")
            assert refusal(answer) == (405, "method_not_allowed"), (method, path)
            assert set(answer.headers["allow"].split(", ")) == allowed == set(answer.json["allow"])


def test_a_full_queue_takes_no_more(api: DaemonProcess) -> None:
    api.submit(api.session("crowd"), "HANG")
    connection = Connection(api)
    for number in range(QUEUED_RUNS_MAX):
        assert connection.ask("POST", "/v1/sessions/crowd/runs", {"content": f"{number}"}).status == 202
    assert refusal(connection.ask("POST", "/v1/sessions/crowd/runs", {"content": "x"})) == (409, "queue_full")
    ask(api, "POST", "/v1/sessions/crowd/end", {})


def test_a_record_that_would_be_too_large_is_refused(api: DaemonProcess) -> None:
    api.session("heavy")
    body = {"content": "a", "metadata": {"x": "x" * (REQUEST_BODY_BYTES_MAX - 100)}}
    answer = ask(api, "POST", "/v1/sessions/heavy/runs", body)
    assert refusal(answer) == (400, "record_too_large")
    assert api.finish(api.submit("heavy", "go"))["status"] == "completed", "the session goes on"


@pytest.mark.parametrize(
    ("key", "code"), [(b"x" * 201, "invalid_request"), (b"\xad", "invalid_request"), (b"bell\x07", "malformed_request")]
)
def test_an_idempotency_key_is_short_and_printable(api: DaemonProcess, key: bytes, code: str) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\nIdempotency-Key: %s\r\n\r\n" % (RUNS.encode(), key)
    assert refusal(exchange(api, head + b'{"content":"a"}')) == (400, code)


@pytest.mark.parametrize("name", [b"Idempotency-Key", b"kheish-origin", b"Last-Event-ID"])
def test_a_field_that_is_sent_twice_is_refused_even_if_both_say_the_same(api: DaemonProcess, name: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n%s: 1\r\n%s: 1\r\n\r\n"
    answer = exchange(api, head % (RUNS.encode(), name, name.lower()) + b'{"content":"a"}')
    assert refusal(answer) == (400, "invalid_request")
    assert name.decode().lower() in answer.json["detail"].lower()


def test_nothing_that_was_refused_left_a_trace(api: DaemonProcess) -> None:
    assert api.types("refuse") == ["session.created"]
    log = (api.state / "daemon" / "daemon.log").read_text()
    assert "Traceback" not in log, log[-3000:]
