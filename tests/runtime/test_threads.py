"""Threads beside the loop: results and errors come back, a cancellation waits, and nothing is left at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from unittest import mock

import pytest

from kheish.runtime.threads import Threads

THREADS = 2


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads(asyncio.get_running_loop(), THREADS, "under-test")
    yield made
    await made.close()


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("under-test")]


def fail() -> None:
    raise ValueError("no")


async def test_what_work_returns_or_raises_comes_back(threads: Threads) -> None:
    assert await threads.run(lambda: threading.current_thread().name) == "under-test_0"
    with pytest.raises(ValueError, match="no"):
        await threads.run(fail)
    assert await threads.run(lambda: 1) == 1


async def test_there_are_as_many_threads_as_there_is_work_up_to_the_bound(threads: Threads) -> None:
    go = threading.Event()
    assert not alive()
    works = [threads.run(go.wait)]
    assert len(alive()) == 1
    works += [threads.run(go.wait) for _ in range(3)]
    assert len(alive()) == THREADS
    go.set()
    assert await asyncio.gather(*works) == [True] * 4


async def test_whoever_awaits_is_cancelled_once_the_work_has_ended(threads: Threads) -> None:
    begun, hurried, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        hurried.wait()
        ended.set()

    async def wait() -> None:
        await threads.run(work, hurried.set)

    waiting = asyncio.ensure_future(wait())
    await asyncio.to_thread(begun.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


async def test_what_ends_together_wakes_the_loop_once(threads: Threads) -> None:
    loop = asyncio.get_running_loop()
    wake: Callable[..., asyncio.Handle] = loop.call_soon_threadsafe
    with mock.patch.object(loop, "call_soon_threadsafe", side_effect=wake) as woken:
        works = [threads.run(lambda: None) for _ in range(20)]
        last = threading.Event()
        works.append(threads.run(last.set))
        last.wait()  # the loop is held meanwhile
        await asyncio.gather(*works)
        assert woken.call_count <= 3  # two threads may see at once that it is not woken, and one may end late


async def test_at_the_end_no_thread_is_left_and_all_work_was_done() -> None:
    threads = Threads(asyncio.get_running_loop(), THREADS, "under-test")
    works = [threads.run(lambda: 1) for _ in range(5)]
    await threads.close()
    assert not alive()
    assert [work.result() for work in works] == [1] * 5


async def test_where_no_thread_is_to_be_had_those_there_are_do_the_work(threads: Threads) -> None:
    none = mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread"))
    with none, pytest.raises(RuntimeError):
        threads.run(lambda: 1)
    go = threading.Event()
    first = threads.run(go.wait)
    with none:
        second = threads.run(lambda: 2)
    go.set()
    assert (await first, await second) == (True, 2)
    assert len(alive()) == 1
