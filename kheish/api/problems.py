"""Errors as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import re
from http import HTTPStatus

import orjson

from kheish.errors import Invalid, KheishError

CONTENT_TYPE = b"application/problem+json"


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


def invalid_body(message: str) -> Invalid:
    """A schema error of msgspec: `Object contains unknown field `x` - at `$.a[0]`` -> detail and path."""
    match = re.search(r" - at `(.+)`\Z", message)
    path = match.group(1) if match else "$"
    reason = message[: match.start()] if match else message
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


class TooLarge(KheishError):
    code = "body_too_large"
    status = 413


class TooManyConnections(KheishError):
    code = "too_many_connections"
    status = 503
