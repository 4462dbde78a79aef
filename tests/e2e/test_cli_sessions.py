"""Sessions as files: verified with and without a daemon, exported, taken in elsewhere, where they go on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from kheish.cli.targets import each_session
from kheish.limits import PAGE_ITEMS_MAX
from tests.daemon_process import DaemonProcess, bash, text
from tests.e2e.cli_process import cli_here
from tests.golden.test_journal_format import HERE as GOLDEN
from tests.golden.test_journal_format import NEWEST

pytestmark = pytest.mark.slow

Root = Callable[..., DaemonProcess]
ATTACHED = b"\xff" * 100_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A stopped daemon's state root: `good` and `bad` are over, `moving` waits for an approval."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("made"))
    try:
        daemon.start()
        hello = daemon.script(text("hello"), name="hello.json")
        for name in ("good", "bad"):
            daemon.finish(daemon.submit(daemon.session(name), model=hello))
        daemon.script(bash("echo moved > moved.txt"), text("first"), text("second"))
        (daemon.work / "large.txt").write_bytes(ATTACHED)
        assert daemon.cli("run", "-s", "moving", "--attach", "large.txt", "go").returncode == 22
        assert daemon.stop() == 0
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def root(made: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Root]:
    """Makes state roots, with what is in `made` or empty; no daemon runs there until it is started."""
    daemons = []

    def make(name: str, *, is_empty: bool = False) -> DaemonProcess:
        daemon = DaemonProcess(tmp_path / name)
        shutil.copytree(made.config, daemon.config, dirs_exist_ok=True)
        if not is_empty:
            shutil.copytree(made.state, daemon.state)
        monkeypatch.setattr(daemon, "cli", partial(cli_here, daemon))
        daemons.append(daemon)
        return daemon

    yield make
    for daemon in daemons:
        daemon.close()


def flip_a_byte(daemon: DaemonProcess, session_id: str) -> tuple[str, int, int]:
    """Flips one in the middle of a record; its file, line and the offset where the line begins."""
    (file,) = (daemon.state / "sessions" / session_id).glob("journal-*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    offset = sum(len(line) for line in lines[:2])
    data = bytearray(file.read_bytes())
    data[offset + len(lines[2]) // 2] ^= 1
    file.write_bytes(data)
    return file.name, 3, offset


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_running", [True, False], ids=["with a daemon", "without one"])
def test_verify_finds_a_flipped_byte_and_says_where(root: Root, is_running: bool) -> None:
    here = root("here")
    if is_running:
        here.start()
    clean = here.cli("sessions", "verify", "--all")
    assert clean.returncode == 0
    assert sorted(clean.stdout.splitlines()) == ["ok     bad", "ok     good", "ok     moving"]
    assert here.cli_json("sessions", "verify", "good") == [{"session_id": "good", "ok": True, "faults": []}]
    file, line, offset = flip_a_byte(here, "bad")
    found = here.cli("sessions", "verify", "ba")
    assert found.returncode == 1
    place = rf"{re.escape(file)}, line {line}, offset {offset}: \S"
    assert re.search(rf"^FAULT  bad: .*{place}", found.stdout, re.MULTILINE)
    everything = here.cli("sessions", "verify", "--all", "--json")
    assert everything.returncode == 1
    by_name = {item["session_id"]: item for item in json.loads(everything.stdout)}
    assert [name for name, item in by_name.items() if not item["ok"]] == ["bad"]
    fault = by_name["bad"]["faults"][0]
    assert (Path(fault["file"]).name, fault["line"], fault["offset"]) == (file, line, offset) and fault["reason"]
    assert here.cli("sessions", "verify", "good").returncode == 0


def test_a_damaged_session_is_printed_up_to_its_fault_which_is_then_named(root: Root) -> None:
    here = root("here")
    _, line, _ = flip_a_byte(here, "bad")
    here.start()
    for command in (("sessions", "events", "bad"), ("logs", "bad", "--json"), ("logs", "bad", "--json", "-n", "5")):
        done = here.cli(*command)
        assert done.returncode == 1
        assert [json.loads(row)["seq"] for row in done.stdout.splitlines()] == [1]
        assert f"line {line} " in done.stderr


def test_verify_changes_and_starts_nothing(root: Root) -> None:
    here = root("here")
    flip_a_byte(here, "bad")
    before = content(here.state)
    assert here.cli("sessions", "verify", "--all").returncode == 1
    assert content(here.state) == before
    assert here.cli("daemon", "status").returncode == 3


def test_an_exported_session_goes_on_in_another_state_root(root: Root, made: DaemonProcess) -> None:
    """It is exported while it waits for a human, under a running daemon, into a file or through a pipe."""
    here, there = root("here").start(), root("there", is_empty=True)
    records = here.records("moving")
    assert here.cli_json("sessions", "export", "mov") == {"session_id": "moving", "file": "moving.kheish"}
    archive = here.work / "moving.kheish"
    assert archive.stat().st_mode & 0o077 == 0
    roots = f"KHEISH_STATE_ROOT={there.state} KHEISH_CONFIG_DIR={there.config}"
    piped = here.shell(f"set -o pipefail; kheish sessions export moving -o - | {roots} kheish sessions import -")
    assert (piped.returncode, piped.stdout) == (0, "moving\n"), piped.stderr
    assert there.cli("sessions", "verify", "moving").returncode == 0
    by_file = root("by file", is_empty=True)
    assert by_file.cli_json("sessions", "import", str(archive)) == {"session_id": "moving"}

    there.start()
    assert [r["events"] for r in there.records("moving")[: len(records)]] == [r["events"] for r in records]
    (approval,) = there.client.approvals.list()
    assert there.cli("approve", approval["request_id"], "--if-digest", approval["digest"]).returncode == 0
    assert there.finish(approval["run_id"])["outputs"] == ["first"]
    assert (made.work / "moved.txt").exists(), "it works in the directory that it was made for"
    assert there.cli("run", "-s", "moving", "more").stdout == "second\n"
    (submitted,) = [e for r in records for e in r["events"] if e["type"] == "run.submitted"]
    blob = submitted["attachments"][0]["blob"]
    assert (there.state / "blobs" / blob[:2] / blob).read_bytes() == ATTACHED
    assert here.records("moving") == records, "what is left behind has changed"


def test_a_running_daemon_takes_up_what_is_imported(root: Root) -> None:
    here, there = root("here"), root("there", is_empty=True)
    assert here.cli("sessions", "export", "good", "-o", "good.kheish").stdout == "good.kheish\n"
    there.start()
    assert there.cli("sessions", "import", str(here.work / "good.kheish")).stdout == "good\n"
    assert [row["session_id"] for row in there.cli_json("ps", "-a")] == ["good"]
    again = there.cli("sessions", "import", str(here.work / "good.kheish"))
    assert again.returncode == 6 and "good" in again.stderr


def test_an_archive_that_is_none_is_refused_and_leaves_nothing(root: Root) -> None:
    here, there = root("here"), root("there", is_empty=True)
    assert here.cli("sessions", "export", "good").returncode == 0
    whole = (here.work / "good.kheish").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    given = {"garbage": b"garbage" * 100, "empty": b"", "cut": whole[: len(whole) // 2], "flipped": bytes(flipped)}
    for name, data in given.items():
        (there.work / name).write_bytes(data)
        done = there.cli("sessions", "import", name)
        assert done.returncode == 2 and done.stderr.startswith("kheish: cannot "), name
        assert done.stdout == ""
        assert not [*(there.state / "sessions").glob("*")], name
    assert there.cli("sessions", "import", "missing").returncode == 2


def test_an_export_that_fails_leaves_no_half_of_a_file(root: Root) -> None:
    here = root("here")
    nowhere = here.cli("sessions", "export", "good", "-o", "no/such/place")
    assert nowhere.returncode == 1 and "cannot export to no/such/place" in nowhere.stderr
    flip_a_byte(here, "bad")
    broken = here.cli("sessions", "export", "bad")
    assert broken.returncode == 1 and "line 3" in broken.stderr
    assert [p.name for p in here.work.iterdir()] == []
    assert here.cli("sessions", "export", "nobody").returncode == 5


def test_a_list_has_all_sessions_however_many_there_are_and_whatever_changes_meanwhile(daemon: DaemonProcess) -> None:
    """What a backup goes by."""
    names = {f"s{number}" for number in range(PAGE_ITEMS_MAX + 1)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(daemon.session, names))
    sessions = each_session(daemon.client)
    found = [next(sessions)["session_id"]]
    (last,) = names - {row["session_id"] for row in daemon.client.sessions.list(limit=PAGE_ITEMS_MAX)}
    daemon.client.sessions.set_title(last, "before the page that it was on")
    found += [row["session_id"] for row in sessions]
    assert set(found) == names and len(found) == len(names)
    limit = str(2 * PAGE_ITEMS_MAX)
    for line in (("sessions", "list"), ("ps", "-a")):
        listed = daemon.cli_json(*line, "--limit", limit)
        assert len(listed) == len(names) and listed[0]["session_id"] == last
    assert len(daemon.cli_json("ps", "-a", "--limit", "7")) == 7


def test_what_happened_on_another_day_is_told_with_the_day(tmp_path: Path) -> None:
    """A session from a journal that was written once and for all."""
    daemon = DaemonProcess(tmp_path)
    shutil.copytree(GOLDEN / NEWEST, daemon.state)
    try:
        daemon.start()
        moment = datetime.fromtimestamp(daemon.records("golden")[0]["at_ms"] / 1000, UTC)
        day, *lines = daemon.cli("logs", "golden").stdout.splitlines()
        assert day == moment.strftime("%a, %Y-%m-%d") and lines[0].startswith(moment.strftime("%H:%M:%S."))
        assert day not in lines, "it is told once"
        assert moment.strftime("%Y-%m-%d ") in daemon.cli("permissions", "audit", "-s", "golden").stdout
    finally:
        daemon.close()
