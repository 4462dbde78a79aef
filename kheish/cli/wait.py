"""`kheish wait`: blocks until a run or session is where it should be, and says so with its exit status."""

from __future__ import annotations

import time
from typing import Any

from kheish.cli.output import EXIT_TIMEOUT, EXIT_WAITING, RUN_EXIT, clean, print_json, say
from kheish.cli.targets import connect, find_target
from kheish.client import Kheish

WAITING = ("waiting_for_approval", "waiting_for_user_question")


def wait(target: str | None, until: str, timeout: float | None, as_json: bool) -> int:
    client = connect()
    kind, id_ = find_target(client, target)
    deadline = time.monotonic() + timeout if timeout is not None else None
    # The first look comes after the stream's `sync`, so that nothing falls between the look and the stream.
    target_id = {f"{kind}_id": id_}
    for event in client.events(**target_id, cursor="tail", deadline_s=deadline):
        if event.event in ("record", "sync", "bye"):
            view = _get(client, kind, id_)
            status = exit_status(kind, view, until)
            if status is not None:
                return _finish(view, status, as_json)
    view = _get(client, kind, id_)
    status = exit_status(kind, view, until)
    return _finish(view, EXIT_TIMEOUT if status is None else status, as_json)


def _get(client: Kheish, kind: str, id_: str) -> dict[str, Any]:
    return client.runs.get(id_) if kind == "run" else client.sessions.get(id_)


def exit_status(kind: str, view: dict[str, Any], until: str) -> int | None:
    """None: not there yet."""
    status = view["status"]
    if kind == "run":
        if status in RUN_EXIT:
            return RUN_EXIT[status]
        return EXIT_WAITING if until == "blocked" and status in WAITING else None
    if status in ("idle", "ended") and not view["queued_run_ids"]:
        return 0
    return EXIT_WAITING if until == "blocked" and status in WAITING else None


def _finish(view: dict[str, Any], status: int, as_json: bool) -> int:
    if as_json:
        print_json(view)
    else:
        say(f"{clean(view.get('run_id') or view['session_id'])} is {view['status'].replace('_', ' ')}")
        if view.get("error"):
            say(clean(view["error"]["message"]), "red")
    return status
