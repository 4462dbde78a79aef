"""Secrets in the real daemon: routes use them through the real SDKs, and nothing but the provider ever sees one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest

from kheish.client.errors import ApiError, DaemonUnreachable
from kheish.debug.redaction import MASK
from tests.daemon_process import EVENT_TIMEOUT_S, DaemonProcess, Json, bash, calls, text
from tests.faults.syscalls import Point, moments_of, read_log
from tests.providers.wire_server import GATE, Answer, BlockingWireServer, failure, serving
from tests.providers.wires import MESSAGES, WIRES, asked

pytestmark = pytest.mark.slow

MASTER_KEY = os.urandom(32).hex()
CANARY = f"canary-secret-{os.urandom(4).hex()}"
"""Of this very run: others may go on beside it."""


@pytest.fixture(scope="module")
def server() -> Iterator[BlockingWireServer]:
    with serving() as running:
        yield running


def make_daemon(folder: Path, url: str = "http://127.0.0.1:9") -> DaemonProcess:
    """A route for each wire, with a secret of its name, and all that the daemon prints in a file."""
    made = DaemonProcess(folder)
    tables = [
        re.sub(r"api_key_env = .*", f'auth_ref = "key-{wire.driver}"', wire.route(url).replace("_compatible]", "-kin]"))
        for wire in WIRES
    ]
    scripted = '[routes.test]\ndriver = "scripted"\ndefault_model = "script.json"\n'
    (made.config / "routes.toml").write_text("\n".join(['version = 1\ndefault_route = "test"', scripted, *tables]))
    made.env["KHEISH_AUTH_STORE_MASTER_KEY"] = MASTER_KEY
    return made


def start(daemon: DaemonProcess) -> DaemonProcess:
    command = 'exec "$0" -m kheish daemon run >>"$1" 2>&1'
    return daemon.start(argv=["/bin/sh", "-c", command, sys.executable, str(daemon.folder / "printed")])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, server: BlockingWireServer) -> Iterator[DaemonProcess]:
    made = make_daemon(tmp_path_factory.mktemp("secrets"), server.url)
    try:
        yield start(made)
    finally:
        made.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon that the test may kill."""
    made = make_daemon(tmp_path)
    try:
        yield start(made)
    finally:
        made.close()


def route_of(daemon: DaemonProcess, route_id: str = "anthropic") -> Json:
    return next(row for row in daemon.client.daemon.routes() if row["route_id"] == route_id)


def key_in(headers: dict[str, str]) -> str:
    return headers.get("x-api-key", headers.get("authorization", "")).removeprefix("Bearer ")


def refused(use: Any) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        use()
    return caught.value.status, caught.value.code


# -- what routes do with them ---------------------------------------------------------------------------------------


