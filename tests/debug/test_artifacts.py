"""What is kept of a model call, within which bounds, and what a broken file or a full disk costs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.contracts import ModelRequest, Reply
from kheish.core.events import UserMessage
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.debug import files, service
from kheish.debug.redaction import MASK
from kheish.debug.service import split
from kheish.errors import NotFound, ProviderError
from kheish.limits import CONTEXT_KEPT_TOKENS_MIN, DEBUG_AGE_MS_MAX, DEBUG_LOOK_EVERY_MS
from kheish.store.disk_space import DiskSpace
from tests.debug.recordings import begin, make_debugging, receive, step
from tests.runtime.kernel import Kernel, reply

REPLIED = ModelReplied(
    run_id="run_1", model_call_id="modelcall_1", attempt=1, reply=Reply(text="hi", stop_reason="end"), duration_ms=7
)


def failed(message: str) -> ModelFailed:
    return ModelFailed(run_id="run_1", model_call_id="modelcall_1", attempt=1, code="overloaded", message=message)


async def test_an_attempt_is_kept_with_all_that_it_sent_and_got(tmp_path: Path) -> None:
    debugging = make_debugging(tmp_path)
    recording = begin(debugging, b'{"model":"m"}')
    receive(recording, b"event: a\ndata: 1\n\nevent: b\nda", b"ta: 2\n\nevent: c")
    debugging.end(recording, REPLIED)
    await debugging.close()
    kept = await debugging.read_artifact("s", "run_1", "1.1")
    (exchange,) = kept.exchanges
    assert (kept.artifact, kept.step, kept.attempt, kept.route, kept.model) == ("1.1", 1, 1, "route", "some-model")
    assert (kept.level, kept.outcome, kept.message, kept.status) == ("redacted", "replied", "", 200)
    assert (exchange.request.method, exchange.request.url) == ("POST", "https://api.example.com/v1/messages")
    assert {h.name: h.value for h in exchange.request.headers} == {
        "authorization": MASK,
        "content-type": "application/json",
    }
    assert (exchange.request.body, exchange.request.bytes) == ('{"model":"m"}', 13)
    assert exchange.request.sha256 == hashlib.sha256(b'{"model":"m"}').hexdigest()
    assert [event.text for event in exchange.response.events] == [
        "event: a\ndata: 1\n\n", "event: b\ndata: 2\n\n", "event: c"
    ]  # fmt: skip
    came = b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\nevent: c"
    assert (exchange.response.bytes, exchange.response.sha256) == (len(came), hashlib.sha256(came).hexdigest())
    assert exchange.response.complete and not exchange.response.cut
    assert kept.duration_ms >= exchange.response.events[-1].at_ms >= exchange.request.sent_ms >= 1


async def test_a_failure_and_a_cancelled_call_say_so_without_the_key(tmp_path: Path) -> None:
    debugging = make_debugging(tmp_path, "full", known=("a-stored-secret",))
    for attempt, outcome in ((1, failed("no the-key-of-the-call a-stored-secret")), (2, None)):
        recording = begin(debugging, attempt=attempt)
        receive(recording, b'{"error": "the-key-of-the-call", "b": "a-stored-secret"}', status=401)
        debugging.end(recording, outcome)
    await debugging.close()
    first, second = await debugging.list_artifacts("s", "run_1")
    assert (first.outcome, first.message, first.status) == ("overloaded", f"no {MASK} {MASK}", 401)
    assert (second.outcome, second.message) == ("cancelled", "")
    whole = b"".join(path.read_bytes() for path in tmp_path.rglob("*.json"))
    assert b"the-key-of-the-call" not in whole and b"a-stored-secret" not in whole


async def test_what_went_over_no_wire_is_the_request_and_the_reply(tmp_path: Path) -> None:
    """A real kernel, whose provider is none of an SDK's."""
    async with Kernel(tmp_path / "state", [reply("", ("read_file", {"path": "a"})), reply("done")]) as kernel:
        debugging = make_debugging(tmp_path, "full")
        kernel.supervisor._reconciler._recorder = debugging
        await kernel.create()
        run_id = await kernel.submit("hello")
        await kernel.until_status(run_id, "completed")
        await debugging.close()
        rows = await debugging.list_artifacts("s", run_id)
        assert [(row.artifact, row.outcome, row.status) for row in rows] == [
            ("1.1", "replied", 0),
            ("2.1", "replied", 0),
        ]
        kept = await debugging.read_artifact("s", run_id, "2.1")
        (exchange,) = kept.exchanges
        asked, answered = json.loads(exchange.request.body), json.loads(exchange.response.events[0].text)
        assert (asked["messages"][0]["text"], len(asked["messages"])) == ("hello", 3)
        assert (answered["text"], exchange.request.method, exchange.response.complete) == ("done", "", True)
        assert len(kept.digests.messages) == 3 and set(kept.digests.tools) == set(kernel.tools)


