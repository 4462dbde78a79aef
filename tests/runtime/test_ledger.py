"""What many sessions make of budgets together: the sums do not depend on the order in which they are told."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core import commands as c
from kheish.core.budgets import NONE, Share, add, share_of
from kheish.core.contracts import Delta, ModelRequest, Reply, UsageDelta
from kheish.core.events import Budget, Spent, Standing, Usage
from kheish.core.state import Approval, BudgetNote, State
from kheish.core.usage import PriceOf
from kheish.errors import Invalid, Poisoned, ProviderError
from kheish.limits import RECORD_BYTES_MAX
from kheish.runtime.ledger import Ledger, Limits, concerns_others, is_loosened
from kheish.runtime.residents import Residents
from kheish.store import journal
from kheish.store.session_dir import session_path
from tests.core.test_properties import QUICK
from tests.runtime.kernel import Answer, Kernel, Scripted, reply

DAY = "2026-11-26"
LIMITS = Limits(day=Budget(steps=100), daemon=Budget(steps=1_000))


def state(number: int, parent: int | None, steps: int, day: str) -> State:
    """Of session `number`, whose parent is the run of the same number as its parent session."""
    return State(
        session_id=f"s{number}",
        used=Spent(steps=steps),
        day=day,
        day_used=Spent(steps=steps // 2),
        parent_session_id="" if parent is None else f"s{parent}",
        parent_run_id="" if parent is None else f"r{parent}",
        budget=Budget(steps=50),
    )


def waiting_for(account: str) -> Approval:
    return Approval(
        request_id=account,
        run_id="",
        tool_call_id="",
        tool="",
        arguments={},
        cwd="",
        digest="",
        policy_revision="",
        requested_at_ms=0,
        rule="",
        kind="budget",
        standing=Standing(account=account, limit=Budget(steps=1)),
    )


PARENTS = st.lists(st.integers(0, 20), min_size=1, max_size=7).map(
    lambda drawn: [None if at == 0 or number > at - 1 else number % at for at, number in enumerate(drawn)]
)


@QUICK
@given(PARENTS, st.data())
def test_the_order_does_not_matter_and_nothing_is_counted_twice(parents: list[int | None], data: st.DataObject) -> None:
    stored: dict[str, Share] = {}
    kept: dict[str, Share] = {}
    told, loaded, lived = Ledger(LIMITS, lambda _: None), Ledger(LIMITS, stored.get), Ledger(LIMITS, kept.get)
    numbers = range(len(parents))
    for number in numbers:
        for ledger in (told, lived):
            ledger.note(f"s{number}", state(number, parents[number], 0, ""))
    last = dict.fromkeys(numbers, (0, ""))
    days = st.sampled_from([DAY, "2026-11-25"])
    for number, steps, day, is_put_away in data.draw(
        st.lists(st.tuples(st.sampled_from(numbers), st.integers(0, 40), days, st.booleans()))
    ):
        for ledger in (told, lived):
            ledger.note(f"s{number}", state(number, parents[number], steps, day))
        last[number] = steps, day
        if is_put_away:
            kept[f"s{number}"] = share_of(state(number, parents[number], steps, day))
            lived.forget(f"s{number}")
    shuffled = data.draw(st.permutations(list(numbers)))
    stored |= {f"s{number}": share_of(state(number, parents[number], *last[number])) for number in shuffled}
    loaded.load(stored.items())

    def below(number: int) -> int:
        return sum(last[child][0] + below(child) for child in numbers if parents[child] == number)

    for number in numbers:
        outside = told.outside(f"s{number}", DAY)
        assert outside == loaded.outside(f"s{number}", DAY) == lived.outside(f"s{number}", DAY)
        used = {other.account: other.used.steps for other in outside}
        own, today = last[number]
        assert used.get(f"session:s{number}", 0) == used.get(f"run:r{number}", 0) == below(number)
        assert used.get("daemon", 0) == sum(steps for steps, _ in last.values()) - own
        everybody = sum(steps // 2 for steps, day in last.values() if day == DAY)
        assert used.get(f"day:{DAY}", 0) == everybody - (own // 2 if today == DAY else 0)
        if (parent := parents[number]) is not None:
            assert used[f"session:s{parent}"] == last[parent][0] + below(parent) - own


ACCOUNTS = st.sampled_from(["daemon", f"day:{DAY}", "session:s0", "run:r0"])


@QUICK
@given(st.sampled_from([Limits(), Limits(session=Budget(steps=30)), LIMITS]), PARENTS, st.data())
def test_whoever_is_put_away_or_restarted_knows_what_one_knows_that_was_told_of_all(
    limits: Limits, parents: list[int | None], data: st.DataObject
) -> None:
    """A daemon reads of its rows those that count for others; a decision that no disk took is taken back."""
    stored: dict[str, Share] = {}
    states: dict[str, State] = {}
    told, lived = Ledger(limits, lambda _: None), Ledger(limits, stored.get)

    def note(number: int, new: State) -> None:
        states[f"s{number}"] = new
        for ledger in (told, lived):
            ledger.note(f"s{number}", new)

    def drawn(number: int) -> State:
        return msgspec.structs.replace(
            state(number, parents[number], data.draw(st.integers(0, 40)), data.draw(st.sampled_from([DAY, "", "x"]))),
            budget_notes={
                account: BudgetNote(raised=Budget(steps=1), is_warned=True) for account in data.draw(st.sets(ACCOUNTS))
            },
            approvals={
                account: waiting_for(account)
                for account in data.draw(st.sampled_from([(), ("daemon",), ("session:s0",)]))
            },
        )

    for number, parent in enumerate(parents):
        note(number, state(number, parent, 0, ""))
    steps = st.sampled_from(["decided", "not written", "put away", "restarted"])
    for what in [*data.draw(st.lists(steps)), "decided", "restarted"]:
        number = data.draw(st.sampled_from(range(len(parents))))
        before = states[f"s{number}"]
        match what:
            case "put away":
                stored[f"s{number}"] = share_of(before)
                lived.forget(f"s{number}")
            case "restarted":
                stored |= {name: share_of(state) for name, state in states.items()}
                lived = Ledger(limits, stored.get)
                rows = data.draw(st.permutations(sorted(stored.items())))
                lived.load((name, found) for name, found in rows if lived.sums_all or concerns_others(found))
            case _:
                note(number, drawn(number))
                if what == "not written":
                    note(number, before)
    for name in states:
        assert lived.outside(name, DAY) == told.outside(name, DAY)
        assert lived.accounts_of(name) == told.accounts_of(name)
    assert (lived.waiting, lived.waited_for()) == (told.waiting, told.waited_for())
    assert (lived.standings(DAY), lived.full(DAY)) == (told.standings(DAY), told.full(DAY))


def test_room_is_made_by_less_use_and_by_other_limits_alone() -> None:
    old = share_of(state(0, None, 5, DAY))
    assert not is_loosened(old, old)
    assert not is_loosened(old, Share(used=add(old.used, Spent(tokens=9)), limit=old.limit))
    assert is_loosened(Share(used=Spent(tokens=9)), Share(used=Spent(tokens=8)))
    assert is_loosened(old, Share(used=old.used, limit=Budget(steps=51)))


# -- sessions of a kernel -------------------------------------------------------------------------------------------

READ: Any = ("read_file", {"path": "a"})
USED = Usage(input_tokens=1_000, output_tokens=100)


def used(*calls: tuple[str, dict[str, Any]]) -> Reply:
    found = reply("" if calls else "done", *calls)
    return Reply(text=found.text, stop_reason=found.stop_reason, tool_calls=found.tool_calls, usage=USED)


async def child_of(kernel: Kernel, session_id: str, parent_session_id: str, parent_run_id: str) -> None:
    command = c.CreateSession(
        session_id=session_id, cwd="/", parent_session_id=parent_session_id, parent_run_id=parent_run_id
    )
    await kernel.send(command, session_id)


async def submit(kernel: Kernel, session_id: str = "s", **fields: Any) -> str:
    return await kernel.send(c.SubmitRun(text="go", route="test", model="m", **fields), session_id)


async def test_a_call_is_journaled_with_what_it_cost(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [used()]) as kernel:
        await kernel.create()
        run = await kernel.until_status(await submit(kernel), "completed")
        assert run.used == Spent(cost_nanousd=2_000_000, tokens=1_100, steps=1, wall_ms=run.used.wall_ms)


async def test_a_failed_attempt_is_journaled_with_what_the_provider_said_that_it_took(tmp_path: Path) -> None:
    class Breaks(Scripted):
        async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
            if request.attempt == 1:
                yield UsageDelta(usage=Usage(input_tokens=500))
                raise ProviderError("it broke", code="overloaded", retry_after_ms=1)
            async for item in super().stream(request):
                yield item

    async with Kernel(tmp_path, [used()]) as kernel:
        kernel.provider.stream = Breaks(kernel.provider.replies).stream  # type: ignore[method-assign]
        await kernel.create()
        run = await kernel.until_status(await submit(kernel), "completed")
        assert (run.used.tokens, run.used.steps, run.used.cost_nanousd) == (1_600, 1, 2_500_000)


async def test_no_reply_is_lost_for_want_of_a_price(tmp_path: Path) -> None:
    def breaks(*_: object) -> float:
        raise ZeroDivisionError

    async def prices(routes: object = ()) -> PriceOf:
        return breaks

    async with Kernel(tmp_path, [used()]) as kernel:
        kernel.provider.prices = prices  # type: ignore[method-assign]
        await kernel.create()
        run = await kernel.until_status(await submit(kernel), "completed")
        assert (run.used.tokens, run.used.unpriced_calls, run.used.cost_nanousd) == (1_100, 1, 0)


async def test_children_count_for_the_run_that_made_them_and_for_its_session(tmp_path: Path) -> None:
    """Over a death: what the rows of the index say is what the journals say."""
    async with Kernel(tmp_path, [used(READ), used()]) as kernel:
        await kernel.create("parent")
        run_id = await submit(kernel, "parent", budget=Budget(steps=5))
        await kernel.until_status(run_id, "completed", "parent")
        await child_of(kernel, "child", "parent", run_id)
        child_run = await submit(kernel, "child")
        await kernel.until_status(child_run, "completed", "child")
        await child_of(kernel, "grandchild", "child", child_run)
        last = await submit(kernel, "grandchild")
        run = await kernel.until_status(last, "waiting_for_approval", "grandchild")
        assert run.step == 1, "two of the run itself, two of its child, one of this"
        (approval,) = (await kernel.state("grandchild")).approvals.values()
        assert approval.standing is not None and approval.standing.account == f"run:{run_id}"
        before = {name: kernel.supervisor.budgets.outside(name) for name in ("parent", "child", "grandchild")}
    (tmp_path / "daemon" / "index.jsonl").unlink()
    async with Kernel(tmp_path, [used(READ), used()], generation=2) as kernel:
        assert {name: kernel.supervisor.budgets.outside(name) for name in before} == before
        (request_id,) = (await kernel.state("grandchild")).approvals
        raise_it = c.ApprovalResolution(request_id=request_id, resolution="raise", raise_by=Budget(steps=1))
        await kernel.send(c.ResolveApprovals(resolutions=(raise_it,)), "grandchild")
        await kernel.until_status(last, "completed", "grandchild")
        raised = {other.account: other.raised for other in kernel.supervisor.budgets.outside("parent")}
        assert raised[f"run:{run_id}"] == Budget(steps=1), "the parent knows of it"


async def test_two_calls_never_have_the_same_room(tmp_path: Path) -> None:
    """The second waits while the first has all that is left reserved, and goes on when it is settled."""
    release = asyncio.Event()

    async def later(request: ModelRequest) -> Reply:
        if request.session_id == "one":
            await release.wait()
        return used()

    answers: list[Reply | Answer] = [later]
    async with Kernel(tmp_path, answers, budgets=Limits(daemon=Budget(tokens=8_000))) as kernel:
        for name in ("one", "two"):
            await kernel.create(name)
        first, second = await submit(kernel, "one"), await submit(kernel, "two")
        await kernel.until_status(second, "waiting_for_approval", "two")
        release.set()
        await kernel.until_status(first, "completed", "one")
        await kernel.until_status(second, "completed", "two")
        (standing,) = kernel.supervisor.budgets.ledger.standings(DAY)
        assert standing.used.tokens == 2_200


async def test_a_raise_in_one_session_lets_the_others_go_on(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [used()], budgets=Limits(day=Budget(steps=1))) as kernel:
        for name in ("one", "two", "three"):
            await kernel.create(name)
        await kernel.until_status(await submit(kernel, "one"), "completed", "one")
        second, third = await submit(kernel, "two"), await submit(kernel, "three")
        (request_id,) = (await kernel.state("two")).approvals
        raise_it = c.ApprovalResolution(request_id=request_id, resolution="raise", raise_by=Budget(steps=2))
        await kernel.send(c.ResolveApprovals(resolutions=(raise_it,)), "two")
        await kernel.until_status(second, "completed", "two")
        await kernel.until_status(third, "completed", "three")


async def test_another_configuration_is_in_force_when_the_daemon_starts(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [used()], budgets=Limits(session=Budget(steps=1))) as kernel:
        await kernel.create()
        await kernel.until_status(await submit(kernel), "completed")
        waiting = await submit(kernel)
        await kernel.until_status(waiting, "waiting_for_approval")
    async with Kernel(tmp_path, [used()], generation=2, budgets=Limits(session=NONE)) as kernel:
        await kernel.until_status(waiting, "completed")


async def test_a_decision_that_no_record_can_hold_reserves_nothing(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [used()], budgets=Limits(daemon=Budget(tokens=100_000))) as kernel:
        await kernel.create()
        with pytest.raises(Invalid, match="a record at most"):
            await submit(kernel, metadata={"large": "x" * RECORD_BYTES_MAX})
        (standing,) = kernel.supervisor.budgets.ledger.standings(DAY)
        assert standing.used.tokens == 0


async def test_a_decision_that_the_disk_did_not_take_reserves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: journal.Journal, records: object) -> None:
        raise self.poison("the disk failed")

    async with Kernel(tmp_path, [used()], budgets=Limits(daemon=Budget(tokens=100_000))) as kernel:
        await kernel.create()
        monkeypatch.setattr(journal.Journal, "commit", fails)
        with pytest.raises(Poisoned):
            await submit(kernel)
        (standing,) = kernel.supervisor.budgets.ledger.standings(DAY)
        assert standing.used.tokens == 0


async def test_a_reply_that_no_record_can_hold_is_charged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "RECORD_BYTES_MAX", 10_000)
    async with Kernel(tmp_path, [Reply(text="x" * 10_000, stop_reason="end", usage=USED)]) as kernel:
        await kernel.create()
        run = await kernel.until_status(await submit(kernel), "failed")
        assert (run.error_code, run.used.tokens, run.used.cost_nanousd) == ("reply_too_large", 1_100, 2_000_000)


async def test_what_a_session_used_elsewhere_counts_from_when_it_is_first_opened(tmp_path: Path) -> None:
    async with Kernel(tmp_path / "there", [used()]) as kernel:
        await kernel.create("elsewhere")
        await kernel.until_status(await submit(kernel, "elsewhere"), "completed", "elsewhere")
    async with Kernel(tmp_path / "here", [used()], budgets=Limits(daemon=Budget(tokens=10_000))) as kernel:
        shutil.copytree(session_path(tmp_path / "there", "elsewhere"), session_path(tmp_path / "here", "elsewhere"))
        await kernel.state("elsewhere")
        (standing,) = kernel.supervisor.budgets.ledger.standings(DAY)
        assert standing.used.tokens == 1_100


async def test_who_waits_for_a_budget_without_room_is_not_opened(tmp_path: Path) -> None:
    limits = Limits(daemon=Budget(steps=1))
    async with Kernel(tmp_path, [used()], budgets=limits) as kernel:
        for name in ("one", "two", "three"):
            await kernel.create(name)
        await kernel.until_status(await submit(kernel, "one"), "completed", "one")
        second, _ = await submit(kernel, "two"), await submit(kernel, "three")
    async with Kernel(tmp_path, [used()], generation=2, budgets=limits) as kernel:
        await asyncio.gather(*kernel.supervisor._background)
        assert kernel.supervisor.loaded_total == 0
        (request_id,) = (await kernel.state("two")).approvals
        raise_it = c.ApprovalResolution(request_id=request_id, resolution="raise", raise_by=Budget(steps=1))
        await kernel.send(c.ResolveApprovals(resolutions=(raise_it,)), "two")
        await kernel.until_status(second, "completed", "two")
        await asyncio.gather(*kernel.supervisor._background)
        assert kernel.supervisor.loaded_total == 1


async def test_who_waits_for_a_budget_of_its_own_is_not_opened_for_what_others_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Kernel(tmp_path, [used(READ), used(READ), used()]) as kernel:
        for name in ("one", "two"):
            await kernel.create(name)
        waiting = await submit(kernel, "one", budget=Budget(steps=1))
        await kernel.until_status(waiting, "waiting_for_approval", "one")
        opened: list[str] = []
        residents = kernel.supervisor._residents
        monkeypatch.setattr(
            residents, "open", lambda name, **_: [opened.append(name), Residents.open(residents, name)][1]
        )
        await kernel.until_status(await submit(kernel, "two"), "completed", "two")
        await asyncio.gather(*kernel.supervisor._background)
        assert set(opened) == {"two"}


async def test_who_waits_for_the_budget_of_a_day_goes_on_at_midnight_although_nothing_else_happens(
    tmp_path: Path,
) -> None:
    class Clock:
        at_ms = 0

        def now_ms(self) -> int:
            return self.at_ms

    clock, midnight = Clock(), datetime(2026, 11, 27)
    clock.at_ms = int((midnight - timedelta(milliseconds=50)).timestamp() * 1000)
    async with Kernel(tmp_path, [used()], budgets=Limits(day=Budget(steps=1)), clock=clock) as kernel:
        for name in ("one", "two"):
            await kernel.create(name)
        await kernel.until_status(await submit(kernel, "one"), "completed", "one")
        waiting = await submit(kernel, "two")
        await kernel.until_status(waiting, "waiting_for_approval", "two")
        clock.at_ms += 60
        await kernel.until_status(waiting, "completed", "two")
