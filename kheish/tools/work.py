"""Blocking work beside the event loop, which a cancellation never leaves half done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kheish.runtime.ports import ToolOutput
from kheish.store.workers import Workers

T = TypeVar("T")

Stop = Callable[[], None]
"""Raises where the call was cancelled or took too long; long loops call it now and then."""


class Unusable(Exception):
    """What a tool cannot do, in words for the model."""


async def to_the_end(work: Coroutine[Any, Any, T], undo: Callable[[T], Coroutine[Any, Any, Any]] | None = None) -> T:
    """Awaits work that must not be left half done. A cancellation is passed on after it, and after `undo`."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:
            break
    if cancelled:
        if undo is not None and task.exception() is None:
            await to_the_end(undo(task.result()))
        raise asyncio.CancelledError
    return task.result()


async def perform(work: Callable[[Stop], ToolOutput], timeout_ms: int, threads: Workers) -> ToolOutput:
    """Does `work` on a thread. What it cannot do becomes an output with is_error. A cancellation and the end of its
    time tell it to stop, and either waits until it has: what it says then is what happened."""
    ends_at_s = time.monotonic() + timeout_ms / 1000

    def stop() -> None:
        if time.monotonic() >= ends_at_s:
            raise Unusable(f"this took longer than {timeout_ms} ms and was stopped; name a smaller part of the tree")

    def hurry() -> None:
        nonlocal ends_at_s
        ends_at_s = 0.0

    def guarded() -> ToolOutput:
        try:
            stop()  # it may have waited for a thread
            return work(stop)
        except Unusable as error:
            return failure(str(error))
        except OSError as error:
            return failure(f"{error.strerror or type(error).__name__}{f': {error.filename}' if error.filename else ''}")

    return await threads.run_whole(guarded, hurry)


def failure(text: str) -> ToolOutput:
    return ToolOutput(data=text.encode("utf-8", "replace"), is_error=True)