async def test_each_attempt_is_kept_also_where_a_step_is_made_again_since_its_context_was_too_large(
    tmp_path: Path,
) -> None:
    async def answer(request: ModelRequest) -> Reply:
        if not request.overflows:
            raise ProviderError("too many tokens", code="too_large")
        return reply("done")

    long = "x" * 8 * CONTEXT_KEPT_TOKENS_MIN
    async with Kernel(tmp_path / "state", [reply(long), reply(long), answer]) as kernel:
        debugging = make_debugging(tmp_path, "full")
        await kernel.create()
        for text in ("the first", "the second"):
            await kernel.until_status(await kernel.submit(text), "completed")
        kernel.supervisor._reconciler._recorder = debugging
        run_id = await kernel.submit("the third")
        await kernel.until_status(run_id, "completed")
        await debugging.close()
        rows = await debugging.list_artifacts("s", run_id)
        assert [(row.artifact, row.outcome) for row in rows] == [
            ("1.1", "too_large"), ("1bs.1", "replied"), ("1b.1", "replied"),
        ]  # fmt: skip
        assert len({row.model_call_id for row in rows}) == 3


async def test_at_off_nothing_is_recorded_and_a_new_level_is_for_the_next_attempt(tmp_path: Path) -> None:
    debugging = make_debugging(tmp_path, "full")
    recording = begin(debugging)
    debugging.set_level("off")
    assert debugging.begin(step(2), "route") is None
    debugging.end(recording, REPLIED)
    debugging.set_level("redacted")
    debugging.end(begin(debugging, number=3), REPLIED)
    await debugging.close()
    rows = await debugging.list_artifacts("s", "run_1")
    assert [(row.artifact, row.level) for row in rows] == [("1.1", "full"), ("3.1", "redacted")]


async def test_files_and_folders_are_the_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        debugging = make_debugging(tmp_path)
        debugging.end(begin(debugging), REPLIED)
        await debugging.close()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "debug", *(tmp_path / "debug").rglob("*")]}
    assert modes == {"debug": 0o700, "s": 0o700, "run_1": 0o700, "1.1.json": 0o600}


async def test_it_is_written_in_a_thread_of_its_own_and_nobody_waits(tmp_path: Path) -> None:
    at_disk, may_go = threading.Event(), threading.Event()

    def known() -> tuple[str, ...]:
        at_disk.set()
        assert threading.current_thread() is not threading.main_thread()
        assert may_go.wait(30)
        return ()

    debugging = make_debugging(tmp_path)
    debugging._known = known
    debugging.end(begin(debugging), REPLIED)
    assert await asyncio.to_thread(at_disk.wait, 30)
    assert await debugging.list_artifacts("s", "run_1") == []
    may_go.set()
    await debugging.close()
    assert len(await debugging.list_artifacts("s", "run_1")) == 1


async def test_an_attempt_that_is_over_is_written_down_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "DEBUG_WRITE_EVERY_MS", 0)
    troubles: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, trouble: troubles.append(trouble))
    debugging = make_debugging(tmp_path)
    debugging.end(begin(debugging), REPLIED)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (troubles, debugging._timers) == ([], {})
    await debugging.close()


async def test_what_is_at_work_for_long_is_kept_as_far_as_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEBUG_WRITE_EVERY_MS", 0)
    debugging = make_debugging(tmp_path)
    recording = begin(debugging)
    async with asyncio.timeout(10):
        while not (rows := await debugging.list_artifacts("s", "run_1")):
            await asyncio.sleep(0)
        assert (rows[0].outcome, rows[0].duration_ms, rows[0].response_bytes) == ("", 0, 0)
        receive(recording, b"data: 1\n\n", is_complete=False)
        while not (await debugging.list_artifacts("s", "run_1"))[0].response_bytes:
            await asyncio.sleep(0)
    (exchange,) = (await debugging.read_artifact("s", "run_1", "1.1")).exchanges
    assert [event.text for event in exchange.response.events] == ["data: 1\n\n"] and not exchange.response.complete
    debugging.end(recording, None)
    await debugging.close()
    assert (await debugging.list_artifacts("s", "run_1"))[0].outcome == "cancelled"
    assert debugging._timers == {}


