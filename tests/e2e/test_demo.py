"""`kheish demo` keeps its word, and would say so if it did not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.terminal import Terminal, needs_tmux

pytestmark = pytest.mark.slow

TIMEOUT_S = 60

# What the demo must say, and a change to the scene after it was laid out, before the daemon starts; everything else is
# as it is shipped.
TAMPERED = {
    "the rollback happens twice": (
        "the rollback ran exactly once",
        """
        program = workspace / "bin" / "rollback"
        program.write_text(program.read_text() + 'echo "$from -> $to" >> deploy/rollbacks.log\\n')
    """,
    ),
    "the rollback does not happen": (
        "the rollback ran exactly once",
        """
        (workspace / "bin" / "rollback").write_text("#!/bin/sh\\necho rolled back\\n")
    """,
    ),
    "nobody asks for the rollback": (
        "before it was told to roll back",
        """
        script = json.loads((config / "script.json").read_text())
        script["replies"] = [r for r in script["replies"] if "rollback" not in json.dumps(r.get("tool_calls"))]
        script["replies"] = [r for r in script["replies"] if "verify" not in json.dumps(r.get("tool_calls"))]
        (config / "script.json").write_text(json.dumps(script))
    """,
    ),
    "somebody else changes the plan": (
        "the plan is written, once and whole",
        """
        program = workspace / "bin" / "verify"
        program.write_text("#!/bin/sh\\necho changed > plan.md\\n" + program.read_text())
    """,
    ),
    "a byte of the journal is lost": (
        "line 3 (byte ",
        """
        program = workspace / "bin" / "rollback"
        journal = workspace.parent / "state/sessions/incident-4821/journal-000000000001.jsonl"
        program.write_text(program.read_text() + f"sed -i '3s/./X/40' {journal}\\n")
    """,
    ),
}
DRIVER = """
import json, sys
from kheish.cli import demo, main

furnish = demo.Scene._furnish

def furnish_and_tamper(scene):
    alert = furnish(scene)
    workspace, config = scene.workspace, scene._scratch / "config"
{tampering}
    return alert

demo.Scene._furnish = furnish_and_tamper
sys.exit(main.run(["demo", "--json"]))
"""


def environment(folder: Path) -> dict[str, str]:
    """Of a person who has used nothing of Kheish yet."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KHEISH_")}
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "HOME": str(folder), "TMPDIR": str(folder), "TZ": "UTC", "NO_COLOR": "1"}


class Played:
    """A demo that was begun; its end is waited for when it is looked at."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.folder = folder
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            env=environment(folder),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @cached_property
    def end(self) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        out, err = self.popen.communicate(timeout=TIMEOUT_S)
        return self.popen.returncode, out, err


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Played]]:
    """All demos of this module, begun at once: each has a daemon of its own."""
    folder = tmp_path_factory.mktemp("demo")
    commands = {
        "text": ["-m", "kheish", "demo"],
        "json": ["-m", "kheish", "demo", "--json", "--keep"],
    }
    for name, (_, tampering) in TAMPERED.items():
        lines = [f"    {line.strip()}" for line in tampering.strip().splitlines()]
        commands[name] = ["-c", DRIVER.format(tampering="\n".join(lines))]
    begun = {name: Played(folder / str(n), *command) for n, (name, command) in enumerate(commands.items())}
    try:
        yield begun
    finally:
        for one in begun.values():
            one.popen.kill()
            one.popen.wait()


def pids_of(report: dict[str, Any]) -> set[int]:
    return {int(pid) for entry in report["timeline"] for pid in re.findall(r"\bpid (\d+)", entry["what"])}


def is_running(pid: int, folder: Path) -> bool:
    """Whether a process of this demo has this pid, which may be another's by now."""
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def test_every_claim_holds(played: dict[str, Played]) -> None:
    status, out, err = played["text"].end
    assert status == 0, out + err
    assert err == ""
    claims = re.findall(r"^(ok|FALSE) +(.*)$", out, re.MULTILINE)
    assert len(claims) >= 11 and {verdict for verdict, _ in claims} == {"ok"}
    assert re.search(rf"^{len(claims)} claims checked in [\d.]+ s: all hold$", out, re.MULTILINE)
    assert out.count("  kill -9  ") == 2


