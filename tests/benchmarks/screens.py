"""The terminal application as a person meets it: how soon it shows, answers keys and follows, and what it holds."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from kheish.tui.app import KheishApp
from kheish.tui.live import Change, Entry, Reply, Said
from kheish.tui.screens.home import Home
from kheish.tui.screens.session import Session
from kheish.tui.widgets.composer import Composer
from kheish.tui.widgets.transcript import Transcript
from tests.benchmarks.figures import Figure
from tests.benchmarks.kernel import daemon
from tests.benchmarks.trees import Mould, Tree
from tests.benchmarks.tui import PIECES, SECTION, reply_of
from tests.daemon_process import DaemonProcess
from tests.tui.harness import Keys, open_app, shown, until

STARTS = 10
FIRST_FRAME_MS_MAX, ATTACH_MS_MAX, KEY_MS_MAX, REFLOW_MS_MAX, STREAM_MS_MAX = 450, 300, 30, 16, 1_500
LONG_BYTES, LONG_RECORDS = 100_000_000, 80_000
ENTRIES, STREAMING, KEYS = 10_000, 3, 60
PATIENCE_S = 20.0


def _run(work: Coroutine[Any, Any, list[Figure]]) -> list[Figure]:
    return asyncio.run(work)


# -- the first frame ------------------------------------------------------------------------------------------------


def first_frame(folder: Path, count: int) -> list[Figure]:
    """From the start of the process to the first frame, and to the list of sessions, in a terminal of 120x40 against a
    warm daemon, next to a Python that imports textual.app and leaves."""
    with daemon(folder, "first-frame") as made:
        made.start()
        for number in range(100):
            made.session(f"listed-{number:03}")
        bare, frames, lists = [], [], []
        for _ in range(STARTS):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import textual.app"], check=True, env=_environment(made))
            bare.append((time.perf_counter() - began) * 1000)
            frame, listed = _start(made, (b"all sessions", b"listed-0"))
            frames.append(frame)
            lists.append(listed)
    times = statistics.median(frames) / statistics.median(bare)
    first = Figure("first frame", "ms", frames, goal=f"<= {FIRST_FRAME_MS_MAX}", note=f"{times:.2f} x bare textual.app")
    return [
        Figure("import of textual.app alone", "ms", bare),
        first._replace(met=first.median <= FIRST_FRAME_MS_MAX),
        Figure("first list of 100 sessions", "ms", lists),
    ]


def _environment(made: DaemonProcess) -> dict[str, str]:
    env = {name: value for name, value in made.env.items() if name not in ("PYTHONDONTWRITEBYTECODE", "NO_COLOR")}
    return {**env, "TERM": "xterm-256color", "COLORTERM": "truecolor"}


def _start(made: DaemonProcess, marks: tuple[bytes, ...]) -> list[float]:
    """Milliseconds until each of the marks is on the terminal."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(made.work)
        os.execve(sys.executable, [sys.executable, "-m", "kheish"], _environment(made))
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        written, taken = b"", []
        while len(taken) < len(marks):
            assert time.perf_counter() - began < PATIENCE_S, written[-500:]
            if select.select([terminal], [], [], 0.1)[0]:
                written += os.read(terminal, 65536)
            if marks[len(taken)] in written:
                taken.append((time.perf_counter() - began) * 1000)
        return taken
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


# -- a session ------------------------------------------------------------------------------------------------------


def attach(folder: Path, count: int) -> list[Figure]:
    """From the choice of a session of 100 MB to its last entries on the screen."""
    made = DaemonProcess(folder / "attach")
    mould = Mould(folder, 3, LONG_BYTES // LONG_RECORDS * 2)
    tree = Tree(made.state, mould)
    tree.grow(["long"], LONG_RECORDS, since_checkpoint=40)
    size = sum(file.stat().st_size for file in (made.state / "sessions" / "long").iterdir())
    made.start()
    try:
        return _run(_attach(made, size))
    finally:
        made.close()


async def _attach(made: DaemonProcess, size: int) -> list[Figure]:
    taken = []
    async with open_app(made, size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: "long" in app.board.rows)
        for _ in range(8):
            began = time.perf_counter()
            app.open_session("long")
            while "completed" not in shown(app):
                assert time.perf_counter() - began < PATIENCE_S
                await asyncio.sleep(0)
            taken.append((time.perf_counter() - began) * 1000)
            await app.pop_screen()
            await until(pilot, lambda: isinstance(app.screen, Home))
    figure = Figure(f"attach to a session of {size / 1e6:.0f} MB", "ms", taken, goal=f"< {ATTACH_MS_MAX}")
    return [figure._replace(met=figure.median < ATTACH_MS_MAX)]


def key(folder: Path, count: int) -> list[Figure]:
    """From a key to the character on the screen while three sessions stream, the one that is shown among them; and the
    application's CPU and memory meanwhile."""
    with daemon(folder, "key") as made:
        made.start()
        words = [f"word{number} " for number in range(2_000)]
        made.script({"text": "".join(words), "deltas": words, "pace_ms": 15}, name="talk.json", after_last="repeat")
        return _run(_key(made))


async def _key(made: DaemonProcess) -> list[Figure]:
    names = [made.session(f"talk{number}") for number in range(STREAMING)]
    for name in names:
        made.submit(name, "talk", model="test/talk.json")
    taken = []
    async with open_app(made, session_id=names[0], size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: "word" in shown(app) and isinstance(app.screen, Session))
        composer = app.screen.query_one(Composer)
        await until(pilot, lambda: composer.has_focus)
        began_cpu, began_s = time.process_time(), time.perf_counter()
        for number in range(KEYS):
            letter = "abcdefghij"[number % 10]
            began = time.perf_counter()
            await _press(app, letter)
            while composer.text[-1:] != letter or letter not in shown(app).splitlines()[-3]:
                assert time.perf_counter() - began < PATIENCE_S
                await asyncio.sleep(0)
            taken.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.05)
        share = (time.process_time() - began_cpu) / (time.perf_counter() - began_s)
    figure = Figure(f"key to paint, {STREAMING} sessions stream", "ms", taken, goal=f"p99 < {KEY_MS_MAX}")
    return [
        figure._replace(met=figure.percentile(0.99) < KEY_MS_MAX),
        Figure("the application's share of a processor meanwhile", "%", [share * 100], note="with the measuring"),
    ]


