"""Completion scripts, by the shells themselves where they are installed, and the manual page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kheish.cli import completions
from kheish.cli.table import DAILY, GROUPS, MODES
from tests.daemon_process import DaemonProcess

BASH = shutil.which("bash") or ""


def complete(folder: Path, line: str, env: dict[str, str] | None = None) -> list[str]:
    """What bash offers for a line whose last word is being typed."""
    words = line.split(" ")
    script = (
        f"{completions.bash()}\n"
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
        'kheish() { "$PYTHON" -m kheish "$@"; }\n_kheish; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [BASH, "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **(env or {}), "PYTHON": sys.executable},
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(not BASH, reason="bash is not installed")
def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    assert {c.name for c in DAILY} | set(GROUPS) <= set(complete(tmp_path, "kheish "))
    assert complete(tmp_path, "kheish appr") == ["approve", "approvals"]
    assert set(complete(tmp_path, "kheish sessions ve")) == {"verify"}
    assert complete(tmp_path, "kheish run --mo") == ["--model", "--mode"]
    assert complete(tmp_path, "kheish run --mode pl") == ["plan"]
    assert complete(tmp_path, "kheish wait run_1 --until b") == ["blocked"]
    assert complete(tmp_path, "kheish sessions set-mode review ") == list(MODES)
    assert complete(tmp_path, "kheish sessions set-mode --json review p") == ["plan"]
    assert complete(tmp_path, "kheish doctor --json ") == ["all", "routes"]
    (tmp_path / "notes.txt").touch()
    assert complete(tmp_path, "kheish run --attach no") == ["notes.txt"]


@pytest.mark.slow
@pytest.mark.skipif(not BASH, reason="bash is not installed")
def test_bash_completes_ids_of_a_running_daemon_and_starts_none(daemon: DaemonProcess) -> None:
    daemon.session("review")
    assert complete(daemon.work, "kheish logs rev", daemon.env) == ["review"]
    assert complete(daemon.work, "kheish sessions get r", daemon.env) == ["review"]
    assert daemon.stop() == 0
    assert complete(daemon.work, "kheish logs rev", daemon.env) == []
    assert not daemon.socket.exists()


@pytest.mark.parametrize(("shell", "make"), [("zsh", completions.zsh), ("fish", completions.fish)])
def test_the_other_shells_can_read_their_scripts(shell: str, make: object, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} IS NOT INSTALLED: its completion script is not checked here")
    assert callable(make)
    script = tmp_path / "script"
    script.write_text(make())
    checked = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("fish"), reason="fish IS NOT INSTALLED: its completions are not asked for here")
def test_fish_completes(tmp_path: Path) -> None:
    (tmp_path / "kheish.fish").write_text(completions.fish())
    for line, offered in (
        ("kheish appr", "approve"),
        ("kheish sessions ver", "verify"),
        ("kheish run --mo", "--model"),
        ("kheish run --mode ", "plan"),
        ("kheish sessions set-mode --", "--json"),
        ("kheish sessions set-mode ", "review"),
        ("kheish run --attach ", "kheish.fish"),
        ("kheish sessions set-mode --json review ", "plan"),
        ("kheish doctor --json ", "routes"),
    ):
        done = subprocess.run(
            ["fish", "-c", f"source {tmp_path}/kheish.fish; function kheish; echo review; end; complete -C '{line}'"],
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(tmp_path)},
            cwd=tmp_path,
            check=True,
        )
        found = [row.split("\t")[0] for row in done.stdout.splitlines()]
        assert offered in found and (offered == "kheish.fish" or "kheish.fish" not in found), done
        assert "plan" not in found or line.endswith(("--mode ", "review ")), "a mode is no session"


def test_the_manual_names_every_command_and_option() -> None:
    page = completions.manual().replace("\\-", "-")
    for group, commands in [("", DAILY), *((name, rows) for name, (_, rows) in GROUPS.items())]:
        for command in commands:
            assert f"kheish {group} {command.name}".replace("  ", " ") in page
            assert all(flag in page for param in command.params for flag in param.flags)


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_manual_is_sound_roff() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"], input=completions.manual(), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
