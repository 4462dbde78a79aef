"""`kheish sessions vacuum` beside a real daemon: everything reads as before, and what is open is left alone."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import EVENT_TIMEOUT_S, DaemonProcess, bash, text
from tests.faults.life import REPOSITORY

pytestmark = pytest.mark.slow


class SmallSegments(DaemonProcess):
    """A daemon whose segments end after a few records, and which puts sessions away at once."""

    def begin(self) -> SmallSegments:
        argv = [sys.executable, "-m", "tests.faults.daemon", "--log", str(self.folder / "calls.log")]
        (self.config / "config.toml").write_text('[store]\nvacuum = "manual"\n')
        self.start({"PYTHONPATH": os.fspath(REPOSITORY)}, argv)
        return self

    def until_put_away(self) -> None:
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while self.client.daemon.status()["sessions"]["loaded"]:
            assert time.monotonic() < deadline, "a session stays loaded"
            time.sleep(0.005)

    def segments(self, session_id: str) -> list[str]:
        return sorted(path.name for path in (self.state / "sessions" / session_id).glob("journal-*"))


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSegments]:
    made = SmallSegments(tmp_path_factory.mktemp("v"))
    try:
        yield made.begin()
    finally:
        made.close()


def fill(daemon: SmallSegments, session_id: str, runs: int = 6) -> None:
    daemon.script(*[bash(f"echo {number}; echo 'a line of output'") if number % 2 == 0 else text(f"said {number}")
                    for number in range(2 * runs)], text("one more"))  # fmt: skip
    daemon.session(session_id, "bypass")
    for number in range(runs):
        assert daemon.finish(daemon.submit(session_id, f"input {number}"))["status"] == "completed"
    daemon.until_put_away()


def everything(daemon: SmallSegments, session_id: str) -> dict[str, Any]:
    """All that can be read of a session."""
    replay = []
    for event in daemon.events(session_id=session_id, cursor="0"):
        if event.event == "sync":
            break
        replay.append(event.data)
    return {
        "records": daemon.records(session_id),
        "page": daemon.client.sessions.events(session_id, cursor="9", limit=5)["items"],
        "transcript": daemon.client.sessions.transcript(session_id, limit=1000),
        "runs": daemon.client.sessions.runs(session_id),
        "replay": replay,
        "logs": daemon.cli("logs", session_id, "--json").stdout,
    }


def test_a_packed_session_reads_as_before_and_goes_on(small: SmallSegments, tmp_path: Path) -> None:
    fill(small, "s")
    before, plain = everything(small, "s"), small.segments("s")
    assert len(plain) > 3
    small.until_put_away()
    bytes_before = sum(path.stat().st_size for path in (small.state / "sessions" / "s").iterdir())
    (row,) = small.cli_json("sessions", "vacuum", "s")
    assert (row["session_id"], row["code"], row["problem"]) == ("s", "", "")
    assert row["bytes_before"] == bytes_before
    assert row["bytes_after"] == sum(path.stat().st_size for path in (small.state / "sessions" / "s").iterdir())
    assert row["bytes_after"] < row["bytes_before"]
    assert small.segments("s") == [*(f"{name}.gz" for name in plain[:-1]), plain[-1]]

    assert everything(small, "s") == before
    assert small.cli_json("sessions", "verify", "s") == [{"session_id": "s", "ok": True, "faults": []}]
    lines = small.shell("cd $KHEISH_STATE_ROOT/sessions/s && zcat journal-*.gz | cat - journal-*.jsonl | jq -r .seq")
    assert [int(seq) for seq in lines.stdout.split() if seq != "null"] == [r["seq"] for r in before["records"]]

    assert small.finish(small.submit("s", "one more"))["status"] == "completed"
    assert small.records("s")[: len(before["records"])] == before["records"]
    small.kill()
    small.begin()
    assert small.records("s")[: len(before["records"])] == before["records"]
    assert small.client.daemon.status()["warnings"] == []


def test_an_archive_of_a_packed_session_is_taken_in_elsewhere(small: SmallSegments, tmp_path: Path) -> None:
    fill(small, "s")
    records = small.records("s")
    small.until_put_away()
    assert small.cli("sessions", "vacuum", "--all").returncode == 0
    archive = tmp_path / "s.kheish"
    assert small.cli("sessions", "export", "s", "-o", str(archive)).returncode == 0
    other = SmallSegments(tmp_path / "other")
    assert other.cli("sessions", "import", str(archive)).returncode == 0
    assert other.segments("s") == small.segments("s")
    assert other.cli_json("sessions", "verify", "--all")[0]["ok"]
    try:
        other.begin()
        assert other.records("s")[: len(records)] == records
    finally:
        other.close()


def test_what_is_at_work_is_skipped_and_told(small: SmallSegments) -> None:
    fill(small, "idle")
    small.script({"hang": 1})
    small.submit(small.session("busy"))
    small.until("busy", "model_call.started")
    done = small.cli("sessions", "vacuum", "--all")
    assert done.returncode == 0, "the next one takes it"
    assert "idle: " in done.stdout and "busy: " not in done.stdout
    assert "session busy" in done.stderr and "open" in done.stderr
    rows = {row["session_id"]: row for row in small.cli_json("sessions", "vacuum", "busy", "idle")}
    assert (rows["busy"]["code"], rows["idle"]["code"]) == ("session_locked", "")
    assert rows["idle"]["bytes_before"] == rows["idle"]["bytes_after"]


def test_a_damaged_session_is_named_and_stops_no_other(small: SmallSegments) -> None:
    for name in ("good", "hurt"):
        fill(small, name)
    path = small.state / "sessions" / "hurt" / small.segments("hurt")[1]
    path.write_bytes(path.read_bytes().replace(b'"at"', b'"aT"', 1))
    done = small.cli("sessions", "vacuum", "hurt", "good")
    assert done.returncode == 1
    assert str(path.name) in done.stderr and "line 2" in done.stderr
    assert small.segments("good")[0].endswith(".gz")
    assert path.name in small.segments("hurt")


def test_damage_of_a_packed_segment_is_named_by_the_daemon_and_by_verify(small: SmallSegments) -> None:
    fill(small, "s")
    records = small.records("s")
    small.until_put_away()
    small.cli("sessions", "vacuum", "s")
    path = small.state / "sessions" / "s" / small.segments("s")[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = small.cli("sessions", "verify", "s")
    assert done.returncode == 1 and path.name in done.stdout and "packed byte" in done.stdout
    shown = small.cli("sessions", "events", "s")
    assert shown.returncode == 1 and path.name in shown.stderr and "packed byte" in shown.stderr
    assert [json.loads(line) for line in shown.stdout.splitlines()] == records[: len(shown.stdout.splitlines())] != []


def test_what_to_vacuum_has_to_be_said(small: SmallSegments) -> None:
    assert small.cli("sessions", "vacuum").returncode == 2
    assert small.cli("sessions", "vacuum", "s", "--all").returncode == 2
    assert small.cli("sessions", "vacuum", "nobody").returncode == 5
    assert "there are no sessions" in small.cli("sessions", "vacuum", "--all").stderr


def test_a_packed_segment_is_plain_gzip(small: SmallSegments) -> None:
    fill(small, "s")
    path = small.state / "sessions" / "s" / small.segments("s")[0]
    plain = path.read_bytes()
    small.cli("sessions", "vacuum", "s")
    assert gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()) == plain
