"""`kheish status` and `kheish daemon ...`."""

from __future__ import annotations

import os
import sys
import time
from collections import deque

from kheish import paths
from kheish.cli.output import paint, print_json, say
from kheish.cli.targets import connect
from kheish.client import launch
from kheish.errors import Invalid, KheishError
from kheish.terminal import ago, clean, counted, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import StatusView


def status(as_json: bool) -> int:
    view = connect().daemon.status()
    if as_json:
        print_json(view)
        return 0
    runs, inbox = view["runs"], view["inbox"]
    print(f"{paint(view['status'], 'green' if view['ready'] else 'yellow')}  {_identity(view)}")
    print(f"  sessions   {view['sessions']['total']}")
    print(f"  runs       {runs['active']} active, {runs['queued']} queued")
    print(f"  inbox      {counted(inbox['approvals'], 'approval')}, {counted(inbox['questions'], 'question')}")
    for warning in view["warnings"]:
        about = f"{clean(warning['session_id'])}: " if warning["session_id"] else ""
        action = f" ({warning['action']})" if warning["action"] else ""
        print(paint(f"  warning    {about}{one_line(warning['message'])}{clean(action)}", "yellow"))
    return 0


def _identity(view: StatusView) -> str:
    return (
        f"kheish {view['version']}, pid {view['pid']}, generation {view['generation']}, up {ago(view['started_at_ms'])}"
    )


def daemon_status(as_json: bool) -> int:
    """Does not start a daemon to ask it."""
    client = connect(start=False)
    try:
        view = client.daemon.status()
    except KheishError as error:
        if not error.details.get("is_absent"):
            raise
        if as_json:
            print_json({"status": "stopped", "state_root": str(paths.state_root()), "socket": client.transport.path})
        else:
            print("stopped")
        return 3
    if as_json:
        print_json(view)
        return 0
    print(f"{paint('running', 'green')}  {_identity(view)}")
    print(f"  state root {view['state_root']}")
    print(f"  socket     {view['socket']}")
    print(f"  log        {paths.log_name(view['state_root'])}")
    return 0


def start(as_json: bool) -> int:
    client = connect()
    began = time.monotonic()
    started = launch.ensure_daemon(client.transport)
    view = client.daemon.status()
    if as_json:
        print_json({"started": started, **view})
    else:
        took = f" in {int((time.monotonic() - began) * 1000)} ms" if started else ""
        print(f"{'started' if started else 'already running'}{took}: {_identity(view)}")
    return 0


def _say_waiting() -> None:
    say("waiting for tool calls to finish ...", "dim")


def stop(as_json: bool) -> int:
    pid = launch.stop_daemon(on_wait=_say_waiting)
    if as_json:
        print_json({"stopped": pid is not None, "pid": pid})
    else:
        print(f"stopped pid {pid}" if pid is not None else "it was not running")
    return 0


def restart(as_json: bool) -> int:
    launch.stop_daemon(on_wait=_say_waiting, to_restart=True)
    return start(as_json)


def check(as_json: bool) -> int:
    import asyncio

    from kheish.client.diagnostics import state_root_problem
    from kheish.daemon.wiring import check_configuration

    if problem := state_root_problem():
        raise Invalid(problem, code="state_root_unusable")
    directory = paths.config_dir()
    asyncio.run(check_configuration(paths.state_root(), directory, os.environ))
    if as_json:
        print_json({"config_dir": str(directory)})
    else:
        print(f"a daemon would start with {directory}")
    return 0


def run() -> int:
    from kheish.daemon.main import run_daemon

    return run_daemon()


def logs(follow: bool, lines: int, as_json: bool) -> int:
    path = paths.log_name()
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in deque(file, maxlen=lines):
                print(clean(line.rstrip("\n")))
    except FileNotFoundError:
        say(f"there is no log yet at {path}")
        return 0
    if follow:
        sys.stdout.flush()
        os.execvp("tail", ["tail", "-n", "0", "-F", path])  # noqa: S606 - it follows rotation, we need not
    return 0
