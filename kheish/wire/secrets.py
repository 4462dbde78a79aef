"""Secrets on the wire: their values come in and never go out."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kheish.limits import SECRET_CHARS_MAX
from kheish.wire.body import Body, View

SECRET_NAME = "^[a-z0-9][a-z0-9._-]{0,63}$"  # noqa: S105


class SetSecret(Body, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern=SECRET_NAME)]
    value: Annotated[str, msgspec.Meta(pattern=r"\S", max_length=SECRET_CHARS_MAX)]


class MasterKeyView(View, frozen=True):
    """`place` says where it is; `key_id` tells one from another, "" where there is none yet. `is_changing`: a change
    was cut off; nothing is lost, and changing it again ends it."""

    place: str
    key_id: str
    is_changing: bool
    problem: str


class SecretView(View, frozen=True):
    """`version` counts how often it was set. `referenced_by` are the routes that use it, null where routes.toml cannot
    be read. `problem` says why it cannot be used; where its document cannot be read, the numbers are 0."""

    name: str
    version: int
    created_at_ms: int
    updated_at_ms: int
    referenced_by: list[str] | None
    problem: str
