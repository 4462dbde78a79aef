"""A daemon that a stranger may ask anything of, and the ids of what really exists in it.

Whatever is sent, nothing runs: the script, which stands behind every route, asks for nothing but a list of files and
for answers to questions; there is no rehearsal, which would run what an input says; and rules that no session can lift
deny every tool that changes something. A human's edit of a call may change its arguments, never its tool.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from tests.api.raw_http import Connection
from tests.daemon_process import DaemonProcess, Json, calls, text, tool

ROUTES = """\
version = 1
default_route = "test"
""" + "".join(
    f'\n[routes.{name}]\ndriver = "scripted"\ndefault_model = "script.json"\n'
    for name in ("test", "rehearsal", "scripted")
)
CONFIG = """\
[permissions]
deny = ["bash", "write_file", "edit_file", "apply_patch"]
ask = ["list_files"]
"""
QUESTIONS = [
    {"question": "Which colour?", "header": "Colour", "options": [{"label": "red"}, {"label": "blue"}]},
    {"question": "Which sizes?", "options": [{"label": "1"}, {"label": "2"}], "multi_select": True},
    {"question": "Why?"},
]
REPLIES = (
    text("done", when="AFTER"),
    text("never", when="HANG", hang=1_000),
    calls(tool("ask_user_question", questions=QUESTIONS), when="ASK"),
    calls(tool("list_files", path="."), tool("list_files", path="a"), when="LIST"),
    text("done"),
)
INPUTS = ("LIST", "ASK", "AFTER", "go")
"""What leads somewhere, and ends: `POST /v1/sessions/{id}/input` waits for it."""
KEPT = 3
"""How many there are of each thing to choose from, at least."""
_PATIENCE_S = 30.0


class World:
    def __init__(self, folder: Path, seed: int) -> None:
        self.daemon = DaemonProcess(folder)
        (self.daemon.config / "routes.toml").write_text(ROUTES)
        (self.daemon.config / "config.toml").write_text(CONFIG)
        (self.daemon.work / "a").mkdir()
        (self.daemon.work / "a" / "b.txt").write_text("b\n")
        self.daemon.script(*REPLIES, after_last="repeat")
        self.random = random.Random(seed)
        self.sessions: list[Json] = []
        self.runs: list[Json] = []
        self.approvals: list[Json] = []
        self.questions: list[Json] = []
        self.blobs: list[str] = []
        self._made = 0
        self.hanging: set[str] = set()
        """Sessions in which any input may hang: a model sees that of a run that was stopped too."""

    def start(self) -> None:
        self.daemon.start()
        self._connection = Connection(self.daemon)
        deadline = time.monotonic() + _PATIENCE_S
        self.refresh()
        while len(self.approvals) < KEPT or len(self.questions) < KEPT:
            assert time.monotonic() < deadline, "nothing waits for a human"
            time.sleep(0.01)
            self._look()

    def refresh(self) -> None:
        """Looks at what there is, makes what has become scarce, and sets back what would make it so."""
        self._look()
        for wanted, there in (("LIST", self.approvals), ("ASK", self.questions), ("HANG", self.queued)):
            for _ in range(len(there), KEPT):
                self._submit(wanted)
        if len(self.blobs) < KEPT:
            attached = {"file_name": "a.bin", "content_base64": "AAEC" + "AAAA" * len(self.blobs)}
            run = self._submit("AFTER", attachments=[attached])
            self.blobs.append(run["input_attachments"][0]["blob"])
        self.ask("POST", "/v1/runtime/model", {"model": ""})
        self.ask("POST", "/v1/runtime/permission-mode", {"mode": "default"})
        for route in self.ask("GET", "/v1/routes"):
            if route["source"].startswith("runtime"):
                self.ask("DELETE", f"/v1/runtime/routes/{route['route_id']}")
        for rule in self.ask("GET", "/v1/runtime/permissions/rules"):
            # One that lists without asking, or never, would leave nothing to approve.
            if self.random.random() < 0.5:
                self._connection.ask("DELETE", f"/v1/runtime/permissions/rules?pattern={_quote(rule['pattern'])}")

    @property
    def queued(self) -> list[Json]:
        return [run for run in self.runs if run["status"] == "queued"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._connection.ask(method, path, body)
        assert answer.status < 300, (method, path, body, answer)
        return answer.json

    def _look(self) -> None:
        inbox = self.ask("GET", "/v1/inbox")
        self.approvals, self.questions = inbox["approvals"], inbox["questions"]
        self.sessions = self.ask("GET", "/v1/sessions?limit=40")
        self.runs = self.ask("GET", "/v1/runs")

    def _submit(self, content: str, **more: Any) -> Json:
        """In a session of its own; behind a run that hangs another one is queued. Returns the last run."""
        self._made += 1
        session = self.ask("POST", "/v1/sessions", {"session_id": f"real-{self._made}", "cwd": str(self.daemon.work)})
        path = f"/v1/sessions/{session['session_id']}/runs"
        if content == "HANG":
            self.hanging.add(session["session_id"])
        run: Json = self.ask("POST", path, {"content": content, **more})
        return self.ask("POST", path, {"content": "AFTER"}) if content == "HANG" else run


def _quote(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
