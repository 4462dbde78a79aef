"""The event loop leaves the disk to other threads: where that is slow nobody but who asks for it waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kheish.core.state import REDUCER_VERSION
from kheish.runtime.fold import fold_session
from kheish.store.records import segment_name
from kheish.store.session_dir import SessionDir
from tests.runtime.kernel import Kernel, reply

CALLS = ("open", "stat", "lstat", "listdir", "scandir", "mkdir", "replace", "unlink", "write", "fsync", "fdatasync")


@pytest.fixture
def on_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the main thread on what is below the state root."""
    found: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            target = arguments[0] if arguments else "."
            if threading.current_thread() is threading.main_thread():
                path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
                if str(path).startswith(str(tmp_path)):
                    found.append(f"{name} {path}")
            return call(*arguments, **options)

        return noted

    for name in CALLS:
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    return found


async def test_nothing_on_the_disk_is_looked_at_or_changed_by_the_loop(tmp_path: Path, on_loop: list[str]) -> None:
    kernel = Kernel(tmp_path, [reply("", ("read_file", {"path": "x"})), reply("done")])
    on_loop.clear()
    async with kernel:
        await kernel.create()
        run_id = await kernel.submit()
        await kernel.until_status(run_id, "completed")
        await kernel.supervisor.reader.read_records("s", 0, 10)
        await kernel.supervisor.reader.find_run(run_id)
        assert await kernel.replayed(1, 1)
    assert on_loop == []
    with (tmp_path / "sessions" / "s" / segment_name(1)).open("ab") as file:
        file.write(b"torn")
    SessionDir.open(tmp_path, "s", fold_session, reducer=REDUCER_VERSION).journal.close()
    kernel = Kernel(tmp_path, [reply("done")], generation=2)
    on_loop.clear()
    async with kernel:
        await kernel.supervisor.reader.read_records("s", 0, 10)
        await kernel.supervisor.reader.peek("s")
        assert await kernel.replayed(1, 1)
        await kernel.until_status(await kernel.submit(), "completed")
    assert on_loop == []
