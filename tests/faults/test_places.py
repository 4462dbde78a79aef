"""The files of a daemon are elsewhere, or something else is in their place."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.daemon_process import text
from tests.faults.conftest import FailingDaemon
from tests.faults.surroundings import (
    faults,
    refused,
    run,
    start,
    until_put_away,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("link", ["state", "folder"])
def test_a_state_root_behind_a_symbolic_link_is_the_one_that_it_leads_to(short_path: Path, link: str) -> None:
    """The root itself is a link, or its parent is: one owner, one state, by either name."""
    real = short_path / "real"
    (real / "state").mkdir(parents=True)
    if link == "state":
        named = short_path / "named"
        named.mkdir()
        (named / "state").symlink_to(real / "state")
    else:
        named = short_path / "named"
        named.symlink_to(real)
    by_link, direct = FailingDaemon(named), FailingDaemon(real)
    try:
        by_link.script(text("hi"), after_last="repeat")
        direct.script(text("hi"), after_last="repeat")
        start(by_link)
        assert run(by_link, by_link.session("s"), "by the link") == "completed"
        second = direct.cli("daemon", "run")
        assert second.returncode == 6
        assert str(by_link.pid) in second.stderr
        assert direct.texts("s") == ["by the link"], "the socket is found by either name"
        by_link.kill()
        start(direct)
        assert run(direct, "s", "directly") == "completed"
        assert direct.client.daemon.status()["generation"] == 2
        direct.kill()
        start(by_link)
        assert by_link.texts("s") == ["by the link", "directly"]
        assert faults(by_link) == faults(direct) == {}
    finally:
        by_link.close()
        direct.close()


def make_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def make_directory(path: Path) -> None:
    path.mkdir()
    (path / "precious").write_text("kept")


def make_link(path: Path) -> None:
    path.symlink_to("nowhere")


IN_ITS_PLACE = {"a socket": make_socket, "a directory": make_directory, "a link to nowhere": make_link}


@pytest.fixture(scope="module")
def two_sessions_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a daemon that has left; its sessions `bad` and `good` have run twice."""
    daemon = FailingDaemon(tmp_path_factory.mktemp("f"))
    try:
        daemon.script(text("hi"), after_last="repeat")
        start(daemon)
        for name in (daemon.session("bad"), daemon.session("good")) * 2:
            run(daemon, name)
        until_put_away(daemon)
        assert daemon.stop() == 0
    finally:
        daemon.close()
    return daemon.folder


@pytest.fixture
def two_sessions(failing: FailingDaemon, two_sessions_made: Path) -> FailingDaemon:
    """A copy of it, not started yet."""
    shutil.copytree(two_sessions_made, failing.folder, dirs_exist_ok=True, symlinks=True)
    return failing


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
def test_a_session_whose_journal_is_no_file_stands_still_and_the_others_go_on(
    two_sessions: FailingDaemon, kind: str
) -> None:
    place = "journal-000000000001.jsonl"
    daemon, bad = two_sessions, two_sessions.state / "sessions" / "bad"
    kept = daemon.folder / "kept"
    (bad / place).rename(kept)
    IN_ITS_PLACE[kind](bad / place)
    before = names(bad)
    daemon.begin()
    assert run(daemon, "good") == "completed"
    assert "bad" in refused(lambda: daemon.submit("bad")).message
    assert [session["session_id"] for session in daemon.client.sessions.list()] == ["good", "bad"]
    (warning,) = daemon.client.daemon.status()["warnings"]
    assert warning["session_id"] == "bad"
    assert names(bad) == before, "nothing was emptied, moved or made"
    daemon.kill()

    if kind == "a directory":
        shutil.rmtree(bad / place)
    else:
        (bad / place).unlink()
    kept.rename(bad / place)
    daemon.begin()
    assert run(daemon, "bad", "again") == "completed"
    assert daemon.texts("bad") == ["go", "go", "again"]
    assert faults(daemon) == {}


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
@pytest.mark.parametrize("place", ["sessions/bad/checkpoint-000000000005.json", "daemon/index.jsonl"])
def test_a_cache_whose_file_is_none_is_done_without(two_sessions: FailingDaemon, place: str, kind: str) -> None:
    daemon = two_sessions
    (daemon.state / place).unlink(missing_ok=True)
    IN_ITS_PLACE[kind](daemon.state / place)
    daemon.begin()
    assert run(daemon, "bad") == run(daemon, "good") == "completed"
    assert daemon.texts("bad") == ["go"] * 3
    assert daemon.client.daemon.status()["warnings"] == []
    assert daemon.stop() == 0
    if kind == "a directory":
        assert (daemon.state / place / "precious").read_text() == "kept"


