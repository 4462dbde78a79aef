"""`kheish run`: submit, follow, ask what has to be asked; the run stays with the daemon when the person leaves."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
from typing import Any

from kheish.cli.output import (
    EXIT_INTERRUPTED,
    EXIT_WAITING,
    RUN_EXIT,
    clean,
    fail,
    paint,
    print_json,
    print_json_line,
    say,
)
from kheish.cli.render import Renderer
from kheish.cli.sessions import read_text
from kheish.cli.targets import connect, directory_session, find_session
from kheish.client import AsyncKheish, Kheish
from kheish.errors import Invalid, KheishError

SECOND_CTRL_C_S = 1.5
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
    cwd: str | None,
    key: str | None,
    as_json: bool,
) -> int:
    if steer and interrupt:
        raise Invalid("cannot both steer the active run and interrupt it")
    content = read_text(text)
    attachments = [_read_attachment(path) for path in attach]
    client = connect()
    session_id = _open_session(client, session, cwd, mode)
    submitted = client.sessions.submit(
        session_id,
        content,
        model=model,
        delivery="steer" if steer else "interrupt" if interrupt else None,
        attachments=attachments or None,
        key=key,
    )
    if detach:
        if as_json:
            print_json(submitted)
        else:
            print(submitted["run_id"])
        return 0
    # A follower begins where the run was submitted; a steered or repeated input joins what is already under way.
    follower = Follower(client, submitted, as_json=as_json, from_start=not steer)
    return asyncio.run(follower.follow())


def _open_session(client: Kheish, session: str | None, cwd: str | None, mode: str | None) -> str:
    given_cwd = os.path.abspath(cwd) if cwd else None
    if session:
        try:
            session_id = find_session(client, session)
        except KheishError as error:
            if error.status != 404:
                raise
            session_id = session
    else:
        session_id = directory_session(given_cwd)
    view = client.sessions.create(session_id, cwd=given_cwd)
    if mode and view["permission_mode"] != mode:
        client.sessions.set_permission_mode(session_id, mode)
    return session_id


def _read_attachment(path: str) -> dict[str, Any]:
    """Raises Invalid."""
    try:
        with open(path, "rb") as file:
            data = file.read(_ATTACHMENT_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(f"cannot attach {path}: {error.strerror}") from error
    if len(data) > _ATTACHMENT_BYTES_MAX:
        raise Invalid(f"cannot attach {path}: it is over {_ATTACHMENT_BYTES_MAX} bytes; name it in the text instead")
    name = os.path.basename(path)
    try:
        return {"file_name": name, "text": data.decode("utf-8")}
    except UnicodeDecodeError:
        encoded = base64.b64encode(data).decode()
        return {"file_name": name, "media_type": "application/octet-stream", "content_base64": encoded}


class Follower:
    """Shows one run, and asks the person at this terminal for what it needs."""

    def __init__(self, client: Kheish, submitted: dict[str, Any], *, as_json: bool, from_start: bool) -> None:
        self._client = AsyncKheish(origin=client.transport.origin)
        self._run_id = str(submitted["run_id"])
        self._as_json = as_json
        self._from_start = from_start
        self._is_interactive = sys.stdin.isatty() and sys.stderr.isatty() and not as_json
        self._streams_text = sys.stdout.isatty() and not as_json
        self._renderer = Renderer()
        self._shown = ""
        self._answer = ""
        self._status: int | None = None
        self._is_live = False
        self._waiting: dict[str, str] = {}
        self._prompt: asyncio.Task[None] | None = None
        self._prompting = ""
        self._pressed = asyncio.Semaphore(0)

    async def follow(self) -> int:
        """The exit status of the run, or of leaving it."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._pressed.release)
        stream = asyncio.ensure_future(self._read())
        ctrl_c = asyncio.ensure_future(self._pressed.acquire())
        try:
            await asyncio.wait([stream, ctrl_c], return_when=asyncio.FIRST_COMPLETED)
            return stream.result() if stream.done() else await self._leave()
        finally:
            tasks = [task for task in (stream, ctrl_c, self._prompt) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _leave(self) -> int:
        """Ctrl-C leaves the run at work; a second one, soon, cancels it."""
        self._end_line()
        say(f"detached: {self._run_id} goes on. `kheish logs -f {self._run_id}` follows it; Ctrl-C again cancels it.")
        try:
            async with asyncio.timeout(SECOND_CTRL_C_S):
                await self._pressed.acquire()
        except TimeoutError:
            return EXIT_INTERRUPTED
        run = await self._client.runs.cancel(self._run_id, reason="Ctrl-C")
        say(f"{self._run_id} is {run['status']}")
        return RUN_EXIT.get(run["status"], EXIT_INTERRUPTED)

    async def _read(self) -> int:
        cursor = "" if self._from_start else "tail"
        async for event in self._client.events(run_id=self._run_id, cursor=cursor):
            if self._as_json:
                print_json_line({"event": event.event, "id": event.id, "data": event.data})
            match event.event:
                case "record":
                    self._show_record(event.data)
                case "delta":
                    self._show_delta(event.data)
                case "sync":
                    self._is_live = True
            if self._status is not None:
                return self._finish(self._status)
            if self._waiting and self._is_live and not self._is_interactive:
                return self._finish(EXIT_WAITING)
            self._ask_next()
        run = await self._client.runs.get(self._run_id)
        return self._finish(RUN_EXIT.get(run["status"], EXIT_WAITING))

    # -- showing -------------------------------------------------------------------------------------------------

    def _show_delta(self, delta: dict[str, Any]) -> None:
        text = clean(delta.get("text", ""))
        if delta["kind"] == "text" and self._streams_text:
            self._shown += text
            sys.stdout.write(text)
            sys.stdout.flush()
        elif delta["kind"] == "tool_output" and not self._as_json:
            self._end_line()
            sys.stderr.write(paint(text, "dim", sys.stderr))
            sys.stderr.flush()

    def _show_record(self, record: dict[str, Any]) -> None:
        mine = [event for event in record["events"] if event.get("run_id") in (None, self._run_id)]
        for event in mine:
            self._note(event)
        if self._as_json:
            return
        quiet = ("run.submitted", "session.created", "run.completed")
        for event in mine:
            for text, color in self._renderer.lines({**record, "events": [event]}):
                # The model's words are data, and were shown as such.
                if event["type"] not in quiet and event["type"] != "model_call.completed":
                    self._end_line()
                    say(text, color)

    def _note(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "model_call.completed":
                self._show_text(clean(event["text"]))
                self._answer = event["text"] or self._answer
            case "model_call.retrying" | "model_call.died":
                self._end_line()
                self._shown = ""
            case "approval.requested" | "question.requested":
                self._waiting[event["request_id"]] = event["type"]
            case "approval.resolved" | "approval.withdrawn" | "question.answered" | "question.withdrawn":
                self._waiting.pop(event["request_id"], None)
                if self._prompting == event["request_id"] and self._prompt is not None:
                    self._prompt.cancel()
            case "run.completed" | "run.failed" | "run.cancelled" | "run.interrupted":
                self._status = RUN_EXIT[event["type"].removeprefix("run.")]

    def _show_text(self, text: str) -> None:
        """What was streamed, completed: the record has the whole text, the stream may have begun in its middle."""
        if self._streams_text and text:
            shown = self._shown.rstrip("\n")
            if text.startswith(shown):
                sys.stdout.write(text[len(shown) :])
            else:
                sys.stdout.write(f"\n{text}")
            sys.stdout.write("" if text.endswith("\n") else "\n")
            sys.stdout.flush()
        self._shown = ""

    def _end_line(self) -> None:
        if self._shown and not self._shown.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._shown += "\n"

    def _finish(self, status: int) -> int:
        if self._as_json:
            return status
        self._end_line()
        if not self._streams_text and status == 0 and self._answer:
            print(clean(self._answer).rstrip("\n"))
        if status == EXIT_WAITING:
            say(f"{self._run_id} waits for you: `kheish inbox` shows what for, `kheish logs -f {self._run_id}` follows")
        return status

    # -- asking --------------------------------------------------------------------------------------------------

    def _ask_next(self) -> None:
        """One prompt at a time, oldest request first."""
        if not self._is_interactive or not self._is_live or not self._waiting:
            return
        if self._prompt is not None and not self._prompt.done():
            return
        self._prompting = next(iter(self._waiting))
        self._prompt = asyncio.ensure_future(self._ask(self._prompting, self._waiting[self._prompting]))

    async def _ask(self, request_id: str, kind: str) -> None:
        from kheish.cli import prompts

        self._end_line()
        try:
            if kind == "approval.requested":
                await prompts.ask_approval(self._client, request_id)
            else:
                await prompts.ask_question(self._client, request_id)
        except asyncio.CancelledError:
            say("(settled from elsewhere)", "dim")
            raise
        except KheishError as error:
            fail(error)
        finally:
            # What was left unanswered stays in the inbox; it is not asked twice.
            self._waiting.pop(request_id, None)
            asyncio.get_running_loop().call_soon(self._ask_next)
