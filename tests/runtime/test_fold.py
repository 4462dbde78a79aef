"""A run that left its session's state is read from the journal: whole, and from its own records alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core import commands as c
from kheish.core import runs
from kheish.core.state import State
from kheish.errors import NotFound
from kheish.runtime.fold import Read, fold_records, fold_run
from kheish.store.records import Record
from tests.core.conversation import Conversation
from tests.core.test_machine import ASK
from tests.core.test_properties import INPUTS, MODES, QUICK, REPLIES, live
from tests.core.world import Reply
from tests.runtime.kernel import Kernel, reply


def stored(talk: Conversation, clock: int) -> Read:
    """The journal as a store would read it. The ids of a conversation tell 1,024 times its clock."""
    records = [
        Record(
            seq=seq,
            at=context.at_ms * clock,
            gen=context.generation,
            pos=seq,
            by={"principal": context.principal, "origin": context.origin, "key": context.key},
            events_raw=msgspec.Raw(raw),
            prev="",
            sum="",
            line=b"",
        )
        for seq, (raw, context) in enumerate(talk.journal, 1)
    ]

    def read(from_seq: int = 1, limit: int | None = None, until_seq: int | None = None) -> Iterator[Record]:
        yield from records[from_seq - 1 : until_seq][:limit]

    return read


@QUICK
@given(MODES, INPUTS, REPLIES, st.sampled_from([1, 1024, 1_000_000]), st.sampled_from([1, 2, 64]))
def test_every_run_is_in_the_journal_as_the_state_would_have_it(
    mode: str, inputs: list[str], replies: list[Reply], clock: int, block: int
) -> None:
    """Also where the clock of the records was behind that of the ids, or ahead of it."""
    talk, _ = live(mode, inputs, replies)
    read = stored(talk, clock)
    end = len(talk.journal)
    whole = fold_records(read(), State())
    with (
        mock.patch.object(runs, "FINISHED_RUNS_KEPT", 1),
        mock.patch("kheish.runtime.fold.JOURNAL_OFFSET_EVERY_RECORDS", block),
    ):
        bounded = fold_records(read(), State())
        alone = {run_id: fold_run(read, end, "s", run_id) for run_id in whole.runs}
    assert bounded.past_runs == max(0, len(whole.runs) - 1)
    assert bounded.runs == dict(list(whole.runs.items())[-1:])
    assert {run_id: state.runs for run_id, state in alone.items()} == {
        run_id: {run_id: run} for run_id, run in whole.runs.items()
    }
    assert {k: v for state in alone.values() for k, v in state.settled.items()} == whole.settled
    assert all(state.session_id == "s" for state in alone.values())


def test_a_run_that_was_moved_edited_and_steered_among_others_is_read_back_whole() -> None:
    talk = Conversation()
    first, second, third = (talk.submit(text) for text in ("one", "two", "three"))
    talk.send(c.MoveRun(run_id=third, position=1))
    talk.send(c.EditRun(run_id=third, text="the third"))
    talk.reply("", ("bash", {"command": "x"}), ("ask_user_question", ASK))
    talk.submit("a hint", delivery="steer")
    talk.die()
    talk.resolve("deny")
    talk.answer()
    talk.reply("one is done")
    talk.submit("now", delivery="interrupt")
    talk.send(c.EndSession())
    assert [talk.status(run_id) for run_id in (first, second, third)] == ["completed", "interrupted", "interrupted"]
    read = stored(talk, 1024)
    for run_id, run in fold_records(read(), State()).runs.items():
        assert fold_run(read, len(talk.journal), "s", run_id).runs == {run_id: run}


def test_a_run_that_never_was_is_in_no_journal() -> None:
    talk = Conversation()
    run_id = talk.submit("go", metadata={"type": "run.submitted", "run_id": "run_00000000000000000000000000"})
    talk.reply("run_00000000000000000000000000")
    for missing in (
        "run_00000000000000000000000000",
        run_id[:-1] + "Z",
        run_id[:-1],
        f"approval_{run_id.partition('_')[2]}",
    ):
        assert fold_run(stored(talk, 1024), len(talk.journal), "s", missing).runs == {}


# -- through the kernel ---------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "FINISHED_RUNS_KEPT", 2)


async def finish(kernel: Kernel, text: str = "go", **fields: str) -> str:
    subscription = kernel.supervisor.hub.subscribe(session_id="s")
    run_id = await kernel.submit(text, **fields)
    async for frame in subscription:
        if run_id in frame.ends:
            break
    subscription.close()
    return run_id


async def toggle(kernel: Kernel, times: int) -> None:
    """Records that concern no run."""
    for number in range(times):
        await kernel.send(c.SetMode(mode=("plan", "default")[number % 2]))


@pytest.mark.usefixtures("few")
async def test_a_past_run_is_found_by_its_whole_id(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("one"), reply("two"), reply("three")]) as kernel:
        await kernel.create("other")
        await kernel.create()
        first = await finish(kernel)
        whole = (await kernel.state()).runs[first]
        for _ in range(2):
            await finish(kernel)
        find = kernel.supervisor.reader.find_run
        assert first not in (await kernel.state()).runs and kernel.supervisor.index.session_of_run(first) is None
        assert await find(first) == await find(first.removeprefix("run_")) == ("s", first)
        assert await kernel.supervisor.reader.session_of_run(first) == "s"
        state, run = await kernel.supervisor.reader.run("s", first)
        assert run == whole and run.output == "one" and state.session_id == "s"
        with pytest.raises(NotFound, match="by its whole id"):
            await find(first[:-1])
        other = f"{first[:-2]}ZZ"
        assert await kernel.supervisor.reader.session_of_run(other) is None
        for given in (other, other.removeprefix("run_"), f"approval_{first.removeprefix('run_')}"):
            with pytest.raises(NotFound):
                await find(given)
        with pytest.raises(NotFound):
            await kernel.supervisor.reader.run("s", other)
        with pytest.raises(NotFound):
            await kernel.supervisor.reader.run("other", first)


@pytest.mark.usefixtures("few")
async def test_the_index_holds_the_runs_of_the_state_and_counts_all(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        made = [await finish(kernel) for _ in range(4)]
    saved = list((tmp_path / "daemon").glob("index*"))
    assert saved
    for generation in (2, 3):
        async with Kernel(tmp_path, [reply("done")], generation=generation) as kernel:
            row = kernel.supervisor.index.rows["s"]
            assert (list(row.run_ids), row.runs_total) == (made[-2:], 4)
            assert [kernel.supervisor.index.session_of_run(run_id) for run_id in made] == [None, None, "s", "s"]
            assert await kernel.supervisor.reader.find_run(made[0]) == ("s", made[0])
        for path in saved:
            path.unlink(missing_ok=True)


@pytest.mark.usefixtures("few")
async def test_a_past_run_is_read_from_its_own_records_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even damage before and after them is met."""
    monkeypatch.setattr("kheish.runtime.fold.ID_CLOCK_MS", 0)
    async with Kernel(tmp_path, [reply("", ("read_file", {"path": "a"})), reply("the one"), reply("done")]) as kernel:
        await kernel.create()
        await toggle(kernel, 200)
        run_id = await finish(kernel)
        for _ in range(2):
            await finish(kernel)
        await toggle(kernel, 200)
        expected = [r async for page in kernel.supervisor.reader.read_run("s", run_id, 0) for r in page]
        assert expected[0].events[0]["type"] == "run.submitted"
        assert expected[-1].events[-1]["type"] == "run.completed"
        journal = next((tmp_path / "sessions" / "s").glob("journal-*"))
        lines = journal.read_bytes().splitlines(keepends=True)
        for seq in (100, (expected[-1].seq + 100) | 2):
            assert b"mode_changed" in lines[seq]
            lines[seq] = lines[seq].replace(b"mode", b"node")
        journal.write_bytes(b"".join(lines))
        _, run = await kernel.supervisor.reader.run("s", run_id)
        assert run.output == "the one" and run.step == 2
        found = [r async for page in kernel.supervisor.reader.read_run("s", run_id, 0) for r in page]
        assert [r.seq for r in found] == [r.seq for r in expected]