async def _press(app: KheishApp, letter: str) -> None:
    from textual import events

    app.post_message(events.Key(letter, letter))


def reflow(folder: Path, count: int) -> list[Figure]:
    """The transcript alone at 10,000 entries: from a new width, or a new entry, to lines; the work of its own loop."""
    return _run(_reflow())


async def _reflow() -> list[Figure]:
    from tests.tui.test_transcript import page

    entries: list[Entry] = []
    for number in range(ENTRIES):
        if number % 2:
            reply = Reply(number, 0, f"m{number}")
            reply.text, reply.is_open = f"Answer {number}. {'word ' * (number % 60)}\n\n- `one`\n- two", False
            entries.append(reply)
        else:
            entries.append(Said(number, 0, f"input {number}", "user:0", "cli", "submitted", []))
    widths, added = [], []
    async with page(entries, size=(120, 40)) as (app, pilot):
        transcript = app.query_one(Transcript)
        for number in range(30):
            width = 60 + 7 * (number % 9)
            await pilot.resize_terminal(width, 40)
            transcript.look_changed(transcript._look)  # as after another width: nothing that was drawn is of use
            began = time.perf_counter()
            transcript._settle()
            widths.append((time.perf_counter() - began) * 1000)
            change = Change()
            change.added = [Said(ENTRIES + number, 0, "another", "user:0", "cli", "submitted", [])]
            began = time.perf_counter()
            transcript.change(change)
            added.append((time.perf_counter() - began) * 1000)
    figure = Figure(f"reflow at {ENTRIES:,} entries", "ms", widths, goal=f"< {REFLOW_MS_MAX}")
    more = Figure(f"one more entry at {ENTRIES:,}", "ms", added, goal=f"< {REFLOW_MS_MAX}")
    return [f._replace(met=f.median < REFLOW_MS_MAX) for f in (figure, more)]


def stream(folder: Path, count: int) -> list[Figure]:
    """The application's CPU for one reply of 12 KB that comes in 400 pieces; and what it holds after many such."""
    with daemon(folder, "stream") as made:
        made.start()
        whole = reply_of(SECTION)
        pieces = [whole[len(whole) * i // PIECES : len(whole) * (i + 1) // PIECES] for i in range(PIECES)]
        made.script({"text": whole, "deltas": pieces, "pace_ms": 5}, name="long.json", after_last="repeat")
        made.script({"text": whole, "deltas": pieces}, name="fast.json", after_last="repeat")
        return _run(_stream(made))


async def _stream(made: DaemonProcess) -> list[Figure]:
    name = made.session("reply")
    spent, held = [], []
    async with open_app(made, session_id=name, size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Session) and not app.screen._is_loading)
        for _ in range(3):
            began = time.process_time()
            await _reply(app, pilot, made, name, "test/long.json")
            spent.append((time.process_time() - began) * 1000)
        for _ in range(3):
            for _ in range(60):
                await _reply(app, pilot, made, name, "test/fast.json")
            held.append(_memory_mb())
    figure = Figure("12 KB streamed reply, CPU of the application", "ms", spent, goal=f"<= {STREAM_MS_MAX}")
    grown = held[-1] - held[-2]
    memory = Figure("memory after 60, 120 and 180 such replies", "MB", held, note=f"the last 60 added {grown:.1f} MB")
    return [figure._replace(met=figure.median <= STREAM_MS_MAX), memory]


async def _reply(app: KheishApp, pilot: Keys, made: DaemonProcess, name: str, model: str) -> None:
    run_id = await asyncio.to_thread(made.submit, name, "talk", model=model)
    await until(pilot, lambda: app.board.rows[name].last_status == "completed" and not app.board.rows[name].active)
    assert run_id


def _memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


SCENES = {
    "tui.first_frame": first_frame,
    "tui.attach": attach,
    "tui.key": key,
    "tui.reflow": reflow,
    "tui.stream": stream,
}
