"""Sessions of every kind, exported and taken in elsewhere: the same session, to the byte, which goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.daemon.maintenance import fold
from kheish.store.segments import Walk
from kheish.store.session_dir import session_path
from tests.daemon_process import Json, bash, text
from tests.e2e.test_vacuum import SmallSegments

pytestmark = pytest.mark.slow

ATTACHED = b"\xff" * 100_000
LONG = "a long story " * 2_000


def begun(folder: Path) -> Iterator[SmallSegments]:
    made = SmallSegments(folder)
    try:
        yield made.begin()
    finally:
        made.close()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSegments]:
    yield from begun(tmp_path_factory.mktemp("h"))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSegments]:
    yield from begun(tmp_path_factory.mktemp("t"))


def talk(daemon: SmallSegments, session_id: str, *replies: Json) -> str:
    """A run for each reply that is no tool call, with a script of the session's own, which has one more; its model."""
    model = daemon.script(*replies, text("more"), name=f"{session_id}.json")
    daemon.session(session_id, "bypass")
    for _ in (reply for reply in replies if not reply.get("tool_calls")):
        assert daemon.finish(daemon.submit(session_id, "go", model=model))["status"] == "completed"
    return model


def tear(daemon: SmallSegments, session_id: str) -> None:
    """The daemon dies, and half a record is what it wrote last."""
    daemon.until_put_away()
    daemon.kill()
    with open(session_path(daemon.state, session_id) / daemon.segments(session_id)[-1], "ab") as file:
        file.write(b'{"v":1,"seq":')


def folded(daemon: SmallSegments, session_id: str) -> bytes:
    return fold(Walk(session_path(daemon.state, session_id), session_id))


def moves(here: SmallSegments, there: SmallSegments, session_id: str) -> None:
    """It is the same session there, without a fault, and a run goes on in it."""
    archive = here.work / f"{session_id}.kheish"
    assert here.cli("sessions", "export", session_id, "-o", str(archive)).returncode == 0
    assert there.cli("sessions", "import", str(archive)).returncode == 0
    assert folded(there, session_id) == folded(here, session_id)
    shown = there.client.sessions.transcript(session_id, limit=1000)
    again = there.script(text("here I am"), name="again.json", after_last="repeat")
    assert there.finish(there.submit(session_id, "go on", model=again))["outputs"] == ["here I am"]
    after = there.client.sessions.transcript(session_id, limit=1000)
    assert after["items"][: len(shown["items"])] == shown["items"] and len(after["items"]) == len(shown["items"]) + 2
    assert there.cli_json("sessions", "verify", session_id)[0]["faults"] == []


def test_one_that_was_compacted(here: SmallSegments, there: SmallSegments) -> None:
    model = talk(here, "compacted", text(LONG), text(LONG))
    here.client.sessions.compact("compacted")
    assert here.finish(here.submit("compacted", "go", model=model))["status"] == "completed"
    moves(here, there, "compacted")
    assert there.client.sessions.get("compacted")["context"]["compactions"] == 1


def test_a_fork_with_the_files_that_it_was_shown_and_the_outputs_that_it_may_page_through(
    here: SmallSegments, there: SmallSegments
) -> None:
    model = talk(here, "origin", bash("seq 1 10000"), text("counted"))
    (here.work / "large.bin").write_bytes(ATTACHED)
    assert here.cli("run", "-s", "origin", "--attach", "large.bin", "--model", model, "look").returncode == 0
    here.client.sessions.fork("origin", new_session_id="fork")
    moves(here, there, "fork")
    (whole,) = [e["blob"] for record in here.journal("origin") for e in record["events"] if e.get("blob")]
    for sha in (whole, hashlib.sha256(ATTACHED).hexdigest()):
        assert (there.state / "blobs" / sha[:2] / sha).read_bytes()
    (there.state / "blobs" / sha[:2] / sha).unlink()
    assert f"blob {sha} is missing" in there.cli("sessions", "verify", "fork").stdout


def test_one_with_packed_segments(here: SmallSegments, there: SmallSegments) -> None:
    talk(here, "packed", *[text(f"said {number}") for number in range(6)])
    here.until_put_away()
    assert here.cli("sessions", "vacuum", "packed").returncode == 0
    assert here.segments("packed")[0].endswith(".gz")
    moves(here, there, "packed")


def test_one_whose_torn_tail_was_set_aside(here: SmallSegments, there: SmallSegments) -> None:
    model = talk(here, "torn", text("one"), text("two"))
    tear(here, "torn")
    here.begin()
    assert here.finish(here.submit("torn", "go", model=model))["status"] == "completed"
    assert list((here.state / "sessions" / "torn").glob("torn-*.bin"))
    moves(here, there, "torn")


def test_one_whose_torn_tail_nobody_has_set_aside(here: SmallSegments, there: SmallSegments) -> None:
    talk(here, "untouched", text("one"), text("two"))
    tear(here, "untouched")
    moves(here, there, "untouched")
    here.begin()
