"""Events and states as bytes, and digests of what a human is shown."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from typing import Any

import msgspec
import orjson

from kheish.core.events import AnyEvent, Event
from kheish.core.state import State
from kheish.errors import NewerFormat

_EVENTS = msgspec.json.Decoder(list[AnyEvent])
_STATE = msgspec.json.Decoder(State)
_ENCODER = msgspec.json.Encoder()


def encode_events(events: Sequence[Event]) -> bytes:
    """A JSON array, as it stands in a record."""
    return _ENCODER.encode(list(events))


def decode_events(raw: bytes | list[dict[str, Any]]) -> list[Event]:
    """Raises NewerFormat for an event of a type, or with a value, that this version does not know."""
    try:
        if isinstance(raw, bytes):
            return list(_EVENTS.decode(raw))
        return list(msgspec.convert(raw, list[AnyEvent]))
    except msgspec.ValidationError as error:
        raise NewerFormat(f"cannot read an event: {error}; it may come from a later version of Kheish") from error


def encode_state(state: State) -> bytes:
    """As a checkpoint stores it."""
    stored = copy(state)
    stored.entered = []
    return _ENCODER.encode(stored)


def decode_state(raw: bytes) -> State:
    """Raises NewerFormat for a value that this version does not know."""
    try:
        return _STATE.decode(raw)
    except msgspec.ValidationError as error:
        raise NewerFormat(f"cannot read a checkpoint: {error}; it may come from a later version of Kheish") from error


def canonical_json(value: object) -> bytes:
    """Keys sorted, no white space. Raises TypeError for what has no such form."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def canonical_digest(value: object) -> str:
    """SHA-256 over canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def call_digest(tool: str, arguments: dict[str, Any], cwd: str, policy_revision: str) -> str:
    """What an approval is bound to."""
    return canonical_digest({"arguments": arguments, "cwd": cwd, "policy_revision": policy_revision, "tool": tool})
