"""A budget over a death of the daemon and two child sessions that a run's own commands made; and who may raise it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import ROUTES, DaemonProcess, bash, calls, text, tool

pytestmark = pytest.mark.slow

KHEISH = f"{sys.executable} -m kheish"
USAGE = {"input_tokens": 1_000, "output_tokens": 100}
CALL_USD = (1_000 * 3.0 + 100 * 15.0) / 1_000_000
CALL_TOKENS = 1_100


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("budgets"))
    (made.config / "routes.toml").write_text(f"{ROUTES}price = {{ input_usd = 3.0, output_usd = 15.0 }}\n")
    try:
        yield made.start()
    finally:
        made.close()


def look(**more: Any) -> dict[str, Any]:
    return calls(tool("list_files", path="."), usage=USAGE, **more)


def used(daemon: DaemonProcess, run_id: str) -> tuple[int, int, float]:
    budget = daemon.client.runs.get(run_id)["budget"]
    assert budget is not None
    amounts = budget["used"]
    return amounts["steps"], amounts["tokens"], round(amounts["cost_usd"], 9)


def test_a_budget_counts_its_children_once_over_a_death_and_goes_on_when_it_is_raised(daemon: DaemonProcess) -> None:
    daemon.script(text("child one", usage=USAGE), name="one.json")
    daemon.script(text("child two", usage=USAGE, hang=1), name="two.json")
    daemon.script(
        bash(f"{KHEISH} run -s one --model test/one.json go") | {"usage": USAGE},
        bash(f"{KHEISH} run -d -s two --model test/two.json go") | {"usage": USAGE},
        look(hang=1),
        text("all done", usage=USAGE),
        after_last="repeat",
    )
    daemon.session("parent", "bypass")
    done = daemon.cli("run", "-d", "-s", "parent", "--budget", "1.00", "--budget-steps", "5", "go")
    run_id = done.stdout.strip()
    started = 0
    with contextlib.closing(daemon.events(run_id=run_id)) as frames:
        while started < 3:
            started += sum(event["type"] == "model_call.started" for event in next(frames).data.get("events", ()))
    daemon.until("two", "model_call.started")
    budget = daemon.client.runs.get(run_id)["budget"]
    assert budget is not None and budget["reserved"]["steps"] == 1 and used(daemon, run_id)[0] == 4, "one is reserved"
    parent = daemon.client.sessions.get("two")
    assert parent["parent_run_id"] == daemon.client.sessions.get("one")["parent_run_id"] == run_id

    daemon.kill()
    daemon.start()
    daemon.finish(daemon.client.sessions.runs("two")[0]["run_id"])
    waiting = daemon.client.runs.wait(run_id, until="blocked", timeout_s=30)
    (approval,) = waiting["pending_approvals"]
    assert (approval["kind"], approval["budget"] and approval["budget"]["reached"]) == ("budget", ["steps"])
    assert used(daemon, run_id) == (5, 5 * CALL_TOKENS, round(5 * CALL_USD, 9)), "three of its own, two of its children"

    # The run's own process may not raise it, nor any other's; a person may.
    for process in (run_id, "run_01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        refused = daemon.cli("approve", approval["request_id"], "--raise", "5", env={"KHEISH_RUN_ID": process})
        assert refused.returncode and "operator" in refused.stderr
        refused = daemon.cli("sessions", "budget", "parent", "--cost", "9", env={"KHEISH_RUN_ID": process})
        assert refused.returncode and "operator" in refused.stderr
    assert daemon.cli("sessions", "fork", "one", "--name", "three", env={"KHEISH_RUN_ID": run_id}).returncode == 0
    assert daemon.client.sessions.get("three")["parent_run_id"] == run_id, "what it forks is its child, too"
    assert daemon.client.sessions.fork("one", new_session_id="four")["parent_run_id"] == ""
    shown = daemon.cli("inbox").stdout
    assert f"run {run_id}, set by user:" in shown and "5 of 5 steps" in shown and "--raise 20" in shown
    asked = daemon.cli("approve", approval["request_id"])
    assert asked.returncode == 2 and "--raise 20" in asked.stderr
    for call in (["--edit", "{}"], ["--always"], ["--retry"]):
        assert daemon.cli("approve", approval["request_id"], "--raise", "1", *call).returncode == 2, "it is no call"
    assert "1 more: budgets" in daemon.cli("approvals", "allow-all", "-s", "parent").stderr
    raised = daemon.cli("approve", approval["request_id"], "--raise", "steps=1")
    assert raised.returncode == 0 and raised.stdout.startswith("raised by 1 steps: ")
    run = daemon.finish(run_id)
    assert (run["status"], run["outputs"]) == ("completed", ["all done"])
    assert used(daemon, run_id) == (6, 6 * CALL_TOKENS, round(6 * CALL_USD, 9))
    report = daemon.cli("runs", "usage", run_id).stdout
    assert "6 of 6 steps" in report and f"${4 * CALL_USD:.4f}" in report, "the calls of its own, and all that count"


def test_a_headless_run_says_what_is_left_and_fails(daemon: DaemonProcess) -> None:
    daemon.script(look(), text("half is done", usage=USAGE), name="headless.json")
    done = daemon.cli(
        "run", "-s", "headless", "--model", "test/headless.json", "--budget-steps", "1", "--on-budget", "stop", "go"
    )
    assert done.returncode == 20 and "budget_exhausted" in done.stderr
    assert done.stdout == "half is done\n", "the last word is the output"
    run = daemon.client.sessions.runs("headless")[0]
    assert (run["outputs"], run["error"] and run["error"]["code"]) == (["half is done"], "budget_exhausted")


def test_a_cost_that_nobody_knows_is_told_where_the_budget_is_set(daemon: DaemonProcess) -> None:
    daemon.script(text("hm", usage=USAGE), name="unpriced.json")
    done = daemon.cli("run", "-s", "unpriced", "--model", "scripted/unpriced.json", "--budget", "0.01", "go")
    assert done.returncode == 0 and "the price of scripted/unpriced.json is unknown" in done.stderr
    assert (
        "1 call of unknown price"
        in daemon.cli("runs", "get", daemon.client.sessions.runs("unpriced")[0]["run_id"]).stdout
    )


def test_the_day_and_the_session_have_budgets_too(tmp_path: Path) -> None:
    made = DaemonProcess(tmp_path)
    (made.config / "config.toml").write_text("[budgets]\ndaily_steps = 2\nrun_tokens = 1_000_000\n")
    made.script(text("x", usage=USAGE), after_last="repeat")
    try:
        made.start()
        made.session("a")
        assert made.finish(made.submit("a"))["budget"]["by"] == "config.toml"
        made.finish(made.submit("a"))
        made.kill()
        made.start()
        made.session("b")
        waiting = made.client.runs.wait(made.submit("b"), until="blocked", timeout_s=30)
        assert waiting["status"] == "waiting_for_approval", "the day goes on after the death"
        (day,) = made.client.daemon.budgets()
        assert day["account"].startswith("day:") and (day["used"]["steps"], day["left"]["steps"]) == (2, 0)
        shown = made.cli("sessions", "budget", "b", "--cost", "2.50", "--time", "2h").stdout
        assert "session b: $0.0000 of $2.50, 0.0 of 120.0 minutes" in shown and "2 of 2 steps" in shown
        assert made.cli("deny", waiting["pending_approval_ids"][0]).stdout.startswith("stopped")
        error = made.finish(waiting["run_id"])["error"]
        assert error and error["code"] == "budget_exhausted" and error["message"].startswith("the day ")
    finally:
        made.close()
