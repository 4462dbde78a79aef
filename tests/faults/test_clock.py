"""The clock of a daemon jumps."""

from __future__ import annotations

import pytest

from tests.daemon_process import bash, text
from tests.faults.conftest import FailingDaemon
from tests.faults.surroundings import (
    DAY_MS,
    all_records,
    faults,
    run,
    start,
    until_put_away,
)

pytestmark = pytest.mark.slow


class Clock:
    """The wall clock of a daemon."""

    def __init__(self, daemon: FailingDaemon) -> None:
        self._daemon = daemon
        self._ahead = daemon.folder / "ahead"
        self.set(0)

    def set(self, ahead_ms: int) -> None:
        new = self._ahead.with_suffix(".new")
        new.write_text(str(ahead_ms))
        new.replace(self._ahead)

    def start(self) -> None:
        start(self._daemon, "--clock", str(self._ahead))


@pytest.fixture
def clock(failing: FailingDaemon) -> Clock:
    return Clock(failing)


@pytest.mark.parametrize("ahead_ms", [-DAY_MS, DAY_MS], ids=["back", "forward"])
@pytest.mark.parametrize("is_restarted", [False, True], ids=["within a life", "between lives"])
def test_a_clock_that_jumps_a_day_changes_no_order_and_hides_nothing(
    failing: FailingDaemon, clock: Clock, ahead_ms: int, is_restarted: bool
) -> None:
    failing.script(bash("echo one"), text("done"), after_last="cycle")
    clock.start()
    runs, requests = [], []

    def ask(session_id: str) -> str:
        runs.append(failing.submit(session_id))
        requests.append(
            failing.until(session_id, "approval.requested", cursor=last_seq.get(session_id, ""))["request_id"]
        )
        return str(requests[-1])

    def allow(session_id: str, request_id: str) -> None:
        failing.client.approvals.allow(request_id)
        failing.finish(runs[-1])
        last_seq[session_id] = str(failing.client.sessions.get(session_id)["seq"])

    last_seq: dict[str, str] = {}
    for name in ("before", "over"):
        allow(failing.session(name), ask(name))
    waiting = ask("over")
    until_put_away(failing)

    clock.set(ahead_ms)
    if is_restarted:
        failing.kill()
        clock.start()
    allow("over", waiting)
    for name in ("before", "over", failing.session("after")):
        allow(name, ask(name))
    until_put_away(failing)

    assert len(set(runs + requests)) == len(runs + requests) == 12
    for run_id in runs:
        assert failing.client.runs.get(run_id)["status"] == "completed"
    for name in ("before", "over", "after"):
        listed = [run["run_id"] for run in failing.client.sessions.runs(name)]
        assert listed == [run_id for run_id in reversed(runs) if run_id in listed], "newest first, whatever their times"
        seqs = [record["seq"] for record in failing.journal(name)]
        assert seqs == list(range(1, len(seqs) + 1))
    records = all_records(failing)
    places = [(record["generation"], record["position"]) for record in records]
    assert places == sorted(set(places))
    assert len(records) == sum(len(failing.journal(name)) for name in ("before", "over", "after"))
    listed, cursor = [], ""
    while cursor is not None:
        page = failing.client.sessions.page(limit=1, cursor=cursor) if cursor else failing.client.sessions.page(limit=1)
        listed += [session["session_id"] for session in page["items"]]
        cursor = page["next_cursor"]
    assert sorted(listed) == ["after", "before", "over"]
    for command in (["ps", "--all"], ["sessions", "list"], ["runs", "list"], ["status"]):
        done = failing.cli(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert " -" not in done.stdout, f"no negative ages: {done.stdout}"
    assert faults(failing) == {}


@pytest.mark.parametrize("ahead_ms", [-DAY_MS, DAY_MS], ids=["back", "forward"])
def test_a_retry_is_made_once_and_in_time_though_the_clock_was_set(
    failing: FailingDaemon, clock: Clock, ahead_ms: int
) -> None:
    """Forward it is due at once; back it waits what it had to wait, and not a day."""
    wait_ms = 1_000 if ahead_ms < 0 else 3_600_000
    failing.script(text("done", error={"code": "rate_limited", "retry_after_ms": wait_ms}))
    clock.start()
    run_id = failing.submit(failing.session("s"))
    failing.until("s", "model_call.retrying")
    failing.kill()
    assert failing.types("s")[-1] == "model_call.retrying"
    clock.set(ahead_ms)
    clock.start()
    assert failing.finish(run_id)["status"] == "completed"
    assert failing.types("s").count("model_call.started") == 2


def test_a_clock_that_is_put_right_within_a_life_delays_no_retry(failing: FailingDaemon, clock: Clock) -> None:
    failing.script(text("done", error={"code": "rate_limited", "retry_after_ms": 200}))
    clock.set(DAY_MS)
    clock.start()
    failing.session("s")
    clock.set(0)
    assert run(failing, "s") == "completed"
    at_ms = [record["at"] for record in failing.journal("s")]
    assert at_ms == sorted(at_ms), "times do not run backwards within a life"
