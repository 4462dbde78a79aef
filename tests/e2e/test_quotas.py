"""A quota of config.toml: status, doctor and the TUI warn, and the command line says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kheish.tui.widgets.banner import Banner
from tests.daemon_process import DaemonProcess, text
from tests.tui.harness import open_app, shown, until

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("q"))
    (made.config / "config.toml").write_text('[quotas]\nsession_bytes = "20KB"\n')
    try:
        made.start()
        made.script(text("Done."), after_last="repeat")
        yield made
    finally:
        made.close()


async def test_a_full_session_is_told_everywhere_and_another_goes_on(daemon: DaemonProcess) -> None:
    assert daemon.client.daemon.status()["warnings"] == []
    daemon.finish(daemon.submit(daemon.session("full"), "x" * 17_000))
    (warning,) = daemon.client.daemon.status()["warnings"]
    assert (warning["code"], warning["session_id"]) == ("quota_near", "full")
    checks = {row["check"]: row["verdict"] for row in daemon.cli_json("doctor")}
    assert (checks["quotas"], checks["sessions"]) == ("note", "ok")

    daemon.finish(daemon.submit("full", "x" * 2_000))
    done = daemon.cli("run", "-s", "full", "more")
    assert done.returncode == 7
    assert "session full takes" in done.stderr and "`kheish sessions vacuum full` may help" in done.stderr
    assert "full: no new work is taken" in daemon.cli("status").stdout
    done = daemon.cli("doctor", "--json")
    assert done.returncode == 1
    assert [row["verdict"] for row in json.loads(done.stdout) if row["check"] == "quotas"] == ["wrong"]
    async with open_app(daemon) as (app, pilot):
        await until(pilot, lambda: app.screen.query_one(Banner).display and "no new work is taken" in shown(app))
    daemon.finish(daemon.submit(daemon.session("other"), "go"))


def test_of_very_many_that_are_full_or_damaged_some_are_named_and_the_others_counted(daemon: DaemonProcess) -> None:
    names = [f"s{number:02}" for number in range(13)]
    for run_id in [daemon.submit(daemon.session(name), "x" * 17_000) for name in names]:
        daemon.finish(run_id)
    *named, last = daemon.client.daemon.status()["warnings"]
    assert len({warning["session_id"] for warning in named}) == 10
    assert (last["code"], last["session_id"]) == ("quota_near", "")
    assert "and 3 more sessions that come near quotas.session_bytes" in daemon.cli("status").stdout
    assert len([row for row in daemon.cli_json("doctor") if row["check"] == "quotas"]) == 11

    assert daemon.stop() == 0
    (daemon.state / "daemon" / "index.jsonl").unlink()
    for name in names[:12]:
        (journal,) = (daemon.state / "sessions" / name).glob("journal-*.jsonl")
        journal.write_bytes(journal.read_bytes().replace(b"session.created", b"session.dreamed"))
    daemon.start()
    view = daemon.client.daemon.status()
    assert (view["sessions"]["total"], view["sessions"]["read_only"]) == (13, 12)
    assert view["warnings"][-1]["message"] == "and 2 more sessions that are read-only"
    (found,) = [row for row in json.loads(daemon.cli("doctor", "--json").stdout) if row["check"] == "sessions"]
    assert "s00, s01, s02, s03, s04 and 7 more;" in found["detail"]
