"""Where things live: what the environment chooses, and that daemons of two roots never meet."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kheish import paths
from kheish.limits import SOCKET_PATH_BYTES_MAX


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that need not be there: nothing here touches the disk."""
    for name in [name for name in os.environ if name.startswith(("KHEISH_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nobody")
    return Path("/nobody")


@pytest.mark.parametrize(
    ("variable", "function"),
    [
        ("KHEISH_STATE_ROOT", paths.state_root),
        ("KHEISH_CONFIG_DIR", paths.config_dir),
        ("KHEISH_SOCKET", paths.socket_path),
    ],
)
def test_a_variable_wins_and_may_be_written_from_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, function: Callable[[], Path]
) -> None:
    default = function()
    assert default.is_relative_to(home)
    monkeypatch.setenv(variable, "~/x/../chosen")
    assert function() == home / "chosen"
    monkeypatch.setenv(variable, "")
    assert function() == default, "an empty one is none"


def test_a_root_has_its_socket_inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.socket_path().is_relative_to(paths.state_root())
    monkeypatch.setenv("KHEISH_STATE_ROOT", str(home / "root"))
    assert paths.socket_path() == home / "root" / "daemon" / "kheish.sock"
    assert paths.log_path() == home / "root" / "daemon" / "daemon.log"


def test_a_cron_job_finds_the_socket_of_the_login_session(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cron = paths.socket_path()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("XDG_SESSION_ID", "3")
    assert paths.socket_path() == in_cron


def test_roots_too_long_for_a_socket_have_short_ones_of_their_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KHEISH_STATE_ROOT", "set")
    chosen = [paths.socket_path(home / (name * 120)) for name in "abc"]
    assert len(set(chosen)) == 3
    assert all(len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX for path in chosen)
    assert all(str(os.getuid()) in str(path) for path in chosen)
    assert paths.socket_path(home / ("a" * 120)) == chosen[0]
