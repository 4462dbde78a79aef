"""Sessions come into memory and leave it, and nobody who reads or writes them can tell."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from kheish.core import commands as c
from kheish.core.contracts import ModelRequest, Reply
from kheish.daemon.maintenance import verify
from kheish.errors import Corrupt, NotFound, StoreError
from kheish.runtime import actor, reader, residents
from kheish.runtime.index import Rows
from kheish.store import atomic, session_dir
from kheish.store.atomic import TEMP_PREFIX
from kheish.store.journal import Framed, Journal
from tests.runtime.kernel import Kernel, reply


async def put_away(kernel: Kernel) -> None:
    async with asyncio.timeout(10):
        while kernel.supervisor.loaded_total:
            await asyncio.sleep(0.001)


async def test_a_session_that_nobody_uses_any_more_is_put_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last use is its own: the end of a run that nobody asks about."""
    monkeypatch.setattr(residents, "SESSION_UNLOAD_AFTER_MS", 20)
    async with Kernel(tmp_path, [reply("", ("read_file", {"path": "a"})), reply("done")]) as kernel:
        await kernel.create()
        subscription = kernel.supervisor.hub.subscribe(session_id="s")
        await kernel.submit()
        while not any(frame.ends for frame in await subscription.wait() or ()):
            pass
        await put_away(kernel)
        assert (await kernel.supervisor.reader.messages("s"))[-1].text == "done"
        await put_away(kernel)
        await kernel.submit("again")


