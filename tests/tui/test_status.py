"""The screen of the daemon: what it is, what it holds, its routes, and what is wrong."""

from __future__ import annotations

import pytest

from kheish.tui.screens.status import Status
from tests.daemon_process import DaemonProcess, bash, text
from tests.tui.harness import open_app, shown, until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def state_root(shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks look at the state root of whoever asks."""
    monkeypatch.setenv("KHEISH_STATE_ROOT", str(shared_daemon.state))


async def test_it_shows_the_daemon_its_routes_and_every_check_of_the_doctor(shared_daemon: DaemonProcess) -> None:
    status = shared_daemon.client.daemon.status()
    told = {row["check"] for row in shared_daemon.cli_json("doctor")}
    async with open_app(shared_daemon, screen=Status(), size=(100, 44)) as (app, pilot):
        await until(pilot, lambda: "nothing wrong" in shown(app))
        lines = shown(app).splitlines()
        assert f"pid {status['pid']}, generation {status['generation']}" in shown(app)
        assert status["socket"] in shown(app)
        checked = lines[next(i for i, line in enumerate(lines) if line.strip() == "Checks") :]
        assert told == {name for name in told if any(line[3:].startswith(name) for line in checked)}


async def test_what_waits_and_what_runs_is_counted_while_one_looks(shared_daemon: DaemonProcess) -> None:
    async with open_app(shared_daemon, screen=Status()) as (app, pilot):
        await until(pilot, lambda: "0 approvals" in shown(app))
        session = shared_daemon.session("counted")
        shared_daemon.submit(session, model=shared_daemon.script(bash("true"), text("done"), name="counted.json"))
        await until(pilot, lambda: "1 approval" in shown(app) and "1 active" in shown(app))


async def test_a_route_that_cannot_be_used_says_why(shared_daemon: DaemonProcess) -> None:
    routes = shared_daemon.config / "routes.toml"
    before = routes.read_text()
    routes.write_text(before + '\n[routes.far]\ndriver = "anthropic"\napi_key_env = "NO_SUCH_KEY"\n')
    try:
        async with open_app(shared_daemon, screen=Status(), size=(100, 44)) as (app, pilot):
            await until(pilot, lambda: "NO_SUCH_KEY" in shown(app))
    finally:
        routes.write_text(before)


async def test_a_check_that_fails_is_counted(shared_daemon: DaemonProcess) -> None:
    shared_daemon.state.chmod(0o755)
    try:
        async with open_app(shared_daemon, screen=Status(), size=(100, 44)) as (app, pilot):
            await until(pilot, lambda: "1 wrong" in shown(app) and "is open to others" in shown(app))
            shared_daemon.state.chmod(0o700)
            await pilot.press("r")
            await until(pilot, lambda: "nothing wrong" in shown(app))
    finally:
        shared_daemon.state.chmod(0o700)