def test_it_leaves_nothing_behind(played: dict[str, Played]) -> None:
    assert played["text"].end[0] == 0
    assert list(played["text"].folder.iterdir()) == []


def test_as_json_it_is_one_document_with_its_evidence(played: dict[str, Played]) -> None:
    status, out, err = played["json"].end
    report = json.loads(out)
    assert status == 0 and report["ok"] is True and report["problem"] is None
    assert all(claim["holds"] and claim["evidence"] for claim in report["claims"])
    assert len(report["daemon_ready_ms"]) == 3
    assert [e["who"] for e in report["timeline"]].count("kill -9") == 2
    kept = Path(report["kept_at"])
    assert kept.is_dir() and f"KHEISH_STATE_ROOT={kept}/state" in err
    assert (kept / "workspace" / "deploy" / "rollbacks.log").read_text() == "release-42 -> release-41\n"
    deadline = time.monotonic() + TIMEOUT_S
    while left := [pid for pid in pids_of(report) if is_running(pid, kept)]:
        # Its lock is free, so the last daemon is on its way out.
        assert time.monotonic() < deadline, f"{left} are left running"
        time.sleep(0.02)


def test_what_is_kept_can_be_looked_at(played: dict[str, Played]) -> None:
    assert played["json"].end[0] == 0
    (kept,) = played["json"].folder.glob("kheish-demo-*")
    env = {**environment(played["json"].folder), "KHEISH_STATE_ROOT": str(kept / "state")}
    verified = subprocess.run(["kheish", "sessions", "verify", "--all"], env=env, capture_output=True, text=True)
    assert (verified.returncode, verified.stdout) == (0, "ok     incident-4821\n")


@pytest.mark.parametrize("name", TAMPERED)
def test_it_fails_where_what_it_claims_is_not_so(played: dict[str, Played], name: str) -> None:
    status, out, err = played[name].end
    assert status == 1, f"it believes that all is well: {out}"
    report = json.loads(out)
    assert report["ok"] is False
    false = [claim["claim"] for claim in report["claims"] if not claim["holds"]]
    assert bool(report["problem"]) != bool(false)
    assert TAMPERED[name][0] in " ".join([report["problem"] or "", *false])
    assert "Traceback" not in err
    assert list(played[name].folder.iterdir()) == [], "it leaves something behind"


@needs_tmux
def test_a_person_answers_and_approves_or_denies(tmp_path: Path) -> None:
    """Two of them, at two terminals."""
    with contextlib.ExitStack() as stack:
        terminals = {}
        for decision in ("y", "n"):
            folder = tmp_path / decision
            terminal = Terminal(folder, environment(folder / "home"), folder, columns=120, lines=50)
            stack.callback(terminal.close)
            terminal.enter("kheish demo --interactive")
            terminals[decision] = terminal
        for terminal in terminals.values():
            terminal.until(r"How should checkout recover\?\n(.|\n)*\[Enter\] later>")
            terminal.enter("1")
        for decision, terminal in terminals.items():
            terminal.until(r"kill -9 while it waits for a human(.|\n)*\[e\] edit  \[Enter\] later>")
            assert "  command    ./bin/rollback release-41\n" in terminal.screen
            terminal.enter("")
            terminal.until(r"left waiting(.|\n)*\[e\] edit  \[Enter\] later>")
            terminal.enter(decision)
        terminals["n"].until("why .*>")
        terminals["n"].enter("not without the team")
        for decision, ran in {"y": "exactly once", "n": "never: it was denied"}.items():
            shown = terminals[decision].until("claims checked in .* s: all hold")
            assert f"ok    the rollback ran {ran}" in shown and "FALSE" not in shown
            assert terminals[decision].result() == 0


def test_without_a_terminal_nobody_can_be_asked(tmp_path: Path) -> None:
    done = subprocess.run(
        ["kheish", "demo", "--interactive"],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "needs a terminal" in done.stderr and done.stdout == ""