# -- bounds ---------------------------------------------------------------------------------------------------------


async def test_a_body_over_its_bound_is_cut_and_its_size_and_digest_are_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheish.runtime.recording.DEBUG_RESPONSE_BYTES_MAX", 10_000)
    monkeypatch.setattr(service, "DEBUG_REQUEST_BYTES_MAX", 10)
    debugging = make_debugging(tmp_path, "full")
    recording = begin(debugging, b"0123456789abcdef")
    receive(recording, *[b"x" * 3_000] * 4)
    assert sum(len(chunk) for _, chunk in recording.exchanges[0].chunks) == 10_000
    debugging.end(recording, REPLIED)
    await debugging.close()
    (exchange,) = (await debugging.read_artifact("s", "run_1", "1.1")).exchanges
    assert (exchange.request.body, exchange.request.cut, exchange.request.bytes) == ("0123456789", True, 16)
    assert (exchange.response.cut, exchange.response.bytes) == (True, 12_000)
    assert exchange.response.sha256 == hashlib.sha256(b"x" * 12_000).hexdigest()


def test_a_cut_leaves_no_beginning_of_a_secret_behind() -> None:
    data = b"x" * 10_000 + b"a-secret-that-is-cut-in"
    assert "a-secret" not in split([(1, data)], is_cut=True)[0][1]


async def test_a_run_keeps_its_newest_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DEBUG_RUN_BYTES_MAX", 10_000)
    debugging = make_debugging(tmp_path, "full")
    for number in range(1, 6):
        debugging.end(begin(debugging, b"x" * 3_000, number=number), REPLIED)
    await debugging.close()
    assert [row.step for row in await debugging.list_artifacts("s", "run_1")] == [4, 5]


async def test_what_is_old_goes_and_then_the_oldest_until_the_rest_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = 1_800_000_000_000
    debugging = make_debugging(tmp_path, "full", at_ms=now_ms)
    for number in range(1, 7):
        debugging.end(begin(debugging, b"x" * 3_000, run_id=f"run_{number}"), REPLIED)
    await debugging.close()
    for number, age_ms in ((1, DEBUG_AGE_MS_MAX + 1), (2, 9), (3, 8), (4, 7), (5, 6), (6, 5)):
        at_s = (now_ms - age_ms) / 1000
        os.utime(tmp_path / f"debug/s/run_{number}/1.1.json", (at_s, at_s))
    (tmp_path / "debug/s/run_6/.tmp-of-a-dead-daemon").write_bytes(b"x")
    (tmp_path / "debug/s/notes.txt").write_bytes(b"x")
    files.prune(tmp_path / "debug", now_ms)
    assert sorted(path.name for path in (tmp_path / "debug/s").iterdir()) == [
        "notes.txt", "run_2", "run_3", "run_4", "run_5", "run_6"
    ]  # fmt: skip
    assert os.listdir(tmp_path / "debug/s/run_6") == ["1.1.json"]
    monkeypatch.setattr(files, "DEBUG_STORE_BYTES_KEPT", 10_000)
    files.prune(tmp_path / "debug", now_ms)
    assert sorted(path.name for path in (tmp_path / "debug/s").glob("run_*")) == ["run_5", "run_6"]


async def test_what_all_runs_leave_together_stays_within_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEBUG_STORE_BYTES_MAX", 50_000)
    monkeypatch.setattr(service, "DEBUG_STORE_BYTES_KEPT", 40_000)
    monkeypatch.setattr(files, "DEBUG_STORE_BYTES_KEPT", 40_000)
    debugging = make_debugging(tmp_path, "full", at_ms=1)
    for number in range(40):
        debugging.end(begin(debugging, b"x" * 3_000, run_id=f"run_{number}"), REPLIED)
    await debugging.close()
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.json")]
    assert 30_000 < sum(sizes) <= 50_000


