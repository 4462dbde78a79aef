"""Streams on a kernel in this process: the moments between subscribing, reading and publishing, made certain."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.api import streams
from kheish.api.streams import Streams, encode
from kheish.core import commands as c
from kheish.core.contracts import ModelRequest, Reply
from kheish.runtime import actor
from kheish.runtime.actor import record_json
from kheish.store.journal import Framed, Journal
from kheish.store.records import Record
from tests.runtime.kernel import Kernel, reply

Frame = tuple[str, str | None, Any]


def parse(data: bytes) -> list[Frame]:
    """Server-sent events by the HTML standard, section 9.2.6: three line ends, fields, dispatch at an empty line."""
    found: list[Frame] = []
    event, id_ = "message", None
    lines: list[str] = []
    for line in data.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if lines:
                found.append((event, id_, json.loads("\n".join(lines))))
            event, id_, lines = "message", None, []
        elif name == "event":
            event = value
        elif name == "id":
            id_ = value
        elif name == "data":
            lines.append(value)
        else:
            raise AssertionError(f"a line that is no field: {line!r}")
    return found


async def read(stream: AsyncIterator[bytes], until: str) -> list[Frame]:
    """The frames up to and with the first of this kind."""
    frames: list[Frame] = []
    async with asyncio.timeout(10):
        while not any(event == until for event, _, _ in frames):
            frames += parse(await anext(stream))
    return frames


def ids(frames: Sequence[Frame]) -> list[str | None]:
    return [id_ for event, id_, _ in frames if event == "record"]


class Held:
    """A model whose replies wait until they are let go."""

    def __init__(self) -> None:
        self._go = asyncio.Event()

    async def __call__(self, request: ModelRequest) -> Reply:
        await self._go.wait()
        return reply("done")

    def let_go(self) -> None:
        self._go.set()


@given(st.text(), st.sampled_from(["record", "delta"]), st.sampled_from(["", "7", "3.14"]))
def test_a_frame_of_any_text_is_one_event(text: str, event: str, event_id: str) -> None:
    for data in (msgspec.json.encode({"text": text}), json.dumps({"text": text}, ensure_ascii=False).encode()):
        assert parse(encode(event, data, event_id)) == [(event, event_id or None, {"text": text})]


async def test_a_silent_stream_beats_without_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAM_HEARTBEAT_S", 0.01)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        stream = Streams(kernel.supervisor).session("s", None, "")
        frames = await read(stream, "heartbeat")
        assert frames == [frames[0], ("sync", "1", {"cursor": "1"}), ("heartbeat", None, {"type": "heartbeat"})]
        run_id = await kernel.submit()
        first = next(frame for frame in await read(stream, "record") if frame[0] == "record")
        assert first[1] == "2" and first[2]["events"][0]["run_id"] == run_id, "and it goes on"


async def test_a_run_that_ends_during_the_replay_still_ends_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAGE_ITEMS_MAX", 1)
    held = Held()
    async with Kernel(tmp_path, [held]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
        stream = Streams(kernel.supervisor).session("s", run_id, "")
        frames = parse(await anext(stream))
        held.let_go()
        await kernel.until_status(run_id, "completed")
        frames += await read(stream, "bye")
        assert ids(frames) == ["2", "3"]
        assert [event for event, _, _ in frames if event != "delta"] == ["record", "record", "sync", "bye"]


async def test_a_replay_of_all_sessions_misses_nothing_that_is_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one session is being read, it and then the other go on: the later record is found, the earlier is not."""
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        supervisor = kernel.supervisor
        await kernel.create("a")
        await kernel.create("b")
        read_records = supervisor.reader.read_records
        modes = {"a": "plan", "b": "plan"}

        async def read_and_write(session_id: str, *place: int) -> list[Record]:
            found = await read_records(session_id, *place)
            while modes:
                other = next(iter(modes))
                await kernel.send(c.SetMode(mode=modes.pop(other)), other)  # type: ignore[arg-type]
            return found

        monkeypatch.setattr(supervisor.reader, "read_records", read_and_write)
        stream = Streams(supervisor).everything("0.0")
        frames = await read(stream, "sync")
        await kernel.send(c.SetMode(mode="bypass"), "a")
        while len(ids(frames)) < 5:
            frames += await read(stream, "record")
        assert ids(frames) == ["1.1", "1.2", "1.3", "1.4", "1.5"]
        assert [(f[2]["session_id"], f[2]["seq"]) for f in frames if f[0] == "record"] == [
            ("a", 1),
            ("b", 1),
            ("a", 2),
            ("b", 2),
            ("a", 3),
        ]


