"""Blocking work: a cancellation and the end of its time stop it, and nothing is left half done behind their back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kheish.runtime.ports import ToolOutput
from kheish.tools import work as blocking
from kheish.tools.work import Stop, Unusable, to_the_end
from tests.tools.workplace import TIMEOUT_MS, Workplace, threads


async def perform(work: Callable[[Stop], ToolOutput], timeout_ms: int) -> ToolOutput:
    async with threads() as made:
        return await blocking.perform(work, timeout_ms, made)


def until_stopped(begun: threading.Event, ended: threading.Event) -> Callable[[Stop], ToolOutput]:
    def work(stop: Stop) -> ToolOutput:
        begun.set()
        try:
            while True:
                stop()
                time.sleep(0.001)
        finally:
            ended.set()

    return work


async def test_a_cancellation_stops_the_work_and_waits_for_it() -> None:
    begun, ended = threading.Event(), threading.Event()
    call = asyncio.ensure_future(perform(until_stopped(begun, ended), TIMEOUT_MS))
    await asyncio.to_thread(begun.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_a_second_cancellation_does_not_leave_the_work_behind() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def deaf(stop: Stop) -> ToolOutput:
        begun.set()
        release.wait()
        ended.set()
        return ToolOutput(data=b"")

    call = asyncio.ensure_future(perform(deaf, TIMEOUT_MS))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0)
    assert not call.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_the_end_of_its_time_stops_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(blocking, "time", SimpleNamespace(monotonic=lambda: float(begun.is_set())))
    output = await perform(until_stopped(begun, ended), 20)
    assert output.is_error and b"took longer than 20 ms" in output.data
    assert ended.is_set()


@pytest.mark.parametrize("has_time", [True, False])
async def test_what_is_cancelled_or_out_of_time_before_a_thread_has_it_is_not_begun(has_time: bool) -> None:
    begun, release = threading.Event(), threading.Event()

    def work(stop: Stop) -> ToolOutput:
        begun.set()
        return ToolOutput(data=b"")

    async with threads() as made:
        held = [made.run(release.wait, 10) for _ in range(2)]
        call = asyncio.ensure_future(blocking.perform(work, has_time * TIMEOUT_MS, made))
        await asyncio.sleep(0)
        if has_time:
            call.cancel()
        release.set()
        await asyncio.wait([call, *held])
    assert not begun.is_set()
    assert call.cancelled() if has_time else call.result().is_error


async def test_work_that_is_done_in_spite_of_the_end_of_its_time_says_what_it_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = itertools.chain([0, 0], itertools.repeat(2))
    monkeypatch.setattr(blocking, "time", SimpleNamespace(monotonic=lambda: next(seconds)))

    def stubborn(stop: Stop) -> ToolOutput:
        with contextlib.suppress(Unusable):
            while True:
                stop()
        return ToolOutput(data=b"written")

    assert await perform(stubborn, 1000) == ToolOutput(data=b"written")


@pytest.mark.parametrize(("tool", "arguments"), [("list_files", {}), ("glob_search", {"pattern": "*"})])
async def test_a_walk_that_takes_too_long_is_stopped(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, tool: str, arguments: dict[str, Any]
) -> None:
    place.write("a.txt")
    monkeypatch.setattr(os, "scandir", slowed(os.scandir))
    refusal = await place.refusal(tool, timeout_ms=50, **arguments)
    assert refusal == "this took longer than 50 ms and was stopped; name a smaller part of the tree"


def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return function(*arguments)

    return slow


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Unusable("in words"), b"in words"),
        (FileNotFoundError(2, "No such file or directory", "x"), b"No such file or directory: x"),
        (OSError(28, "No space left on device"), b"No space left on device"),
        (OSError(), b"OSError"),
    ],
)
async def test_what_cannot_be_done_is_an_output(error: Exception, text: bytes) -> None:
    def fail(stop: Stop) -> ToolOutput:
        raise error

    assert await perform(fail, TIMEOUT_MS) == ToolOutput(data=text, is_error=True)


async def test_work_to_the_end_gives_its_result_and_its_error() -> None:
    async def result() -> int:
        return 1

    async def error() -> int:
        raise ValueError("no")

    assert await to_the_end(result()) == 1
    with pytest.raises(ValueError, match="no"):
        await to_the_end(error())


async def test_work_to_the_end_is_undone_where_it_was_cancelled() -> None:
    steps: list[str] = []
    go = asyncio.Event()

    async def make() -> str:
        await go.wait()
        steps.append("made")
        return "it"

    async def undo(made: str) -> None:
        steps.append(f"undid {made}")

    call = asyncio.ensure_future(to_the_end(make(), undo))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.sleep(0)
    assert steps == [] and not call.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert steps == ["made", "undid it"]


async def test_there_is_nothing_to_undo_of_work_that_failed() -> None:
    go = asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise OSError

    async def undo(made: None) -> None:
        raise AssertionError

    call = asyncio.ensure_future(to_the_end(fail(), undo))
    await asyncio.sleep(0)
    call.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await call
