"""What all sessions together make of each budget, in memory: the sum of what each says of itself (`budgets.Share`).

It is told of a decision before that is written, so that two calls never have the same room. What a loaded session says
is reckoned from its state for who asks, and what others say is read from the rows of the index, which are derived from
the journals; sums of all are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from kheish.core.budgets import (
    CONFIG,
    NONE,
    NOTHING,
    Share,
    add,
    over,
    plus,
    raised,
    reached,
    run_account,
    session_account,
    share_of,
)
from kheish.core.commands import Outside
from kheish.core.events import Budget, Spent, Standing
from kheish.core.state import BudgetNote, State
from kheish.limits import BUDGET_ANCESTORS_MAX

DAEMON = "daemon"
_NO_SHARE = Share()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets of the daemon's configuration: of every run and every session that set none of their own, of each day,
    and of the daemon."""

    run: Budget = NONE
    session: Budget = NONE
    day: Budget = NONE
    daemon: Budget = NONE


def day_account(day: str) -> str:
    return f"day:{day}"


def concerns_others(share: Share) -> bool:
    return bool(share.parent_run_id or share.notes or share.waits)


def _concerns_others(state: State) -> bool:
    """The same of a state, whose share would cost every decision as much again."""
    return bool(
        state.parent_run_id
        or state.budget_notes
        or (state.approvals and any(approval.standing is not None for approval in state.approvals.values()))
    )


