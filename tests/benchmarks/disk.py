"""Sessions on the disk: what opening one takes, what a step leaves there, and how fast all of it is checked."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import re
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

from kheish.core.state import REDUCER_VERSION
from kheish.limits import CHECKPOINT_EVERY_RECORDS
from kheish.runtime import packer, residents
from kheish.runtime.fold import fold_session
from kheish.store.session_dir import SessionDir, session_path
from tests.benchmarks.figures import Figure
from tests.benchmarks.trees import Mould, Tree, no_syncs
from tests.daemon_process import DaemonProcess
from tests.runtime.kernel import Kernel, reply

MIB = 1024 * 1024
OPENED = (11, 1001, 100_001)
LARGE_BYTES = 1024 * MIB
LARGE_RUNS_STEPS, LARGE_REPLY_BYTES = 100, 900
OPENINGS = 5
STEP_BYTES, STEPS = 1000, (100, 10_000)
VERIFIED_SESSIONS, VERIFIED_RECORDS = 200, 101


def memory_kb(field: str, pid: int | str = "self") -> int:
    return int(re.findall(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def cpu_s(pid: int) -> float:
    """What a process has used of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- opening --------------------------------------------------------------------------------------------------------


def open_(folder: Path, count: int) -> list[Figure]:
    """To open a session as its actor does: the newest checkpoint, the tail after it, ready to append."""
    root = folder / "open"
    short = Tree(root, Mould(folder, 4, 100))
    for records in OPENED:
        short.grow([f"r{records}"], records, since_checkpoint=min(records, CHECKPOINT_EVERY_RECORDS))
    long = Mould(folder, LARGE_RUNS_STEPS, LARGE_REPLY_BYTES)
    Tree(folder / "sample", long).grow(["sample"], 1000)
    records = LARGE_BYTES // _size(session_path(folder / "sample", "sample")) * 1000
    Tree(root, long).grow(["large"], records, since_checkpoint=CHECKPOINT_EVERY_RECORDS - 1)
    os.sync()
    names = {f"r{records}": f"{records:,} records" for records in OPENED} | {"large": f"1 GB, {records:,} records"}
    figures = []
    for name, title in names.items():
        taken = [_open_in_a_child(root, name) for _ in range(OPENINGS)]
        tail = f"{taken[0][2]} records in the tail"
        figures += [
            Figure(f"open a session of {title}", "ms", [ms for ms, _, _ in taken], note=tail),
            Figure(f"open a session of {title}: peak of memory above before", "MB", [mb for _, mb, _ in taken]),
        ]
    return figures


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


def _open_in_a_child(root: Path, name: str) -> tuple[float, float, int]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_open, args=(theirs, root, name))
    child.start()
    taken: tuple[float, float, int] = ours.recv()
    child.join()
    return taken


def _open(pipe: Connection, root: Path, name: str) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory_kb("VmRSS")
    began = time.perf_counter()
    opened = SessionDir.open(root, name, fold_session, reducer=REDUCER_VERSION)
    took_ms = (time.perf_counter() - began) * 1000
    pipe.send((took_ms, (memory_kb("VmHWM") - before) / 1024, opened.journal.end.seq - opened.checkpoint_seq))
    opened.journal.close()


# -- bytes at rest --------------------------------------------------------------------------------------------------


def bytes_(folder: Path, count: int) -> list[Figure]:
    """What a step leaves on the disk, put away and packed: a model reply of 1,000 bytes of noise in letters with a call
    of a tool, and a whole run of one such reply. Text takes less."""
    with no_syncs(), put_away_at_once():
        figures = []
        for what, steps_of_run in (("step of a long run", 500), ("run of one step", 1)):
            sizes = [
                asyncio.run(_bytes_at_rest(folder / f"bytes-{steps_of_run}-{steps}", steps, min(steps, steps_of_run)))
                for steps in STEPS
            ]
            for steps, (total, checkpoints) in zip(STEPS, sizes, strict=True):
                figure = Figure(
                    f"bytes at rest, {what}, after {steps:,}", "bytes", [total / steps],
                    note=f"{checkpoints / steps:.0f} of them checkpoints",
                )  # fmt: skip
                if steps_of_run > 1:
                    figure = figure._replace(goal="<= 1300", met=figure.median <= 1300)
                figures.append(figure)
            times = (sizes[1][0] / STEPS[1]) / (sizes[0][0] / STEPS[0])
            figures.append(
                Figure(
                    f"bytes at rest, {what}: after {STEPS[1]:,} beside {STEPS[0]}", "x", [times],
                    goal="<= 1.00", met=times <= 1.005,
                )
            )  # fmt: skip
        return figures


@contextlib.contextmanager
def put_away_at_once() -> Iterator[None]:
    with mock.patch.object(residents, "SESSION_UNLOAD_AFTER_MS", 50), mock.patch.object(packer, "PACKING_REST_MS", 0):
        yield


async def _bytes_at_rest(root: Path, steps: int, steps_of_run: int) -> tuple[int, int]:
    noise = random.Random(1)

    async def answer(request: object) -> object:
        text = "".join(noise.choices(string.ascii_letters + string.digits, k=STEP_BYTES))
        is_last = request.step == steps_of_run  # type: ignore[attr-defined]
        return reply(text) if is_last else reply(text, ("read_file", {"path": "notes.txt"}))

    async with Kernel(root, [answer]) as kernel:  # type: ignore[list-item]
        await kernel.create()
        for _ in range(steps // steps_of_run):
            subscription = kernel.supervisor.hub.subscribe(session_id="s")
            await kernel.submit()
            async for frame in subscription:
                if frame.ends:
                    break
            subscription.close()
            kernel.provider.requests.clear()  # each holds the transcript so far
        residing, packing = kernel.supervisor._residents, kernel.supervisor._packer
        while len(residing) or residing._closing or packing._packing:
            await asyncio.sleep(0.01)
    directory = session_path(root, "s")
    return _size(directory), sum(file.stat().st_size for file in directory.glob("checkpoint-*"))


# -- the check ------------------------------------------------------------------------------------------------------


def verify(folder: Path, count: int) -> list[Figure]:
    """`kheish sessions verify --all`, with nothing else running."""
    made = DaemonProcess(folder / "verify")
    tree = Tree(made.state, Mould(folder, 4, 100))
    tree.grow([f"s{number}" for number in range(VERIFIED_SESSIONS)], VERIFIED_RECORDS)
    size_mb = sum(_size(directory) for directory in (made.state / "sessions").iterdir()) / MIB
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        argv = [sys.executable, "-m", "kheish", "sessions", "verify", "--all"]
        subprocess.run(argv, env=made.env, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return [
        Figure("verify --all: records", "1/s", [tree.pos / s for s in taken]),
        Figure(
            "verify --all: bytes", "MB/s", [size_mb / s for s in taken], note=f"{size_mb:.0f} MB in sessions of 100"
        ),
    ]


SCENES = {"store.open": open_, "store.bytes": bytes_, "store.verify": verify}
