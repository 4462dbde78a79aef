"""What a failed model call means, in one table for every wire: the provider's own word for it, else the HTTP status.

Both official SDKs raise errors of the same shape (a status, headers, a parsed body), so one reader serves both. The
table follows the error pages of the APIs and what their kin say instead; share/doc/kheish/routes.md shows it to users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from kheish.core.contracts import FailureCode
from kheish.errors import ProviderError
from kheish.limits import PROVIDER_MESSAGE_CHARS_MAX, REQUEST_ID_CHARS_MAX, RETRY_AFTER_MAX_MS
from kheish.providers.transcript import storable

BY_WORD: dict[str, FailureCode] = {
    # Anthropic: error.type
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "api_error": "server_error",
    "timeout_error": "timeout",
    "request_too_large": "too_large",
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "auth",
    "not_found_error": "invalid",
    # OpenAI and its kin: error.code, error.type
    "rate_limit_exceeded": "rate_limited",
    "insufficient_quota": "auth",
    "server_error": "server_error",
    "server_is_overloaded": "overloaded",
    "slow_down": "overloaded",
    "context_length_exceeded": "too_large",
    "exceed_context_size_error": "too_large",
    "string_above_max_length": "too_large",
    "invalid_api_key": "auth",
    "content_filter": "content_refused",
    "content_policy_violation": "content_refused",
    "model_not_found": "invalid",
    # OpenAI's Responses: the error of a response that failed
    "vector_store_timeout": "timeout",
    "invalid_prompt": "content_refused",
    "bio_policy": "content_refused",
    "misalignment_policy_violation": "content_refused",
    "image_content_policy_violation": "content_refused",
    "image_too_large": "too_large",
    "image_file_too_large": "too_large",
    **dict.fromkeys(
        (
            "data_residency_mismatch",
            "image_too_small",
            "image_parse_error",
            "image_file_not_found",
            "invalid_image",
            "invalid_image_format",
            "invalid_image_mode",
            "invalid_image_url",
            "invalid_base64_image",
            "invalid_encrypted_content",
            "unsupported_image_media_type",
            "empty_image_file",
            "failed_to_download_image",
        ),
        "invalid",
    ),
}

BY_STATUS: dict[int, FailureCode] = {
    400: "invalid",
    401: "auth",
    402: "auth",
    403: "auth",
    404: "invalid",
    408: "timeout",
    409: "server_error",
    413: "too_large",
    422: "invalid",
    425: "overloaded",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}

BY_VAGUE_WORD: dict[str, FailureCode] = {"invalid_request_error": "invalid"}
"""Words that say less than a status does: for errors within a stream, which have none."""

BY_FINISH_REASON: dict[str, FailureCode] = {
    "error": "server_error",
    "function_call_filter": "server_error",
    "insufficient_system_resource": "overloaded",
}
"""Reasons, on the Chat Completions wire, for which a reply ended that did not finish."""

BY_MESSAGE: tuple[tuple[re.Pattern[str], FailureCode], ...] = (
    (
        re.compile(
            r"prompt is too long|context (length|window|size)|maximum (context|number of tokens)"
            r"|too many (input )?tokens",
            re.I,
        ),
        "too_large",
    ),
    (re.compile(r"API key not valid|(incorrect|invalid) API key", re.I), "auth"),
)
"""What is `invalid` by word and status, where the message knows better: some servers answer all of these with a 400."""

_SECRETS = re.compile(r"\b(?:sk|key|pk)-[A-Za-z0-9_\-*]{6,}|(?i:bearer)\s+\S+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def code_of(status: int | None, words: tuple[str, ...], message: str) -> FailureCode:
    """`words` are what the body calls the error, the most specific first."""
    code = next((BY_WORD[word] for word in words if word in BY_WORD), None)
    if code is None:
        code = BY_STATUS.get(status or 0)
    if code is None:
        code = next((BY_VAGUE_WORD[word] for word in words if word in BY_VAGUE_WORD), None)
    if code is None:
        code = "server_error" if status is None or status >= 500 or status < 400 else "invalid"
    if code == "invalid":
        return next((better for pattern, better in BY_MESSAGE if pattern.search(message)), code)
    return code


def translate(error: Exception, api_key: str, id_: str = "") -> ProviderError:
    """Any exception of a model call as a row of the table. What it says is cut, on one line and without secrets. `id_`
    is the provider's name for the call, where its answer had begun."""
    translated = _translate(error, api_key)
    translated.request_id = translated.request_id or id_
    return translated


