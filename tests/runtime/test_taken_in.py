"""Sessions from another state root, whose generations and positions are that one's."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from kheish.api.streams import Streams
from kheish.client.follow import SseParser
from kheish.daemon import maintenance
from kheish.errors import Conflict
from kheish.store.journal import Framed, Journal
from kheish.store.records import Record
from tests.runtime.kernel import Kernel, reply


async def archive_of(root: Path, generation: int, session_id: str = "theirs") -> io.BytesIO:
    async with Kernel(root, [reply("done")], generation=generation) as kernel:
        await kernel.create(session_id)
        for _ in range(5):
            await kernel.until_status(await kernel.submit(session_id=session_id), "completed", session_id)
    archive = io.BytesIO()
    maintenance.export(root, session_id, archive)
    archive.seek(0)
    return archive


def tail_of(found: list[tuple[str, Record]], count: int) -> list[tuple[str, int]]:
    return [(session_id, record.seq) for session_id, record in found][-count:]


@pytest.mark.parametrize("generation", [1, 2, 3])
@pytest.mark.parametrize("is_running", [True, False])
async def test_a_follower_misses_nothing_of_a_session_that_was_taken_in(
    is_running: bool, generation: int, tmp_path: Path
) -> None:
    """Its records from elsewhere may have any place, and those from here come after them."""
    archive = await archive_of(tmp_path / "there", generation)
    root = tmp_path / "here"
    root.mkdir()
    if not is_running:
        maintenance.import_(root, archive)
    async with Kernel(root, [reply("done")], generation=2) as kernel:
        await kernel.create("ours")
        seen = kernel.supervisor.position
        if is_running:
            maintenance.import_(root, archive)
        await kernel.until_status(await kernel.submit(session_id="theirs"), "completed", "theirs")
        assert tail_of(await kernel.replayed(*seen), 2) == [("theirs", 12), ("theirs", 13)]
        places = [(r.gen, r.pos) for session_id, r in await kernel.replayed(0, 0) if session_id == "theirs"]
        assert places == sorted(places)


async def test_who_is_cut_off_anywhere_goes_on_after_the_id_it_has_where_a_session_from_elsewhere_has_the_same_places(
    tmp_path: Path,
) -> None:
    archive = await archive_of(tmp_path / "there", 1)
    async with Kernel(tmp_path / "here", [reply("done")]) as kernel:
        await kernel.create("ours")
        await kernel.until_status(await kernel.submit(session_id="ours"), "completed", "ours")
        maintenance.import_(tmp_path / "here", archive)
        await kernel.state("theirs")
        streams = Streams(kernel.supervisor)

        async def follow(cursor: str) -> list[tuple[str, str]]:
            async with contextlib.aclosing(streams.everything(cursor)) as chunks:  # type: ignore[type-var]
                frames = SseParser().feed(await anext(chunks))
            return [(frame.id, frame.data["session_id"]) for frame in frames if frame.event == "record"]

        whole = await follow("0.0")
        ids = [event_id for event_id, _ in whole]
        assert {"1.1.ours", "1.1"} <= set(ids) and len(set(ids)) == len(ids)
        for at, event_id in enumerate(ids, 1):
            assert await follow(event_id) == whole[at:]


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_generation_that_no_daemon_comes_to_is_not_risen_above(tmp_path: Path, is_running: bool) -> None:
    """An archive that somebody made up would have this daemon write what nobody reads, in all its sessions."""
    archive = await archive_of(tmp_path / "there", 2**64 - 1)
    root = tmp_path / "here"
    root.mkdir()
    if not is_running:
        maintenance.import_(root, archive)
    async with Kernel(root, [reply("done")], generation=2) as kernel:
        if is_running:
            maintenance.import_(root, archive)
        assert (await kernel.state("theirs")).past_runs == 0
        with pytest.raises(Conflict) as caught:
            await kernel.submit(session_id="theirs")
        assert caught.value.code == "stale_generation"
        await kernel.create("ours")
        assert kernel.supervisor.position[0] == 2
    maintenance.import_(root, await archive_of(tmp_path / "elsewhere", 9, "others"))
    async with Kernel(root, [reply("done")], generation=3) as kernel:
        await kernel.submit(session_id="others")
        assert kernel.supervisor.generation == 10


async def test_a_record_that_is_being_written_while_a_generation_begins_is_ahead_of_who_begins_to_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = await archive_of(tmp_path / "there", 9)
    is_writing, may_go = threading.Event(), threading.Event()
    commit = Journal.commit

    def commit_late(journal: Journal, records: Sequence[Framed]) -> None:
        if journal.session_id == "ours":
            is_writing.set()
            may_go.wait(10)
        commit(journal, records)

    async with Kernel(tmp_path / "here", [reply("done")]) as kernel:
        monkeypatch.setattr(Journal, "commit", commit_late)
        creating = asyncio.ensure_future(kernel.create("ours"))
        await asyncio.to_thread(is_writing.wait, 10)
        maintenance.import_(tmp_path / "here", archive)
        await kernel.state("theirs")
        assert kernel.supervisor.generation == 10
        place = kernel.supervisor.position
        may_go.set()
        await creating
        assert place < kernel.supervisor.position == (1, 1)
