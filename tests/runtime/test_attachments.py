"""What is attached to a session's messages comes to its models, however long ago that was."""

from __future__ import annotations

from pathlib import Path

from kheish.core import commands as c
from kheish.core.events import Attachment
from kheish.limits import CHECKPOINT_AT_IDLE_RECORDS
from tests.runtime.kernel import Kernel, reply

IMAGE = b"\x89PNG the picture"


async def look(kernel: Kernel, *attachments: Attachment) -> dict[str, bytes]:
    """What the model of another run sees of the pictures."""
    run_id = await kernel.send(c.SubmitRun(text="look", route="test", model="m", attachments=attachments))
    await kernel.until_status(run_id, "completed")
    return kernel.provider.requests[-1].blobs


async def test_a_picture_is_shown_in_its_run_in_later_ones_after_a_restart_and_after_a_compaction(
    tmp_path: Path,
) -> None:
    async with Kernel(tmp_path, [reply("a cat")]) as kernel:
        await kernel.create()
        assert await look(kernel) == {}
        blob = await kernel.supervisor.put_blob(IMAGE)
        picture = Attachment(name="cat.png", media_type="image/png", blob=blob, bytes=len(IMAGE))
        note = Attachment(name="note.txt", media_type="text/plain", text="a note", bytes=6)
        assert await look(kernel, note, picture) == {blob: IMAGE}
        for _ in range(CHECKPOINT_AT_IDLE_RECORDS // 2):
            assert await look(kernel) == {blob: IMAGE}
    async with Kernel(tmp_path, [reply("a cat")], generation=2) as kernel:
        assert await look(kernel) == {blob: IMAGE}
        assert await look(kernel, picture) == {blob: IMAGE}
        await kernel.send(c.CompactContext())
        await look(kernel)
        assert (await kernel.state()).compactions == 1
        assert await look(kernel, picture) == {blob: IMAGE}
