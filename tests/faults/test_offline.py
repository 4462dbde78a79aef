"""What a person or the daemon does to a session that is not at work, killed at every change to the disk: it is done as
a whole or not at all, nothing else changes, and the same is done again."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from kheish.cli import sessions
from kheish.core.state import REDUCER_VERSION
from kheish.daemon import maintenance
from kheish.runtime.fold import fold_session
from kheish.store.segments import list_segments, read_records
from kheish.store.session_dir import SessionDir, clear_unfinished, session_names
from tests.faults.syscalls import Syscalls, read_log
from tests.runtime.kernel import Kernel, reply

pytestmark = pytest.mark.slow

MOMENTS = ("before", "after", "torn_half")
CALLS_MAX = 200


class Deed(NamedTuple):
    """`do` is struck; `is_done` says whether it was done."""

    do: Callable[[Path], None]
    is_done: Callable[[Path], bool]
    has_session: bool = True


def take_in(archive: Path) -> None:
    assert sessions.import_(str(archive), False) == 0


def write_out(archive: Path) -> None:
    assert sessions.export("s", str(archive), False) == 0


def vacuum(root: Path) -> None:
    assert sessions.vacuum(["s"], False, False) == 0


def put_away(root: Path) -> None:
    """What the daemon does to a session that wrote much."""
    opened = SessionDir.open(root, "s", fold_session, reducer=REDUCER_VERSION)
    if opened.journal.end.seq >= opened.journal.end.segment_first_seq:
        opened.journal.end_segment()
    opened.journal.close()
    vacuum(root)


def is_packed(root: Path) -> bool:
    *closed, newest = [path.name for _, path in list_segments(root / "sessions" / "s")]
    return bool(closed) and all(name.endswith(".gz") for name in closed) and newest.endswith(".jsonl")


DEEDS = {
    "import": Deed(lambda root: take_in(root.parent / "s.kheish"), lambda root: "s" in session_names(root), False),
    "export": Deed(
        lambda root: write_out(root.parent / "out.kheish"),
        lambda root: (root.parent / "out.kheish").exists(),
    ),
    "put away": Deed(put_away, is_packed),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state root with a session of several segments that names a blob, and an archive of it."""
    folder = tmp_path_factory.mktemp("m")

    async def fill() -> None:
        async with Kernel(folder / "state", [reply("done")]) as kernel:
            await kernel.create()
            for _ in range(4):
                await kernel.until_status(await kernel.submit("x" * 500), "completed")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 4)
        asyncio.run(fill())
    with (folder / "s.kheish").open("wb") as out:
        maintenance.export(folder / "state", "s", out)
    return folder


def strike(deed: Deed, root: Path, log: Path, number: int, moment: str) -> bool:
    """Does it in a process that is killed at the call of this number; False where there are fewer."""

    def do() -> None:
        Syscalls(root.parent, log, number=(number, moment)).install()
        deed.do(root)

    process = multiprocessing.get_context("fork").Process(target=do)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", DEEDS)
def test_killed_at_any_call_it_is_done_or_not_and_done_again(
    name: str, moment: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deed = DEEDS[name]
    lines = [record.line for record in read_records(model / "state" / "sessions" / "s")]
    monkeypatch.setattr("kheish.store.packed.PACKED_MEMBER_BYTES", 2_000)
    outcomes, number = set(), 1
    while number < CALLS_MAX:
        folder = tmp_path / str(number)
        root, log = folder / "state", tmp_path / f"{number}.log"
        shutil.copytree(model, folder)
        if not deed.has_session:
            shutil.rmtree(root)
        monkeypatch.setenv("KHEISH_STATE_ROOT", str(root))
        if not strike(deed, root, log, number, moment):
            break
        outcomes.add(deed.is_done(root))
        if deed.has_session or deed.is_done(root):
            assert [record.line for record in read_records(root / "sessions" / "s")] == lines
        if name == "import" and deed.is_done(root):
            assert [found.faults for found in maintenance.verify(root)] == [[]]
        else:
            deed.do(root)
        assert deed.is_done(root)
        if name == "export":
            shutil.rmtree(root / "sessions" / "s")
            take_in(folder / "out.kheish")
        clear_unfinished(root)
        SessionDir.open(root, "s", fold_session, reducer=REDUCER_VERSION).journal.close()
        assert [found.faults for found in maintenance.verify(root)] == [[]]
        assert [record.line for record in read_records(root / "sessions" / "s")] == lines
        assert not list((root / "sessions").rglob(".*")), "nothing is left behind"
        shutil.rmtree(folder)
        number += 1
    kinds = {call.kind for call in read_log(log)[-1]}
    assert {"open", "rename"} <= kinds and number > 3
    assert False in outcomes and (True in outcomes or moment != "after")
