"""A fork begins with what was said up to a record, whole by itself; the other session knows nothing of it."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from kheish.core import commands as c
from kheish.core.events import AssistantMessage, Attachment, Message, ToolMessage, UserMessage
from kheish.daemon import maintenance
from kheish.errors import Conflict
from kheish.runtime import forks
from kheish.runtime.forks import copy_transcript
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.store.blobs import Blobs
from kheish.store.records import Record
from kheish.store.session_dir import session_path
from tests.runtime.kernel import Kernel, reply

REPLIES = [reply("", ("read_file", {"path": "a"})), reply("It says hello."), reply("Once more.")]


async def life(kernel: Kernel) -> list[Record]:
    """A run with a tool call, and one without: created, submitted, asked for a tool, its result, the end; two more."""
    await kernel.create()
    for text in ("look", "and again"):
        await kernel.until_status(await kernel.submit(text), "completed")
    return await kernel.supervisor.reader.read_records("s", 0, 100)


async def fork(kernel: Kernel, name: str, at: int = 0) -> str:
    forked, source = await kernel.supervisor.reader.copy_transcript("s", at)
    return await kernel.send(c.CreateSession(session_id=name, cwd=source.cwd, forked=forked), name)


def texts(messages: Any) -> list[str]:
    return [message.text for message in messages]


async def test_at_each_record_it_holds_what_was_said_by_then_or_names_the_nearest(tmp_path: Path) -> None:
    async with Kernel(tmp_path, REPLIES) as kernel:
        records = await life(kernel)
        whole: dict[int, tuple[Message, ...]] = {}
        for record in records:
            try:
                whole[record.seq] = copy_transcript(records, "s", record.seq)[0].messages
            except Conflict as error:
                asked = record.seq
                assert (error.code, error.details["before"], error.details["after"]) == (
                    "fork_boundary", record.seq - 1, record.seq + 1,
                )  # fmt: skip
        assert set(whole) == {record.seq for record in records} - {asked}
        assert any(event["type"] == "tool_call.started" for event in records[asked - 1].events)
        full = whole[records[-1].seq]
        assert [type(m) for m in full] == [
            UserMessage, AssistantMessage, ToolMessage, AssistantMessage, UserMessage, AssistantMessage,
        ]  # fmt: skip
        assert list(full) == await kernel.supervisor.reader.messages("s")
        for seq, messages in whole.items():
            assert messages == full[: len(messages)], seq
        assert [len(messages) for messages in whole.values()] == sorted(len(messages) for messages in whole.values())


async def test_while_a_call_runs_the_last_place_before_it_is_taken(tmp_path: Path) -> None:
    async with Kernel(tmp_path, REPLIES) as kernel:
        records = [record for record in await life(kernel) if record.seq <= 3]
        assert records[-1].events[0]["type"] == "model_call.completed"
        forked, _ = copy_transcript(records, "s", 0)
        assert (forked.from_seq, texts(forked.messages)) == (2, ["look"])
        with pytest.raises(Conflict, match=r"2 before it$") as caught:
            copy_transcript(records, "s", 3)
        assert caught.value.details["after"] is None
        with pytest.raises(Conflict, match="it has 3"):
            copy_transcript(records, "s", 4)


async def test_it_is_whole_by_itself_and_goes_on_from_there(tmp_path: Path) -> None:
    async with Kernel(tmp_path, REPLIES) as kernel:
        records = await life(kernel)
        await fork(kernel, "other", 5)
        assert await kernel.supervisor.reader.read_records("s", 0, 100) == records, "the other stays as it is"
    shutil.rmtree(session_path(tmp_path, "s"))
    async with Kernel(tmp_path, [reply("From here.")], generation=2) as kernel:
        run_id = await kernel.submit("now what?", "other")
        await kernel.until_status(run_id, "completed", "other")
        (request,) = kernel.provider.requests
        assert texts(request.messages)[0] == "look" and texts(request.messages)[-2:] == ["It says hello.", "now what?"]
        assert texts(await kernel.supervisor.reader.messages("other"))[-1] == "From here."


async def test_a_session_that_exists_is_not_forked_into(tmp_path: Path) -> None:
    async with Kernel(tmp_path, REPLIES) as kernel:
        await life(kernel)
        await kernel.create("other")
        with pytest.raises(Conflict, match="exists"):
            await fork(kernel, "other")
        assert await kernel.supervisor.reader.messages("other") == []


async def test_what_is_too_large_for_one_record_is_refused_and_an_earlier_place_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Kernel(tmp_path, REPLIES) as kernel:
        records = await life(kernel)
        monkeypatch.setattr(forks, "FORK_BYTES_MAX", 200)
        with pytest.raises(Conflict) as caught:
            copy_transcript(records, "s", 0)
        assert caught.value.code == "fork_too_large"
        assert copy_transcript(records, "s", 1)[0].messages == ()


async def test_its_archive_has_the_blobs_that_it_knows_from_the_other(tmp_path: Path) -> None:
    """An attachment, and a long output whose beginning alone is in the transcript."""
    output = b"a line of a long output\n" * 2_000

    async def long(_: ToolCall) -> ToolOutput:
        return ToolOutput(data=output)

    async with Kernel(tmp_path / "here", REPLIES) as kernel:
        kernel.tools["read_file"].answer = long
        picture = await kernel.supervisor.put_blob(b"a picture")
        attachment = Attachment(name="a.png", media_type="image/png", blob=picture, bytes=9)
        await kernel.create()
        run_id = await kernel.send(c.SubmitRun(text="look", route="test", model="m", attachments=(attachment,)))
        await kernel.until_status(run_id, "completed")
        await fork(kernel, "other")
    archive = io.BytesIO()
    maintenance.export(tmp_path / "here", "other", archive)
    archive.seek(0)
    assert maintenance.import_(tmp_path / "there", archive) == "other"
    blobs = Blobs(tmp_path / "there")
    assert blobs.read(picture) == b"a picture"
    assert blobs.read(hashlib.sha256(output).hexdigest()) == output
    blobs.path(picture).unlink()
    (checked,) = maintenance.verify(tmp_path / "there")
    assert [fault.reason for fault in checked.faults] == [f"blob {picture} is missing"]