class Ledger:
    """`stored` gives what a session said of itself that nobody has told of since `load`."""

    def __init__(self, limits: Limits, stored: Callable[[str], Share | None]) -> None:
        self.limits = limits
        self._stored = stored
        self.sums_all = limits.day != NONE or limits.daemon != NONE
        """Whether there is a budget that every session counts for."""
        self._told: dict[str, State | Share] = {}
        """Of the sessions that are loaded; a share once somebody asked."""
        self._total = NOTHING
        self._days: dict[str, Spent] = {}
        self._below: dict[str, Spent] = {}
        """What the children of a run or a session used, and theirs."""
        self._parents: dict[str, set[str]] = {}
        """Of a session, the runs that have children."""
        self._noted: dict[str, set[str]] = {}
        """The sessions that decided something of an account."""
        self.waiting: set[str] = set()
        """The sessions with a run that waits for a budget."""

    def load(self, shares: Iterable[tuple[str, Share]]) -> None:
        """What is stored of all sessions, or, unless it sums all, of those that concern others; in any order, so that
        parents may come after their children."""
        for session_id, share in shares:
            self._count(session_id, _NO_SHARE, share)

    def note(self, session_id: str, state: State) -> None:
        if not (self.sums_all or session_id in self.waiting or _concerns_others(state)):
            self._told[session_id] = state
            return
        old = self.share_of(session_id)
        self._told[session_id] = share = share_of(state)
        self._count(session_id, old, share)

    def forget(self, session_id: str) -> None:
        """Of a session that is loaded no more; it is stored what was told of it last."""
        self._told.pop(session_id, None)

    def share_of(self, session_id: str) -> Share:
        """As it was told of last, or as it is stored."""
        told = self._told.get(session_id)
        if isinstance(told, State):
            told = self._told[session_id] = share_of(told)
        return told or self._stored(session_id) or _NO_SHARE

    def _count(self, session_id: str, old: Share, share: Share) -> None:
        if share.parent_run_id:
            self._parents.setdefault(share.parent_session_id, set()).add(share.parent_run_id)
        if share.used != old.used and (share.parent_run_id or self.sums_all):
            change = add(share.used, old.used, -1)
            self._total = add(self._total, change)
            for ancestor_id, run_id in self._ancestors(session_id):
                for account in (run_account(run_id), session_account(ancestor_id)):
                    self._below[account] = add(self._below.get(account, NOTHING), change)
        if self.sums_all and (share.day, share.day_used) != (old.day, old.day_used):
            self._days[old.day] = add(self._days.get(old.day, NOTHING), old.day_used, -1)
            self._days[share.day] = add(self._days.get(share.day, NOTHING), share.day_used)
        for account in share.notes:
            self._noted.setdefault(account, set()).add(session_id)
        (self.waiting.add if share.waits else self.waiting.discard)(session_id)

    def _ancestors(self, session_id: str) -> Iterator[tuple[str, str]]:
        """The session and the run that made this one, then those that made that, ..."""
        share = self.share_of(session_id)
        for _ in range(BUDGET_ANCESTORS_MAX):
            if not share.parent_run_id:
                return
            yield share.parent_session_id, share.parent_run_id
            share = self.share_of(share.parent_session_id)

    def outside(self, session_id: str, day: str) -> tuple[Outside, ...]:
        """What a decision of a session needs to know of budgets beyond it."""
        if not (self._parents or self._noted or self.sums_all):
            return ()
        return tuple(other for other in self._outside(session_id, day) if other != Outside(account=other.account))

    def full(self, day: str) -> set[str]:
        """The budgets, of those that are no session's, that leave no room for any call."""
        return {standing.account for standing in self.standings(day) if reached(standing, 0, None)}

    def waits_of(self, session_id: str) -> tuple[str, ...]:
        return self.share_of(session_id).waits

    def waited_for(self) -> set[str]:
        return {account for session_id in self.waiting for account in self.waits_of(session_id)}

    def accounts_of(self, session_id: str) -> set[str]:
        """The budgets that change with what a session uses and decides."""
        share = self.share_of(session_id)
        found = {DAEMON, day_account(share.day), session_account(session_id), *map(run_account, share.runs)}
        for ancestor_id, run_id in self._ancestors(session_id):
            found |= {session_account(ancestor_id), run_account(run_id)}
        return found.union(share.notes)

    def standings(self, day: str) -> list[Standing]:
        """Of the budgets that are no session's."""
        used = {
            day_account(day): (self.limits.day, self._days.get(day, NOTHING)),
            DAEMON: (self.limits.daemon, self._total),
        }
        return [
            Standing(
                account=account, limit=raised(limit, self._entry(account, (), spent).raised), used=spent, by=CONFIG
            )
            for account, (limit, spent) in used.items()
            if limit != NONE
        ]

    def _outside(self, session_id: str, day: str) -> Iterator[Outside]:
        own = self.share_of(session_id)
        for account in (session_account(session_id), *map(run_account, self._parents.get(session_id, ()))):
            if account not in self._below and account not in self._noted:
                continue
            yield self._entry(account, (session_id,), self._below.get(account, NOTHING))
        for ancestor_id, run_id in self._ancestors(session_id):
            ancestor = self.share_of(ancestor_id)
            excluded = (session_id, ancestor_id)
            if (run := ancestor.runs.get(run_id)) is not None:
                account = run_account(run_id)
                used = add(add(run.used, self._below.get(account, NOTHING)), own.used, -1)
                limit = raised(run.limit, _raised_in(ancestor, account))
                yield self._entry(account, excluded, used, limit, run.by)
            account = session_account(ancestor_id)
            limit = raised(over(ancestor.limit, self.limits.session), _raised_in(ancestor, account))
            used = add(add(ancestor.used, self._below.get(account, NOTHING)), own.used, -1)
            yield self._entry(account, excluded, used, limit, ancestor.by or CONFIG, ancestor.raised_before)
        if self.limits.day != NONE:
            here = own.day_used if own.day == day else NOTHING
            used = add(self._days.get(day, NOTHING), here, -1)
            yield self._entry(day_account(day), (session_id,), used, self.limits.day, CONFIG)
        if self.limits.daemon != NONE:
            used = add(self._total, own.used, -1)
            yield self._entry(DAEMON, (session_id,), used, self.limits.daemon, CONFIG)

    def _entry(
        self,
        account: str,
        excluded: tuple[str, ...],
        used: Spent,
        limit: Budget | None = None,
        by: str = "",
        raised_before: Budget = NONE,
    ) -> Outside:
        """`excluded` are the sessions whose own decisions are not taken in here; a warning is known wherever given."""
        notes = [self._note(session_id, account) for session_id in self._noted.get(account, ())]
        others = [self._note(id_, account) for id_ in self._noted.get(account, ()) if id_ not in excluded]
        return Outside(
            account=account,
            used=used,
            raised=_sum(note.raised for note in others),
            is_warned=any(note.is_warned for note in notes),
            limit=limit,
            by=by,
            raised_before=raised_before,
        )

    def _note(self, session_id: str, account: str) -> BudgetNote:
        return self.share_of(session_id).notes.get(account, BudgetNote())


def _raised_in(share: Share, account: str) -> Budget:
    return share.notes.get(account, BudgetNote()).raised


def _sum(amounts: Iterable[Budget]) -> Budget:
    total = NONE
    for amount in amounts:
        total = plus(total, amount)
    return total


def is_loosened(old: Share, new: Share) -> bool:
    """Whether a change of a session may have made room in a budget: a limit is another, or less is used or reserved."""
    limits = [
        (share.limit, share.raised_before, share.notes, {id_: run.limit for id_, run in share.runs.items()})
        for share in (old, new)
    ]
    freed = add(old.used, new.used, -1)
    return limits[0] != limits[1] or freed.cost_nanousd > 0 or freed.tokens > 0
