"""Where things live: what the environment chooses, and that daemons of two roots never meet."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from kheish import paths
from kheish.limits import SOCKET_PATH_BYTES_MAX
from tests.architecture.modules import modules_after


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


@pytest.mark.parametrize(
    "environment",
    [{}, {"HOME": None}, {"HOME": "elsewhere"}, {"HOME": "/home/\u00e9 x"},
     {"XDG_STATE_HOME": "/var/s", "XDG_CONFIG_HOME": "/etc/c/"}, {"XDG_STATE_HOME": "", "XDG_CONFIG_HOME": ""}],
    ids=str,
)  # fmt: skip
def test_who_chooses_nothing_gets_the_platforms_directories(
    home: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str | None]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name)
    assert paths.state_root() == platformdirs.user_state_path("kheish", appauthor=False)
    assert paths.config_dir() == platformdirs.user_config_path("kheish", appauthor=False)


def test_a_relative_directory_of_the_platform_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: the XDG Base Directory Specification, section 2."""
    default = paths.state_root(), paths.config_dir()
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("XDG_CONFIG_HOME", "~/config")
    assert (paths.state_root(), paths.config_dir()) == default


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere platformdirs is asked")
def test_a_name_is_found_without_slow_imports(home: Path) -> None:
    code = "from kheish import paths\nassert paths.socket_name() and paths.log_name()"
    assert not modules_after(code, env={"HOME": str(home)}) & {"platformdirs", "pathlib", "typing", "hashlib"}


def test_a_name_is_the_path_as_a_text(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("", str(home / "root"), str(home / ("a" * 120)), "~/x//../y/"):
        monkeypatch.setenv("KHEISH_STATE_ROOT", root)
        for given in (None, paths.state_root()):
            assert Path(paths.socket_name()) == paths.socket_path(given)
            assert Path(paths.log_name()) == paths.log_path(given)
