"""What a daemon takes up when it starts: the saved index, and the work that is owed."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheish.core.contracts import ModelRequest, Reply
from kheish.core.events import Message
from kheish.core.state import REDUCER_VERSION, State
from kheish.errors import Corrupt, NotFound
from kheish.limits import MODEL_DEATHS_MAX
from kheish.runtime import index as index_module
from kheish.runtime import residents, supervisor
from kheish.runtime.actor import Actor
from kheish.runtime.fold import fold_session
from kheish.runtime.index import Index, Saved, SessionSummary, Unsaved
from kheish.runtime.residents import Residents
from kheish.runtime.stops import note_stop
from kheish.runtime.supervisor import Supervisor
from kheish.store import atomic, session_dir
from kheish.store.locks import SessionLock
from kheish.store.records import segment_name
from kheish.store.session_dir import Opened, SessionDir
from tests.runtime.kernel import Kernel, reply
from tests.store.sessions import make_empty


async def never(_: ModelRequest) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


def sessions(root: Path, count: int) -> Index:
    """An index with a row for each session there is."""
    (root / "daemon").mkdir(parents=True, exist_ok=True)
    index = Index(root)
    for number in range(count):
        path = make_empty(root, f"s{number}")
        (path / segment_name(1)).rename(path / segment_name(2))
        index.put(row(number, size=(path / segment_name(2)).stat().st_size))
    return index


def row(number: int, **fields: Any) -> SessionSummary:
    runs = f"{run_id(number)} {run_id(number + 1000)}"
    return SessionSummary(
        session_id=f"s{number}", title="é\n", runs=runs, seq=2, segment_first_seq=2, **{"size": 0, **fields}
    )


def run_id(number: int) -> str:
    return f"run_01M8AA7P0S{number:016d}"


def save(index: Index) -> None:
    unsaved = index.unsaved()
    assert unsaved is not None
    index.keep(index.save(unsaved))


def change(index: Index, name: str, **fields: Any) -> None:
    index.put(replace(index.rows[name], **fields))
    save(index)


def loaded(root: Path) -> tuple[Index, list[str]]:
    index = Index(root)
    return index, index.load().stale


@pytest.mark.parametrize("count", [0, 1, 100, 101, 250])
def test_every_row_of_a_saved_index_is_taken_over(tmp_path: Path, count: int) -> None:
    saved = sessions(tmp_path, count)
    if count:
        save(saved)
    index, stale = loaded(tmp_path)
    assert stale == []
    assert index.rows == saved.rows
    for number in range(count):
        assert index.rows[f"s{number}"].run_ids == [run_id(number), run_id(number + 1000)]
        assert index.session_of_run(run_id(number)) == index.session_of_run(run_id(number + 1000)) == f"s{number}"
    assert index.session_of_run(run_id(999)) is None
    assert index.session_of_run(run_id(0)[:-1]) is None, "that is no whole id"
    assert index.runs_with_prefix(run_id(10)[:-1]) == {run_id(n): f"s{n}" for n in range(10, 20) if n < count}


def test_of_several_rows_of_a_session_the_newest_counts(tmp_path: Path) -> None:
    saved = sessions(tmp_path, 3)
    save(saved)
    whole = saved.path.read_bytes()
    for title in ("one", "two"):
        change(saved, "s1", title=title)
    assert saved.path.read_bytes().startswith(whole), "what is there is not written again"
    index, stale = loaded(tmp_path)
    assert stale == []
    assert [row.title for row in index.rows.values()] == ["é\n", "two", "é\n"]
    change(index, "s0", title="three")
    assert [row.title for row in loaded(tmp_path)[0].rows.values()] == ["three", "two", "é\n"]


def test_a_file_of_mostly_old_rows_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_OLD_LINES_MIN", 10)
    saved = sessions(tmp_path, 2)
    lines = []
    for number in range(40):
        change(saved, "s1", pos=number)
        lines.append(saved.path.read_bytes().count(b"\n"))
        assert loaded(tmp_path)[0].rows == saved.rows
    assert max(lines) == 1 + 2 * 2 + 10 and lines.count(3) > 1


@pytest.mark.parametrize("change_journal", ["append", "next segment", "cut"])
def test_a_row_whose_journal_ends_elsewhere_is_made_anew(tmp_path: Path, change_journal: str) -> None:
    save(sessions(tmp_path, 3))
    journal = tmp_path / "sessions" / "s1" / segment_name(2)
    match change_journal:
        case "append":
            journal.write_bytes(journal.read_bytes() + b"x")
        case "next segment":
            (journal.parent / segment_name(3)).touch()
        case "cut":
            journal.write_bytes(b"")
    index, stale = loaded(tmp_path)
    assert (stale, list(index.rows)) == (["s1"], ["s0", "s2"])


def test_a_row_that_says_what_was_wrong_is_made_anew(tmp_path: Path) -> None:
    saved = sessions(tmp_path, 3)
    save(saved)
    change(saved, "s1", problem="damaged")
    index, stale = loaded(tmp_path)
    assert (stale, list(index.rows)) == (["s1"], ["s0", "s2"])


def test_a_session_that_is_gone_has_no_row(tmp_path: Path) -> None:
    save(sessions(tmp_path, 3))
    shutil.rmtree(tmp_path / "sessions" / "s1")
    index, stale = loaded(tmp_path)
    assert (stale, list(index.rows)) == ([], ["s0", "s2"])


def test_what_a_death_cut_off_the_index_is_as_if_it_had_not_been_written(tmp_path: Path) -> None:
    """At any byte; and what is written after that is read."""
    saved = sessions(tmp_path, 3)
    save(saved)
    before = saved.path.read_bytes()
    change(saved, "s1", title="changed")
    after = saved.path.read_bytes()
    for end in range(len(before), len(after) + 1):
        saved.path.write_bytes(after[:end])
        index, stale = loaded(tmp_path)
        assert stale == []
        assert index.rows["s1"].title == ("changed" if end == len(after) else "é\n")
        change(index, "s2", title="later")
        again, stale = loaded(tmp_path)
        assert stale == [] and again.rows == index.rows


def test_an_index_that_cannot_be_read_or_is_of_another_version_is_made_anew(tmp_path: Path) -> None:
    saved = sessions(tmp_path, 2)
    save(saved)
    good = saved.path.read_bytes()
    header = good.index(b"\n")
    others = [good[:header].replace(field, b"0") + good[header:] for field in re.findall(rb"\d+", good[:header])]
    assert len(others) == 2, "of the rows and of the fold"
    fewer = good.replace(b'"cwd",', b"", 1)
    for bad in (b"", b"\0" * len(good), fewer, *others, good[header + 1 :]):
        saved.path.write_bytes(bad)
        index, stale = loaded(tmp_path)
        assert (stale, index.rows) == (["s0", "s1"], {})
        for number in (0, 1):
            index.put(saved.rows[f"s{number}"])
        save(index)
        assert saved.path.read_bytes() == good


def test_a_row_that_cannot_be_read_is_made_anew_and_the_file_written_anew(tmp_path: Path) -> None:
    """Whatever is wrong with it; also where an older row of the session can be read, for that is not of its end."""
    saved = sessions(tmp_path, 3)
    save(saved)
    good = saved.path.read_bytes()
    line = good.splitlines(keepends=True)[2]
    assert line.startswith(b'["s1"')
    harms = (
        (b"s1", b"xx"), (b'"', b""), (b"[", b"{"), (b"run_", b"\xf2un_"),
        (b"0", b'"0"'), (b"[]", b"0"), (b"]\n", b"\n"),
    )  # fmt: skip
    for harm in harms:
        bad = line.replace(*harm, 1)
        assert bad != line
        for lines in (good.replace(line, bad), good.replace(line, line.replace(b",2,", b",1,")) + bad):
            saved.path.write_bytes(lines)
            index, stale = loaded(tmp_path)
            assert (stale, list(index.rows)) == (["s1"], ["s0", "s2"]), harm
            assert index.rows["s0"] == saved.rows["s0"]
            index.put(saved.rows["s1"])
            save(index)
            again, stale = loaded(tmp_path)
            assert stale == [] and again.rows == saved.rows


def test_after_a_failure_the_whole_index_is_written(tmp_path: Path) -> None:
    saved = sessions(tmp_path, 2)
    save(saved)
    saved.path.unlink()
    with pytest.raises(FileNotFoundError):
        change(saved, "s1", title="changed")
    save(saved)
    index, stale = loaded(tmp_path)
    assert stale == [] and index.rows == saved.rows


def test_of_a_saved_row_the_line_is_kept_unless_it_has_changed_meanwhile(tmp_path: Path) -> None:
    saved = sessions(tmp_path, 2)
    unsaved = saved.unsaved()
    assert unsaved is not None
    saved.put(row(1, active_run_id=run_id(7)))
    saved.keep(saved.save(unsaved))
    assert [type(kept) for kept in saved.rows.kept.values()] == [bytes, SessionSummary]
    assert [row.active_run_id for row in saved.rows.glances()] == ["", run_id(7)]
    save(saved)
    assert [type(kept) for kept in saved.rows.kept.values()] == [bytes, bytes]
    assert [row.active_run_id for row in saved.rows.values()] == ["", run_id(7)]


def test_what_waits_for_a_human_is_known_by_its_id(tmp_path: Path) -> None:
    saved = sessions(tmp_path, 3)
    change(saved, "s1", approval_ids=("a", "b"))
    change(saved, "s2", question_ids=("q",))
    assert saved.asked == loaded(tmp_path)[0].asked == {"a": "s1", "b": "s1", "q": "s2"}
    change(saved, "s1", approval_ids=("b", "c"))
    change(saved, "s2", question_ids=())
    assert saved.asked == loaded(tmp_path)[0].asked == {"b": "s1", "c": "s1"}


async def test_the_daemon_adds_to_its_index_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while an earlier part of it is still being written."""
    monkeypatch.setattr(supervisor, "INDEX_SAVE_DELAY_MS", 1)
    is_saving, may_go = threading.Event(), threading.Event()
    save = Index.save

    def save_late(index: Index, unsaved: Unsaved) -> list[Saved]:
        is_saving.set()
        assert may_go.wait(10)
        return save(index, unsaved)

    monkeypatch.setattr(Index, "save", save_late)
    async with Kernel(tmp_path, [never]) as kernel:
        await kernel.create("a")
        await asyncio.to_thread(is_saving.wait, 10)
        await kernel.create("b")
        may_go.set()
        async with asyncio.timeout(10):
            while len(loaded(tmp_path)[0].rows) < 2:
                await asyncio.sleep(0.001)


