"""EIO and ENOSPC in a real daemon: what was acknowledged stays, the other sessions go on, and errors are clear."""

from __future__ import annotations

import pytest

from kheish.client import ApiError
from kheish.daemon.maintenance import verify
from kheish.store.records import segment_name
from tests.daemon_process import START_TIMEOUT_S, bash, text
from tests.e2e.cli_process import CliProcess
from tests.faults.conftest import FailingDaemon, wait_until

pytestmark = pytest.mark.slow

JOURNAL = "state/sessions/bad/journal-*"
ALL_OF_BAD = "open,write,fsync,fdatasync state/sessions/bad/* ENOSPC"
LARGE = 'echo ran >> count.log; i=0; while [ $i -lt 2000 ]; do echo "a line of a large output"; i=$((i+1)); done'


def refusal(daemon: FailingDaemon, session_id: str, content: str, **options: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        daemon.client.sessions.submit(session_id, content, **options)  # type: ignore[arg-type]
    return caught.value


def run(daemon: FailingDaemon, session_id: str, content: str) -> str:
    """Submits and waits; returns the status."""
    return str(daemon.finish(daemon.submit(session_id, content))["status"])


def assert_sound(daemon: FailingDaemon) -> None:
    assert [(v.session_id, v.faults) for v in verify(daemon.state) if v.faults] == []


@pytest.mark.parametrize(
    "failure",
    [
        f"fdatasync {JOURNAL} EIO times=1",
        f"write {JOURNAL} ENOSPC times=1",
        f"write {JOURNAL} ENOSPC times=1 written=40",
        f"write {JOURNAL} EIO times=1 written=200",
    ],
)
def test_after_a_failed_append_the_session_goes_on_in_a_new_file(failing: FailingDaemon, failure: str) -> None:
    failing.script(*[text("hi")] * 4)
    failing.begin(failure)
    for name in ("bad", "good"):
        failing.session(name)
    assert run(failing, "bad", "before") == "completed"
    failing.break_disk()
    assert run(failing, "bad", "during") == "completed"
    assert run(failing, "good", "during") == "completed"
    assert run(failing, "bad", "after") == "completed"
    assert len(failing.failed) == 1
    failed = failing.failed[0].partition(":")[2]
    calls = [f"{call.kind}:{call.path}" for call in failing.calls]
    after = calls[len(calls) - calls[::-1].index(failing.failed[0]) :]
    assert not [call for call in after if call.endswith(failed) and call.startswith(("write:", "fdatasync:"))], (
        "a file that failed is left alone"
    )
    failing.kill()
    failing.mend_disk()
    failing.begin()
    assert failing.texts("bad") == ["before", "during", "after"]
    assert {run["status"] for run in failing.client.sessions.runs("bad")} == {"completed"}
    assert_sound(failing)


def test_where_no_new_file_can_be_written_the_session_is_read_only_and_the_others_go_on(failing: FailingDaemon) -> None:
    failing.script(*[text("hi")] * 9)
    failing.begin(ALL_OF_BAD)
    for name in ("bad", "good"):
        failing.session(name)
    assert run(failing, "bad", "before") == "completed"
    seq = failing.client.sessions.get("bad")["seq"]
    failing.break_disk()
    error = refusal(failing, "bad", "during")
    assert (error.status, error.code) == (503, "session_read_only")
    assert "No space left on device" in error.message and "until the daemon restarts" in error.message

    assert failing.texts("bad") == ["before"], "it can still be read"
    assert failing.client.sessions.transcript("bad")["total"] == 2
    assert [record["seq"] for record in failing.records("bad")] == list(range(1, seq + 1))
    status = failing.client.daemon.status()
    assert status["sessions"]["read_only"] == 1
    assert any("No space left" in w["message"] and w["session_id"] == "bad" for w in status["warnings"])
    assert run(failing, "good", "during") == "completed"
    replayed = [event.data["session_id"] for event in until_sync(failing)]
    assert replayed.count("bad") == seq, "and replayed"

    # `good` is put away by now, as `bad` would have been.
    wait_until(lambda: failing.client.daemon.status()["sessions"]["loaded"] == 1)
    failing.mend_disk()
    assert refusal(failing, "bad", "later").code == "session_read_only", "until the daemon restarts"

    failing.kill()
    failing.begin()
    assert failing.texts("bad") == ["before"]
    assert run(failing, "bad", "again") == "completed"
    assert failing.client.daemon.status()["sessions"]["read_only"] == 0
    assert_sound(failing)


def until_sync(daemon: FailingDaemon) -> list:  # type: ignore[type-arg]
    """All records of all sessions."""
    found = []
    for event in daemon.events(cursor="0.0"):
        if event.event == "sync":
            break
        found.append(event)
    return found


def test_a_command_that_runs_while_its_session_becomes_read_only_is_in_doubt_after_a_restart(
    failing: FailingDaemon,
) -> None:
    gate = failing.work / "gate"
    failing.script(bash(f"echo ran >> count.log; while [ ! -e {gate} ]; do sleep 0.01; done"), text("checked"))
    failing.begin(ALL_OF_BAD)
    run_id = failing.submit(failing.session("bad", "bypass"))
    failing.until("bad", "tool_call.started")
    failing.break_disk()
    gate.touch()
    wait_until(lambda: failing.failed)
    failing.kill()
    failing.mend_disk()
    failing.begin()
    assert failing.finish(run_id)["status"] == "completed"
    assert "tool_call.became_uncertain" in failing.types("bad")
    assert (failing.work / "count.log").read_text() == "ran\n"
    assert_sound(failing)


def test_who_follows_or_waits_for_what_cannot_go_on_is_told_instead_of_waiting_for_ever(failing: FailingDaemon) -> None:
    gate = failing.work / "gate"
    failing.script(bash(f"while [ ! -e {gate} ]; do sleep 0.01; done"), text("done"))
    failing.begin(ALL_OF_BAD)
    failing.session("bad", "bypass")
    told = "it is read-only until the daemon restarts"
    with CliProcess(failing, "run", "-s", "bad", "go") as run:
        run.until("started bash")
        failing.break_disk()
        gate.touch()
        run.until("cannot append to session bad: .*No space left on device")
        assert run.finish() == 7
    (view,) = failing.client.sessions.runs("bad")
    for arguments in (("wait", view["run_id"]), ("wait", "bad"), ("logs", "-f", "bad")):
        late = failing.cli(*arguments)
        assert late.returncode == 7 and told in late.stderr, "also who comes later"
    failing.kill()
    failing.mend_disk()
    failing.begin()
    assert failing.finish(view["run_id"])["status"] == "completed"


def test_a_large_output_that_cannot_be_stored_is_shortened_and_its_command_not_repeated(failing: FailingDaemon) -> None:
    failing.script(bash(LARGE), text("done"))
    failing.begin("write state/blobs/* ENOSPC")
    failing.break_disk()
    run_id = failing.submit(failing.session("s", "bypass"))
    assert failing.finish(run_id)["status"] == "completed"
    assert (failing.work / "count.log").read_text() == "ran\n"
    (completed,) = [
        event for record in failing.journal("s") for event in record["events"] if event["type"] == "tool_call.completed"
    ]
    assert "could not be stored: No space left on device" in completed["output"]
    assert "blob" not in completed
    assert completed["output_bytes"] == 2000 * len("a line of a large output\n")
    assert_sound(failing)


def test_an_attachment_that_cannot_be_stored_is_refused_and_may_be_sent_again(failing: FailingDaemon) -> None:
    failing.script(text("hi"))
    failing.begin("fsync state/blobs/* EIO")
    failing.session("s")
    failing.break_disk()
    attachment = {"file_name": "a.bin", "media_type": "application/octet-stream", "content_base64": "AAAA"}
    error = refusal(failing, "s", "look", attachments=[attachment], key="k")
    assert (error.status, error.code) == (503, "disk_failed")
    assert "Input/output error" in error.message
    assert failing.texts("s") == []
    failing.mend_disk()
    failing.client.sessions.submit("s", "look", attachments=[attachment], key="k")
    assert failing.texts("s") == ["look"]
    assert_sound(failing)


def test_a_rule_that_cannot_be_stored_is_made_by_sending_the_decision_again(failing: FailingDaemon) -> None:
    failing.script(bash("echo a"), text("done"), bash("echo a"), text("done again"))
    failing.begin("write state/daemon/* ENOSPC")
    run_id = failing.submit(failing.session("s"))
    request = failing.until("s", "approval.requested")["request_id"]
    failing.break_disk()
    with pytest.raises(ApiError) as caught:
        failing.client.approvals.allow(request, remember="always", key="k")
    assert caught.value.code == "disk_failed"
    failing.mend_disk()
    failing.client.approvals.allow(request, remember="always", key="k")
    assert failing.finish(run_id)["status"] == "completed"
    assert run(failing, "s", "again") == "completed", "the same call is allowed by the rule"
    failing.kill()
    failing.begin()
    (rule,) = [row for row in failing.client.sessions.rules(failing.session("another")) if row["scope"] == "user"]
    assert (rule["pattern"], rule["behavior"]) == ("bash(echo a)", "allow")


def test_a_checkpoint_that_cannot_be_written_costs_nothing_but_time(failing: FailingDaemon) -> None:
    failing.script(*[text("hi")] * 8)
    failing.begin("open state/sessions/*/.tmp ENOSPC")
    failing.session("s")
    failing.break_disk()
    for number in range(4):
        assert run(failing, "s", str(number)) == "completed"
    wait_until(lambda: failing.failed and not failing.client.daemon.status()["sessions"]["loaded"])
    assert run(failing, "s", "4") == "completed", "it was put away all the same, and opens again"
    assert failing.stop() == 0
    failing.begin()
    assert failing.texts("s") == ["0", "1", "2", "3", "4"]
    assert list(failing.state.glob("sessions/s/checkpoint-*")) == []
    assert_sound(failing)


@pytest.mark.parametrize("skip", [0, 1])
def test_a_session_that_cannot_be_opened_stops_neither_the_daemon_nor_itself_for_ever(
    failing: FailingDaemon, skip: int
) -> None:
    """First where its tail is made durable, then where its recovery is journaled."""
    failing.script({"hang": 1}, {"hang": 1}, text("hi"), name="hanging.json")
    failing.script(*[text("hi")] * 4)
    failing.begin()
    owed = failing.submit(failing.session("bad"), model="test/hanging.json")
    failing.session("good")
    failing.until("bad", "model_call.started")
    failing.kill()
    failing.break_disk()
    failing.begin(f"open,write,fdatasync state/sessions/bad/[j.]* EIO skip={2 * skip}")
    assert run(failing, "good", "meanwhile") == "completed"
    with pytest.raises(ApiError) as caught:
        failing.client.sessions.get("bad")
    assert caught.value.status == 503
    assert "Input/output error" in caught.value.message
    failing.mend_disk()
    assert failing.client.sessions.get("bad")["active_run_id"] == owed
    failing.client.runs.cancel(owed)
    assert_sound(failing)


def test_a_session_that_cannot_be_made_leaves_nothing(failing: FailingDaemon) -> None:
    failing.script(text("hi"))
    failing.begin("fsync state/sessions/.new-s/* ENOSPC")
    failing.break_disk()
    with pytest.raises(ApiError) as caught:
        failing.session("s")
    assert (caught.value.status, caught.value.code) == (503, "disk_failed")
    assert list((failing.state / "sessions").iterdir()) == []
    failing.mend_disk()
    failing.session("s")
    assert run(failing, "s", "go") == "completed"


def refused_creation(daemon: FailingDaemon) -> ApiError:
    with pytest.raises(ApiError) as caught:
        daemon.session("s")
    assert (caught.value.status, caught.value.code) == (503, "disk_failed")
    assert "Input/output error" in caught.value.message
    return caught.value


def test_a_session_whose_name_could_not_be_synced_is_nowhere_after_the_refusal(failing: FailingDaemon) -> None:
    failing.begin("fsync_dir state/sessions EIO times=1")
    failing.break_disk()
    assert "after a restart" not in refused_creation(failing).message
    assert list((failing.state / "sessions").iterdir()) == []
    names = [(call.kind, call.name) for call in failing.calls if call.kind in ("rename", "fsync_dir")]
    assert names[-2:] == [("rename", "state/sessions/.new-s"), ("fsync_dir", "state/sessions")]
    other = failing.work / "other"
    other.mkdir()
    failing.client.sessions.create("s", cwd=str(other))
    failing.kill()
    failing.begin()
    assert failing.client.sessions.get("s")["cwd"] == str(other)
    assert_sound(failing)


@pytest.mark.parametrize("is_taken_back", [True, False])
def test_a_session_that_may_come_again_is_refused_with_a_word_of_it(
    failing: FailingDaemon, is_taken_back: bool
) -> None:
    failing.begin("fsync_dir state/sessions EIO", *([] if is_taken_back else ["rename state/sessions/.new-s EIO"]))
    failing.break_disk()
    assert "it may be there after a restart" in refused_creation(failing).message
    failing.mend_disk()
    failing.kill()
    failing.begin()
    assert [row["session_id"] for row in failing.client.sessions.list()] == ([] if is_taken_back else ["s"])
    failing.session("s")
    assert failing.client.sessions.get("s")["seq"] >= 1
    assert_sound(failing)


def test_a_daemon_that_cannot_note_its_generation_says_so_and_leaves(failing: FailingDaemon) -> None:
    failing.break_disk()
    with pytest.raises(AssertionError, match="left with status 1"):
        failing.begin("write state/daemon/* ENOSPC")
    failing.mend_disk()
    failing.begin()
    assert failing.client.daemon.status()["generation"] == 1
    assert failing.popen is not None
    failing.popen.terminate()
    failing.popen.wait(START_TIMEOUT_S)


def test_a_journal_that_cannot_be_read_is_the_disks_fault_and_is_named(failing: FailingDaemon) -> None:
    failing.script(text("hi"))
    failing.begin()
    failing.session("s")
    assert run(failing, "s", "go") == "completed"
    path = failing.state / "sessions" / "s" / segment_name(1)
    path.rename(path.with_name("aside"))
    path.mkdir()
    with pytest.raises(ApiError) as caught:
        failing.records("s")
    assert (caught.value.status, caught.value.code) == (503, "disk_failed")
    assert path.name in caught.value.message
    path.rmdir()
    path.with_name("aside").rename(path)
    assert failing.records("s")[0]["seq"] == 1
