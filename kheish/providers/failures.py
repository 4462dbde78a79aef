"""What a failed model call means, in one table for every wire: the provider's own word for it, else the HTTP status.

Both official SDKs raise errors of the same shape (a status, headers, a parsed body), so one reader serves both. The
table follows the error pages of the two APIs; see share/doc/kheish/routes.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from kheish.core.contracts import FailureCode
from kheish.errors import ProviderError
from kheish.limits import PROVIDER_MESSAGE_CHARS_MAX, RETRY_AFTER_MAX_MS
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
    "context_length_exceeded": "too_large",
    "string_above_max_length": "too_large",
    "invalid_api_key": "auth",
    "content_filter": "content_refused",
    "content_policy_violation": "content_refused",
    "model_not_found": "invalid",
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

_TOO_LARGE = re.compile(r"prompt is too long|context (length|window)|maximum context|too many (input )?tokens", re.I)
_SECRETS = re.compile(r"\b(?:sk|key|pk)-[A-Za-z0-9_\-*]{6,}|(?i:bearer)\s+\S+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def code_of(status: int | None, words: tuple[str, ...], message: str) -> FailureCode:
    """`words` are what the body calls the error, the most specific first."""
    code = next((BY_WORD[word] for word in words if word in BY_WORD), None)
    if code is None:
        code = BY_STATUS.get(status or 0)
    if code is None:
        code = "server_error" if status is None or status >= 500 or status < 400 else "invalid"
    return "too_large" if code == "invalid" and _TOO_LARGE.search(message) else code


def translate(error: Exception, api_key: str) -> ProviderError:
    """Any exception of a model call as a row of the table. What it says is cut, on one line and without secrets."""
    if isinstance(error, ProviderError):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if any("Timeout" in kind for kind in kinds):
        return ProviderError(shorten("no byte came in time", api_key), code="timeout")
    if "APIConnectionError" in kinds or any(kind in kinds for kind in ("TransportError", "StreamError", "OSError")):
        cause = error.__cause__ or error
        return ProviderError(shorten(f"{type(cause).__name__}: {cause}", api_key), code="connection")
    if "APIError" in kinds:
        status = getattr(error, "status_code", None)
        words, said = read_body(getattr(error, "body", None))
        message = said or str(error)
        headers = getattr(getattr(error, "response", None), "headers", {})
        prefix = f"{status}: " if status and status != 200 else ""
        return ProviderError(
            shorten(prefix + message, api_key),
            code=code_of(None if status == 200 else status, words, message),
            retry_after_ms=retry_after_ms(headers),
        )
    if isinstance(error, ValueError):
        return ProviderError(shorten(f"the provider sent what cannot be read: {error}", api_key), code="server_error")
    return ProviderError(shorten(f"{type(error).__name__}: {error}", api_key), code="invalid")


def read_body(body: Any) -> tuple[tuple[str, ...], str]:
    """The error's own words and its message, from either wire: `{"error": {...}}` or the inner object alone."""
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    if isinstance(inner, str):
        return (), inner
    if not isinstance(inner, Mapping):
        return (), body if isinstance(body, str) else ""
    words = tuple(word for key in ("code", "type") if isinstance(word := inner.get(key), str))
    message = inner.get("message")
    return words, message if isinstance(message, str) else ""


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
