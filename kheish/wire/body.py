"""The two kinds of JSON shape: bodies, which are checked strictly, and views, which are made."""

from __future__ import annotations

from typing import Annotated

import msgspec

SESSION_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""`ids.is_session_name`, as a client reads it."""
IDEMPOTENCY_KEY = "^[ -~\u00a1-\u00ac\u00ae-\u00ff]{0,200}$"
"""What prints of what a header may hold."""

OptionalSession = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^$|{SESSION_ID}"})]
"""The id of a session, or nothing."""
Cursor = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": r"^([0-9]{1,15})?$"})]
"""The seq to go on after, or nothing."""
StreamCursor = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": r"^([0-9]{1,15}|tail)?$"})]
GlobalCursor = Annotated[
    str,
    msgspec.Meta(extra_json_schema={"pattern": r"^([0-9]{1,15}\.[0-9]{1,15}(\.[A-Za-z0-9._-]{1,128})?|tail)?$"}),
]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. An unknown field is an error: it is a typing mistake more often than not."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon answers. Fields are only added; a client ignores those that it does not know."""
