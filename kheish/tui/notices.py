"""Tells a person who looks elsewhere that something needs them: once for a request, at most once a second.

What a terminal understands is told by its environment: OSC 9 (iTerm2 and most others), OSC 777 (rxvt, foot, Ghostty,
WezTerm, VTE) or OSC 99 (kitty); within tmux and screen it is handed through to the terminal outside. A terminal that
never says whether it has the focus counts as looked at.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from kheish import config
from kheish.client import AnyEvent, RecordView, StreamEvent
from kheish.narration import account_text, call_text
from kheish.terminal import one_line
from kheish.tui.live import Board

INTERVAL_S = 1.0
TEXT_WIDTH = 120
SEEN_KEPT = 1_000
OSC, ST, BELL = "\x1b]", "\x1b\\", "\x07"
TITLE = "Kheish"
SAVE_TITLE, RESTORE_TITLE = "\x1b[22;0t", "\x1b[23;0t"
SETTLED = ("approval.resolved", "approval.withdrawn", "question.answered", "question.withdrawn")
OSC_777 = ("ghostty", "wezterm", "rxvt", "foot", "vte")


class News(NamedTuple):
    """Something that may be told. `id` is of the request or the run; `kind` names the setting."""

    kind: str
    id: str
    text: str


def news_of(record: RecordView) -> Iterable[News]:
    """What of a record may concern a person who is elsewhere; a call that was allowed without asking never does."""
    for event in record["events"]:
        text = _text(event)
        if text:
            noun, _, verb = event["type"].partition(".")
            kind = {"run": verb, "budget": "approval"}.get(noun, noun)
            yield News(kind, str(event.get("request_id") or event.get("run_id")), one_line(text, TEXT_WIDTH))


def _text(event: AnyEvent) -> str:
    match event["type"]:
        case "approval.requested":
            asks = "is stuck: " if event.get("kind") == "budget" else "asks to run "
            return asks + call_text(event["tool"], event["arguments"], TEXT_WIDTH)
        case "budget.warned":
            return f"has used most of the budget of {account_text(event['standing'])}"
        case "question.requested":
            return f"asks: {event['questions'][0]['question']}"
        case "run.failed":
            return f"failed: {event['code']}: {event['message']}"
        case "run.completed":
            return "completed"
    return ""


def settled_of(record: RecordView) -> Iterable[str]:
    """The requests that need nobody any more."""
    for event in record["events"]:
        if event["type"] in SETTLED:
            yield event["request_id"]  # type: ignore[typeddict-item]


def terminal_sequence(text: str, environment: Mapping[str, str]) -> str:
    """What makes the terminal show a notification; the bell where it can do no more."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "").lower()
    if term in ("", "dumb", "linux"):
        return BELL
    if environment.get("KITTY_WINDOW_ID") or "kitty" in term:
        found = f"{OSC}99;i=kheish:d=0;{TITLE}{ST}{OSC}99;i=kheish:p=body;{text}{ST}"
    elif environment.get("VTE_VERSION") or any(name in program or name in term for name in OSC_777):
        found = f"{OSC}777;notify;{TITLE};{text}{ST}"
    else:
        found = f"{OSC}9;{TITLE}: {text}{ST}"
    if environment.get("TMUX"):
        return "\x1bPtmux;" + found.replace("\x1b", "\x1b\x1b") + ST
    if term.startswith("screen"):
        # A string of screen's ends at the first ST, so each sequence is handed through by itself, ended by a bell.
        return "".join(f"\x1bP{part}{BELL}{ST}" for part in found.split(ST) if part)
    return found