async def test_old_artifacts_go_by_the_hour_also_at_off(tmp_path: Path) -> None:
    debugging = make_debugging(tmp_path, "redacted")
    debugging.end(begin(debugging), REPLIED)
    await debugging.close()
    old = tmp_path / "debug/s/run_1/1.1.json"
    os.utime(old, (1, 1))
    later = make_debugging(tmp_path, "off", at_ms=1_800_000_000_000)
    assert later.begin(step(), "route") is None
    await later.close()
    assert not old.exists() and not old.parent.exists()
    assert later._pruned_at_ms + DEBUG_LOOK_EVERY_MS > later._clock.now_ms()


async def test_a_disk_that_does_not_keep_up_costs_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "DEBUG_WAITING_BYTES_MAX", 1_000)
    debugging = make_debugging(tmp_path)
    for number in (1, 2):
        debugging.end(begin(debugging, b"x" * 900, number=number), REPLIED)
    async with asyncio.timeout(10):
        while debugging._waiting_bytes:
            await asyncio.sleep(0)
    debugging.end(begin(debugging, number=3), REPLIED)
    await debugging.close()
    assert [row.step for row in await debugging.list_artifacts("s", "run_1")] == [1, 3]
    assert "does not keep up" in caplog.text


# -- what fails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["low", "no folder", "no secrets"])
async def test_a_disk_that_is_full_and_secrets_that_cannot_be_read_cost_the_artifact_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    def unreadable() -> Any:
        raise RuntimeError("a secret's value")

    debugging = make_debugging(tmp_path)
    if trouble == "low":
        monkeypatch.setattr(service, "disk_space", lambda path: DiskSpace(1, 2))
    elif trouble == "no folder":
        (tmp_path / "debug").write_text("in its place")
    else:
        debugging._known = unreadable
    debugging.end(begin(debugging), REPLIED)
    await debugging.close()
    assert await debugging.list_artifacts("s", "run_1") == []
    assert "run_1: a debug artifact is left out" in caplog.text and "value" not in caplog.text


async def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    debugging = make_debugging(tmp_path)
    for number in range(1, 5):
        debugging.end(begin(debugging, number=number), REPLIED)
    await debugging.close()
    folder = tmp_path / "debug/s/run_1"
    (folder / "1.1.json").write_bytes(b"")
    (folder / "2.1.json").write_bytes(b'{"artifact": ')
    (folder / "3.1.json").unlink()
    (folder / "3.1.json").symlink_to("/etc/hostname")
    (folder / "5.1.json").mkdir()
    assert [row.step for row in await debugging.list_artifacts("s", "run_1")] == [4]
    for artifact in ("1.1", "2.1", "3.1", "5.1", "9.9"):
        with pytest.raises(NotFound) as caught:
            await debugging.read_artifact("s", "run_1", artifact)
        assert caught.value.code == "debug_artifact_not_found"


# -- streams --------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=8) | st.sampled_from([b"\n", b"\n\n", b"\r\n\r\n", b"\r", b"data: x"]), max_size=12))
def test_a_stream_in_its_events_is_the_stream_and_each_has_the_time_of_its_last_byte(parts: list[bytes]) -> None:
    chunks = [(10 * number, part) for number, part in enumerate(parts, 1) if part]
    pieces = split(chunks)
    assert "".join(text for _, text in pieces).replace("\ufffd", "") == "".join(
        data.decode("utf-8", "replace") for data in [b"".join(part for _, part in chunks)]
    ).replace("\ufffd", "")
    assert [at_ms for at_ms, _ in pieces] == sorted(at_ms for at_ms, _ in pieces)
    if pieces:
        assert pieces[-1][0] == chunks[-1][0]


async def test_a_secret_in_two_chunks_is_found(tmp_path: Path) -> None:
    debugging = make_debugging(tmp_path, "full", known=("a-stored-secret",))
    recording = begin(debugging, messages=(UserMessage(text="x"),))
    receive(recording, b"data: a-sto", b"red-secret\n\n")
    debugging.end(recording, REPLIED)
    await debugging.close()
    (exchange,) = (await debugging.read_artifact("s", "run_1", "1.1")).exchanges
    assert [event.text for event in exchange.response.events] == [f"data: {MASK}\n\n"]
