"""Text of others at a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.terminal import clean, counted, cut, expose, last_written, one_line, text_width

# Source: Unicode's PropList.txt, Bidi_Control.
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
HOSTILE = st.sampled_from(
    ["\x1b[31m", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x9b2J", "\x07", "\r", "\x7f", *BIDI]
)
TEXT = st.lists(st.one_of(st.text(max_size=5), HOSTILE), max_size=8).map("".join)


def is_harmless(text: str) -> bool:
    return not any(c in BIDI or (unicodedata.category(c) == "Cc" and c not in "\n\t") for c in text)


@given(TEXT)
def test_clean_text_moves_nothing_and_turns_nothing(text: str) -> None:
    assert is_harmless(clean(text))


@given(TEXT)
def test_one_line_is_one(text: str) -> None:
    assert "\n" not in one_line(text) and is_harmless(one_line(text))


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cn", "Zl", "Zp"])))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text == expose(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[1;31mred\x1b[0m", "ared"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("50%\r100%\r\n", "50%\n100%\n"),
        ("\x1b]an end that never comes\nnext", "]an end that never comes\nnext"),
        ("\x1b\x1b[31m", ""),
        ("abc\u202etxt.exe", "abctxt.exe"),
        ("tab\tand\nline", "tab\tand\nline"),
    ],
)
def test_escape_sequences_go_and_text_stays(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize("hidden", ["\x1b", "\x00", "\x85", "\r", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041"])
def test_what_a_person_decides_about_hides_nothing(hidden: str) -> None:
    shown = expose(f"rm{hidden}x")
    assert shown.startswith("rm\\") and shown.endswith(f"{ord(hidden):x}x")
    assert is_harmless(shown) and shown.isascii()


@given(TEXT, st.integers(1, 20))
def test_a_cut_line_fits(text: str, width: int) -> None:
    line = one_line(text)
    short = cut(line, width)
    assert text_width(short) <= width
    assert short == line or (short.endswith("…") and line.startswith(short[:-1]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10%\r20%\r30%\r\ndone\n", "30%\ndone\n"),
        ("\r10%\r20%", "20%"),
        ("10%\r", "10%"),
        ("a\r\nb\r\r\n", "a\nb\n"),
        ("10%\r\x1b[2K20%", "20%"),
        ("plain\n", "plain\n"),
    ],
)
def test_a_line_that_was_written_over_shows_what_was_written_last(text: str, shown: str) -> None:
    assert clean(last_written(text)).rstrip("\n") == shown.rstrip("\n")
    for cut_at in range(len(text)):
        piece_by_piece = last_written(last_written(text[:cut_at]) + text[cut_at:])
        assert piece_by_piece == last_written(text), "also where it comes in pieces"


def test_one_of_a_kind_is_counted_as_one() -> None:
    assert [counted(n, "approval") for n in (0, 1, 2)] == ["0 approvals", "1 approval", "2 approvals"]
    assert counted(1, "entry", "entries") + counted(3, "entry", "entries") == "1 entry3 entries"


def test_wide_characters_take_two_columns() -> None:
    assert text_width("日本") == 4
    assert cut("日本語", 5) == "日本…"
    assert cut("日本語", 4) == "日…"
    assert cut("日本語", 6) == "日本語"
