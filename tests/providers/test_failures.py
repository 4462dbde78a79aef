"""Every failure of either wire is a row of one table, says what happened in a bounded line, and keeps the key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kheish.core.model_calls import FAILURES
from kheish.errors import ProviderError
from kheish.providers import anthropic, openai_compatible
from kheish.providers.failures import BY_STATUS, BY_WORD, retry_after_ms, shorten
from kheish.runtime.ports import Provider
from tests.providers.requests import make_request, read
from tests.providers.wire_server import HANG, Answer, WireServer, anthropic_events, failure, openai_chunk

KEY = "a-very-private-key-0123"


@pytest.fixture(params=["anthropic", "openai_compatible"])
async def provider(request: pytest.FixtureRequest, server: WireServer) -> Provider:
    if request.param == "anthropic":
        return await anthropic.connect(api_key=KEY, base_url=server.url)
    return await openai_compatible.connect(api_key=KEY, base_url=f"{server.url}/v1")


async def fails(provider: Provider) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await read(provider)
    assert caught.value.code in FAILURES
    assert KEY not in caught.value.message and "\n" not in caught.value.message and len(caught.value.message) <= 600
    return caught.value


def test_the_table_has_only_known_codes() -> None:
    assert {*BY_WORD.values(), *BY_STATUS.values()} <= FAILURES.keys()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": {"type": "invalid_request_error", "message": "bad"}}, "invalid"),
        (400, {"error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}, "too_large"),
        (400, {"error": {"code": "context_length_exceeded", "message": "no"}}, "too_large"),
        (400, {"error": {"code": "content_policy_violation", "message": "no"}}, "content_refused"),
        (401, {"error": {"type": "authentication_error", "message": f"key {KEY} is wrong"}}, "auth"),
        (403, {"error": {"type": "permission_error", "message": "no"}}, "auth"),
        (404, {"error": {"type": "not_found_error", "message": "no model"}}, "invalid"),
        (408, "", "timeout"),
        (413, {"error": {"type": "request_too_large", "message": "no"}}, "too_large"),
        (429, {"error": {"type": "rate_limit_error", "message": "slow"}}, "rate_limited"),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, "auth"),
        (500, {"error": {"type": "api_error", "message": "oops"}}, "server_error"),
        (502, "<html>bad gateway</html>\n" * 100, "server_error"),
        (503, "", "overloaded"),
        (504, "", "timeout"),
        (529, {"error": {"type": "overloaded_error", "message": "busy"}}, "overloaded"),
        (418, {"unknown": True}, "invalid"),
        (599, "[1]", "server_error"),
    ],
)
async def test_statuses(server: WireServer, provider: Provider, status: int, body: Any, code: str) -> None:
    server.answers = [failure(status, body)]
    error = await fails(provider)
    assert error.code == code
    assert len(server.requests) == 1, "the SDK retried by itself"
    if isinstance(body, dict) and "error" in body and KEY not in str(body):
        assert body["error"]["message"] in error.message and str(status) in error.message


@pytest.mark.parametrize(("header", "expected"), [("2", 2000), ("0.25", 250), ("nonsense", None)])
async def test_retry_after(server: WireServer, provider: Provider, header: str, expected: int | None) -> None:
    server.answers = [failure(429, {"error": {"message": "slow"}}, retry_after=header)]
    assert (await fails(provider)).retry_after_ms == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after-ms": "150", "retry-after": "9"}, 150),
        ({"retry-after": "Tue, 24 Nov 2026 10:00:05 GMT", "date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 5000),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:00 GMT", "date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 0),
        ({"retry-after": "99999999"}, 3_600_000),
        ({"retry-after": "-5"}, None),
        ({"retry-after-ms": "nan"}, None),
    ],
)
def test_retry_after_forms(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers) == expected


async def test_nobody_listens(provider: Provider, server: WireServer, unused_tcp_port: int = 9) -> None:
    refused = await anthropic.connect(api_key=KEY, base_url=f"http://127.0.0.1:{unused_tcp_port}")
    assert (await fails(refused)).code == "connection"


async def test_what_is_no_json_in_the_stream(server: WireServer, provider: Provider) -> None:
    server.answers = [Answer([b"event: message_start\ndata: {not json\n\n"])]
    assert (await fails(provider)).code == "server_error"


async def test_a_cancelled_call_closes_the_connection(server: WireServer, provider: Provider) -> None:
    server.answers = [Answer([*anthropic_events({"text": ["x"]})[:4], HANG])]
    if isinstance(provider, openai_compatible.OpenAICompatible):
        server.answers = [Answer([openai_chunk({"content": "x"}), HANG])]
    stream: AsyncIterator[Any] = provider.stream(make_request())
    assert (await anext(stream)).text == "x"
    task = asyncio.ensure_future(anext(stream))
    async with asyncio.timeout(5):
        await server.waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.gone.wait()


def test_what_looks_like_a_key_is_not_said() -> None:
    said = shorten("Incorrect API key: sk-proj-abcDEF123456, header Bearer abc.def\x1b[31m\nnext", "")
    assert said == "Incorrect API key: ***, header *** next"
