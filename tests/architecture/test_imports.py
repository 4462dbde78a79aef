"""Who may import whom, by the contracts and by what an interpreter really loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kheish.cli.table import DAILY, GROUPS
from kheish.cli.targets import directory_session
from tests.architecture.modules import REPOSITORY, modules_after
from tests.daemon_process import DaemonProcess, text

IMPURE = {
    "asyncio", "concurrent", "fcntl", "http", "logging", "multiprocessing", "pathlib", "queue", "random", "resource",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile",
    "threading", "tomllib", "urllib", "platformdirs", "filelock", "httpx",
}  # fmt: skip
"""A core that reads a clock, draws a number, waits or touches the world needs one of these. `os` and `time` are loaded
by the interpreter itself; the contract forbids them by name."""

CORE = "".join(f"import kheish.core.{path.stem}\n" for path in sorted((REPOSITORY / "kheish/core").glob("[a-z]*.py")))
LIGHT = "import __future__, _blake2, _socket, importlib, json"
"""All that a hot command may load beside its own modules. `typing`, `pathlib`, `socket` and `hashlib` are not in it:
each takes a third of a bare Python start, of which the whole command may take three."""
OWN = tuple(
    f"kheish.{name}" for name in ("amounts", "cli", "client", "errors", "limits", "narration", "paths", "terminal")
)
HEAVY = {
    "anthropic", "openai", "httpx", "httpx2", "pydantic", "textual", "typer", "rich", "cryptography", "keyring"
}  # fmt: skip
"""What a daemon loads when it first needs it, or never."""
CLI = "import sys\nfrom kheish.cli.main import run\nassert run(sys.argv[1:]) == 0, sys.argv"
DAEMON = """\
import json, sys
from kheish.daemon.main import run_daemon
status = run_daemon()
open(sys.argv[1], "w").write(json.dumps(sorted(sys.modules)))
sys.exit(status)
"""


def roots(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_import_contracts_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-logo"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_core_loads_nothing_that_touches_the_world() -> None:
    """Beyond what its two libraries bring themselves."""
    theirs = modules_after("import msgspec, msgspec.json, msgspec.structs, orjson")
    ours = modules_after(CORE) - theirs
    assert "kheish.core.machine" in ours
    assert roots(ours) & IMPURE == set()
    foundations = {"kheish", "kheish.core", "kheish.errors", "kheish.ids", "kheish.limits"}
    assert {name for name in ours if name.startswith("kheish") and "kheish.core." not in name} <= foundations
    assert roots(ours) - {"kheish"} <= {"hashlib", "_hashlib", "_blake2"}, "a new import of the core is weighed here"


def test_the_purity_check_would_see_a_clock() -> None:
    theirs = modules_after("import msgspec, orjson")
    assert roots(modules_after(CORE + "import random, asyncio") - theirs) & IMPURE >= {"random", "asyncio"}


HOT_LINES = {
    "ps": [["ps"], ["ps", "--all", "--json"]],
    "logs": [["logs"], ["logs", "RUN"], ["logs", "SESSION", "--json", "-n", "2"]],
    "inbox": [["inbox", "--count"], ["inbox"], ["inbox", "--json"]],
    "wait": [["wait"], ["wait", "RUN"], ["wait", "SESSION", "--until", "idle", "--timeout", "9"]],
    "status": [["status"], ["status", "--json"]],
    "completion": [["completion", "targets"]],
    "daemon status": [["daemon", "status"]],
}


def test_every_hot_command_is_measured_here() -> None:
    hot = {command.name for command in DAILY if command.hot}
    hot |= {f"{group} {command.name}" for group, (_, rows) in GROUPS.items() for command in rows if command.hot}
    assert hot == set(HOT_LINES)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOT_LINES)
def test_a_hot_command_loads_nothing_but_json_and_a_socket(shared_daemon: DaemonProcess, name: str) -> None:
    model = shared_daemon.script(text("done"), name="hot.json", after_last="repeat")
    session = shared_daemon.session(directory_session(str(REPOSITORY)))
    run_id = shared_daemon.submit(session, model=model)
    shared_daemon.finish(run_id)
    light = modules_after(LIGHT)
    for line in HOT_LINES[name]:
        given = [{"RUN": run_id, "SESSION": session}.get(word, word) for word in line]
        loaded = modules_after(CLI, *given, env=shared_daemon.env, cwd=REPOSITORY)
        assert "kheish.client.transport" in loaded
        assert {name for name in loaded - light if not name.startswith("kheish")} == set(), line
        assert not [name for name in loaded if name.startswith("kheish.") and not name.startswith(OWN)], line
        assert "kheish.client.async_nouns" not in loaded


@pytest.mark.slow
def test_what_is_no_plain_line_goes_through_typer(shared_daemon: DaemonProcess) -> None:
    """So that the check above can fail."""
    assert "typer" in modules_after(CLI, "ps", "--help", env=shared_daemon.env)


@pytest.mark.slow
def test_the_daemon_loads_no_sdk_before_its_first_use(tmp_path: Path) -> None:
    made = DaemonProcess(tmp_path)
    made.env.update({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"})
    report = tmp_path / "modules"
    with (made.config / "routes.toml").open("a") as file:
        file.write('[routes.a]\ndriver = "anthropic"\n[routes.o]\ndriver = "openai_compatible"\n')
    try:
        made.start(argv=[sys.executable, "-c", DAEMON, str(report)])
        made.script(text("done"))
        assert made.finish(made.submit(made.session("s")))["status"] == "completed"
        assert {row["route_id"] for row in made.client.daemon.routes() if row["ready"]} >= {"a", "o"}
        assert made.stop() == 0
    finally:
        made.close()
    loaded = set(json.loads(report.read_text()))
    assert "kheish.providers.scripted" in loaded
    assert roots(loaded) & HEAVY == set()
    assert not {name for name in loaded if name.startswith(("kheish.cli", "kheish.tui"))} - {"kheish.cli"}
