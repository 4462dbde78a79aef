"""What is pasted is text, whatever is in it: no part of it is a key."""

from __future__ import annotations

import itertools

import pytest
from textual import events
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

from kheish.tui.paste import GuardedParser, guarded

PASTE, END = "\x1b[200~", "\x1b[201~"


def parsed(*pieces: str) -> list[Message]:
    parser = GuardedParser()
    return [message for piece in pieces for message in parser.feed(piece)]


@pytest.mark.parametrize(
    "hostile",
    ["one\x1b[31m red\rtwo\r", "\x1b\r", "\x1b[201\r", "\x1b\x1b[A\x1b", "\x1b[200~again", "ends\x1b[20", "a\x1b[I b"],
)
def test_escape_characters_in_pasted_text_press_no_key(hostile: str) -> None:
    found = parsed(f"{PASTE}{hostile}{END}x")
    assert [type(message) for message in found] == [events.Paste, events.Key]
    assert isinstance(found[0], events.Paste) and found[0].text == hostile.replace("\x1b", "")


def test_it_makes_no_difference_how_the_terminal_cuts_what_it_sends() -> None:
    sent = f"a{PASTE}b\x1b[20\rc{END}d"
    for one, two in itertools.combinations(range(len(sent) + 1), 2):
        found = parsed(*filter(None, (sent[:one], sent[one:two], sent[two:])))
        kinds = [getattr(message, "text", None) or getattr(message, "key", None) for message in found]
        assert kinds == ["a", "b[20\rc", "d"], (one, two)


def test_keys_come_through_as_they_were() -> None:
    found = parsed("\x1b[A", "\x1b[", "B", "q", "\x1b[<0;5;5M")
    assert [m.key for m in found if isinstance(m, events.Key)] == ["up", "down", "q"]
    assert isinstance(found[-1], events.MouseDown)


def test_the_driver_of_a_terminal_reads_through_it() -> None:
    from textual.drivers import linux_driver

    assert guarded(LinuxDriver) is LinuxDriver and vars(linux_driver)["XTermParser"] is GuardedParser
