"""A real daemon in a process of its own, with a state root of its own, that tests may kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kheish.client import Kheish, StreamEvent, launch
from kheish.store.segments import list_segments, open_segment

Json = dict[str, Any]

ROUTES = """\
version = 1
default_route = "test"

[routes.test]
driver = "scripted"
default_model = "script.json"
"""
FOREIGN = ("KHEISH_", "ANTHROPIC_", "OPENAI_", "GEMINI_", "GOOGLE_", "OPENROUTER_", "XAI_")
"""What a person's environment may hold and a test's daemon must not see."""
START_TIMEOUT_S = 20.0
EVENT_TIMEOUT_S = 30.0


class DaemonProcess:
    """`folder` gets a `state`, a `config` with a scripted default route, and a `work` directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "config"
        self.work = folder / "work"
        for directory in (self.config, self.work):
            directory.mkdir(parents=True, exist_ok=True)
        if not (self.config / "routes.toml").exists():
            (self.config / "routes.toml").write_text(ROUTES)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self.env = {
            **kept,
            "HOME": str(folder),
            "KHEISH_STATE_ROOT": str(self.state),
            "KHEISH_CONFIG_DIR": str(self.config),
            "TZ": "UTC",
            "NO_COLOR": "1",
        }
        self.popen: subprocess.Popen[bytes] | None = None
        self.client = Kheish(self.socket, origin="test", start=False)

    @property
    def socket(self) -> Path:
        return self.state / "daemon" / "kheish.sock"

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    def script(self, *replies: Json, name: str = "script.json", after_last: str = "fail") -> str:
        """Writes a script; returns its model."""
        script = {"version": 1, "replies": list(replies), "after_last": after_last}
        (self.config / name).write_text(json.dumps(script))
        return f"scripted/{name}"

    def spawn(
        self, env: dict[str, str] | None = None, argv: list[str] | None = None, pass_fds: tuple[int, ...] = ()
    ) -> subprocess.Popen[bytes]:
        command = argv or [sys.executable, "-m", "kheish", "daemon", "run"]
        environment = {**self.env, **(env or {})}
        self.popen = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, cwd="/", pass_fds=pass_fds)
        return self.popen

    def start(
        self, env: dict[str, str] | None = None, argv: list[str] | None = None, pass_fds: tuple[int, ...] = ()
    ) -> DaemonProcess:
        """Returns when it answers."""
        process = self.spawn(env, argv, pass_fds)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not launch.is_ready(self.client.transport):
            if process.poll() is not None:
                raise AssertionError(f"the daemon left with status {process.returncode}")
            assert time.monotonic() < deadline, "the daemon does not answer"
            time.sleep(0.005)
        return self

    def kill(self) -> None:
        assert self.popen is not None
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> int:
        """SIGTERM; returns its exit status."""
        assert self.popen is not None
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(START_TIMEOUT_S)

    def close(self) -> None:
        if self.popen is not None and self.popen.poll() is None:
            self.kill()

    # -- as a user -----------------------------------------------------------------------------------------------

    def cli(
        self, *arguments: str, input: str | None = None, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kheish", *arguments],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            env={**self.env, **(env or {})},
            cwd=cwd or self.work,
            timeout=60,
        )

    def shell(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A script of bash, in which `kheish` is the one under test."""
        path = f"{os.path.dirname(sys.executable)}{os.pathsep}{self.env['PATH']}"
        return subprocess.run(
            ["bash", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self.env, "PATH": path, **env},
            cwd=self.work,
            timeout=60,
        )

    def cli_json(self, *arguments: str, **options: Any) -> Any:
        done = self.cli(*arguments, "--json", **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def session(self, session_id: str, mode: str = "default") -> str:
        self.client.sessions.create(session_id, cwd=str(self.work), permission_mode=mode)
        return session_id

    def submit(self, session_id: str, text: str = "go", **options: Any) -> str:
        """Returns the run's id."""
        return str(self.client.sessions.submit(session_id, text, **options)["run_id"])

    def events(self, **where: Any) -> Iterator[StreamEvent]:
        """A stream; fails when the test takes too long."""
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        yield from self.client.events(deadline_s=deadline, **where)
        assert time.monotonic() < deadline, "the event did not come"

    def until(self, session_id: str, *types: str, cursor: str = "") -> Json:
        """The first journaled event of one of these types, with `seq`."""
        with contextlib.closing(self.events(session_id=session_id, cursor=cursor)) as events:
            for frame in events:
                if frame.event == "record":
                    for event in frame.data["events"]:
                        if event["type"] in types:
                            return {**event, "seq": frame.data["seq"]}
        raise AssertionError(f"no {types} came")

    def finish(self, run_id: str) -> Json:
        """The run, when it is over."""
        for _ in self.events(run_id=run_id):
            pass
        return self.client.runs.get(run_id)

    def records(self, session_id: str) -> list[Json]:
        """The journal as the API pages it."""
        found: list[Json] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self.client.sessions.events(session_id, cursor=cursor, limit=1000)
            found += page["items"]
            cursor = page["next_cursor"]
        return found

    def journal(self, session_id: str) -> list[Json]:
        """The records on the disk."""
        directory, found = self.state / "sessions" / session_id, []
        for _, path in list_segments(directory) if directory.exists() else ():
            with open_segment(path) as file:
                found += [json.loads(line) for line in file]
        return [line for line in found if "events" in line]

    def types(self, session_id: str) -> list[str]:
        return [event["type"] for record in self.journal(session_id) for event in record["events"]]


def text(value: str, **more: Any) -> Json:
    """A script's reply."""
    return {"text": value, **more}


def tool(name: str, **arguments: Any) -> Json:
    """A tool call of a script's reply."""
    return {"tool": name, "arguments": arguments}


def calls(*tool_calls: Json, **more: Any) -> Json:
    return {"tool_calls": list(tool_calls), **more}


def bash(command: str) -> Json:
    return calls(tool("bash", command=command))
