"""Of a session that is damaged everybody reads what there is, and is then told that it is not all."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheish.core.codec import encode_events
from kheish.core.events import RunCompleted
from kheish.core.state import REDUCER_VERSION
from kheish.errors import Corrupt
from kheish.runtime import actor
from kheish.runtime.fold import fold_session
from kheish.store.records import segment_name
from kheish.store.session_dir import SessionDir
from tests.runtime.kernel import Kernel, reply


@pytest.fixture
async def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(actor, "CHECKPOINT_AT_IDLE_RECORDS", 1)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit(), "completed")
    return tmp_path / "sessions" / "s" / segment_name(1)


async def test_a_journal_that_lost_what_a_checkpoint_has_seen_is_read_and_its_end_is_no_end(
    tmp_path: Path, journal: Path
) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))
    async with Kernel(tmp_path, [], generation=2) as kernel:
        read = kernel.supervisor.reader.read_records
        assert [record.line for record in await read("s", 0, 100)] == lines[1:-1]
        with pytest.raises(Corrupt, match="checkpoint at seq 3"):
            await read("s", 2, 100)
        journal.write_bytes(b"".join(lines))
        assert [record.line for record in await read("s", 0, 100)] == lines[1:]
        assert (await kernel.state()).session_id == "s", "a good file is taken up at the next access"
        assert await read("s", 3, 100) == []


async def test_a_record_that_does_not_follow_is_named_after_all_were_read(tmp_path: Path, journal: Path) -> None:
    opened = SessionDir.open(tmp_path, "s", fold_session, reducer=REDUCER_VERSION)
    events = encode_events([RunCompleted(run_id="run_of_nobody", at_ms=1)])
    opened.journal.commit([opened.journal.frame(1, 1, 99, {}, events)])
    opened.journal.close()
    async with Kernel(tmp_path, [], generation=2) as kernel:
        read = kernel.supervisor.reader.read_records
        assert len(await read("s", 0, 100)) == 4
        with pytest.raises(Corrupt, match="record 4 does not follow"):
            await read("s", 4, 100)