async def test_a_session_that_is_only_looked_at_is_not_saved_again(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        for name in ("a", "b"):
            await kernel.create(name)
            await kernel.until_status(await kernel.submit("go", name), "completed", name)
    before = (tmp_path / "daemon" / "index.jsonl").read_bytes()
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        await kernel.state("a")
        assert kernel.supervisor.loaded_total == 1 and kernel.supervisor.index.unsaved() is None
        await kernel.until_status(await kernel.submit("go", "b"), "completed", "b")
    after = (tmp_path / "daemon" / "index.jsonl").read_bytes()
    assert after.startswith(before) and [line[:4] for line in after[len(before) :].splitlines()] == [b'["b"']


async def test_what_a_death_may_have_left_unsynced_is_durable_before_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of a session that does not end where the index says is made of what may be in the page cache only."""
    async with Kernel(tmp_path, []) as kernel:
        await kernel.create("idle")
    (tmp_path / "daemon" / "index.jsonl").unlink()
    synced: set[str] = set()
    for name in ("sync_data", "sync_file"):
        monkeypatch.setattr(atomic, name, lambda fd: synced.add(os.readlink(f"/proc/self/fd/{fd}")))
    async with Kernel(tmp_path, []) as kernel:
        assert "idle" in kernel.supervisor.index.rows
        assert str(tmp_path / "sessions" / "idle" / segment_name(1)) in synced
        assert kernel.supervisor.loaded_total == 0, "it is owed nothing"


async def test_a_damaged_session_keeps_no_other_from_being_taken_up(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    async with Kernel(tmp_path, [never]) as kernel:
        for name in names:
            await kernel.create(name)
            await kernel.submit("go", name)
    journal = tmp_path / "sessions" / "c" / "journal-000000000001.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"session.created", b"session.dreamed"))
    async with Kernel(tmp_path, [never], generation=2) as kernel:
        while len(kernel.provider.requests) < len(names) - 1:
            await asyncio.sleep(0)
        assert sorted(request.session_id for request in kernel.provider.requests) == ["a", "b", "d", "e"]
        problems = {name: bool(kernel.supervisor.index.rows[name].problem) for name in names}
        assert problems == {name: name == "c" for name in names}


@pytest.mark.parametrize("has_index", [True, False])
async def test_a_session_whose_records_do_not_follow_from_each_other_keeps_no_other_from_being_taken_up(
    tmp_path: Path, has_index: bool
) -> None:
    """Each is whole, and in its place in the chain: no checksum tells."""
    async with Kernel(tmp_path, []) as kernel:
        await kernel.create("odd")
        await kernel.create("good")
        await kernel.create("imported")
    for name in ("odd", "imported"):
        journal = SessionDir.open(tmp_path, name, fold_session, reducer=REDUCER_VERSION).journal
        events = b'[{"type":"run.completed","run_id":"run_1","at_ms":1}]'
        journal.commit([journal.frame(at=1, gen=1, pos=9, by={}, events_json=events)])
        journal.close()
    away = (tmp_path / "sessions" / "imported").rename(tmp_path / "away")
    if not has_index:
        (tmp_path / "daemon" / "index.jsonl").unlink()
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        away.rename(tmp_path / "sessions" / "imported")
        await kernel.until_status(await kernel.submit("go", "good"), "completed", "good")
        for name in ("odd", "imported"):
            with pytest.raises(Corrupt, match="record 2 does not follow"):
                await kernel.state(name)
            assert "record 2 " in kernel.supervisor.index.rows[name].problem
            assert [record.seq for record in await kernel.supervisor.reader.read_records(name, 0, 10)] == [1, 2]


async def test_a_session_that_somebody_else_holds_for_a_moment_is_taken_up_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_dir, "_LOCK_PATIENCE_S", 0.0)
    monkeypatch.setattr(Supervisor._take_up, "__defaults__", (None, 0.02))
    async with Kernel(tmp_path, [never]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
    lock = SessionLock(tmp_path / "sessions" / "s").acquire()
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        assert kernel.supervisor.loaded_total == 0
        assert "another process" in kernel.supervisor.index.rows["s"].problem
        lock.release()
        async with asyncio.timeout(10):
            while not kernel.supervisor.loaded_total:
                await asyncio.sleep(0.005)
        await kernel.until_status(run_id, "completed")
        assert kernel.supervisor.index.rows["s"].problem == ""


async def test_a_session_without_a_row_that_somebody_else_holds_is_shown_and_read_again_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is owed nothing: what may not be durable yet has to be settled."""
    monkeypatch.setattr(session_dir, "_LOCK_PATIENCE_S", 0.0)
    monkeypatch.setattr(Supervisor._take_up, "__defaults__", (None, 0.02))
    async with Kernel(tmp_path, []) as kernel:
        await kernel.create()
    (tmp_path / "daemon" / "index.jsonl").unlink()
    lock = SessionLock(tmp_path / "sessions" / "s").acquire()
    async with Kernel(tmp_path, [], generation=2) as kernel:
        held = kernel.supervisor.index.rows["s"]
        assert "another process" in held.problem and held.cwd == "/"
        lock.release()
        async with asyncio.timeout(10):
            while kernel.supervisor.index.rows["s"].problem:
                await asyncio.sleep(0.005)
        assert kernel.supervisor.index.rows["s"] == replace(held, problem="", is_owed=False)


async def test_a_session_without_a_record_is_not_shown_and_stops_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not it can be opened."""
    monkeypatch.setattr(session_dir, "_LOCK_PATIENCE_S", 0.0)
    for name in ("free", "held"):
        make_empty(tmp_path, name)
    lock = SessionLock(tmp_path / "sessions" / "held").acquire()
    async with Kernel(tmp_path, [reply("done")] * 2) as kernel:
        assert (list(kernel.supervisor.index.rows), kernel.supervisor.loaded_total) == ([], 0)
        lock.release()
        for name in ("free", "held"):
            await kernel.create(name)
            await kernel.until_status(await kernel.submit(session_id=name), "completed", name)


async def test_what_a_session_is_owed_that_no_descriptor_was_left_for_is_taken_up_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor._take_up, "__defaults__", (None, 0.02))
    async with Kernel(tmp_path, [never]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
    (tmp_path / "daemon" / "index.jsonl").unlink()
    open_file, is_short = atomic.open_file, True

    def open_one_more(path: Path) -> int:
        if is_short and path.parent.name == "s":
            raise OSError(errno.EMFILE, "too many open files")
        return open_file(path)

    monkeypatch.setattr(atomic, "open_file", open_one_more)
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        assert "too many open files" in kernel.supervisor.index.rows["s"].problem
        is_short = False
        async with asyncio.timeout(10):
            while not kernel.supervisor.loaded_total:
                await asyncio.sleep(0.005)
        await kernel.until_status(run_id, "completed")
        assert kernel.supervisor.index.rows["s"].problem == ""


async def test_sessions_without_a_row_are_settled_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Kernel(tmp_path, []) as kernel:
        for name in ("a", "b"):
            await kernel.create(name)
    (tmp_path / "daemon" / "index.jsonl").unlink()
    settle, both = session_dir._settle, threading.Barrier(2, timeout=10)

    def settle_together(*of: Any) -> None:
        both.wait()
        settle(*of)

    monkeypatch.setattr(session_dir, "_settle", settle_together)
    async with Kernel(tmp_path, [], generation=2) as kernel:
        assert [row.problem for row in kernel.supervisor.index.rows.values()] == ["", ""]


@pytest.mark.parametrize("loaded_max", [1, 512])
async def test_owed_work_goes_on_when_all_of_it_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded_max: int
) -> None:
    """Not before, and also where it is more than is held at once otherwise."""
    monkeypatch.setattr(residents, "SESSIONS_LOADED_MAX", loaded_max)
    monkeypatch.setattr(residents, "SESSION_UNLOAD_AFTER_MS", 1)
    names = ["a", "b", "c"]
    async with Kernel(tmp_path, [never]) as kernel:
        for name in names:
            await kernel.create(name)
            await kernel.submit("go", name)
    may_go = asyncio.Event()
    take_in = Residents.take_in

    async def take_in_late(self: Residents, session_id: str, opened: Opened[State]) -> None:
        if session_id == "b":
            await may_go.wait()
        await take_in(self, session_id, opened)

    monkeypatch.setattr(Residents, "take_in", take_in_late)
    kernel = Kernel(tmp_path, [never], generation=2)
    starting = asyncio.ensure_future(kernel.supervisor.start())
    async with asyncio.timeout(10):
        while kernel.supervisor.loaded_total < len(names) - 1:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert kernel.provider.requests == []
        may_go.set()
        await starting
        while len(kernel.provider.requests) < len(names):
            await asyncio.sleep(0)
    await kernel.__aexit__()


async def test_owed_work_goes_on_whatever_is_wrong_with_what_another_session_shows_to_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Kernel(tmp_path, [never]) as kernel:
        for name in ("a", "b"):
            await kernel.create(name)
            run_id = await kernel.submit("go", name)
    shown = Actor.shown

    async def shown_of(self: Actor) -> Sequence[Message]:
        if self.session_id == "a":
            raise ValueError("a fault of ours")
        return await shown(self)

    monkeypatch.setattr(Actor, "shown", shown_of)
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        await kernel.until_status(run_id, "completed", "b")
        assert "a fault of ours" in kernel.supervisor.index.rows["a"].problem


async def test_of_sessions_from_other_places_the_newest_generation_counts(tmp_path: Path) -> None:
    """Whichever is known first: none of them may be written with an older one than it has."""
    for name, generation in (("a", 10), ("b", 20)):
        async with Kernel(tmp_path, [never], generation=generation) as kernel:
            await kernel.create(name)
            await kernel.submit("go", name)
        (tmp_path / "sessions" / name).rename(tmp_path / name)
    is_raised = threading.Event()

    def raise_generation(minimum: int) -> int:
        if minimum == 11:
            assert is_raised.wait(10)
        return minimum

    kernel = Kernel(tmp_path, [reply("done")], generation=3)
    run = kernel.supervisor.committer.run

    def noting(work: Any, *arguments: Any) -> asyncio.Future[Any]:
        future = run(work, *arguments)
        if arguments == (21,):
            future.add_done_callback(lambda _: is_raised.set())
        return future

    kernel.supervisor._residents._raise_generation = raise_generation
    kernel.supervisor.committer.run = noting  # type: ignore[method-assign]
    async with kernel:
        for name in ("a", "b"):
            (tmp_path / name).rename(tmp_path / "sessions" / name)
        await asyncio.gather(kernel.state("a"), kernel.state("b"))
        assert kernel.supervisor.generation == 21
        assert [row.problem for row in kernel.supervisor.index.rows.values()] == ["", ""]


async def test_who_creates_a_session_is_not_told_that_a_reader_did_not_find_it(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [never]) as kernel:
        for number in range(20):
            name = f"s{number}"
            found, made = await asyncio.gather(kernel.state(name), kernel.create(name), return_exceptions=True)
            assert made is None
            assert isinstance(found, NotFound) or (isinstance(found, State) and found.session_id == name)


async def test_what_is_known_to_be_durable_is_opened_without_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known of what this daemon wrote, and of what it made durable when it started; not of what is owed then."""
    settled: list[str] = []
    settle = session_dir._settle

    def noting(path: Path, *arguments: Any) -> None:
        settled.append(path.parent.name)
        settle(path, *arguments)

    monkeypatch.setattr(session_dir, "_settle", noting)
    monkeypatch.setattr(residents, "SESSIONS_LOADED_MAX", 0)
    calls = reply("", ("write_file", {"path": "a"}))
    async with Kernel(tmp_path, [calls, reply("done")]) as kernel:
        for name in ("waits", "other"):
            await kernel.create(name)
        await kernel.submit("go", "waits")
        await kernel.until(lambda state: bool(state.approvals), "waits")
        await kernel.state("other")
        await kernel.state("waits")
        assert settled == []
    (tmp_path / "daemon" / "index.jsonl").unlink()
    async with Kernel(tmp_path, [calls, reply("done")], generation=2) as kernel:
        assert sorted(settled) == ["other", "waits"], "at the start, where nothing is known"
        settled.clear()
        await kernel.state("other")
        await kernel.state("waits")
        assert settled == []
    other = SessionDir.open(tmp_path, "other", fold_session, reducer=REDUCER_VERSION).journal
    framed = other.frame(at=1, gen=2, pos=1_000, by={"principal": "p", "origin": "o"}, events_json=b"[]")
    settled.clear()
    async with Kernel(tmp_path, [], generation=3) as kernel:
        other.commit([framed])
        other.close()
        await kernel.state("other")
        assert settled == ["other"], "somebody else wrote more"


async def test_a_segment_that_was_only_begun_is_made_durable_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All before it stands under a checkpoint, so that nothing else would be read or written."""
    monkeypatch.setattr("kheish.runtime.actor.CHECKPOINT_AT_IDLE_RECORDS", 1)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
    journal = SessionDir.open(tmp_path, "s", fold_session, reducer=REDUCER_VERSION).journal
    journal.end_segment()
    journal.close()
    synced: list[str] = []
    settle = session_dir._settle
    monkeypatch.setattr(session_dir, "_settle", lambda path, *rest: (synced.append(path.name), settle(path, *rest)))
    (tmp_path / "daemon" / "index.jsonl").unlink()
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        assert synced == [segment_name(2)]
        await kernel.until_status(await kernel.submit(), "completed")


@pytest.mark.parametrize("stopped", ["each", "not the last one", "nobody knows"])
async def test_a_stop_is_no_death_of_what_was_at_work(tmp_path: Path, stopped: str) -> None:
    async with Kernel(tmp_path, [never]) as kernel:
        await kernel.create()
        run = await kernel.submit()
    for generation in range(2, 2 + MODEL_DEATHS_MAX):
        if stopped == "not the last one":
            note_stop(tmp_path, 0, generation - 2)
        elif stopped == "nobody knows":
            (tmp_path / "daemon" / "stopped.json").write_bytes(b"rubbish")
        async with Kernel(tmp_path, [never], generation=generation) as kernel:
            found = (await kernel.state()).runs[run]
    assert (found.phase, found.error_code) == (("running", "") if stopped == "each" else ("failed", "daemon_died"))
