"""What the client raises.

KheishError
├── ApiError             the daemon answered with a problem
├── DaemonUnreachable    nobody answers, or the connection broke in the middle
└── Invalid              the request cannot be sent, such as one with a line break in its key
"""

from __future__ import annotations

from kheish.errors import KheishError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ApiError(KheishError):
    """`status` is the HTTP status; `code` is stable, for programs, and `message` for people; `details` holds whatever
    else the problem says, such as the `path` of a fault in the request."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, Any]) -> None:
        super().__init__(message, code=code, **details)
        self.status = status


class DaemonUnreachable(KheishError):
    """`code` is `daemon_unreachable`. In `details`, `is_absent`: no daemon runs, so that the request did not arrive;
    `is_broken`: the connection broke, and the request may have taken effect."""

    code = "daemon_unreachable"
    status = 503

    def __init__(self, message: str, *, is_absent: bool = False, is_broken: bool = False) -> None:
        super().__init__(message, is_absent=is_absent, is_broken=is_broken)


_UNKNOWN = ("endpoint_not_found", "method_not_allowed")
"""A client asks for what its own daemon has: another version answers."""


def api_error(status: int, body: bytes) -> ApiError:
    import json

    try:
        problem = dict(json.loads(body))
    except (ValueError, TypeError):
        problem = {}
    details = {k: v for k, v in problem.items() if k not in ("type", "title", "status", "code", "detail", "message")}
    text = str(problem.get("detail") or body.decode("utf-8", "replace")[:200] or f"the daemon answered {status}")
    code = str(problem.get("code") or "http_error")
    if code in _UNKNOWN:
        text = f"the daemon that runs does not know this: {text}; if it is older, `kheish daemon restart` replaces it"
    return ApiError(status, code, text, details)
