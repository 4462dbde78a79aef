"""The two kinds of JSON shape: bodies, which are checked strictly, and views, which are made."""

from __future__ import annotations

import msgspec


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. An unknown field is an error: it is a typing mistake more often than not."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon answers. Fields are only added; a client ignores those that it does not know."""
