"""The keys that are valid here and now, by place, and a few things worth knowing. Typing searches them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from kheish.tui.actions import ACTIONS, bindings
from kheish.tui.lines import strip_of, wrap
from kheish.tui.look import Look
from kheish.tui.screens.aside import Aside
from kheish.tui.widgets.field import Field
from kheish.tui.widgets.sheet import Sheet, heading

TIPS = (
    "Leaving never stops anything: runs go on in the daemon, and what they ask waits for you, also over a restart",
    "{session.queue} queues a message while a run is active; {session.steer} hands it to the run at its next boundary",
    "{session.interrupt} twice interrupts the active run; the queue goes on, unless {session.pause} paused it",
    "{app.inbox} shows what waits for you in all sessions, whichever one you look at",
    "An answer may come from anywhere: here, `kheish approve`, or a script with `kheish inbox --json`",
    "An approval is bound to what it shows: if the call would run otherwise, it is asked again",
    "Always shows the exact rule that it makes, and its scope, before it makes it",
    "A line that begins with ! runs in the shell of the session, under its permissions, as a durable run",
    "@ completes file names; a long paste becomes a placeholder and is sent whole",
    "Every record is in the timeline, and its details show the state of the session at that point",
    "What is marked with the mouse is copied; {app.settings} turns the mouse off for the terminal's own selection",
    "Every key can be changed: {app.settings}, or [tui.keys] in config.toml",
    "kheish attach NAME opens a session from any shell, kheish wait tells a script when it needs you",
)
"""With the keys of actions, by their ids."""
PLACES = {
    "app": "Everywhere", "list": "In lists", "home": "Home", "session": "Session", "inbox": "Inbox",
    "timeline": "Timeline", "run": "Run", "status": "Status", "settings": "Settings", "approval": "Approval",
    "question": "Question", "composer": "Writing", "queue": "Queue", "aside": "Screens like this one",
    "aside_question": "Side question", "uncertain": "Outcome unknown", "budget": "Budget used up", "help": "Help",
}  # fmt: skip
KEYS_WIDTH, TITLE_WIDTH = 18, 14
HELP_WIDTH_MIN, KEYS_INDENT = 20, 4
"""In a narrower column help stands below its key."""


class Key(NamedTuple):
    where: str
    keys: str
    title: str
    help: str


def keys_of(screen: Screen[Any]) -> list[Key]:
    """Those of the table that a screen takes at this moment, in the table's order, its own places first."""
    keys: dict[str, list[str]] = {}
    for active in screen.active_bindings.values():
        if active.enabled and active.binding.id:
            display = screen.app.get_key_display(active.binding)
            keys.setdefault(active.binding.id, []).append(display)
    found = [
        Key(action.where, " ".join(dict.fromkeys(keys[action.id])), action.title, action.help)
        for action in ACTIONS
        if action.id in keys
    ]
    return sorted(found, key=lambda key: (key.where == "app", key.where == "list"))


class Help(Aside):
    CSS = """
    Help Input { border: none; height: 1; padding: 0 1; background: $surface; }
    """
    BINDINGS = bindings("help")

    def __init__(self, screen: Screen[Any]) -> None:
        """Of the screen that it is opened from."""
        super().__init__()
        self._keys = keys_of(screen)
        self._wanted = ""

    def body(self) -> Iterable[Widget]:
        yield Field(placeholder="type to search the keys", id="search")
        yield Sheet()

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        self._wanted = message.value
        self.draw()
        self.query_one(Sheet).action_first()

    def draw(self) -> None:
        look, keys, wanted = self.look, self._keys, self._wanted
        tips = [re.sub(r"\{(.+?)\}", lambda id_: " or ".join(self.kheish.keys_to(id_[1])), tip) for tip in TIPS]
        self.head.show(look, "Help", "the keys that are valid where you were")
        self.query_one(Sheet).show(lambda width: draw_help(keys, tips, wanted, width, look))

    def action_down(self) -> None:
        self.query_one(Sheet).action_down()

    def action_up(self) -> None:
        self.query_one(Sheet).action_up()

    def action_half_down(self) -> None:
        self.query_one(Sheet).action_half_down()

    def action_half_up(self) -> None:
        self.query_one(Sheet).action_half_up()


def draw_help(keys: Sequence[Key], tips: Sequence[str], wanted: str, width: int, look: Look) -> list[Strip]:
    words = wanted.casefold().split()

    def is_wanted(*texts: str) -> bool:
        return all(word in " ".join(texts).casefold() for word in words)

    lines: list[Strip] = []
    place = ""
    for key in keys:
        title = PLACES.get(key.where, key.where.capitalize())
        if not is_wanted(title, *key[1:]):
            continue
        if key.where != place:
            place = key.where
            lines += heading(title, look)
        is_beside = width >= KEYS_WIDTH + TITLE_WIDTH + HELP_WIDTH_MIN
        indent = KEYS_WIDTH + TITLE_WIDTH if is_beside else KEYS_INDENT
        rest = wrap(key.help, max(1, width - indent))
        first = rest.pop(0) if is_beside else ""
        head = (f"{key.keys:<{KEYS_WIDTH - 1}} ", look.accent), (f"{key.title:<{TITLE_WIDTH - 1}} ", look.text)
        lines.append(strip_of(*head, (first, look.dim)))
        lines += [strip_of((" " * indent, None), (line, look.dim)) for line in rest]
    tips = [tip for tip in tips if is_wanted("tips", tip)]
    if tips:
        lines += heading("Worth knowing", look)
        for tip in tips:
            first, *rest = wrap(tip, max(1, width - 2))
            lines.append(strip_of((f"{look.marks.note} ", look.accent), (first, look.text)))
            lines += [strip_of(("  ", None), (line, look.text)) for line in rest]
    return lines[1:] or [strip_of(("no key or tip holds that", look.dim))]
