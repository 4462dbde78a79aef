"""Where the daemon lacks descriptors for a moment nothing fails for it: what needs one waits."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from kheish.core import commands as c
from kheish.core.events import Attachment
from kheish.errors import ProviderError
from kheish.runtime import actor, model_calls
from tests.runtime.kernel import Kernel, Scripted, reply


@pytest.mark.parametrize("lacking", ["journal-", "blobs/", "provider"])
async def test_a_model_call_waits_for_what_it_needs_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """The run failed, or the model was not shown what was attached."""
    monkeypatch.setattr(actor, "CHECKPOINT_AT_IDLE_RECORDS", 1)
    monkeypatch.setattr(model_calls, "SHORTAGE_LOOK_EVERY_MS", 1)
    async with Kernel(tmp_path, [reply("first")]) as kernel:
        await kernel.create()
        blob = await kernel.supervisor.put_blob(b"image")
        attached = Attachment(name="a.png", media_type="image/png", blob=blob, bytes=5)
        submit = c.SubmitRun(text="one", route="test", model="m", attachments=(attached,))
        await kernel.until_status(await kernel.send(submit), "completed")
    shortages = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)) for _ in range(3)]
    open_file, open_route = os.open, Scripted.open

    def open_scarce(path: Any, *arguments: Any, **options: Any) -> int:
        is_read = threading.current_thread().name.startswith("kheish-store")
        if is_read and lacking in os.fspath(path) and shortages:
            raise shortages.pop()
        return open_file(path, *arguments, **options)

    async def open_scarce_route(provider: Scripted, route: str) -> Scripted:
        if lacking == "provider" and shortages:
            raise ProviderError("cannot read routes.toml", code="route_not_ready") from shortages.pop()
        return await open_route(provider, route)

    async with Kernel(tmp_path, [reply("first"), reply("second")], generation=2) as kernel:
        await kernel.state()
        monkeypatch.setattr(os, "open", open_scarce)
        monkeypatch.setattr(Scripted, "open", open_scarce_route)
        await kernel.until_status(await kernel.submit("two"), "completed")
        (request,) = kernel.provider.requests
    assert shortages == []
    assert [m.text for m in request.messages] == ["one", "first", "two"] and request.blobs == {blob: b"image"}