@pytest.mark.parametrize(
    ("place", "kind"),
    [("permissions.json", "a socket"), *(("generation.json", kind) for kind in IN_ITS_PLACE)],
)
def test_where_the_rules_or_the_generation_cannot_be_read_no_daemon_guesses_them(
    two_sessions: FailingDaemon, place: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon, path = two_sessions, two_sessions.state / "daemon" / place
    path.unlink(missing_ok=True)
    IN_ITS_PLACE[kind](path)
    before = names(daemon.state)
    with pytest.raises(AssertionError, match="left with status 1"):
        daemon.begin()
    assert "cannot run on" in capfd.readouterr().err
    assert set(before) <= set(names(daemon.state)), "nothing was emptied"


@pytest.mark.parametrize(
    "place",
    [
        "sessions/bad/journal-000000000001.jsonl",
        "sessions/bad/checkpoint-000000000005.json",
        "daemon/index.jsonl",
    ],
)
def test_nobody_waits_for_a_fifo_in_the_place_of_a_file(two_sessions: FailingDaemon, place: str) -> None:
    daemon, path = two_sessions, two_sessions.state / place
    kept = daemon.folder / "kept"
    path.rename(kept)
    os.mkfifo(path)
    daemon.begin()
    assert run(daemon, "good") == "completed"
    if "journal" in place:
        assert "bad" in refused(lambda: daemon.submit("bad")).message
        (warning,) = daemon.client.daemon.status()["warnings"]
        assert warning["session_id"] == "bad"
        assert path.name in warning["message"] and "Not a regular file" in warning["message"]
        assert path.is_fifo()
        daemon.kill()
        path.unlink()
        kept.rename(path)
        daemon.begin()
    assert run(daemon, "bad") == "completed"
    assert daemon.texts("bad") == ["go"] * 3


@pytest.mark.parametrize("place", ["permissions.json", "generation.json", "daemon.log"])
def test_a_daemon_does_not_wait_for_a_fifo_among_its_own_files_and_names_it(
    two_sessions: FailingDaemon, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = two_sessions.state / "daemon" / place
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(AssertionError, match="left with status 1"):
        two_sessions.begin()
    assert place in capfd.readouterr().err
    assert path.is_fifo()


@pytest.mark.parametrize("place", ["permissions.json", "generation.json"])
def test_a_directory_in_the_place_of_a_document_is_named(
    two_sessions: FailingDaemon, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = two_sessions.state / "daemon" / place
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(AssertionError, match="left with status 1"):
        two_sessions.begin()
    assert str(path) in capfd.readouterr().err


def test_rules_behind_a_link_to_nowhere_are_not_taken_for_none(
    two_sessions: FailingDaemon, capfd: pytest.CaptureFixture[str]
) -> None:
    path = two_sessions.state / "daemon" / "permissions.json"
    path.symlink_to("nowhere")
    with pytest.raises(AssertionError, match="left with status 1"):
        two_sessions.begin()
    assert str(path) in capfd.readouterr().err
    assert path.is_symlink()


def without_privileges() -> tuple[str, ...]:
    """A command that runs another one which may read only what the modes of files allow, also for root."""
    if os.geteuid():
        return ()
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if not shutil.which("setpriv") or subprocess.run([*drop, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root cannot give up its privileges here: an unreadable directory is not tested")
    return drop


def test_a_session_whose_directory_may_not_be_read_is_named_and_the_others_go_on(two_sessions: FailingDaemon) -> None:
    daemon, bad = two_sessions, two_sessions.state / "sessions" / "bad"
    before = names(bad)
    bad.chmod(0)
    try:
        start(daemon, around=without_privileges())
        assert run(daemon, "good") == "completed"
        assert "bad" in refused(lambda: daemon.submit("bad")).message
        (warning,) = daemon.client.daemon.status()["warnings"]
        assert warning["session_id"] == "bad" and "Permission denied" in warning["message"]
    finally:
        bad.chmod(0o700)
    assert names(bad) == before
    assert run(daemon, "bad") == "completed", "without a restart"
    assert faults(daemon) == {}
