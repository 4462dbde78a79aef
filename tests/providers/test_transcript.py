"""What comes from a model is text that can be stored and arguments that can be written again, or is said not to be."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.events import Attachment, Message, UserMessage
from kheish.core.prompt import attached_in, choose_shown
from kheish.limits import MIB
from kheish.providers.failures import shorten
from kheish.providers.transcript import attachment_text, read_tool_call, storable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        ('{"a": [1, 2.5, null, "\\u00e9"]}', {"a": [1, 2.5, None, "é"]}),
        (' \n{"a": {}} ', {"a": {}}),
        ("", {}),
        ("  ", {}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\N{GRINNING FACE}"}),
    ],
)
def test_arguments_that_are_an_object_are_read(raw: str, arguments: dict[str, Any]) -> None:
    call = read_tool_call("p", "bash", raw)
    assert (call.provider_id, call.tool, call.arguments, call.malformed) == ("p", "bash", arguments, "")


@pytest.mark.parametrize(
    "raw",
    [
        '{"a": 1',
        "[1]",
        "null",
        '"text"',
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1e999}',
        '{"a": 123456789012345678901234567890}',
        '{"a": "\\ud83d"}',
        '{"a":' * 300 + "{}" + "}" * 300,
        '{"a":' * 100_000 + "{}" + "}" * 100_000,
    ],
)
def test_arguments_that_could_not_be_kept_as_they_are_stay_text(raw: str) -> None:
    call = read_tool_call("p", "bash", raw)
    assert (call.arguments, call.malformed) == ({}, raw)


@given(VALUES)
def test_whatever_is_read_can_be_journaled_and_digested(value: Any) -> None:
    call = read_tool_call("p", "bash", json.dumps({"a": value}))
    assert bool(call.malformed) != bool(call.arguments)
    stored = msgspec.json.decode(msgspec.json.encode(call), type=type(call))
    assert stored == call
    orjson.dumps(call.arguments)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("plain é", "plain é"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),
        ("a\ud83db", "a\N{REPLACEMENT CHARACTER}b"),
        ("\ude00\ud83d", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"),
        ("", ""),
    ],
)
def test_halves_of_a_character_are_joined_or_replaced(text: str, stored: str) -> None:
    assert storable(text) == stored
    assert shorten(text, "") == stored
    assert storable(stored) == stored


def test_an_attachment_is_shown_or_named() -> None:
    shown = attachment_text(Attachment(name="a.txt", media_type="text/plain", text="hello", bytes=5))
    assert shown == "Attachment a.txt (text/plain):\n\nhello"
    named = attachment_text(Attachment(name="a.png", media_type="image/png", blob="f" * 64, bytes=9))
    assert "a.png" in named and f"blob:{'f' * 64}" in named and "9 bytes" in named


# -- attachments that are shown -------------------------------------------------------------------------------------


def picture(number: int, size: int = 1, media_type: str = "image/png") -> Attachment:
    return Attachment(name=f"{number}.png", media_type=media_type, blob=f"{number:064x}", bytes=size)


def chosen(*messages: tuple[Attachment, ...]) -> list[int]:
    transcript: list[Message] = [UserMessage(text="x", attachments=attachments) for attachments in messages]
    return [int(attachment.blob, 16) for attachment in choose_shown(attached_in(transcript))]


def test_the_newest_attachments_are_shown_as_far_as_the_bound_goes() -> None:
    assert chosen((picture(1), picture(2)), (), (picture(3),)) == [3, 2, 1]
    sizes = [5 * MIB, 4 * MIB, 5 * MIB, 5 * MIB, 5 * MIB]
    assert chosen(*((picture(number, size),) for number, size in enumerate(sizes))) == [4, 3, 2, 1]
    assert chosen(*((picture(number, 5 * MIB),) for number in range(5))) == [4, 3, 2, 1]


def test_an_attachment_that_is_too_large_alone_takes_no_room_from_others() -> None:
    assert chosen((picture(1, 5 * MIB), picture(2, 5 * MIB + 1), picture(3, 5 * MIB))) == [3, 1]


def test_an_attachment_that_is_there_twice_counts_once() -> None:
    assert chosen(*[(picture(1, 5 * MIB),)] * 5, (picture(2, 5 * MIB),)) == [2, 1]


@pytest.mark.parametrize(
    ("media_type", "is_shown"),
    [
        ("image/png", True),
        ("image/jpeg", True),
        ("image/gif", True),
        ("image/webp", True),
        ("application/pdf", True),
        ("image/svg+xml", False),
        ("text/plain", False),
        ("application/octet-stream", False),
    ],
)
def test_only_what_models_take_is_shown(media_type: str, is_shown: bool) -> None:
    assert chosen((picture(1, media_type=media_type),)) == ([1] if is_shown else [])
    inline = Attachment(name="a", media_type=media_type, text="x", bytes=1)
    assert attached_in([UserMessage(text="x", attachments=(inline,))]) == []
