"""`bash`: runs a command in the workspace, in a process group of its own.

The command waits at a gate: a shell that reads one line from its standard input before it becomes the command. The
line is written only after the start, with pid and start time, is durable; a daemon that dies before that closes the
pipe, and the shell leaves without having run anything.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import shutil
import subprocess
import threading
import time
from typing import Annotated, Any

import msgspec

from kheish.core.events import Process
from kheish.limits import KIB, PROCESS_KILL_GRACE_MS, TOOL_OUTPUT_BYTES_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.processes import MARK, end_tree, identify, without_secrets
from kheish.tools.work import failure, to_the_end

_GATE = 'read -r go && [ "$go" = go ] || exit 125; exec "$@" </dev/null'
_COMMAND_BYTES_MAX = 128 * KIB - 1  # what Linux takes as one argument
_READ_BYTES = 64 * KIB
_DRAIN_S = 1.0
_TIMEOUT_MS_MAX = 3_600_000


class Arguments(ToolArguments, frozen=True):
    command: Annotated[str, msgspec.Meta(description="The command, as bash reads it.", min_length=1)]
    timeout_ms: Annotated[
        int, msgspec.Meta(description="How long it may take, in milliseconds.", ge=1, le=_TIMEOUT_MS_MAX)
    ] = 180_000

    def problem(self) -> str:
        if "\0" in self.command:
            return "a command cannot contain a NUL character"
        if len(self.command.encode()) > _COMMAND_BYTES_MAX:
            return f"a command may have {_COMMAND_BYTES_MAX} bytes; write a script with write_file and run that"
        return ""


class Output:
    """The first and the last bytes of what a command wrote, in bounded memory."""

    def __init__(self, bytes_max: int = TOOL_OUTPUT_BYTES_MAX) -> None:
        self._half = (bytes_max - 256) // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room < len(data) else b""
        if len(self._tail) > 2 * self._half:
            self._trim()

    def _trim(self) -> None:
        extra = len(self._tail) - self._half
        if extra > 0:
            del self._tail[:extra]
            self._dropped += extra

    def value(self) -> bytes:
        self._trim()
        gap = f"\n[... {self._dropped} bytes were not kept ...]\n".encode() if self._dropped else b""
        return bytes(self._head) + gap + bytes(self._tail)


class Running:
    """A command behind its gate, then running, then gone. Its exit is a future; its output arrives by itself."""

    def __init__(self, popen: subprocess.Popen[bytes], process: Process, call: ToolCall) -> None:
        self._popen = popen
        self.process = process
        self._call = call
        self.output = Output()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.output_ended = asyncio.Event()
        assert popen.stdout is not None
        os.set_blocking(popen.stdout.fileno(), False)
        loop.add_reader(popen.stdout.fileno(), self._read)
        self._loop = loop
        threading.Thread(target=self._wait, name=f"wait-{popen.pid}", daemon=True).start()

    def _wait(self) -> None:
        """Waits for the exit without taking it in: until `end` does, nothing else gets this pid, and the process group
        and session of this name are its own."""
        if hasattr(os, "waitid"):
            found = os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
            assert found is not None
            status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        else:
            status = self._popen.wait()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._note_exit, status)

    def _note_exit(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        try:
            data = os.read(self._popen.stdout.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._stop_reading()
            return
        self.output.add(data)
        text = self._decoder.decode(data)
        if text:
            self._call.emit(text)

    def _stop_reading(self) -> None:
        assert self._popen.stdout is not None
        if not self.output_ended.is_set():
            self._loop.remove_reader(self._popen.stdout.fileno())
            self._popen.stdout.close()
            self.output_ended.set()

    def open_gate(self) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.write(b"go\n")
            self._popen.stdin.close()

    async def end(self, grace_ms: int) -> bool:
        """Ends whatever is left of the command and its descendants. Returns whether anything was."""
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        found = await end_tree(self.process, self._call.tool_call_id, grace_ms)
        await self.exited
        self._popen.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await self.output_ended.wait()
        self._stop_reading()
        return found


class Bash:
    spec = make_spec("bash", Arguments, effect="unsafe", kind="process", main_argument="command")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        try:
            running = await to_the_end(_start(arguments.command, call), lambda made: made.end(0))
        except OSError as error:
            return failure(f"cannot start a shell in {call.cwd}: {error.strerror}")
        started_s = time.monotonic()
        timed_out = was_left = False
        try:
            await call.announce(running.process)
            running.open_gate()
            try:
                async with asyncio.timeout(call.timeout_ms / 1000):
                    await asyncio.shield(running.exited)
            except TimeoutError:
                timed_out = True
        finally:
            was_left = await to_the_end(running.end(PROCESS_KILL_GRACE_MS))
        return _report(running, timed_out, was_left, call.timeout_ms, int((time.monotonic() - started_s) * 1000))


async def _start(command: str, call: ToolCall) -> Running:
    shell = shutil.which("bash") or "/bin/sh"
    popen = await asyncio.to_thread(
        lambda: subprocess.Popen(
            ["/bin/sh", "-c", _GATE, "kheish-gate", shell, "-c", command],
            cwd=call.cwd,
            env=make_environment(dict(os.environ), call),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    )
    return Running(popen, identify(popen.pid), call)


def make_environment(inherited: dict[str, str], call: ToolCall) -> dict[str, str]:
    """The user's environment without what looks like a secret, and with the call's own ids."""
    return {
        **without_secrets(inherited),
        "PWD": call.cwd,
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "TERM": "dumb",
        "KHEISH_SESSION_ID": call.session_id,
        "KHEISH_RUN_ID": call.run_id,
        MARK: call.tool_call_id,
    }


def _report(running: Running, timed_out: bool, was_left: bool, timeout_ms: int, duration_ms: int) -> ToolOutput:
    status = running.exited.result()
    notes = []
    if timed_out:
        notes.append(f"[timed out after {timeout_ms} ms; the command and its children were ended]")
    elif status < 0:
        notes.append(f"[ended by signal {-status}]")
    elif status:
        notes.append(f"[exit status {status}]")
    if was_left and not timed_out:
        notes.append("[processes that it left in the background were ended]")
    data = running.output.value()
    if notes:
        data += (b"" if not data or data.endswith(b"\n") else b"\n") + "\n".join(notes).encode()
    metadata: dict[str, Any] = {"exit_code": status if status >= 0 else 128 - status, "duration_ms": duration_ms}
    if timed_out:
        metadata["timed_out"] = True
    return ToolOutput(data=data or b"[no output]", is_error=bool(status) or timed_out, metadata=metadata)


TOOL = Bash()