def desktop_command(
    text: str, environment: Mapping[str, str], platform: str, which: Callable[[str], str | None]
) -> list[str]:
    """The command that shows a desktop notification; none where there is no desktop, as at the far end of SSH. The text
    is an argument of its own, never a part of a script."""
    if environment.get("SSH_CONNECTION"):
        return []
    if platform == "darwin":
        script = "display notification (item 2 of argv) with title (item 1 of argv)"
        lines = [word for line in ("on run argv", script, "end run") for word in ("-e", line)]
        return ["osascript", *lines, TITLE, text] if which("osascript") else []
    if (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")) and which("notify-send"):
        # Some servers take the body for markup.
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return ["notify-send", "--app-name", TITLE, "--", TITLE, escaped]
    return []


def said_at_once(texts: Sequence[str]) -> str:
    """What piled up, in one line."""
    more = len(texts) - 1
    return texts[0] + (f" (and {more} more)" if more else "")


class Notices:
    """`write` takes what goes to the terminal, `later` calls a function after some seconds. `close` when it is over."""

    def __init__(
        self,
        settings: Callable[[], config.Notices],
        board: Board,
        write: Callable[[str], object],
        later: Callable[[float, Callable[[], None]], object],
        *,
        environment: Mapping[str, str] = os.environ,
        platform: str = sys.platform,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[list[str]], object] | None = None,
    ) -> None:
        self._settings = settings
        self._board = board
        self._write = write
        self._later = later
        self._environment = environment
        self._platform = platform
        self._clock = clock
        self._run = run or run_aside
        self._has_focus = True
        self._seen: deque[str] = deque(maxlen=SEEN_KEPT)
        self._pending: list[tuple[config.Notice, News]] = []
        self._told_at_s = -INTERVAL_S
        self._is_due = False
        self._title = ""

    def focus(self, has_focus: bool) -> None:
        """The terminal says so."""
        self._has_focus = has_focus
        if has_focus:
            self._pending.clear()

    def arrived(self, events: Iterable[StreamEvent]) -> None:
        """After the board took them."""
        for event in events:
            if event.event != "record":
                continue
            settled = set(settled_of(event.data))
            self._pending = [(how, news) for how, news in self._pending if news.id not in settled]
            for news in news_of(event.data):
                self._consider(news, event.data["session_id"])
        self._tell()
        self.show_title()

    def _consider(self, news: News, session_id: str) -> None:
        how: config.Notice = getattr(self._settings(), news.kind)
        key = f"{news.kind} {news.id}"
        if key in self._seen:
            return
        self._seen.append(key)
        if how != "off" and not self._has_focus:
            row = self._board.rows.get(session_id)
            name = one_line(row.name if row else session_id, 40)
            self._pending.append((how, news._replace(text=f"{name} {news.text}")))

    def _tell(self) -> None:
        """Now, or when the interval is over."""
        if not self._pending or self._is_due:
            return
        wait_s = self._told_at_s + INTERVAL_S - self._clock()
        if wait_s > 0:
            self._is_due = True
            self._later(wait_s, self._tell_due)
            return
        self._told_at_s = self._clock()
        pending, self._pending = self._pending, []
        # One notification, in the loudest way that any of them is to be told.
        how = max((how for how, _ in pending), key=("bell", "terminal", "desktop").index)
        self._say(how, said_at_once([news.text for _, news in pending]))

    def _tell_due(self) -> None:
        self._is_due = False
        self._tell()

    def _say(self, how: config.Notice, text: str) -> None:
        if how == "desktop":
            command = desktop_command(text, self._environment, self._platform, shutil.which)
            if command:
                self._run(command)
                return
        self._write(BELL if how == "bell" else terminal_sequence(text, self._environment))

    # -- the title -----------------------------------------------------------------------------------------------

    def show_title(self) -> None:
        """Of the terminal's window: how many requests wait."""
        if not self._settings().title or self._environment.get("TERM", "") in ("", "dumb", "linux"):
            return
        waiting = sum(len(row.asks) for row in self._board.rows.values())
        title = f"{TITLE} ({waiting} waiting)" if waiting else TITLE
        if title != self._title:
            self._write((SAVE_TITLE if not self._title else "") + f"{OSC}0;{title}{BELL}")
            self._title = title

    def close(self) -> None:
        """Gives the terminal its title back."""
        if self._title:
            self._write(RESTORE_TITLE)
            self._title = ""


def run_aside(command: list[str]) -> None:
    """Nobody waits for it."""
    import subprocess
    import threading

    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    threading.Thread(target=lambda: subprocess.run(command, check=False, **quiet), daemon=True).start()  # type: ignore[call-overload]