@pytest.mark.parametrize("where", ["session", "everything"])
async def test_the_tail_begins_before_a_record_that_is_still_being_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        syncing, may_sync = threading.Event(), threading.Event()
        commit = Journal.commit

        def slow_commit(journal: Journal, records: Sequence[Framed]) -> None:
            syncing.set()
            may_sync.wait(10)
            commit(journal, records)

        monkeypatch.setattr(Journal, "commit", slow_commit)
        change = asyncio.ensure_future(kernel.send(c.SetMode(mode="plan")))
        await asyncio.to_thread(syncing.wait, 10)
        made = Streams(kernel.supervisor)
        stream = made.session("s", None, "tail") if where == "session" else made.everything("tail")
        frames = await read(stream, "sync")
        assert frames == [("sync", frames[0][1], {"cursor": frames[0][1]})]
        may_sync.set()
        await change
        frames = await read(stream, "record")
        assert frames[-1][2]["events"] == [{"type": "session.mode_changed", "mode": "plan"}]


@pytest.mark.parametrize("page", [1, 3, 1000])
async def test_a_stream_has_no_hole_and_no_double_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Readers that begin at any moment of the writing see what a reader from the first moment sees."""
    monkeypatch.setattr(streams, "PAGE_ITEMS_MAX", page)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        names, changes = ("a", "b", "c"), 30
        for name in names:
            await kernel.create(name)
        made = Streams(kernel.supervisor)
        readers: list[asyncio.Future[list[Frame]]] = []

        async def follow(stream: AsyncIterator[bytes], last: str) -> list[Frame]:
            frames: list[Frame] = []
            while last not in ids(frames):
                frames += parse(await anext(stream))
            return frames

        async def write(name: str) -> None:
            for number in range(changes):
                await kernel.send(c.SetMode(mode="default" if number % 2 else "plan"), name)
                if number % 5 == 0:
                    last = len(names) * (changes + 1)
                    readers.append(asyncio.ensure_future(follow(made.everything("0.0"), f"1.{last}")))
                    readers.append(asyncio.ensure_future(follow(made.session(name, None, ""), f"{changes + 1}")))

        async with asyncio.timeout(30):
            await asyncio.gather(*(write(name) for name in names))
            found = await asyncio.gather(*readers)
        for frames in found:
            last = int((ids(frames)[-1] or "").rpartition(".")[2])
            prefix = "1." if last > changes + 1 else ""
            assert ids(frames) == [f"{prefix}{number}" for number in range(1, last + 1)]
            assert [event for event, _, _ in frames].count("sync") <= 1


async def test_a_record_is_encoded_once_for_all_who_follow_its_session_and_not_at_all_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[str, str]] = []
    made_public: list[int] = []

    def encode_and_note(event: str, data: bytes, event_id: str = "") -> bytes:
        encoded.append((event, event_id))
        return encode(event, data, event_id)

    def make_public_and_note(session_id: str, seq: int, *rest: Any) -> bytes:
        made_public.append(seq)
        return record_json(session_id, seq, *rest)

    monkeypatch.setattr(streams, "encode", encode_and_note)
    monkeypatch.setattr(actor, "record_json", make_public_and_note)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        made = Streams(kernel.supervisor)
        followers = [made.session("s", None, "tail") for _ in range(3)] + [made.everything("") for _ in range(2)]
        for follower in followers:
            await read(follower, "sync")
        encoded.clear()
        await kernel.send(c.SetMode(mode="plan"))
        assert [ids(await read(follower, "record")) for follower in followers] == [["2"]] * 3 + [["1.2"]] * 2
        assert sorted(encoded) == [("record", "1.2"), ("record", "2")]
        for follower in followers:
            await follower.aclose()  # type: ignore[attr-defined]
        await kernel.send(c.SetMode(mode="default"))
        assert made_public == [2]


async def test_a_reader_that_leaves_is_no_subscriber(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        made = Streams(kernel.supervisor)
        for stream in (made.session("s", None, ""), made.everything("")):
            await read(stream, "sync")
            assert kernel.supervisor.hub.subscribers_total == 1
            await stream.aclose()  # type: ignore[attr-defined]
            assert kernel.supervisor.hub.subscribers_total == 0
