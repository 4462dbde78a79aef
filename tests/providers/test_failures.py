"""Every failure is a row of one table, says what happened in a bounded line, and keeps the key."""

from __future__ import annotations

from typing import Any

import pytest

from kheish.core.model_calls import FAILURES
from kheish.providers.failures import (
    BY_FINISH_REASON,
    BY_MESSAGE,
    BY_STATUS,
    BY_VAGUE_WORD,
    BY_WORD,
    code_of,
    read_body,
    retry_after_ms,
    shorten,
    translate,
)


def test_the_table_has_only_known_codes() -> None:
    codes = {
        *BY_WORD.values(),
        *BY_STATUS.values(),
        *BY_VAGUE_WORD.values(),
        *BY_FINISH_REASON.values(),
        *(code for _, code in BY_MESSAGE),
    }
    assert codes <= FAILURES.keys()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": {"type": "invalid_request_error", "message": "bad"}}, "invalid"),
        (400, {"error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}, "too_large"),
        (400, {"error": {"code": "context_length_exceeded", "message": "no"}}, "too_large"),
        (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "no"}}, "too_large"),
        (400, {"error": {"message": "The input token count (9) exceeds the maximum number of tokens"}}, "too_large"),
        (400, {"error": {"code": "content_policy_violation", "message": "no"}}, "content_refused"),
        (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], "auth"),
        (400, {"code": "invalid argument", "error": "Incorrect API key provided: x"}, "auth"),
        (401, {"error": {"type": "authentication_error", "message": "no"}}, "auth"),
        (401, {"error": {"type": "invalid_request_error", "message": "no"}}, "auth"),
        (403, {"error": {"type": "permission_error", "message": "no"}}, "auth"),
        (404, {"error": {"type": "not_found_error", "message": "no model"}}, "invalid"),
        (408, "", "timeout"),
        (413, {"error": {"type": "request_too_large", "message": "no"}}, "too_large"),
        (429, {"error": {"type": "rate_limit_error", "message": "slow"}}, "rate_limited"),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, "auth"),
        (500, {"error": {"type": "api_error", "message": "oops"}}, "server_error"),
        (502, "<html>bad gateway</html>", "server_error"),
        (503, {"error": {"code": 503, "type": "unavailable_error", "message": "Loading model"}}, "overloaded"),
        (504, "", "timeout"),
        (529, {"error": {"type": "overloaded_error", "message": "busy"}}, "overloaded"),
        (418, {"unknown": True}, "invalid"),
        (599, [1], "server_error"),
        (None, {"type": "invalid_request_error", "message": "bad"}, "invalid"),
        (None, {"type": "something_new", "message": "bad"}, "server_error"),
        (None, None, "server_error"),
    ],
)
def test_the_word_wins_over_the_status_and_the_status_over_the_message(
    status: int | None, body: Any, code: str
) -> None:
    _, words, message = read_body(body)
    assert code_of(status, words, message) == code


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "0.25"}, 250),
        ({"retry-after-ms": "150", "retry-after": "9"}, 150),
        ({"retry-after": "Tue, 24 Nov 2026 10:00:05 GMT", "date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 5000),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:00 GMT", "date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 0),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0),
        ({"retry-after": "99999999"}, 3_600_000),
        ({"retry-after": "-5"}, None),
        ({"retry-after-ms": "nan"}, None),
    ],
)
def test_retry_after_forms(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers) == expected


def test_what_looks_like_a_key_is_not_said() -> None:
    said = shorten("Incorrect API key: sk-proj-abcDEF123456, header Bearer abc.def\x1b[31m\nnext", "")
    assert said == "Incorrect API key: ***, header *** next"
    assert len(shorten("x" * 9999, "")) == 600


def test_a_mistake_of_ours_is_not_tried_again() -> None:
    assert translate(RuntimeError("a bug"), "").code == "invalid"