def _translate(error: Exception, api_key: str) -> ProviderError:
    if isinstance(error, ProviderError):
        return ProviderError(shorten(error.message, api_key), code=error.code, retry_after_ms=error.retry_after_ms)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if any("Timeout" in kind for kind in kinds):
        return ProviderError(shorten("no byte came in time", api_key), code="timeout")
    if "APIConnectionError" in kinds or any(kind in kinds for kind in ("TransportError", "StreamError", "OSError")):
        cause = error.__cause__ or error
        return ProviderError(shorten(f"{type(cause).__name__}: {cause}", api_key), code="connection")
    if "APIError" in kinds:
        status, words, said = read_body(getattr(error, "body", None))
        of_response = getattr(error, "status_code", None)
        if of_response is not None and of_response != 200:
            status = of_response
        message = said or str(error)
        headers = getattr(getattr(error, "response", None), "headers", {})
        return ProviderError(
            shorten(f"{status}: {message}" if status else message, api_key),
            code=code_of(status, words, message),
            retry_after_ms=retry_after_ms(headers),
            request_id=request_id(headers, api_key),
        )
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError)):
        return ProviderError(shorten(f"the provider sent what cannot be read: {error}", api_key), code="server_error")
    return ProviderError(shorten(f"{type(error).__name__}: {error}", api_key), code="invalid")


def fault(error: Any) -> ProviderError:
    """What a provider says within a stream, as an object of its SDK, or None where it only says that it failed."""
    said = {key: getattr(error, key, None) for key in ("code", "type", "message")}
    status, words, message = read_body(said)
    message = message or "the provider failed and does not say why"
    return ProviderError(f"{status}: {message}" if status else message, code=code_of(status, words, message))


def read_body(body: Any) -> tuple[int | None, tuple[str, ...], str]:
    """The status that an error names itself, its words and its message, from any wire: `{"error": {...}}`, that in a
    list, or the inner object alone."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(inner, Mapping):
        return None, (), inner if isinstance(inner, str) else ""
    words = tuple(word for key in ("code", "type") if isinstance(word := inner.get(key), str))
    status, message = inner.get("code"), inner.get("message")
    return (
        status if isinstance(status, int) and 400 <= status < 600 else None,
        words,
        message if isinstance(message, str) else "",
    )


def request_id(headers: Mapping[str, str], api_key: str) -> str:
    """The provider's name for a call, by which its support finds it: Anthropic's `request-id`, or the `x-request-id` of
    OpenAI and its kin. Without secrets too: a server may say anything there."""
    return shorten(headers.get("request-id") or headers.get("x-request-id") or "", api_key)[:REQUEST_ID_CHARS_MAX]


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """What the server asked for: `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110, 10.2.3)."""
    try:
        if text := headers.get("retry-after-ms"):
            found = float(text)
        elif not (text := headers.get("retry-after")):
            return None
        elif re.fullmatch(r"\s*[0-9.]+\s*", text):
            found = float(text) * 1000
        else:
            sent = headers.get("date")
            now = parsedate_to_datetime(sent) if sent else datetime.now(UTC)
            found = (parsedate_to_datetime(text) - now).total_seconds() * 1000
        return max(0, int(min(found, RETRY_AFTER_MAX_MS)))
    except (ValueError, TypeError):
        return None


def shorten(message: str, api_key: str) -> str:
    if len(api_key) >= 4:
        message = message.replace(api_key, "***")
    message = _CONTROL.sub(" ", _SECRETS.sub("***", storable(message))).strip()
    return message if len(message) <= PROVIDER_MESSAGE_CHARS_MAX else message[: PROVIDER_MESSAGE_CHARS_MAX - 3] + "..."
