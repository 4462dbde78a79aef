"""What the client raises.

KheishError
├── ApiError             the daemon answered with a problem; `code` and `status` are its own
└── DaemonUnreachable    nobody answers, or the connection broke in the middle
"""

from __future__ import annotations

import json
from typing import Any

from kheish.errors import KheishError


class ApiError(KheishError):
    """`details` holds whatever else the problem says, such as the `path` of a fault."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, Any]) -> None:
        super().__init__(message, code=code, **details)
        self.status = status


class DaemonUnreachable(KheishError):
    code = "daemon_unreachable"
    status = 503


def api_error(status: int, body: bytes) -> ApiError:
    try:
        problem = dict(json.loads(body))
    except (ValueError, TypeError):
        problem = {}
    details = {k: v for k, v in problem.items() if k not in ("type", "title", "status", "code", "detail", "message")}
    text = str(problem.get("detail") or body.decode("utf-8", "replace")[:200] or f"the daemon answered {status}")
    return ApiError(status, str(problem.get("code") or "http_error"), text, details)
