"""`kheish wait`: blocks until a run or session is where it should be, and says so with its exit status."""

from __future__ import annotations

import time

from kheish.cli.output import EXIT_TIMEOUT, EXIT_WAITING, RUN_EXIT, print_json, say
from kheish.cli.targets import connect, find_target
from kheish.client.nouns import OVER, WAITING, is_held
from kheish.terminal import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import Kheish, RunView, SessionView


def wait(target: str | None, until: str, timeout: float | None, as_json: bool) -> int:
    client = connect()
    kind, id_ = find_target(client, target)
    noun = client.runs if kind == "run" else client.sessions
    end_s = time.monotonic() + (timeout or 0)
    view = noun.wait(id_, until="blocked", timeout_s=timeout)
    if until != "blocked":
        if not as_json and timeout != 0 and (held := _held_by(client, view)):
            say(held, "dim")
        view = noun.wait(id_, until="done", timeout_s=None if timeout is None else max(0.0, end_s - time.monotonic()))
    if as_json:
        print_json(view)
    else:
        say(f"{clean(view.get('run_id') or view['session_id'])} is {view['status'].replace('_', ' ')}")
        error = view.get("error")
        if isinstance(error, dict):
            say(clean(error["message"]), "red")
    if until == "blocked" and view["status"] in ("queued", "idle") and (held := _held_by(client, view)):
        say(held)
        return EXIT_WAITING
    return exit_status(view, until)


def _held_by(client: Kheish, view: RunView | SessionView) -> str:
    """Why it does not go on until somebody does something; nothing where it does."""
    if view["status"] in WAITING:
        return f"{clean(view.get('run_id') or view['session_id'])} waits for a human: see `kheish inbox`"
    if view["status"] in ("queued", "idle"):
        session = client.sessions.get(view["session_id"])
        if session["status"] in WAITING:
            return f"{clean(session['active_run_id'])}, which goes before it, waits for a human: see `kheish inbox`"
        if is_held(session):
            return f"the queue of {clean(session['session_id'])} is paused: see `kheish sessions resume`"
    return ""


def exit_status(view: RunView | SessionView, until: str) -> int:
    """Of what was waited for; where it did not come the time is over."""
    if view["status"] in OVER and not view.get("queued_run_ids"):
        return RUN_EXIT.get(view["status"], 0)
    return EXIT_WAITING if view["status"] in WAITING and until == "blocked" else EXIT_TIMEOUT