@pytest.mark.usefixtures("few")
async def test_a_decision_can_be_repeated_when_its_request_has_left_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is known for longer, where requests are settled by the dozen."""
    for module in ("kheish.core.approvals", "kheish.runtime.reader"):
        monkeypatch.setattr(f"{module}.SETTLED_REQUESTS_KEPT", 2)
    asking = reply("", *(("bash", {"command": text}) for text in "abcd"))
    async with Kernel(tmp_path, [asking, reply("done")]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
        first, *others = (await kernel.until(lambda s: len(s.approvals) == 4)).approvals
        denied = c.ResolveApprovals(resolutions=(c.ApprovalResolution(request_id=first, resolution="deny"),))
        await kernel.send(denied, key="k", body_digest="d")
        assert await kernel.supervisor.reader.find_request(first) == ("s", first)
        rest = tuple(c.ApprovalResolution(request_id=request_id, resolution="deny") for request_id in others)
        await kernel.send(c.ResolveApprovals(resolutions=rest))
        await kernel.until_status(run_id, "completed")
        assert list((await kernel.state()).settled) == others[-2:]
        assert await kernel.supervisor.reader.find_request(first) == ("s", first)
        assert await kernel.send(denied, key="k", body_digest="d") == run_id
        with pytest.raises(NotFound, match="last 2"):
            await kernel.send(denied)
        with pytest.raises(NotFound):
            await kernel.supervisor.reader.find_request(f"{first[:-2]}ZZ")
