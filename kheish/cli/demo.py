"""`kheish demo`: an incident on a real daemon that is killed twice, and a check of every claim it makes.

The scene lives in the folder `incident`: a real Alertmanager body, a script in place of a language model, and a small
workspace. Everything else is what a user has: the daemon, the tools, the journal, the CLI in processes of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kheish import paths
from kheish.cli.output import paint, print_json, say
from kheish.client import AsyncKheish, Kheish, StreamEvent, launch
from kheish.errors import KheishError
from kheish.narration import Renderer
from kheish.store.locks import is_state_root_locked
from kheish.terminal import clean, clock

if TYPE_CHECKING:
    from kheish.client import AnyEvent, ApprovalView, AuthorView, RecordView

Json = dict[str, Any]

SESSION = "incident-4821"
ROUTES = 'version = 1\n\n[routes.incident]\ndriver = "scripted"\ndefault_model = "script.json"\n'
STEP_TIMEOUT_S = 30.0
_WHO = {
    "model_call": "model",
    "tool_call": "tool",
    "process": "daemon",
    "session.recovered": "daemon",
    "run.completed": "daemon",
    "run.failed": "daemon",
    "approval.requested": "daemon",
    "question.requested": "model",
}


class DemoFailed(KheishError):
    code = "demo_failed"


def demo(interactive: bool, keep: bool, as_json: bool) -> int:
    if interactive and not (sys.stdin.isatty() and not as_json):
        raise DemoFailed("cannot ask anybody: --interactive needs a terminal and no --json")
    scratch = Path(os.path.realpath(tempfile.mkdtemp(prefix="kheish-demo-")))
    saved = {n: os.environ.pop(n, None) for n in ("KHEISH_STATE_ROOT", "KHEISH_CONFIG_DIR", "KHEISH_SOCKET")}
    os.environ["KHEISH_STATE_ROOT"] = str(scratch / "state")
    os.environ["KHEISH_CONFIG_DIR"] = str(scratch / "config")
    scene = Scene(scratch, is_interactive=interactive, is_quiet=as_json)
    kept_at = str(scratch) if keep else ""
    try:
        scene.play()
        return scene.report(as_json, kept_at)
    except KheishError as error:
        if as_json:
            scene.print_report(kept_at, problem=error.message)
        raise
    finally:
        with contextlib.suppress(KheishError):
            launch.stop_daemon()
        if keep:
            say(f"kept; to look: export KHEISH_STATE_ROOT={scratch}/state KHEISH_CONFIG_DIR={scratch}/config")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Scene:
    """Plays the incident and remembers what happened: the records as a follower saw them, and the demo's own acts."""

    def __init__(self, scratch: Path, *, is_interactive: bool, is_quiet: bool) -> None:
        self.workspace = scratch / "workspace"
        self.client = Kheish(origin="demo", start=False)
        self._scratch = scratch
        self._is_interactive = is_interactive
        self._is_quiet = is_quiet
        self._renderer = Renderer()
        self._cursor = ""
        self.began_s = time.monotonic()
        self.records: list[RecordView] = []
        self.timeline: list[Json] = []
        self.restarts_ms: list[int] = []
        self.run_id = ""
        self.waiting: ApprovalView | None = None
        self.waiting_after_restart: list[ApprovalView] = []
        self.verify_pid = 0
        self.claims: list[Json] = []

    # -- the scene -----------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Raises DemoFailed where the scene stands still."""
        alert = self._furnish()
        self.start_daemon("the daemon starts")
        self.client.sessions.create(SESSION, cwd=str(self.workspace), permission_mode="accept_edits")
        for pattern in ("bash(./bin/health*)", "bash(./bin/verify*)"):
            self.client.sessions.add_rule(SESSION, pattern, "allow")
        run = self.client.sessions.submit(
            SESSION,
            "An alert came in. Find the cause, write plan.md, and restore the service.",
            attachments=[{"file_name": "alert.json", "media_type": "application/json", "text": alert}],
            key="alert-b3c1d2e4f5a60718",
        )
        self.run_id = run["run_id"]

        question = self.until("question.requested", "run.completed")
        self.answer(question)
        approval = self.until("approval.requested", "run.completed")
        if approval["type"] == "approval.requested":
            self.waiting = self.client.approvals.get(approval["request_id"])
            self.kill("kill -9 while it waits for a human")
            self.start_daemon("the daemon comes back")
            self.waiting_after_restart = self.client.approvals.list()
            self.approve(self.waiting)
            after = self.until_call("./bin/verify")
            if after is not None:
                self.verify_pid = after["process"]["pid"]
                self.until_output("watching")
                self.kill("kill -9 in the middle of a command")
                self.start_daemon("the daemon comes back")
                self.until("run.completed", "run.failed", "run.cancelled")
        if not (self.verify_pid or self._is_interactive):
            # A person may choose another end; without one there is no other.
            raise DemoFailed("the run ended before it was told to roll back and to verify")
        self._read_to_the_end()

    def _furnish(self) -> str:
        """Lays out the workspace and the route to the script; returns the alert."""
        with resources.as_file(resources.files("kheish.cli") / "incident") as source:
            shutil.copytree(source / "workspace", self.workspace)
            config = self._scratch / "config"
            config.mkdir()
            shutil.copy(source / "script.json", config)
            alert = (source / "alert.json").read_text("utf-8")
        (config / "routes.toml").write_text(ROUTES, "utf-8")
        for program in (self.workspace / "bin").iterdir():
            program.chmod(0o755)
        return alert

    def start_daemon(self, what: str) -> None:
        began = time.monotonic()
        launch.ensure_daemon(self.client.transport)
        took_ms = int((time.monotonic() - began) * 1000)
        self.restarts_ms.append(took_ms)
        view = self.client.daemon.status()
        self.note(
            "daemon", f"{what}: pid {view['pid']}, generation {view['generation']}, ready in {took_ms} ms", "bold"
        )

    def kill(self, what: str) -> None:
        """SIGKILL, and proof that it is dead: its lock is free."""
        pid = self.client.daemon.status()["pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while is_state_root_locked(paths.state_root()):
            if time.monotonic() > deadline:
                raise DemoFailed(f"pid {pid} survived SIGKILL")
            time.sleep(0.002)
        self.note("kill -9", f"{what}: pid {pid} is dead", "red")

    def answer(self, event: Json) -> None:
        if event["type"] != "question.requested":
            raise DemoFailed("the run ended before it asked its question")
        if self._is_interactive:
            self.ask(event["request_id"])
        else:
            self.command("answer", event["request_id"], "--option", "1")

    def approve(self, shown: ApprovalView) -> None:
        """From a second client process, bound to the digest that was shown before the first kill."""
        if self._is_interactive:
            self.ask(shown["request_id"])
        else:
            self.command("approve", shown["request_id"], "--if-digest", shown["digest"])

    def ask(self, request_id: str) -> None:
        """Asks the person, until it is decided."""
        from kheish.cli.prompts import Prompt

        prompt = Prompt(AsyncKheish(origin="cli", start=False), request_id)
        while prompt.is_open:
            asyncio.run(prompt.ask())

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another process of the CLI. Raises DemoFailed."""
        done = subprocess.run(
            [sys.executable, "-m", "kheish", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise DemoFailed(f"`kheish {' '.join(arguments)}` failed ({done.returncode}): {done.stderr.strip()}")
        return done

    # -- following -----------------------------------------------------------------------------------------------

    def _events(self) -> Generator[StreamEvent, None, None]:
        """Goes on where it was, also in another life of the daemon."""
        deadline_s = time.monotonic() + STEP_TIMEOUT_S
        for event in self.client.events(session_id=SESSION, cursor=self._cursor, deadline_s=deadline_s):
            if event.event == "record":
                self._cursor = event.id
                self.records.append(event.data)
                self._show(event.data)
            yield event
        raise DemoFailed(f"nothing happened for {STEP_TIMEOUT_S:.0f} s; `kheish demo --keep` leaves all to look at")

    def until(self, *types: str) -> Json:
        """The next fact of one of these types."""

        def wanted(fact: AnyEvent) -> bool:
            return fact["type"] in types

        return self._until(wanted)

    def _until(self, wanted: Callable[[AnyEvent], bool]) -> Json:
        with contextlib.closing(self._events()) as events:
            for event in events:
                if event.event == "record":
                    for fact in event.data["events"]:
                        if wanted(fact):
                            return dict(fact)
        raise AssertionError("unreachable")

    def until_call(self, command: str) -> Json | None:
        """The start of this command, or None where the run ended without it."""
        calls: set[str] = set()

        def wanted(fact: AnyEvent) -> bool:
            if fact["type"] == "model_call.completed":
                requests = fact.get("tool_requests", ())
                calls.update(r["tool_call_id"] for r in requests if r["arguments"].get("command") == command)
            started = fact["type"] == "tool_call.started" and fact["tool_call_id"] in calls
            return started or fact["type"] in ("run.completed", "run.failed")

        fact = self._until(wanted)
        return fact if fact["type"] == "tool_call.started" else None

    def until_output(self, text: str) -> None:
        """Until the running command has said this, live or before this stream was opened."""
        log = self.workspace / "deploy" / "verifications.log"
        with contextlib.closing(self._events()) as events:
            for event in events:
                if event.event == "delta" and text in event.data.get("text", ""):
                    return
                if log.exists():
                    return

    def _read_to_the_end(self) -> None:
        with contextlib.closing(self._events()) as events:
            for event in events:
                if event.event == "sync":
                    return

    # -- telling -------------------------------------------------------------------------------------------------

    def note(self, who: str, what: str, color: str = "", at_ms: int = 0) -> None:
        at_ms = at_ms or time.time_ns() // 1_000_000
        self.timeline.append({"at_ms": at_ms, "who": who, "what": what})
        if not self._is_quiet:
            print(f"{paint(clock(at_ms), 'dim')}  {who:<8} {paint(clean(what), color)}", flush=True)

    def _show(self, record: RecordView) -> None:
        for fact in record["events"]:
            for text, color in self._renderer.lines({**record, "events": [fact]}):
                self.note(_who(fact["type"], record["by"]), text.removeprefix("model: "), color, record["at_ms"])

    # -- checking ------------------------------------------------------------------------------------------------

    def facts(self, *types: str) -> list[Json]:
        return [dict(fact) for record in self.records for fact in record["events"] if fact["type"] in types]

    def claim(self, text: str, holds: bool, evidence: str) -> None:
        self.claims.append({"claim": text, "holds": holds, "evidence": evidence})

    def check(self) -> None:
        """Every claim, against the journal on disk and the workspace."""
        journal = self._read_journal()
        self.claim(
            "every record that a follower saw is in the journal, unchanged and in order",
            journal == self.records,
            f"{len(self.records)} records seen, {len(journal)} stored",
        )
        generations = [record["generation"] for record in journal]
        kills = sum(1 for entry in self.timeline if entry["who"] == "kill -9")
        self.claim(
            f"the daemon was killed {_times(kills)} and each life has a generation of its own",
            generations == sorted(generations) and len(set(generations)) == kills + 1,
            f"generations {sorted(set(generations))}",
        )
        completed = [fact["run_id"] for fact in self.facts("run.completed")]
        self.claim(
            "one run was submitted, and that very run completed",
            [f["run_id"] for f in self.facts("run.submitted")] == [self.run_id] == completed,
            self.run_id,
        )
        plan = self.workspace / "plan.md"
        self.claim(
            "the plan is written, once and whole",
            plan.is_file() and plan.read_text("utf-8") == self._written("plan.md"),
            f"plan.md, {plan.stat().st_size if plan.is_file() else 0} bytes",
        )
        answers = self.facts("question.answered")
        self.claim("a human answered the question", len(answers) == 1, answers[0]["principal"] if answers else "nobody")
        if self.waiting is not None:
            self._check_approval(self.waiting)
        if self.verify_pid:
            self._check_verify()
        self._check_store()

    def _check_approval(self, shown: ApprovalView) -> None:
        request_id = shown["request_id"]
        self.claim(
            "the approval outlived the first kill: same id, same digest, still answerable",
            self.waiting_after_restart == [shown],
            f"{request_id}, digest {shown['digest'][:12]}",
        )
        resolved = self.facts("approval.resolved")
        self.claim(
            "it was resolved exactly once, by a local operator",
            [r["request_id"] for r in resolved] == [request_id] and resolved[0]["principal"] == f"user:{os.getuid()}",
            f"{resolved[0]['resolution']} by {resolved[0]['principal']}" if resolved else "not at all",
        )
        allowed = bool(resolved) and resolved[0]["resolution"] == "allow"
        starts = [s for s in self.facts("tool_call.started") if s["tool_call_id"] == shown["tool_call_id"]]
        lines = _lines(self.workspace / "deploy" / "rollbacks.log")
        wanted = ["release-42 -> release-41"] if allowed else []
        self.claim(
            f"the rollback ran {'exactly once' if allowed else 'never: it was denied'}",
            lines == wanted and len(starts) == len(wanted),
            f"{_count(starts, 'start')} in the journal, {_count(lines, 'line')} in deploy/rollbacks.log",
        )

    def _check_verify(self) -> None:
        uncertain = [fact["tool_call_id"] for fact in self.facts("tool_call.became_uncertain")]
        starts = [f for f in self.facts("tool_call.started") if f["tool_call_id"] in uncertain]
        lines = _lines(self.workspace / "deploy" / "verifications.log")
        self.claim(
            "the command that the second kill cut off was not repeated; the model was told and looked",
            len(uncertain) == 1 and len(starts) == 1 and lines == ["started"],
            f"{_count(starts, 'start')}, then uncertain; deploy/verifications.log: {', '.join(lines)}",
        )
        ended = [fact["pid"] for fact in self.facts("process.ended")]
        self.claim(
            "what that command left running is gone",
            ended == [self.verify_pid] and not _is_running(self.verify_pid),
            f"pid {self.verify_pid}",
        )

    def _check_store(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "kheish", "sessions", "verify", SESSION],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.claim(
            "the journal verifies: framing, chain, checkpoints, blobs",
            done.returncode == 0,
            " ".join((done.stdout + done.stderr).split()),
        )

    def _read_journal(self) -> list[RecordView]:
        items: list[RecordView] = []
        cursor = None
        while True:
            page = self.client.sessions.events(SESSION, cursor=cursor, limit=1000)
            items += page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return items

    def _written(self, path: str) -> str:
        """What the model asked to be written there."""
        for fact in self.facts("model_call.completed"):
            for request in fact.get("tool_requests", ()):
                if request["tool"] == "write_file" and request["arguments"]["path"] == path:
                    return str(request["arguments"]["content"])
        return ""

    def report(self, as_json: bool, kept_at: str) -> int:
        """0 only if every claim holds."""
        self.check()
        ok = all(claim["holds"] for claim in self.claims)
        if as_json:
            self.print_report(kept_at, ok=ok)
            return 0 if ok else 1
        print()
        for claim in self.claims:
            mark = paint("ok   ", "green") if claim["holds"] else paint("FALSE", "red")
            print(f"{mark} {claim['claim']} {paint('(' + clean(claim['evidence']) + ')', 'dim')}")
        took_s = self.took_ms() / 1000
        print(f"\n{len(self.claims)} claims checked in {took_s:.1f} s: {'all hold' if ok else 'NOT all hold'}")
        return 0 if ok else 1

    def print_report(self, kept_at: str, *, ok: bool = False, problem: str = "") -> None:
        """`problem` is why the scene stood still, if it did."""
        print_json(
            {
                "ok": ok,
                "problem": problem or None,
                "session_id": SESSION,
                "run_id": self.run_id,
                "took_ms": self.took_ms(),
                "daemon_ready_ms": self.restarts_ms,
                "timeline": self.timeline,
                "claims": self.claims,
                "kept_at": kept_at or None,
            }
        )

    def took_ms(self) -> int:
        return int((time.monotonic() - self.began_s) * 1000)


def _who(type_: str, by: AuthorView) -> str:
    known = _WHO.get(type_) or _WHO.get(type_.partition(".")[0])
    return known or str(by["origin"])


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _count(things: list[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
