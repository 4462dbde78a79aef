"""What comes from a model is text that can be stored and arguments that can be written again, or is said not to be."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.events import Attachment
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
