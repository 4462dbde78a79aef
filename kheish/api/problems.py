"""Errors as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import re
from http import HTTPStatus

import orjson

from kheish.errors import Invalid, KheishError
from kheish.limits import CONNECTIONS_MAX
from kheish.wire.body import SESSION_ID
from kheish.wire.secrets import SECRET_NAME

CONTENT_TYPE = b"application/problem+json"

CODES: dict[int, tuple[str, ...]] = {
    400: (
        "invalid_request", "malformed_json", "malformed_request", "invalid_cursor", "invalid_cwd", "cwd_missing",
        "invalid_session_id", "empty_input", "invalid_rule", "invalid_resolution", "invalid_raise", "model_missing",
        "invalid_routes", "invalid_route", "tool_not_found", "record_too_large", "question_unknown_answer",
        "question_duplicate_answer",
        "question_answer_missing", "question_answer_empty", "question_option_not_found", "question_duplicate_option",
        "question_single_select_violation", "question_declined_with_answers",
    ),
    403: ("forbidden", "operator_required"),
    404: (
        "endpoint_not_found", "session_not_found", "run_not_found", "approval_not_found", "question_not_found",
        "rule_not_found", "secret_not_found", "blob_not_found", "debug_artifact_not_found",
        "route_not_found", "revision_not_found", "record_not_found",
    ),
    405: ("method_not_allowed",),
    408: ("request_timeout",),
    409: (
        "idempotency_conflict", "session_conflict", "session_ended", "session_busy", "session_locked", "queue_full",
        "run_state_conflict", "approval_state_conflict", "approval_digest_mismatch", "approval_policy_changed",
        "approval_denied", "edit_denied", "question_state_conflict", "ambiguous_id", "route_not_ready", "secret_in_use",
        "master_key_wrong", "master_key_given", "runtime_revision_conflict", "route_conflict", "route_in_use",
        "route_not_added", "fork_boundary", "fork_too_large", "nothing_to_compact", "too_many_labels",
        "stale_generation", "too_many_subscribers",
    ),
    413: ("body_too_large",),
    431: ("head_too_large",),
    500: ("internal_error",),
    503: (
        "daemon_draining", "too_many_connections", "session_corrupt", "session_read_only", "format_too_new",
        "disk_failed", "disk_low", "quota_exceeded", "store_closed",
    ),
}  # fmt: skip
"""Every code that an answer may carry, by its status."""

ANY = (
    "invalid_request", "malformed_request", "forbidden", "request_timeout", "body_too_large", "head_too_large",
    "too_many_connections", "internal_error",
)  # fmt: skip
"""What every endpoint may answer."""
OF_SESSION = ("session_not_found", "session_locked", "session_corrupt", "format_too_new", "disk_failed")
"""Where a session is opened."""
OF_APPEND = ("record_too_large", "stale_generation", "session_read_only", "store_closed")
"""Where a command is written to its journal."""


def problem_of(error: KheishError) -> tuple[int, bytes]:
    """Status and body. Details must not hide the members that every problem has."""
    body = {
        **error.details,
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": error.message,
    }
    return error.status, orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS)


def headers_of(error: KheishError) -> list[tuple[bytes, bytes]]:
    """What HTTP asks to be said beside the body. Source: RFC 9110, sections 15.5.6 and 15.5.14."""
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", ", ".join(error.details["allow"]).encode())]
    if isinstance(error, TooLarge | TooManyConnections):
        return [(b"connection", b"close")]
    return []


_SAID = {
    SECRET_NAME: "lower-case letters, digits, `.`, `_`, `-`",
    SESSION_ID: "letters, digits, `.`, `_`, `-`",
    r"\\S": "more than blanks",
}
"""What a text must be, where its pattern is not for people."""


def invalid_body(message: str) -> Invalid:
    """A schema error of msgspec: `Object contains unknown field `x` - at `$.a[0]`` -> detail and path."""
    match = re.search(r" - at `(.+)`\Z", message)
    path = match.group(1) if match else "$"
    reason = message[: match.start()] if match else message
    if pattern := re.fullmatch(r"Expected `str` matching regex '(.+)'", reason):
        reason = f"Expected {_SAID.get(pattern[1], f'a text of the form {pattern[1]}')}"
    field = re.search(r"unknown field `(.+?)`", reason) or re.search(r"missing required field `(.+?)`", reason)
    if field:
        path = f"{path}.{field.group(1)}"
    return Invalid(f"cannot accept the request: {reason} at {path}", code="invalid_request", path=path)


class Malformed(KheishError):
    """Bytes that are no HTTP request."""

    code = "malformed_request"
    status = 400


class HeadTooLarge(KheishError):
    code = "head_too_large"
    status = 431


class MethodNotAllowed(KheishError):
    code = "method_not_allowed"
    status = 405


class RequestTimeout(KheishError):
    """A request of which the rest does not come."""

    code = "request_timeout"
    status = 408


class TooLarge(KheishError):
    code = "body_too_large"
    status = 413


class TooManyConnections(KheishError):
    code = "too_many_connections"
    status = 503


def crowded() -> TooManyConnections:
    return TooManyConnections(f"cannot serve more than {CONNECTIONS_MAX} connections; close some")
