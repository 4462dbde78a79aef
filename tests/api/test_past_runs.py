"""A session of more runs than its state holds answers for the old ones as it did when they were new."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kheish.limits import FINISHED_RUNS_KEPT
from tests.api.conftest import obey
from tests.api.raw_http import Answer, ask, refusal
from tests.daemon_process import DaemonProcess, Json

pytestmark = pytest.mark.slow


class Old(NamedTuple):
    """A session, what was said of two runs when they were over, and how to ask for them again."""

    daemon: DaemonProcess
    run: Json
    events: list[Json]
    requests: dict[str, tuple[Callable[[], Answer], Answer]]
    withdrawn: Json
    made: list[str]


@pytest.fixture(scope="module", params=["the daemon", "the next daemon", "a daemon without caches"])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Old]:
    daemon = obey(DaemonProcess(tmp_path_factory.mktemp("daemon")))
    try:
        made = grow(daemon.start())
        if request.param != "the daemon":
            assert daemon.stop() == 0
            for caches in ("daemon/index*", "sessions/s/checkpoint-*"):
                found = list(daemon.state.glob(caches))
                assert found
                for path in found if "without" in request.param else ():
                    path.unlink()
            daemon.start()
        yield made
    finally:
        daemon.close()


def grow(daemon: DaemonProcess) -> Old:
    """Two runs, and after them as many as a state holds."""
    daemon.session("s")
    requests: dict[str, tuple[Callable[[], Answer], Answer]] = {}

    def post(name: str, path: str, body: Json) -> Json:
        def send() -> Answer:
            return ask(daemon, "POST", path, body, Idempotency_Key=name)

        requests[name] = (send, send())
        return dict(requests[name][1].json)

    run_id = post("submit", "/v1/sessions/s/runs", {"content": "SHELL", "metadata": {"ticket": 7}})["run_id"]
    event = daemon.until("s", "approval.requested")
    queued = daemon.submit("s", "never mind")
    withdrawn = ask(daemon, "DELETE", f"/v1/sessions/s/queue/{queued}").json
    post("resolve", f"/v1/approvals/{event['request_id']}", {"resolution": "allow"})
    run = daemon.finish(run_id)
    assert run["status"] == "completed" and withdrawn["status"] == "cancelled"
    events = ask(daemon, "GET", f"/v1/runs/{run_id}/events").json["items"]
    post("input", "/v1/sessions/s/input", {"content": "go"})
    made = []
    for number in range(FINISHED_RUNS_KEPT):
        daemon.client.sessions.input("s", f"go {number}")
    made = [run["run_id"] for run in daemon.client.sessions.runs("s")]
    return Old(daemon, run, events, requests, withdrawn, made)


def test_the_newest_runs_are_listed_and_all_are_counted(old: Old) -> None:
    listed = ask(old.daemon, "GET", "/v1/sessions/s/runs").json
    assert [run["run_id"] for run in listed] == old.made and len(old.made) == FINISHED_RUNS_KEPT
    assert [run["request"]["text_preview"] for run in listed][::99] == ["go 99", "go 0"]
    assert ask(old.daemon, "GET", "/v1/runs?session_id=s").json == listed
    assert ask(old.daemon, "GET", "/v1/sessions/s").json["runs_total"] == FINISHED_RUNS_KEPT + 3
    assert ask(old.daemon, "GET", "/v1/sessions").json[0]["runs_total"] == FINISHED_RUNS_KEPT + 3


def test_a_past_run_is_shown_as_it_was(old: Old) -> None:
    run_id = old.run["run_id"]
    assert ask(old.daemon, "GET", f"/v1/runs/{run_id}").json == old.run
    assert ask(old.daemon, "GET", f"/v1/runs/{run_id.removeprefix('run_')}").json == old.run
    assert ask(old.daemon, "GET", f"/v1/runs/{old.withdrawn['run_id']}").json == old.withdrawn
    assert refusal(ask(old.daemon, "GET", f"/v1/runs/{run_id[:-1]}")) == (404, "run_not_found")
    assert refusal(ask(old.daemon, "GET", f"/v1/runs/{run_id[:-1]}Z")) == (404, "run_not_found")


def test_its_events_are_listed_and_streamed_as_they_were(old: Old) -> None:
    run_id = old.run["run_id"]
    page = ask(old.daemon, "GET", f"/v1/runs/{run_id}/events").json
    assert page == {"items": old.events, "next_cursor": None}
    frames = list(old.daemon.events(run_id=run_id))
    assert [frame.data for frame in frames if frame.event == "record"] == old.events
    assert [frame.event for frame in frames][-2:] == ["sync", "bye"]
    last = str(old.events[-1]["seq"])
    seen = ask(old.daemon, "GET", f"/v1/runs/{run_id}/stream", Last_Event_ID=last)
    assert seen.status == 204, "all of it was shown"


def test_a_past_run_stays_as_it_is(old: Old) -> None:
    run_id, queued = old.run["run_id"], old.withdrawn["run_id"]
    before = len(old.daemon.journal("s"))
    assert ask(old.daemon, "POST", f"/v1/runs/{run_id}/cancel", {"reason": "late"}).json == old.run
    assert ask(old.daemon, "DELETE", f"/v1/sessions/s/queue/{queued}").json == old.withdrawn
    for method, body in (("DELETE", None), ("PATCH", {"content": "late"})):
        answer = ask(old.daemon, method, f"/v1/sessions/s/queue/{run_id}", body)
        assert refusal(answer) == (409, "run_state_conflict"), method
    edited = ask(old.daemon, "PATCH", f"/v1/sessions/s/queue/{queued}", {"content": "late"})
    assert refusal(edited) == (409, "run_state_conflict")
    assert len(old.daemon.journal("s")) == before


def test_a_request_is_repeated_with_the_result_that_it_had(old: Old) -> None:
    before = len(old.daemon.journal("s"))
    for name in ("submit", "resolve"):
        send, first = old.requests[name]
        again = send()
        assert (again.status, again.json) == (first.status, old.run), name
    send, first = old.requests["input"]
    assert send().status == first.status == 200
    assert len(old.daemon.journal("s")) == before, "nothing was done twice"


def test_who_decides_again_learns_of_the_first(old: Old) -> None:
    approval = next(e for r in old.events for e in r["events"] if e["type"] == "approval.requested")["request_id"]
    for path, body in (
        (f"/v1/approvals/{approval}", {"resolution": "deny"}),
        (
            f"/v1/runs/{old.run['run_id']}/approvals",
            {"resolutions": [{"request_id": approval, "resolution": "deny"}]},
        ),
    ):
        answer: Any = ask(old.daemon, "POST", path, body)
        assert refusal(answer) == (409, "approval_state_conflict") and answer.json["how"] == "allow"


def test_what_a_past_run_left_running_decides_nothing(old: Old, tmp_path: Path) -> None:
    """A process that carries the ids of a run is that run, for ever."""
    program = (
        "from kheish.client import ApiError, Kheish\n"
        f"client = Kheish({str(old.daemon.socket)!r}, start=False)\n"
        "try:\n"
        "    client.sessions.set_permission_mode('s', 'bypass')\n"
        "except ApiError as error:\n"
        "    print(error.code)\n"
    )
    for run_id, said in (
        (old.run["run_id"], "operator_required"),
        (old.made[0], "operator_required"),
        (f"{old.run['run_id'][:-1]}Z", "operator_required"),
    ):
        environment = {**os.environ, "KHEISH_RUN_ID": run_id}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30
        )
        assert (done.stdout.strip(), done.returncode) == (said, 0), done.stderr
