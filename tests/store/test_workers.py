"""Threads that work for a loop: answers, bounds, one word to the loop for all that is done, and the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest

from kheish.errors import StoreError
from kheish.store.bell import Bell
from kheish.store.workers import Workers

THREADS = 3


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    made = Workers(asyncio.get_running_loop(), "test-work", THREADS)
    yield made
    await made.close()


def running() -> int:
    return sum(thread.name.startswith("test-work") for thread in threading.enumerate())


async def test_whoever_asks_gets_what_the_work_returns_or_raises(workers: Workers) -> None:
    here = threading.get_ident()
    assert await workers.run(threading.get_ident) != here
    assert await workers.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await workers.run(divmod, 1, 0)
    assert await asyncio.gather(*[workers.run(str, number) for number in range(100)]) == [*map(str, range(100))]


async def test_there_are_as_many_threads_as_there_is_work_at_once_up_to_the_bound(workers: Workers) -> None:
    assert running() == 0
    for _ in range(5):
        await workers.run(int)
    assert running() == 1
    met = threading.Barrier(THREADS, timeout=10)
    for _ in range(2):  # they are begun, and then they are woken
        await asyncio.gather(*[workers.run(met.wait) for _ in range(5 * THREADS)])
        assert running() == THREADS


async def test_one_thread_does_what_none_waits_long_for(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    met = threading.Barrier(THREADS, timeout=10)
    await asyncio.gather(*[workers.run(met.wait) for _ in range(THREADS)])
    while len(workers._asleep) < THREADS:
        await asyncio.sleep(0)
    monkeypatch.setattr("kheish.store.workers.WORK_WAITS_MS_MAX", 60_000)
    by = await asyncio.gather(*[workers.run(threading.get_ident) for _ in range(20)])
    by += await asyncio.gather(*[workers.run(threading.get_ident) for _ in range(20)])
    assert len(set(by)) == 1


async def test_nobody_looks_for_a_thread_where_all_are_at_work(workers: Workers) -> None:
    begun, opened = threading.Barrier(THREADS + 1, timeout=10), threading.Event()

    def hold() -> None:
        begun.wait()
        opened.wait(10)

    held = [workers.run(hold) for _ in range(THREADS)]
    await asyncio.to_thread(begun.wait)
    waiting = workers.run(int)
    async with asyncio.timeout(10):
        while workers._relief is not None:
            await asyncio.sleep(0)
    assert not waiting.done()
    opened.set()
    await asyncio.gather(*held, waiting)


async def test_the_loop_is_woken_once_for_all_that_is_done_before_it_looks(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, woken = asyncio.get_running_loop(), threading.Semaphore(0)
    wakes: list[object] = []
    wake = loop.call_soon_threadsafe

    def count(*arguments: Any) -> object:
        wakes.append(arguments)
        woken.release()
        return wake(*arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    opened = threading.Event()
    waiting = [workers.run(opened.wait, 10)]
    opened.set()
    assert woken.acquire(timeout=10)  # and the loop, which is held here, has not looked
    others = [workers.run(int) for _ in range(20)]
    while len(workers._done) < 21:  # nor does it yet
        time.sleep(0.001)  # noqa: ASYNC251 - the loop is to stand still
    assert len(wakes) == 1
    assert await asyncio.gather(*waiting, *others) == [True, *[0] * 20]


async def test_what_nobody_waits_for_any_more_is_not_begun(workers: Workers) -> None:
    opened = threading.Event()
    begun: list[str] = []
    held = [workers.run(opened.wait, 10) for _ in range(THREADS)]
    unwanted, wanted = workers.run(begun.append, "unwanted"), workers.run(begun.append, "wanted")
    unwanted.cancel()
    opened.set()
    await asyncio.gather(*held, wanted)
    assert begun == ["wanted"]


async def test_whoever_waits_for_what_cannot_be_broken_off_is_cancelled_once_it_has_ended(workers: Workers) -> None:
    begun, hurried, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        hurried.wait(10)
        ended.set()

    async def wait() -> None:
        await workers.run_whole(work, hurried.set)

    waiting = asyncio.ensure_future(wait())
    await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


async def test_where_no_thread_is_to_be_had_those_there_are_do_the_work(workers: Workers) -> None:
    none = mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread"))
    with none, pytest.raises(RuntimeError):
        workers.run(int)
    opened = threading.Event()
    first = workers.run(opened.wait, 10)
    with none:
        second = workers.run(int, 2)
    opened.set()
    assert (await first, await second, running()) == (True, 2, 1)


async def test_the_end_waits_for_all_work_and_takes_no_more() -> None:
    workers = Workers(asyncio.get_running_loop(), "test-work", THREADS)
    answers = [workers.run(str, number) for number in range(50)]
    closing = asyncio.ensure_future(workers.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreError) as caught:
        workers.run(int)
    assert caught.value.code == "store_closed"
    await closing
    assert [answer.result() for answer in answers] == [*map(str, range(50))]
    assert running() == 0


# -- the bell -------------------------------------------------------------------------------------------------------


async def test_at_a_ring_of_workers_everybody_looks_who_has_the_bell() -> None:
    loop, looked = asyncio.get_running_loop(), asyncio.Event()
    bell = Bell(loop)
    workers = Workers(loop, "test-work", THREADS, bell)
    bell.looks.append(looked.set)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*[workers.run(str, number) for number in range(20)]) == [*map(str, range(20))]
        await looked.wait()
        await workers.close()
    assert bell.looks == [looked.set]
    bell.close()


async def test_what_rings_while_it_is_answered_is_heard_again() -> None:
    bell, heard = Bell(asyncio.get_running_loop()), asyncio.Event()
    looks: list[int] = []

    def look() -> None:
        looks.append(len(looks))
        if len(looks) == 1:
            bell.ring()
        else:
            heard.set()

    bell.looks.append(look)
    bell.ring()
    async with asyncio.timeout(10):
        await heard.wait()
    assert looks == [0, 1]
    bell.close()
