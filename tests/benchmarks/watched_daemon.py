"""The daemon, with a watch on its event loop: how long each callback held it. Run as a module, like the daemon itself.

At SIGUSR1 it writes what it saw since the last time to the file that KHEISH_WATCH names, as one JSON object: the
longest block in milliseconds with the callback's name, and the number of callbacks.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

Seen = dict[str, Any]


def _fresh() -> Seen:
    return {"longest_ms": 0.0, "callback": "", "callbacks": 0, "over_10_ms": 0}


def watch(path: str) -> None:
    """Times every callback of every event loop in this process from here on."""
    seen = _fresh()
    run = asyncio.events.Handle._run  # type: ignore[attr-defined]

    def timed(handle: Any) -> None:
        began = time.perf_counter()
        run(handle)
        took_ms = (time.perf_counter() - began) * 1000
        seen["callbacks"] += 1
        seen["over_10_ms"] += took_ms > 10
        if took_ms > seen["longest_ms"]:
            seen["longest_ms"] = took_ms
            seen["callback"] = _name(handle)

    def report(*_: object) -> None:
        with open(f"{path}.part", "w") as file:
            json.dump(seen, file)
        os.replace(f"{path}.part", path)
        seen.update(_fresh())

    asyncio.events.Handle._run = timed  # type: ignore[attr-defined]
    signal.signal(signal.SIGUSR1, report)


def _name(handle: Any) -> str:
    callback = handle._callback
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return repr(task.get_coro())[:200]
    return repr(callback)[:200]


if __name__ == "__main__":
    watch(os.environ["KHEISH_WATCH"])
    from kheish.daemon.main import run_daemon

    sys.exit(run_daemon())
