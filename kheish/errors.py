"""The tree of errors that cross a module boundary.

    KheishError                 code, message ("cannot ...: why; what to do next"), details
    ├── Refused                 a command that the session machine does not accept (4xx)
    ├── Invalid                 a malformed request or argument; `path` names the place (400)
    ├── NotFound                an id that names nothing (404)
    ├── Conflict                a state, a lock or a key that stands in the way (409)
    ├── Draining                the daemon is stopping; the next one takes it (503)
    ├── StoreError              the disk failed or lies
    │   ├── Corrupt             bytes that fail their checks: file, line, offset
    │   ├── Poisoned            a write or sync failed; the session is read-only
    │   └── NewerFormat         written by a later Kheish; refused, not guessed
    └── ProviderError           a model call failed; `code` is a row of core.model_calls.FAILURES

`code` is stable and for machines; the message is for people.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class KheishError(Exception):
    """Base of every error that Kheish raises on purpose."""

    code = "internal_error"
    status = 500

    def __init__(self, message: str, *, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.details = details


class Refused(KheishError):
    code = "refused"
    status = 409


class Invalid(KheishError):
    code = "invalid_request"
    status = 400


class NotFound(KheishError):
    code = "not_found"
    status = 404


class Conflict(KheishError):
    code = "conflict"
    status = 409


class Forbidden(KheishError):
    code = "forbidden"
    status = 403


class Draining(KheishError):
    """The daemon is stopping; the next one takes the request."""

    code = "daemon_draining"
    status = 503


class StoreError(KheishError):
    code = "store_error"
    status = 503

    @classmethod
    def of_disk(cls, what: str, error: OSError) -> StoreError:
        """The disk did not let us do `what`."""
        why = f"{error.strerror or error}{f': {os.path.basename(error.filename)}' if error.filename else ''}"
        return cls(f"cannot {what}: {why}; see to the disk and try again", code="disk_failed")


class Corrupt(StoreError):
    """Bytes that fail their checks. `details`: file, line (1-based), offset (bytes), reason."""

    code = "session_corrupt"


class Poisoned(StoreError):
    code = "session_read_only"


class NewerFormat(StoreError):
    code = "format_too_new"


class ProviderError(KheishError):
    """A model call that did not end in a reply. `retry_after_ms` is what the server asked for, if it did; `request_id`
    the provider's name for the call, if it gave one."""

    code = "server_error"
    status = 502

    def __init__(self, message: str, *, code: str, retry_after_ms: int | None = None, request_id: str = "") -> None:
        super().__init__(message, code=code)
        self.retry_after_ms = retry_after_ms
        self.request_id = request_id