def test_a_route_is_ready_as_soon_as_its_secret_is_set(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    session = daemon.session("ready")
    assert refused(lambda: daemon.submit(session, model="anthropic")) == (409, "route_not_ready")
    row = route_of(daemon)
    assert (row["auth_ref"], row["api_key_env"], row["ready"]) == ("key-anthropic", "", False)
    assert "`kheish secrets set key-anthropic`" in row["problem"]
    daemon.client.secrets.set("key-anthropic", f"{CANARY}-0\n")
    assert route_of(daemon)["ready"]
    server.play(Answer(MESSAGES.text("hello")))
    assert daemon.finish(daemon.submit(session, model="anthropic"))["outputs"] == ["hello"]
    assert key_in(server.request_headers[0]) == f"{CANARY}-0"


def test_the_next_call_of_a_run_has_the_new_value_and_the_one_at_work_is_not_disturbed(
    daemon: DaemonProcess, server: BlockingWireServer
) -> None:
    daemon.client.secrets.set("key-anthropic", f"{CANARY}-1")
    stream = MESSAGES.stream(asked("bash", {"command": "true"}))
    server.play(Answer([GATE, *stream]), Answer(MESSAGES.text("done")))
    run_id = daemon.submit(daemon.session("rotated", "bypass"), model="anthropic")
    daemon.until("rotated", "model_call.started")
    view = daemon.client.secrets.set("key-anthropic", f"{CANARY}-2")
    server.open_gate()
    assert daemon.finish(run_id)["outputs"] == ["done"]
    assert [key_in(headers)[-1] for headers in server.request_headers] == ["1", "2"]
    assert view["version"] == 3 and view["referenced_by"] == ["anthropic"]


def test_a_value_that_no_header_can_carry_makes_the_route_not_ready(daemon: DaemonProcess) -> None:
    daemon.client.secrets.set("key-openai", f"{CANARY}-ключ")
    problem = route_of(daemon, "openai")["problem"]
    assert problem == "the secret key-openai holds characters that no key has; set it anew"
    daemon.client.secrets.set("key-openai", f"{CANARY}-openai")
    assert route_of(daemon, "openai")["ready"]


def test_a_secret_in_use_is_deleted_by_force_alone(daemon: DaemonProcess) -> None:
    daemon.client.secrets.set("key-openai", f"{CANARY}-3")
    with pytest.raises(ApiError) as caught:
        daemon.client.secrets.delete("key-openai")
    assert (caught.value.status, caught.value.code) == (409, "secret_in_use")
    assert "routes use it: openai" in caught.value.message and "--force" in caught.value.message
    assert caught.value.details["referenced_by"] == ["openai"]
    assert daemon.client.secrets.delete("key-openai", force=True)["referenced_by"] == ["openai"]
    assert refused(lambda: daemon.client.secrets.get("key-openai")) == (404, "secret_not_found")
    assert not route_of(daemon, "openai")["ready"]
    daemon.client.secrets.set("loose", "x")
    assert daemon.client.secrets.delete("loose")["referenced_by"] == []


def test_while_the_routes_cannot_be_read_nothing_counts_as_unused(own: DaemonProcess) -> None:
    own.client.secrets.set("loose", "x")
    whole = (own.config / "routes.toml").read_text()
    (own.config / "routes.toml").write_text(f"{whole}\n[")
    assert own.client.secrets.set("loose", "y")["referenced_by"] is None
    assert own.client.secrets.list()[0]["referenced_by"] is None
    assert refused(lambda: own.client.secrets.delete("loose")) == (409, "secret_in_use")
    assert "(routes.toml cannot be read)" in own.cli("secrets", "list").stdout
    assert own.client.secrets.delete("loose", force=True)["name"] == "loose"


def test_the_log_says_who_changed_which_secret(own: DaemonProcess) -> None:
    own.client.secrets.set("loose", CANARY)
    own.client.secrets.delete("loose")
    assert own.stop() == 0
    said = [json.loads(line)["message"] for line in (own.state / "daemon" / "daemon.log").read_text().splitlines()]
    assert [line for line in said if "secret" in line] == [
        f"user:{os.getuid()} set the secret loose, version 1",
        f"user:{os.getuid()} deleted the secret loose",
    ]


def test_two_who_set_at_once_are_both_told_and_one_holds(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    values = [f"{CANARY}-{n:02}" for n in range(12)]
    versions: dict[int, str] = {}

    def set_one(value: str) -> None:
        versions[daemon.client.secrets.set("key-anthropic", value)["version"]] = value

    threads = [threading.Thread(target=set_one, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions.values()) == values
    server.play(Answer(MESSAGES.text("hello")))
    daemon.finish(daemon.submit(daemon.session("raced"), model="anthropic"))
    assert key_in(server.request_headers[0]) == versions[max(versions)]


# -- where they are not ---------------------------------------------------------------------------------------------


def test_a_secret_is_found_nowhere(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    """After servers that repeat it in every error, tools that print their environment, every answer of the API, and all
    that is kept of model calls, at every debug level."""
    told: list[Any] = []
    watched: list[Any] = []
    is_watched = threading.Event()

    def watch() -> None:
        for frame in daemon.events(cursor="tail"):
            watched.append(frame.data)
            is_watched.set()
            if frame.event == "bye":
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert is_watched.wait(30)
    levels: tuple[Literal["off", "redacted", "full"], ...] = ("off", "redacted", "full")
    for wire, level in product(WIRES, levels):
        canary = f"{CANARY}-{wire.driver}"
        route = wire.driver.replace("_compatible", "-kin")
        secret = f"key-{wire.driver}"
        told.append(daemon.client.runtime.set_debug_level(level))
        told.append(daemon.client.secrets.set(secret, canary))
        for status, code in ((401, "auth"), (400, "invalid")):
            words = f"bad key {canary} ({canary!r}) Bearer {canary}"
            server.play(failure(status, wire.errors(code, words), x_request_id=canary))
            run_id = daemon.submit(daemon.session(f"seen-{route}-{level}-{status}"), model=route)
            told.append(daemon.finish(run_id))
            assert told[-1]["status"] == "failed" and key_in(server.request_headers[0]) == canary
            if level != "off":
                told.append(kept := until_kept(daemon, run_id))
                (response,) = [exchange["response"] for exchange in kept["exchanges"]]
                assert response["status"] == status and MASK in response["events"][0]["text"]
            shown = daemon.cli("logs", run_id)
            told += [shown.stdout, shown.stderr]
        server.play(Answer(wire.stream(asked("bash", {"command": "env; cat /proc/self/environ; ps axeww"}))),
                    Answer(wire.text("fine")))  # fmt: skip
        session = daemon.session(f"seen-{route}-{level}-tool", "bypass")
        told.append(daemon.finish(daemon.submit(session, model=route)))
        told += [journal := daemon.journal(session), daemon.client.secrets.get(secret)]
        assert "PATH=" in json.dumps(journal)
    client = daemon.client
    told += [client.secrets.list(), client.daemon.routes(), client.daemon.status(), client.runs.list()]
    told += [refused(lambda: client.secrets.set(CANARY.upper(), CANARY)), client.daemon.openapi()]
    for arguments in (
        ["runs", "debug", run_id],
        ["replay", run_id],
        ["secrets", "list"],
        ["secrets", "get", "key-openai"],
        ["routes", "list"],
        ["doctor"],
    ):
        done = daemon.cli(*arguments)
        told += [done.stdout, done.stderr]
    processes = [file.read_bytes() for name in ("cmdline", "environ") for file in readable(f"[0-9]*/{name}")]
    assert daemon.stop() == 0
    watcher.join()
    assert watched[-1] == {"reason": "the daemon is stopping"}
    files = {file: file.read_bytes() for file in daemon.folder.rglob("*") if file.is_file()}
    start(daemon)
    assert CANARY not in json.dumps([*told, *watched], ensure_ascii=False)
    assert [line for line in processes if CANARY.encode() in line or MASTER_KEY.encode() in line] == []
    assert {"daemon.log", "printed", "key-openai.json", "1.1.json", "2.1.json"} <= {file.name for file in files}
    assert [file for file, data in files.items() if CANARY.encode() in data or MASTER_KEY.encode() in data] == []


def until_kept(daemon: DaemonProcess, run_id: str) -> Json:
    """What is kept of a run's first model call, when it is written down."""
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while not daemon.client.runs.debug(run_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return daemon.client.runs.debug_artifact(run_id, "1.1")


def readable(pattern: str) -> Iterator[Path]:
    """Files of processes that this one may read, except this one's own: a test knows the canary."""
    for file in Path("/proc").glob(pattern):
        with contextlib.suppress(OSError):
            if file.parent.name != str(os.getpid()):
                file.read_bytes()
                yield file


# -- a store that cannot be read ------------------------------------------------------------------------------------


def test_under_a_wrong_master_key_the_daemon_runs_and_says_what_is_wrong(own: DaemonProcess) -> None:
    own.client.secrets.set("key-anthropic", CANARY)
    assert own.stop() == 0
    own.env["KHEISH_AUTH_STORE_MASTER_KEY"] = "11" * 32
    start(own)
    assert route_of(own)["problem"] == "cannot read the secret key-anthropic: another master key sealed it"
    assert own.client.secrets.get("key-anthropic")["problem"] == route_of(own)["problem"]
    assert refused(lambda: own.submit(own.session("s"), model="anthropic")) == (409, "route_not_ready")
    assert refused(lambda: own.client.secrets.set("other", "x")) == (409, "master_key_wrong")
    own.script(text("others go on"))
    assert own.finish(own.submit("s"))["outputs"] == ["others go on"]
    assert own.stop() == 0
    own.env["KHEISH_AUTH_STORE_MASTER_KEY"] = MASTER_KEY
    start(own)
    assert route_of(own)["ready"]


def test_a_malformed_master_key_is_told_when_it_is_needed(own: DaemonProcess) -> None:
    assert own.stop() == 0
    own.env["KHEISH_AUTH_STORE_MASTER_KEY"] = "not-a-key"
    start(own)
    done = own.cli("secrets", "set", "a", input="x")
    assert done.returncode == 6
    assert "KHEISH_AUTH_STORE_MASTER_KEY must hold 32 bytes" in done.stderr and "not-a-key" not in done.stderr


def test_a_damaged_secret_is_told_and_the_others_are_used(own: DaemonProcess) -> None:
    own.client.secrets.set("key-anthropic", CANARY)
    own.client.secrets.set("key-openai", CANARY)
    path = own.state / "daemon" / "secrets" / "key-anthropic.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"version":1', b'"version":2'))
    assert str(path) in route_of(own)["problem"] and route_of(own, "openai")["ready"]
    shown = own.cli("secrets", "get", "key-anthropic")
    assert shown.returncode == 0 and "checksum does not hold" in shown.stdout
    path.write_bytes(whole)
    assert route_of(own)["ready"], "without a restart"


def test_the_key_of_the_state_root_is_made_by_the_first_secret(tmp_path: Path) -> None:
    made = make_daemon(tmp_path)
    del made.env["KHEISH_AUTH_STORE_MASTER_KEY"]
    key = made.state / "daemon" / "auth-store-master.key"
    try:
        start(made)
        assert made.client.secrets.list() == [] and not key.exists()
        made.client.secrets.set("key-anthropic", CANARY)
        assert key.stat().st_mode & 0o777 == 0o600
        assert made.stop() == 0
        start(made)
        assert route_of(made)["ready"]
    finally:
        made.close()


def test_killed_at_any_change_of_the_disk_a_set_is_whole_or_was_not(tmp_path: Path) -> None:
    """A set of a new value, the daemon killed before and after each call by which it changes the disk, and within each
    write; then started again, when the secret has one of both values, and is set."""
    before = make_daemon(tmp_path / "before")
    try:
        start(before).client.secrets.set("key-anthropic", "old")
        assert before.stop() == 0
    finally:
        before.close()
    log = tmp_path / "calls"
    set_until(before.folder, tmp_path / "counted", log, None)
    mine = [call for call in read_log(log)[0] if call.name.startswith("state/daemon/secrets")]
    assert {call.kind for call in mine} == {"open", "write", "fsync", "rename", "fsync_dir", "mkdir"}
    points = [Point(*call[:3], moment) for call in mine for moment in moments_of(call.kind)]
    found = [set_until(before.folder, tmp_path / str(n), log, point) for n, point in enumerate(points)]
    assert set(found) == {1, 2}


def set_until(before: Path, folder: Path, log: Path, point: Point | None) -> int:
    """One life, from a copy of what was before: the version of the secret after the daemon was killed and started
    again."""
    shutil.copytree(before, folder, ignore=shutil.ignore_patterns("*.sock"))
    daemon = make_daemon(folder)
    kill = ["--kill", str(point)] if point else []
    try:
        daemon.start(argv=[sys.executable, "-m", "tests.faults.daemon", "--log", str(log), *kill])
        with contextlib.suppress(DaemonUnreachable):
            daemon.client.secrets.set("key-anthropic", "new")
            assert point is None, f"{point} was not reached"
        daemon.close()
        start(daemon)
        view = daemon.client.secrets.get("key-anthropic")
        assert view["problem"] == "" and route_of(daemon)["ready"]
        assert not list((daemon.state / "daemon" / "secrets").glob(".tmp-*")), "what was unfinished is cleared"
        assert daemon.client.secrets.set("key-anthropic", "after")["version"] == view["version"] + 1
        return view["version"]
    finally:
        daemon.close()
        shutil.rmtree(folder)


# -- the command line -----------------------------------------------------------------------------------------------


def value_of(daemon: DaemonProcess, server: BlockingWireServer, name: str = "key-anthropic") -> str:
    """What a provider gets."""
    server.play(Answer(MESSAGES.text("hello")))
    daemon.finish(daemon.submit(daemon.session("asks-for-values"), model="anthropic"))
    return key_in(server.request_headers[0])


def test_a_value_is_piped_in_or_taken_from_a_variable(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    for given in ("piped", "piped\n", "piped\r\n"):
        done = daemon.cli("secrets", "set", "key-anthropic", input=given)
        assert (done.returncode, done.stderr) == (0, "") and "piped" not in done.stdout
        assert value_of(daemon, server) == "piped"
    done = daemon.cli("secrets", "set", "key-anthropic", "--from-env", "MINE", "--json", env={"MINE": "from-env"})
    assert json.loads(done.stdout)["name"] == "key-anthropic" and "from-env" not in done.stdout
    assert value_of(daemon, server) == "from-env"


@pytest.mark.parametrize(
    ("arguments", "input", "said"),
    [
        (["NAME", CANARY], None, "process lists show it"),
        (["NAME"], "", "the value is empty"),
        (["NAME"], "\n", "the value is empty"),
        (["NAME"], " \t\n", "more than blanks"),
        (["NAME", "--from-env", "NOT_SET"], None, "cannot take the value from NOT_SET"),
        (["Upper"], "x", r"\$\.name"),
    ],
)
def test_what_is_no_value_or_no_name_is_refused(
    daemon: DaemonProcess, arguments: list[str], input: str | None, said: str
) -> None:
    before = daemon.client.secrets.list()
    done = daemon.cli("secrets", "set", *[word.replace("NAME", "refused") for word in arguments], input=input)
    assert done.returncode == 2 and re.search(said, done.stderr), done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert daemon.client.secrets.list() == before


def test_without_standard_input_there_is_no_value(daemon: DaemonProcess) -> None:
    done = daemon.shell("python -m kheish secrets set refused <&-")
    assert done.returncode == 2 and "the value is empty" in done.stderr


def _take_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in the background hands down that it is ignored
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def at_a_terminal(daemon: DaemonProcess, typed: bytes) -> tuple[int, bytes]:
    """The status of `kheish secrets set key-anthropic`, and what it showed."""
    leader, follower = pty.openpty()
    popen = subprocess.Popen(
        [sys.executable, "-m", "kheish", "secrets", "set", "key-anthropic"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=daemon.env,
        cwd=daemon.work,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):
        while b"(not shown): " not in shown:
            shown += os.read(leader, 4096)
        os.write(leader, typed)
        while data := os.read(leader, 4096):
            shown += data
    status = popen.wait(30)
    os.close(leader)
    return status, shown


def test_at_a_terminal_the_value_is_asked_for_and_not_shown(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    status, shown = at_a_terminal(daemon, b"typed-by-hand\n")
    assert status == 0 and b"replaced key-anthropic" in shown and b"typed" not in shown
    assert value_of(daemon, server) == "typed-by-hand"


@pytest.mark.parametrize(("key", "status", "said"), [(b"\x04", 2, b"the value is empty"), (b"\x03", 130, b"")])
def test_leaving_the_place_for_the_value_sets_nothing(
    daemon: DaemonProcess, key: bytes, status: int, said: bytes
) -> None:
    before = daemon.client.secrets.list()
    left, shown = at_a_terminal(daemon, key)
    assert left == status and said in shown and b"Traceback" not in shown
    assert shown.endswith(b"\n"), "the shell's prompt begins a line of its own"
    assert daemon.client.secrets.list() == before


def test_list_and_get_tell_all_but_the_value(daemon: DaemonProcess) -> None:
    daemon.client.secrets.set("key-anthropic", CANARY)
    version = daemon.client.secrets.get("key-anthropic")["version"]
    row = re.compile(rf"^key-anthropic +{version} +\d+s ago +anthropic", re.MULTILINE)
    assert row.search(daemon.cli("secrets", "list").stdout)
    shown = daemon.cli("secrets", "get", "key-anthropic")
    assert f"version {version}" in shown.stdout and "its value is not shown" in shown.stderr
    rows = {row["name"]: row for row in daemon.cli_json("secrets", "list")}
    assert rows["key-anthropic"] == daemon.cli_json("secrets", "get", "key-anthropic")
    assert set(rows["key-anthropic"]) == {
        "name", "version", "created_at_ms", "updated_at_ms", "referenced_by", "problem"
    }  # fmt: skip
    missing = daemon.cli("secrets", "get", "nobody")
    assert missing.returncode == 5 and "`kheish secrets set nobody` makes it" in missing.stderr


def test_delete_names_the_routes_that_are_in_its_way(daemon: DaemonProcess) -> None:
    daemon.client.secrets.set("key-openai", "x")
    done = daemon.cli("secrets", "delete", "key-openai")
    assert done.returncode == 6 and "routes use it: openai" in done.stderr
    done = daemon.cli("secrets", "delete", "key-openai", "--force")
    assert (done.returncode, done.stdout) == (0, "deleted key-openai\n") and "openai" in done.stderr
    assert daemon.cli("secrets", "delete", "key-openai").returncode == 5


def test_generate_sets_a_random_one_and_shows_it_only_if_asked(
    daemon: DaemonProcess, server: BlockingWireServer
) -> None:
    done = daemon.cli("secrets", "generate", "key-anthropic")
    assert done.stdout == "" and "replaced key-anthropic" in done.stderr
    first = value_of(daemon, server)
    shown = daemon.cli("secrets", "generate", "key-anthropic", "--show").stdout.strip()
    assert value_of(daemon, server) == shown != first and len(shown) == len(first) == 44
    assert daemon.cli_json("secrets", "generate", "key-anthropic", "--show")["value"] == value_of(daemon, server)
    assert "value" not in daemon.cli_json("secrets", "generate", "key-anthropic")
    before = daemon.client.secrets.list()
    master_key = daemon.cli("secrets", "generate").stdout.strip()
    assert len(master_key) == 44 and daemon.client.secrets.list() == before


def test_import_env_takes_the_keys_that_providers_are_known_by(own: DaemonProcess) -> None:
    keys = {"ANTHROPIC_API_KEY": f"{CANARY}-a", "XAI_API_KEY": f"{CANARY}-x", "OTHER_API_KEY": f"{CANARY}-o"}
    done = own.cli("secrets", "import-env", env=keys)
    assert done.returncode == 0 and CANARY not in done.stdout + done.stderr
    assert done.stdout == "set anthropic (version 1)\nset xai (version 1)\n"
    assert [secret["name"] for secret in own.client.secrets.list()] == ["anthropic", "xai"]
    done = own.cli("secrets", "import-env")
    assert done.returncode == 5 and "ANTHROPIC_API_KEY" in done.stderr


def test_a_run_may_neither_look_at_secrets_nor_change_them(own: DaemonProcess) -> None:
    own.client.secrets.set("loose", CANARY)
    lines = ["secrets list", "secrets get loose", "secrets generate loose", "secrets delete loose --force"]
    command = "; ".join(f"{sys.executable} -m kheish {line}; echo status=$?" for line in lines)
    own.script(bash(command), calls(), text("done"))
    own.finish(own.submit(own.session("s", "bypass")))
    (completed,) = [e for record in own.journal("s") for e in record["events"] if e["type"] == "tool_call.completed"]
    said = json.dumps(completed)
    assert said.count("status=4") == 4 and said.count("only a local operator may") == 4
    assert own.client.secrets.get("loose")["version"] == 1


# -- another master key ---------------------------------------------------------------------------------------------


def test_the_master_key_is_changed_under_a_running_daemon_that_goes_on_with_its_secrets(
    tmp_path: Path, server: BlockingWireServer
) -> None:
    made = make_daemon(tmp_path, server.url)
    del made.env["KHEISH_AUTH_STORE_MASTER_KEY"]
    try:
        start(made)
        made.client.secrets.set("key-anthropic", CANARY)
        before = made.client.secrets.master_key()
        done = made.cli("secrets", "rotate-key")
        assert done.returncode == 0 and CANARY not in done.stdout + done.stderr
        after = made.client.secrets.master_key()
        assert after["key_id"] in done.stdout and after["key_id"] != before["key_id"] and not after["is_changing"]
        assert value_of(made, server) == CANARY
        made.kill()
        start(made)
        assert value_of(made, server) == CANARY and made.client.secrets.list()[0]["version"] == 1
        logged = (made.state / "daemon" / "daemon.log").read_text()
        assert f"user:{os.getuid()} changed the master key, which is {after['key_id']} now" in logged
    finally:
        made.close()


def test_one_that_the_environment_holds_is_changed_by_who_starts_the_daemon(daemon: DaemonProcess) -> None:
    done = daemon.cli("secrets", "rotate-key")
    assert done.returncode == 6 and "KHEISH_AUTH_STORE_MASTER_KEY_FILE" in done.stderr
    assert MASTER_KEY not in done.stdout + done.stderr


def test_the_doctor_says_what_is_wrong_with_secrets(own: DaemonProcess) -> None:
    own.client.secrets.set("key-anthropic", CANARY)
    own.client.secrets.set("key-openai", CANARY)
    (own.state / "daemon" / "secrets" / "key-openai.json").write_bytes(b"rubbish\n")
    rows = doctor_rows(own)
    assert all(verdict == "wrong" for verdict, _ in rows) and len(rows) == 2
    assert "key-openai: cannot read " in rows[0][1]
    missing = "route openai-kin needs the secret key-openai_compatible, which is missing"
    assert missing in rows[1][1] and "`kheish secrets set key-openai_compatible`" in rows[1][1]
    own.client.secrets.set("key-openai", CANARY)
    own.client.secrets.set("key-openai_compatible", CANARY)
    assert doctor_rows(own) == [("ok", "3 secrets, sealed by the key in KHEISH_AUTH_STORE_MASTER_KEY")]
    assert own.stop() == 0
    own.env["KHEISH_AUTH_STORE_MASTER_KEY"] = "not-a-key"
    start(own)
    (row,) = doctor_rows(own)
    assert row[0] == "wrong" and "KHEISH_AUTH_STORE_MASTER_KEY must hold 32 bytes" in row[1]


def doctor_rows(daemon: DaemonProcess) -> list[tuple[str, str]]:
    found = json.loads(daemon.cli("doctor", "--json").stdout)
    return [(row["verdict"], row["detail"]) for row in found if row["check"] == "secrets"]
