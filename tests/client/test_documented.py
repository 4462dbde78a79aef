"""The page of the client: its programs run, its sessions print what they show, and it shows every method."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.wire.status import STREAM_EVENTS
from tests.architecture.modules import REPOSITORY
from tests.client.test_complete import NOUNS, methods_of
from tests.daemon_process import FOREIGN, DaemonProcess

PAGE = REPOSITORY / "share/doc/kheish/client.md"
REHEARSAL = 'version = 1\n\n[routes.rehearsal]\ndriver = "rehearsal"\n'
_BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, str, int]]:
    """(language, code, line) of each block."""
    text = PAGE.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        yield match.group(1), match.group(2), text.count("\n", 0, match.start()) + 1


@pytest.mark.slow
def test_the_page_runs_and_prints_what_it_shows(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page and in one namespace, against a daemon that the page starts itself."""
    machine = DaemonProcess(tmp_path_factory.mktemp("page"))
    (machine.config / "routes.toml").write_text(REHEARSAL)
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    for name in ("HOME", "KHEISH_STATE_ROOT", "KHEISH_CONFIG_DIR"):
        monkeypatch.setenv(name, machine.env[name])
    monkeypatch.chdir(machine.work)
    namespace: dict[str, Any] = {"__name__": "page"}
    try:
        for language, code, line in blocks():
            if language == "pycon":
                namespace = check_session(code, namespace, line)
            else:
                exec(compile("\n" * line + code, str(PAGE), "exec"), namespace)
    finally:
        machine.cli("daemon", "stop")


def check_session(code: str, namespace: dict[str, Any], line: int) -> dict[str, Any]:
    """What was typed prints what is shown, where `...` stands for anything."""
    session = doctest.DocTestParser().get_doctest(code, namespace, PAGE.name, str(PAGE), line)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    done = runner.run(session, out=said.append, clear_globs=False)
    assert not done.failed, "".join(said)
    return session.globs


def test_the_page_shows_every_method() -> None:
    code = "".join(code for _, code, _ in blocks())
    missing = [
        f"{noun}.{name}" for noun in NOUNS for name, _ in methods_of(noun) if f"client.{noun}.{name}(" not in code
    ]
    assert missing == []


@pytest.mark.slow
def test_a_type_checker_finds_no_fault_with_the_page(tmp_path: Path) -> None:
    sources = [
        code if language == "python" else "".join(e.source for e in doctest.DocTestParser().get_examples(code))
        for language, code, _ in blocks()
    ]
    program = tmp_path / "page.py"
    program.write_text("\n".join(sources))
    command = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path, program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout


def test_the_page_knows_every_kind_of_event() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [row for row in rows if row.islower()] == [kind.name for kind in STREAM_EVENTS]
