"""What all sessions make of each budget, for who has to decide; and who waits for one looks again when it has room."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import date, datetime, timedelta

from kheish.core.budgets import NONE, Share, share_of
from kheish.core.commands import Outside
from kheish.core.events import Standing
from kheish.core.state import State
from kheish.errors import KheishError
from kheish.limits import BUDGET_DAY_LOOK_EVERY_MS
from kheish.runtime.ledger import Ledger, Limits, is_loosened
from kheish.runtime.ports import Clock


class BudgetWatch:
    """`look_again` has a session that waits for a budget decide anew whether there is room."""

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        look_again: Callable[[str], Awaitable[object]],
        stored: Callable[[str], Share | None],
    ) -> None:
        self.ledger = Ledger(limits, stored)
        self._clock = clock
        self._look_again = look_again
        self._minute, self._today = -1, ""
        self._to_tell: set[str] = set()
        self._telling: asyncio.Task[None] | None = None
        self._day_timer: asyncio.TimerHandle | None = None
        self._is_stopped = False

    @property
    def today(self) -> str:
        """The daemon's date."""
        return self.day_of(self._clock.now_ms())

    def day_of(self, at_ms: int) -> str:
        """The date of a moment; reckoned once a minute, for every decision asks."""
        minute = at_ms // 60_000
        if minute != self._minute:
            self._minute, self._today = minute, date.fromtimestamp(minute * 60).isoformat()
        return self._today

    def load(self, shares: Iterable[tuple[str, Share]]) -> None:
        """What sessions said of themselves before this daemon's life."""
        self.ledger.load(shares)

    def start(self) -> None:
        """Whoever waits looks again: it may be another day, or other limits."""
        if self.ledger.waiting:
            self._tell(self.ledger.waited_for())

    def outside(self, session_id: str) -> tuple[Outside, ...]:
        """What there is to know of budgets beyond a session."""
        return self.ledger.outside(session_id, self.today)

    def standings(self) -> list[Standing]:
        """Of the budgets that are no session's."""
        return self.ledger.standings(self.today)

    def changed(self, session_id: str, before: State, after: State) -> None:
        """A session decided something: others may go on where it left room."""
        if self.ledger.waiting:
            if before.session_id and is_loosened(share_of(before), share_of(after)):
                self._tell(self.ledger.accounts_of(session_id))
            self._await_next_day()

    def stop(self) -> None:
        """Nobody is told any more."""
        self._is_stopped = True
        if self._day_timer is not None:
            self._day_timer.cancel()

    async def close(self) -> None:
        self.stop()
        if self._telling is not None:
            await asyncio.wait([self._telling])

    def _tell(self, accounts: set[str]) -> None:
        """These budgets may have room again. One round at a time, and another where something changed during it."""
        self._to_tell |= accounts
        if self._telling is None and not self._is_stopped:
            self._telling = asyncio.ensure_future(self._tell_waiting())

    async def _tell_waiting(self) -> None:
        try:
            while self._to_tell and not self._is_stopped:
                told, self._to_tell = self._to_tell, set()
                full = self.ledger.full(self.today)
                for session_id in list(self.ledger.waiting):
                    waits = self.ledger.waits_of(session_id)
                    if full.isdisjoint(waits) and not told.isdisjoint(waits):
                        with contextlib.suppress(KheishError):
                            await self._look_again(session_id)
                        full = self.ledger.full(self.today)
        finally:
            self._telling = None
            self._await_next_day()

    def _await_next_day(self) -> None:
        """Whoever waits for a day's budget looks again on the next one."""
        is_needed = self.ledger.waiting and self.ledger.limits.day != NONE and not self._is_stopped
        if self._day_timer is None and is_needed:
            now = datetime.fromtimestamp(self._clock.now_ms() / 1000)
            left_s = (datetime.combine(now + timedelta(days=1), datetime.min.time()) - now).total_seconds()
            delay_s = min(left_s, BUDGET_DAY_LOOK_EVERY_MS / 1000)  # the machine may sleep, and the clock be set
            self._day_timer = asyncio.get_running_loop().call_later(delay_s, self._look_at_day, self.today)

    def _look_at_day(self, day: str) -> None:
        self._day_timer = None
        if self.today != day:
            self._tell(self.ledger.waited_for())
        else:
            self._await_next_day()