async def test_a_session_that_waits_for_a_human_is_put_away_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residents, "SESSION_UNLOAD_AFTER_MS", 20)
    async with Kernel(tmp_path, [reply("", ("bash", {"command": "x"})), reply("done")]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
        await kernel.until(lambda s: bool(s.approvals))
        await put_away(kernel)
        assert kernel.supervisor.index.rows["s"].active_run_id == run_id
        assert (await kernel.until_status(run_id, "waiting_for_approval")).run_id == run_id


ASK = reply("", ("bash", {"command": "x"}))


async def waiting(root: Path, *names: str) -> None:
    async with Kernel(root, [ASK]) as kernel:
        for name in names:
            await kernel.create(name)
            await kernel.submit(session_id=name)
            await kernel.until(lambda state: bool(state.approvals), name)


async def test_what_a_list_shows_of_a_session_is_read_without_opening_it(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    await waiting(tmp_path, *names)
    async with Kernel(tmp_path, [ASK], generation=2) as kernel:
        peeked = [await kernel.supervisor.reader.peek(name) for name in names]
        assert kernel.supervisor.loaded_total == 0
        opened = [await kernel.state(name) for name in names]
        assert peeked == [replace(state, entered=before.entered) for state, before in zip(opened, peeked, strict=True)]
        assert await kernel.supervisor.reader.peek("a") is opened[0], "one that is open is not read"


async def test_a_list_reads_some_at_a_time_and_passes_over_those_that_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SESSIONS_READ_AT_ONCE_MAX", 2)
    names = ["a", "b", "c", "d", "e"]
    await waiting(tmp_path, *names)
    async with Kernel(tmp_path, [ASK], generation=2) as kernel:
        for name in ("b", "c"):
            (journal,) = (tmp_path / "sessions" / name).glob("journal-*")
            journal.write_bytes(journal.read_bytes().replace(b"session.created", b"session.dreamed"))
        await kernel.state("d")
        seen = [state.session_id async for state in kernel.supervisor.reader.peek_each([*names, "never"])]
        assert seen == ["a", "d", "e"]
        assert kernel.supervisor.loaded_total == 1
        assert [bool(kernel.supervisor.index.rows[name].problem) for name in names] == [False, True, True, False, False]


async def test_what_was_asked_under_other_rules_is_asked_again_before_a_list_shows_it(tmp_path: Path) -> None:
    await waiting(tmp_path, "s")
    async with Kernel(tmp_path, [ASK], generation=2) as kernel:
        policy = kernel.supervisor.policy
        policy.settings = replace(policy.settings, policy_revision="another")
        (approval,) = (await kernel.supervisor.reader.peek("s")).approvals.values()
        assert approval.policy_revision == "another"


async def test_a_list_does_not_show_what_may_not_be_durable_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_writing, may_go = threading.Event(), threading.Event()
    sync_data = atomic.sync_data

    def sync_late(fd: int) -> None:
        is_writing.set()
        assert may_go.wait(10)
        sync_data(fd)

    await waiting(tmp_path, "s")
    async with Kernel(tmp_path, [ASK], generation=2) as kernel:
        (approval,) = (await kernel.supervisor.reader.peek("s")).approvals
        policy = kernel.supervisor.policy
        settings = policy.settings
        policy.settings = replace(settings, policy_revision="another")
        monkeypatch.setattr(atomic, "sync_data", sync_late)
        monkeypatch.setattr(session_dir, "_settle", lambda *_: None)
        opening = asyncio.ensure_future(kernel.state())
        await asyncio.to_thread(is_writing.wait, 10)
        policy.settings = settings
        assert list((await kernel.supervisor.reader.peek("s")).approvals) == [approval]
        may_go.set()
        assert list((await opening).approvals) != [approval]


async def test_a_row_stands_for_what_was_told_of_the_journal_however_far_that_is(tmp_path: Path) -> None:
    """A row is made when somebody asks, and the next record may be durable then: with the place after that one the row
    would pass for the whole session at the next start."""
    async with Kernel(tmp_path, []) as kernel:
        await kernel.create()
        resident = await kernel.supervisor._residents.open("s")
        told = resident.journal.end
        mode = asyncio.ensure_future(kernel.send(c.SetMode(mode="plan")))
        while resident.journal.next_seq == told.seq + 1:
            await asyncio.sleep(0)
        while resident.journal.end == told:  # on a thread, of which the loop cannot hear meanwhile
            time.sleep(0.001)  # noqa: ASYNC251 - the loop is to stand still
        kernel.supervisor.index.put_later("s", resident.summary)
        row = kernel.supervisor.index.rows["s"]
        assert (row.seq, row.size, row.mode) == (told.seq, told.offset, "default")
        await mode
        row = kernel.supervisor.index.rows["s"]
        assert (row.seq, row.size, row.mode) == (told.seq + 1, resident.journal.end.offset, "plan")


async def test_of_many_changes_one_row_is_made_and_only_for_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Kernel(tmp_path, [reply("", ("bash", {"command": "x"}))]) as kernel:
        await kernel.create()
        made: list[int] = []
        make = actor.Actor.summary
        monkeypatch.setattr(actor.Actor, "summary", lambda self: (made.append(self.seq), make(self))[1])
        await kernel.submit()
        await kernel.until(lambda s: bool(s.approvals))
        index = kernel.supervisor.index
        (request_id,) = (await kernel.state()).approvals
        made.clear()
        assert index.asked == {request_id: "s"} and len(made) == 1
        assert index.rows["s"].approval_ids == (request_id,) and len(made) == 1
        await kernel.send(c.SetMode(mode="plan"))
        await kernel.create("t")
        await kernel.submit("go", "t")
        made.clear()
        await kernel.submit()
        assert made == [], "an input asks for no row where there is no quota"


async def test_rows_are_asked_for_on_the_loop_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row may be made then, and another one taken over."""
    asked: set[int] = set()
    find = Rows.__getitem__
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        monkeypatch.setattr(
            Rows, "__getitem__", lambda rows, name: (asked.add(threading.get_ident()), find(rows, name))[1]
        )
        await kernel.until_status(await kernel.submit(), "completed")
    assert asked == {threading.get_ident()}


@pytest.mark.parametrize("has_index", [True, False])
async def test_a_request_that_waits_is_found_after_a_start_until_it_is_settled(tmp_path: Path, has_index: bool) -> None:
    await waiting(tmp_path, "a", "b")
    if not has_index:
        (tmp_path / "daemon" / "index.jsonl").unlink()
    async with Kernel(tmp_path, [ASK, reply("done")], generation=2) as kernel:
        index = kernel.supervisor.index
        assert kernel.supervisor.loaded_total == 0 and sorted(index.asked.values()) == ["a", "b"]
        for request_id, session_id in list(index.asked.items()):
            for wanted in (request_id, request_id[:-1], request_id.partition("_")[2]):
                assert await kernel.supervisor.reader.find_request(wanted) == (session_id, request_id)
        (wanted,) = index.rows["a"].approval_ids
        denied = c.ApprovalResolution(request_id=wanted, resolution="deny")
        await kernel.send(c.ResolveApprovals(resolutions=(denied,)), "a")
        assert list(index.asked.values()) == ["b"]
        assert await kernel.supervisor.reader.find_request(wanted) == ("a", wanted)


async def test_a_settled_request_is_found_without_opening_sessions_and_whatever_is_wrong_with_others(
    tmp_path: Path,
) -> None:
    await waiting(tmp_path, "a", "b", "c")
    async with Kernel(tmp_path, [ASK], generation=2) as kernel:
        (wanted,) = (await kernel.supervisor.reader.peek("c")).approvals
        for name in ("a", "b", "c"):
            await kernel.send(c.EndSession(), name)
    (journal,) = (tmp_path / "sessions" / "a").glob("journal-*")
    async with Kernel(tmp_path, [ASK], generation=3) as kernel:
        journal.write_bytes(journal.read_bytes().replace(b"session.created", b"session.dreamed"))
        for given in (wanted, wanted[:-1], wanted.partition("_")[2], wanted.partition("_")[2][:24]):
            assert await kernel.supervisor.reader.find_request(given) == ("c", wanted)
        with pytest.raises(NotFound, match="by its whole id"):
            await kernel.supervisor.reader.find_request(wanted.partition("_")[2][:6])
        assert kernel.supervisor.loaded_total == 0


@pytest.mark.parametrize("harm", ["damaged", "gone"])
async def test_a_session_that_cannot_be_read_raises_what_is_wrong_with_it(tmp_path: Path, harm: str) -> None:
    await waiting(tmp_path, "s")
    async with Kernel(tmp_path, [ASK], generation=2) as kernel:
        (journal,) = (tmp_path / "sessions" / "s").glob("journal-*")
        if harm == "gone":
            shutil.rmtree(journal.parent)
        else:
            journal.write_bytes(journal.read_bytes().replace(b"session.created", b"session.dreamed"))
        with pytest.raises(NotFound if harm == "gone" else Corrupt):
            await kernel.supervisor.reader.peek("s")
        assert bool(kernel.supervisor.index.rows["s"].problem) == (harm == "damaged")
        with pytest.raises(NotFound):
            await kernel.supervisor.reader.peek("never")


async def test_the_order_of_all_records_is_known_without_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a session whose checkpoint is its last record."""
    monkeypatch.setattr(actor, "CHECKPOINT_AT_IDLE_RECORDS", 1)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        for name in ("a", "b"):
            await kernel.create(name)
            await kernel.until_status(await kernel.submit(session_id=name), "completed", name)
        stored = await kernel.replayed(0, 0)
    assert list(tmp_path.glob("sessions/*/checkpoint-*"))
    (tmp_path / "daemon" / "index.jsonl").unlink()
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        for position in range(len(stored)):
            after = await kernel.replayed(1, position)
            assert [(s, r.seq) for s, r in after] == [(s, r.seq) for s, r in stored[position:]]


async def test_what_a_death_left_unfinished_is_cleared_at_the_next_start(tmp_path: Path) -> None:
    for directory in ("daemon", "blobs"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / f"{TEMP_PREFIX}0123456789abcdef").write_text("half of it")
    (tmp_path / "sessions" / ".new-s-01234567").mkdir(parents=True)
    async with Kernel(tmp_path, [reply("done")]):
        assert list(tmp_path.rglob(".*")) == []


async def test_the_stream_of_all_stands_at_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is still being written is not behind whoever begins to read now."""
    is_writing, may_go = threading.Event(), threading.Event()
    commit = Journal.commit

    def commit_late(journal: Journal, records: Sequence[Framed]) -> None:
        is_writing.set()
        may_go.wait(10)
        commit(journal, records)

    monkeypatch.setattr(Journal, "commit", commit_late)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        creating = asyncio.ensure_future(kernel.create())
        await asyncio.to_thread(is_writing.wait, 10)
        assert kernel.supervisor.position == (1, 0)
        may_go.set()
        await creating
        assert kernel.supervisor.position == (1, 1)


async def test_a_transcript_from_before_a_checkpoint_is_read_when_a_model_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "CHECKPOINT_AT_IDLE_RECORDS", 1)
    async with Kernel(tmp_path, [reply("first")]) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit("one"), "completed")
    async with Kernel(tmp_path, [reply("first"), reply("second"), reply("third")], generation=2) as kernel:
        for text in ("two", "three"):
            await kernel.until_status(await kernel.submit(text), "completed")
        assert [m.text for m in kernel.provider.requests[0].messages] == ["one", "first", "two"]
        assert [m.text for m in kernel.provider.requests[1].messages] == ["one", "first", "two", "second", "three"]
        assert [m.text for m in await kernel.supervisor.reader.messages("s")][-1] == "third"


async def test_a_run_whose_session_cannot_be_read_back_fails_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "CHECKPOINT_AT_IDLE_RECORDS", 1)
    async with Kernel(tmp_path, [reply("first")]) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit("one"), "completed")
    (journal,) = (tmp_path / "sessions" / "s").glob("journal-*")
    journal.write_bytes(journal.read_bytes().replace(b'"one"', b'"One"'))
    async with Kernel(tmp_path, [reply("first"), reply("second")], generation=2) as kernel:
        run = await kernel.until_status(await kernel.submit("two"), "failed")
        assert run.error_code == "session_unreadable" and "checksum" in run.error_message
        assert kernel.provider.requests == []


async def test_no_more_than_so_many_are_held_at_once_and_those_at_work_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residents, "SESSIONS_LOADED_MAX", 3)
    release = asyncio.Event()

    async def wait(_: ModelRequest) -> Reply:
        await release.wait()
        return reply("done")

    async with Kernel(tmp_path, [wait]) as kernel:
        await kernel.create("busy")
        run_id = await kernel.submit(session_id="busy")
        names = [f"s{number}" for number in range(20)]
        await asyncio.gather(*(kernel.create(name) for name in names))
        await asyncio.gather(*(kernel.send(c.SetMode(mode="plan"), name) for name in names))
        assert {(await kernel.state(name)).mode for name in names} == {"plan"}
        assert kernel.supervisor.loaded_total == 3
        monkeypatch.setattr(residents, "SESSIONS_LOADED_MAX", 0)
        assert (await kernel.state("s1")).mode == "plan", "the one that is asked for is held all the same"
        release.set()
        await kernel.until_status(run_id, "completed", "busy")
    assert [v.faults for v in verify(tmp_path)] == [[]] * 21


async def test_of_a_session_that_could_not_be_made_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with Kernel(tmp_path, []) as kernel:
        with monkeypatch.context() as disk:
            disk.setattr(atomic, "sync_file", full)
            with pytest.raises(StoreError, match="No space left") as caught:
                await kernel.create()
        assert caught.value.code == "disk_failed"
        supervisor = kernel.supervisor
        assert (supervisor.loaded_total, list(supervisor.index.rows)) == (0, [])
        assert not supervisor.budgets.ledger._told
        assert not any((tmp_path / "sessions").iterdir())
        await kernel.create()
        assert (await kernel.state("s")).session_id == "s"
