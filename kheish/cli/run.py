"""`kheish run`: submit, follow, ask what has to be asked; the run stays with the daemon when the person leaves."""

from __future__ import annotations

import base64
import contextlib
import os
import time
from typing import TYPE_CHECKING

from kheish.amounts import read_budget
from kheish.cli.budgets import warn_unpriced
from kheish.cli.output import EXIT_INTERRUPTED, print_json, say
from kheish.cli.sessions import read_text
from kheish.cli.targets import connect, directory_session, find_session
from kheish.client import AsyncKheish, Kheish
from kheish.errors import Invalid, KheishError
from kheish.terminal import clean

if TYPE_CHECKING:
    from kheish.client import InputAttachment, Mode, OnBudget, RunView, SessionView

_ATTACHMENT_BYTES_MAX = 2 * 1024 * 1024


def run(
    text: list[str],
    session: str | None,
    model: str | None,
    mode: str | None,
    detach: bool,
    steer: bool,
    interrupt: bool,
    attach: list[str],
    pin: bool,
    cwd: str | None,
    key: str | None,
    budget: str | None,
    budget_tokens: str | None,
    budget_steps: str | None,
    budget_time: str | None,
    on_budget: str,
    as_json: bool,
) -> int:
    if steer and interrupt:
        raise Invalid("cannot both steer the active run and interrupt it")
    when_used_up: OnBudget = on_budget  # type: ignore[assignment]  # one of its parameter's choices
    limits = read_budget(cost=budget, tokens=budget_tokens, steps=budget_steps, time=budget_time)
    content = read_text(text)
    attachments = [_read_attachment(path) for path in attach]
    client = connect()
    view = _open_session(client, session, cwd, mode)
    try:
        submitted = client.sessions.submit(
            view["session_id"],
            content,
            model=model,
            delivery="steer" if steer else "interrupt" if interrupt else None,
            attachments=attachments or None,
            budget=limits,
            on_budget=when_used_up,
            pinned=pin or None,
            key=key,
        )
    except KeyboardInterrupt:
        say("\nthis came while the input was being submitted: `kheish runs list` says whether it was")
        raise
    warn_unpriced(submitted["budget"])
    if detach:
        if as_json:
            print_json(submitted)
        else:
            print(submitted["run_id"])
        return 0
    if submitted["status"] == "queued" and not as_json:
        say(_queued(view, submitted), "dim")

    try:
        return _follow(submitted, "" if key else str(view["seq"]), as_json)
    except (KeyboardInterrupt, KheishError) as error:  # the one before the follower listens for it
        run_id = submitted["run_id"]
        say(f"\ndetached: {run_id} goes on. `kheish logs -f {run_id}` follows it, `kheish cancel {run_id}` ends it.")
        if isinstance(error, KheishError):
            raise
        return EXIT_INTERRUPTED


def _follow(submitted: RunView, cursor: str, as_json: bool) -> int:
    """From the cursor on: a key may name a run that was submitted long ago; any other is newer than what the session
    had before."""
    import asyncio

    from kheish.cli.follower import Follower

    async def follow() -> int:
        return await Follower(AsyncKheish(origin="cli"), submitted, cursor=cursor, as_json=as_json).follow()

    return asyncio.run(follow())


def _queued(view: SessionView, submitted: RunView) -> str:
    text = f"queued at position {submitted['queued_position']}"
    if view["queue_paused"]:
        return f"{text}; the queue is paused: `kheish sessions resume {clean(view['session_id'])}` lets it go on"
    if view["status"].startswith("waiting"):
        return f"{text} behind {view['active_run_id']}, which waits for you: see `kheish inbox`"
    return f"{text} behind {view['active_run_id']}" if view["active_run_id"] else text


def _open_session(client: Kheish, session: str | None, cwd: str | None, mode: str | None) -> SessionView:
    """The session as it is before the input. A name is taken whole, since it may be that of a new one; what begins
    like an id that the daemon made is the beginning of one."""
    given_cwd = os.path.abspath(cwd) if cwd else None
    began_ms = time.time_ns() // 1_000_000
    if session and session.startswith("session_"):
        session_id = find_session(client, session)
    else:
        session_id = session or directory_session(given_cwd)
    try:
        view = client.sessions.create(session_id, cwd=given_cwd)
    except FileNotFoundError as error:
        raise Invalid("cannot tell where to work: this directory is gone; cd to another") from error
    if view["seq"] == 1 and view["created_at_ms"] >= began_ms:
        say(f"new session {clean(view['session_id'])} in {clean(view['cwd'])}", "dim")
    if mode and view["permission_mode"] != mode:
        chosen: Mode = mode  # type: ignore[assignment]  # one of its parameter's choices
        view = client.sessions.set_permission_mode(session_id, chosen)
    return view


def _read_attachment(path: str) -> InputAttachment:
    """Raises Invalid."""
    try:
        with open(path, "rb") as file:
            data = file.read(_ATTACHMENT_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(f"cannot attach {path}: {error.strerror}") from error
    if len(data) > _ATTACHMENT_BYTES_MAX:
        raise Invalid(f"cannot attach {path}: it is over {_ATTACHMENT_BYTES_MAX} bytes; name it in the text instead")
    import mimetypes

    name = os.path.basename(path)
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if not (media_type.startswith("image/") or media_type == "application/pdf") or media_type == "image/svg+xml":
        with contextlib.suppress(UnicodeDecodeError):
            return {"file_name": name, "text": data.decode("utf-8")}
    return {"file_name": name, "media_type": media_type, "content_base64": base64.b64encode(data).decode()}
