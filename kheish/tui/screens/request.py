"""What the screens of an approval and of a question have in common: nobody decides by mistake, what was settled
elsewhere is said, and afterwards one is where one was, or at what the session asks next.

Keys that were on their way when something new came up decide nothing (the dead time); neither does the click that only
brings the terminal to the front, nor a key that others follow at once, as in text that is pasted or typed elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from textual import events
from textual.app import ComposeResult
from textual.timer import Timer

from kheish.client import ApiError, StreamEvent
from kheish.errors import KheishError
from kheish.ids import new_id
from kheish.terminal import ago, one_line
from kheish.tui.live import RESOLVED
from kheish.tui.screen import KheishScreen
from kheish.tui.widgets.banner import Banner
from kheish.tui.widgets.choices import Choices
from kheish.tui.widgets.footer import Footer
from kheish.tui.widgets.heading import Heading

DEAD_TIME_S = 0.4
BURST_S = 0.03
"""Keys that come closer than this are not of one who decides."""
SETTLED_SHOWN_S = 2.0
AGE_EVERY_S = 1.0
SETTLED = ("approval.resolved", "approval.withdrawn", "question.answered", "question.withdrawn")


class Request(KheishScreen[None]):
    """`view` is what the daemon shows of the request; None until it is here."""

    AUTO_FOCUS = ""

    def __init__(self, request_id: str) -> None:
        super().__init__()
        self.request_id = request_id
        self.view: Any = None
        self.settled = ""
        """Who settled it, and how; it can be decided no more."""
        self.is_sending = False
        self._heard = ""
        self._deaf_until_s = math.inf
        self._decision: Timer | None = None
        self._close_timer: Timer | None = None
        self._swallows_click = False
        self._is_over = False

    # -- what a screen of them does ------------------------------------------------------------------------------

    def body(self) -> ComposeResult:
        """All between the heading and the choices."""
        raise NotImplementedError

    async def fetch(self) -> Any:
        """The request as it is now. Raises KheishError."""
        raise NotImplementedError

    def draw(self) -> None:
        """All of it, from what the screen knows."""
        raise NotImplementedError

    def came(self) -> None:
        """The view is here, or another one."""

    def key_pressed(self, event: events.Key) -> None:
        """A key that nothing was written with."""

    def headline(self) -> str:
        """The title of the screen."""
        raise NotImplementedError

    def what(self) -> str:
        """What is asked, in a word or two."""
        raise NotImplementedError

    # -- the frame -----------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield Banner()
        yield Heading()
        yield from self.body()
        yield Choices()
        yield Footer()

    def on_mount(self) -> None:
        self.app.clear_notifications()  # none lies over what is decided about
        self.watch(self.app, "app_focus", self._focus_changed, init=False)
        self.set_interval(AGE_EVERY_S, self.draw_heading)
        self.draw()
        self.load()

    def on_screen_resume(self) -> None:
        if self._is_over:
            self.dismiss()
        elif self.view is not None:
            self.arm()

    def look_changed(self) -> None:
        self.draw()

    def on_resize(self) -> None:
        self.draw()

    def draw_heading(self) -> None:
        detail = [what] if self.view is not None and (what := self.what()) else []
        if self.settled:
            detail = [self.settled]
        elif self.view is not None:
            row = self.kheish.board.rows.get(self.view["session_id"])
            detail.append(one_line(row.name if row else self.view["session_id"], 30))
            detail.append(f"waiting {ago(self.view['requested_at_ms'], self.kheish.now_ms)}")
            if others := self._others():
                detail.append(f"{len(others)} more")
        for heading in self.query(Heading):
            heading.show(self.look, self.headline(), " · ".join(detail))

    def load(self) -> None:
        self.run_worker(self._load(), name="request", exclusive=True, group="request")

    async def _load(self) -> None:
        try:
            view = await self.fetch()
        except ApiError as error:
            if error.status in (404, 409):
                self.settle(_settled_by(error))
            else:
                self.kheish.say(error)
            return
        except KheishError as error:
            self.kheish.say(error)
            return
        if view != self.view:
            self.view = view
            self.came()
            self.arm()
        self.draw()

    def connected(self, *, is_new_daemon: bool) -> None:
        if not self.settled and not self.is_sending:
            self.load()

    # -- nobody decides by mistake -------------------------------------------------------------------------------

    @property
    def is_deaf(self) -> bool:
        """Whether what is on the screen came too recently for a key to mean it."""
        return time.monotonic() < self._deaf_until_s

    def arm(self) -> None:
        """Something else is asked now: what is pressed within the dead time was not meant for it."""
        self._forget_decision()
        self._deaf_until_s = time.monotonic() + DEAD_TIME_S
        self.set_timer(DEAD_TIME_S + 0.01, self._hear)
        self.query_one(Choices).is_dim = True

    def _hear(self) -> None:
        if not self.is_deaf:
            self.query_one(Choices).is_dim = self.is_sending

    def decide(self, act: Callable[[], object]) -> None:
        """What an action that decides does, unless it is a mistake."""
        if self.view is None or self.settled or self.is_sending:
            return
        if self.is_deaf:
            self._say("too soon after it came up: nothing was decided")
            return
        self._forget_decision()
        self._decision = self.set_timer(BURST_S, lambda: self._act(act))

    def _act(self, act: Callable[[], object]) -> None:
        self._decision = None
        if not self.settled and not self.is_sending:
            act()

    def _forget_decision(self) -> bool:
        is_pending, self._decision = self._decision, None
        if is_pending is not None:
            is_pending.stop()
        return is_pending is not None

    def _say(self, text: str) -> None:
        self.query_one(Choices).say(text)

    def on_key(self, event: events.Key) -> None:
        self._swallows_click = False
        if self._forget_decision():
            self._say("keys this close together look like pasted text: nothing was decided")
        if self.settled:
            event.stop()
            event.prevent_default()
            self.leave()
        else:
            self.key_pressed(event)

    def _focus_changed(self, has_focus: bool) -> None:
        self._swallows_click = has_focus

    def _forward_event(self, event: events.Event) -> None:
        # All that the mouse does comes through here: also the keys of the footer can be clicked.
        if self._swallows_click and isinstance(event, events.MouseDown | events.MouseUp | events.Click):
            if isinstance(event, events.Click):
                self._swallows_click = False
                self._say("that click only brought the terminal to the front")
            return
        super()._forward_event(event)

    # -- settled, here or elsewhere ------------------------------------------------------------------------------

    def send(self, answer: Callable[[str], Awaitable[object]]) -> None:
        """`answer` settles it, under a key that is the same each time it is tried."""
        self.is_sending = True
        self.draw()
        self.run_worker(self._send(answer), name="answer", group="answer")

    async def _send(self, answer: Callable[[str], Awaitable[object]]) -> None:
        key = new_id("decision")
        try:
            await self.kheish.link.deliver(lambda: answer(key))
        except KheishError as error:
            self.is_sending = False
            if self._heard:
                self.settle(self._heard)
            elif error.code in _OVER:
                self.settle(_settled_by(error))
            else:
                self.kheish.say(error)
                if self.kheish.link.is_up:
                    self.load()
                self.arm()
                self.draw()
            return
        others = self._others() if self.is_current else []
        self.leave()
        if others:
            self.kheish.open_request(others[0])

    def arrived(self, events: Sequence[StreamEvent]) -> None:
        for frame in events:
            if frame.event != "record":
                continue
            record: Any = frame.data
            for event in record["events"]:
                if event["type"] in SETTLED and event["request_id"] == self.request_id:
                    self._heard = settled_text(event, record["by"])
                elif event["type"] == "approval.requested" and event.get("supersedes") == self.request_id:
                    self.request_id, self._heard, self.settled = event["request_id"], "", ""
                    if self._close_timer is not None:
                        self._close_timer.stop()
                    self.load()
                    self._say("the daemon's rules changed: it is asked again")
        if self._heard and not self.is_sending:
            self.settle(self._heard)

    def board_changed(self, rows: object) -> None:
        self.draw_heading()

    def settle(self, how: str) -> None:
        if self.settled:
            return
        self.settled = how
        self._forget_decision()
        self.set_focus(None)
        self._close_timer = self.set_timer(SETTLED_SHOWN_S, self.leave)
        self.draw()

    def leave(self) -> None:
        """Back to where one was, at once or when the screen is seen again."""
        self._is_over = True
        if self.is_current:
            self.dismiss()

    def _others(self) -> list[str]:
        """What else the session asks, oldest first."""
        row = self.kheish.board.rows.get(self.view["session_id"]) if self.view is not None else None
        return [request_id for request_id in row.asks if request_id != self.request_id] if row else []

    def action_later(self) -> None:
        """Leaves it as it is, unless an answer is on its way."""
        if self.is_sending:
            self._say("the answer is on its way")
            return
        if not self.settled:
            self.notify("it goes on waiting", timeout=3)
        self.leave()


def settled_text(event: Mapping[str, Any], by: Mapping[str, Any]) -> str:
    """`allowed by user:1000 (cli): why`."""
    who = f"{event.get('principal', '') or by.get('principal', '')}"
    origin = f" ({by['origin']})" if by.get("origin") else ""
    otherwise = "declined" if event.get("declined") else event["type"].split(".")[1]
    how = RESOLVED.get(event.get("resolution", ""), otherwise)
    why = event.get("justification") or event.get("reason") or ""
    return one_line(f"{how} by {who}{origin}{': ' if why else ''}{why}", 200)


_OVER = ("approval_state_conflict", "approval_not_found", "question_state_conflict", "question_not_found")


def _settled_by(error: KheishError) -> str:
    how = str(error.details.get("how", ""))
    if not how:
        return one_line(error.message, 200)
    return one_line(f"{RESOLVED.get(how, how)} by {error.details.get('principal', '')}", 200)
