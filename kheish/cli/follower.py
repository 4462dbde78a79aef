"""Follows one run at this terminal or for this pipe, and asks the person here for what the run needs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from kheish.cli.approvals import approve_hint
from kheish.cli.output import EXIT_INTERRUPTED, EXIT_WAITING, RUN_EXIT, fail, paint, print_json_line, say
from kheish.cli.prompts import Prompt, echo
from kheish.cli.questions import answer_hint
from kheish.client import AsyncKheish
from kheish.client.nouns import WAITING, is_held
from kheish.errors import KheishError
from kheish.narration import CUT_REPLY, Renderer
from kheish.terminal import clean

if TYPE_CHECKING:
    from kheish.client import AnyEvent, DeltaView, RecordView, RunView

SECOND_CTRL_C_S = 1.5
_STREAMED_KEPT = 4096
# The run's own text is data, and shown as such; what a prompt asks for is shown by the prompt.
_QUIET = ("run.submitted", "session.created", "run.completed", "model_call.completed")


class Lines:
    """Standard output and error, which may share a terminal: neither goes on in the other's line."""

    def __init__(self) -> None:
        self._unfinished: TextIO | None = None

    def write(self, stream: TextIO, text: str, color: str = "") -> None:
        if not text:
            return
        if self._unfinished is not stream:
            self.end()
        stream.write(paint(text, color, stream))
        stream.flush()
        self._unfinished = None if text.endswith("\n") else stream

    def end(self) -> None:
        if self._unfinished is not None:
            self._unfinished.write("\n")
            self._unfinished.flush()
            self._unfinished = None


class Follower:
    """`submitted` is the run as the daemon accepted it; the stream is read from `cursor` on."""

    def __init__(self, client: AsyncKheish, submitted: RunView, *, cursor: str, as_json: bool) -> None:
        self._client = client
        self._run_id = str(submitted["run_id"])
        self._cursor = cursor
        self._as_json = as_json
        self._is_interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() and not as_json
        self._streams_text = sys.stdout.isatty() and not as_json
        self._renderer = Renderer()
        self._lines = Lines()
        self._streamed = ""
        self._streamed_calls: dict[str, str] = {}
        self._answer = ""
        self._has_output = False
        self._status: int | None = None
        self._is_queued = submitted["status"] == "queued"
        self._session_id = submitted["session_id"]
        self._is_live = False
        # What waits, with the command that settles it: at first what was asked before the cursor, where the text was
        # handed to a run that waits.
        self._waiting = {a["request_id"]: approve_hint(a, a["request_id"]) for a in submitted["pending_approvals"]}
        self._waiting |= {q["request_id"]: answer_hint(q, q["request_id"]) for q in submitted["pending_questions"]}
        self._prompt: Prompt | None = None
        self._asking: asyncio.Task[None] | None = None
        self._held: list[Callable[[], None]] = []
        self._pressed = asyncio.Semaphore(0)

    async def follow(self) -> int:
        """The exit status of the run, or of leaving it."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._pressed.release)
        with echo(False) if self._is_interactive else contextlib.nullcontext():
            stream = asyncio.ensure_future(self._read())
            ctrl_c = asyncio.ensure_future(self._pressed.acquire())
            try:
                await asyncio.wait([stream, ctrl_c], return_when=asyncio.FIRST_COMPLETED)
                if stream.done():
                    return stream.result()
            finally:
                was_asking = self._asking is not None
                await _stop(stream, ctrl_c, self._asking)
            return await self._leave(was_asking)

    async def _leave(self, was_asking: bool) -> int:
        """Ctrl-C leaves the run at work; a second one, soon, cancels it."""
        self._lines.end()
        if was_asking:
            say()
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
        async for event in self._client.events(run_id=self._run_id, cursor=self._cursor):
            if self._as_json:
                print_json_line({"event": event.event, "id": event.id, "data": event.data})
            match event.event:
                case "record":
                    self._show_record(event.data)
                case "delta":
                    self._show_delta(event.data)
                case "sync":
                    self._is_live = True
                case "bye" if self._status is None:
                    self._tell(f"{clean(event.data.get('reason', 'the stream ended'))}; waiting for it", "dim")
            if self._status is not None:
                return self._finish(self._status)
            if self._waiting and self._is_live and not self._is_interactive:
                return self._finish(EXIT_WAITING)
            if self._is_queued and not self._is_interactive and event.event in ("sync", "heartbeat"):
                session = await self._client.sessions.get(self._session_id)
                if session["status"] in WAITING and session["active_run_id"] != self._run_id:
                    ahead = clean(session["active_run_id"])
                    self._tell(f"{self._run_id} stays queued: {ahead} waits for you; see `kheish inbox`")
                    return self._finish(EXIT_WAITING)
                if is_held(session):
                    self._tell(f"{self._run_id} stays queued: the queue is paused")
                    return self._finish(EXIT_WAITING)
            self._ask_next()
        run = await self._client.runs.get(self._run_id)
        return self._finish(RUN_EXIT.get(run["status"], EXIT_WAITING))

    # -- showing -------------------------------------------------------------------------------------------------

    def _show_delta(self, delta: DeltaView) -> None:
        text, so_far = clean(delta.get("text", "")), delta.get("so_far", False)
        if delta["kind"] == "text" and self._streams_text:
            seen, self._streamed = self._streamed, text if so_far else self._streamed + text
            self._write(sys.stdout, text.removeprefix(seen) if so_far else text)
        elif delta["kind"] == "tool_output" and not self._as_json:
            call = delta["tool_call_id"]
            seen, heard = self._streamed_calls.get(call, ""), delta.get("text", "")
            if so_far and seen:
                text = clean(heard.rpartition(seen)[2])
            self._streamed_calls[call] = (heard if so_far else seen + heard)[-_STREAMED_KEPT:]
            self._write(sys.stderr, text, "dim")

    def _show_record(self, record: RecordView) -> None:
        for event in record["events"]:
            is_passed_on = event["type"] == "run.submitted" and bool(event.get("input_id"))
            if event.get("run_id") not in (None, self._run_id) and not is_passed_on:
                continue
            is_own = self._note(event)
            lines = [*self._renderer.lines({**record, "events": [event]})]
            if not (self._as_json or is_own or (event["type"] in _QUIET and not is_passed_on)):
                for text, color in lines:
                    self._tell(text, color)

    def _note(self, event: AnyEvent) -> bool:
        """Takes an event in; whether the person knows of it without being told."""
        match event["type"]:
            case "model_call.completed" if event.get("purpose", "reply") == "reply":
                self._answer = event["text"] or self._answer
                self._show_text(clean(event["text"]))
                if event.get("stop_reason") == "max_tokens":
                    self._tell(CUT_REPLY, "yellow")
            case "run.started":
                self._is_queued = False
            case "model_call.retrying" | "model_call.died":
                self._streamed = ""
            case "tool_call.completed":
                # The stream may have begun in the middle of an output; then it is told once more.
                streamed = self._streamed_calls.pop(event["tool_call_id"], "")
                is_whole = len(streamed) == _STREAMED_KEPT or streamed.strip() == event["output"].strip()
                return bool(streamed) and is_whole and not event.get("is_error")
            case "approval.requested":
                self._waiting[event["request_id"]] = approve_hint(event, event["request_id"])
                return self._is_interactive
            case "question.requested":
                self._waiting[event["request_id"]] = answer_hint(event, event["request_id"])
                return self._is_interactive
            case "approval.resolved" | "approval.withdrawn" | "question.answered" | "question.withdrawn":
                return self._settle(event["request_id"])
            case "run.completed" | "run.failed" | "run.cancelled" | "run.interrupted":
                self._status = RUN_EXIT[event["type"].removeprefix("run.")]
                # A run whose budget is used up ends with a last word.
                self._has_output = self._status == 0 or event.get("code") == "budget_exhausted"
        return False

    def _settle(self, request_id: str) -> bool:
        """A request was settled; whether that was done here."""
        self._waiting.pop(request_id, None)
        if self._prompt is None or self._prompt.request_id != request_id:
            return False
        if self._prompt.is_open and self._asking is not None:
            self._asking.cancel()
            self._asking = self._prompt = None
            say("\nsettled elsewhere", "dim")
            self._release()
            return False
        return True

    def _show_text(self, text: str) -> None:
        """What was streamed, completed: the record has the whole text, the stream may have begun in its middle."""
        if self._streams_text and text:
            rest = text.removeprefix(self._streamed)
            if rest == text and self._streamed:
                rest = f"\n{text}"
            self._write(sys.stdout, rest if text.endswith("\n") else f"{rest}\n")
        self._streamed = ""

    def _tell(self, text: str, color: str = "") -> None:
        if not self._as_json:
            self._write(None, text, color)

    def _write(self, stream: TextIO | None, text: str, color: str = "") -> None:
        """Writes to a stream, or a line of narration; behind a prompt, if one is open."""

        def write() -> None:
            if stream is None:
                self._lines.end()
                say(text, color)
            else:
                self._lines.write(stream, text, color)

        if self._asking is not None:
            self._held.append(write)
        else:
            write()

    def _finish(self, status: int) -> int:
        self._release()
        self._lines.end()
        if self._as_json:
            return status
        if not self._streams_text and self._has_output and self._answer:
            print(clean(self._answer).rstrip("\n"))
        if status == EXIT_WAITING and self._waiting:
            say(f"{self._run_id} waits for you:")
            for hint in self._waiting.values():
                say(f"  {hint}")
        return status

    # -- asking --------------------------------------------------------------------------------------------------

    def _ask_next(self) -> None:
        """One prompt at a time, oldest request first."""
        if not self._is_interactive or not self._is_live or not self._waiting or self._asking is not None:
            return
        more = len(self._waiting) - 1
        self._lines.end()
        self._prompt = Prompt(self._client, next(iter(self._waiting)), title=f" ({more} more after it)" if more else "")
        self._asking = asyncio.ensure_future(self._ask(self._prompt))

    async def _ask(self, prompt: Prompt) -> None:
        try:
            await prompt.ask()
        except KheishError as error:
            fail(error)
        # What was left unanswered stays in the inbox; it is not asked twice.
        self._waiting.pop(prompt.request_id, None)
        self._asking = None
        if prompt.is_open:
            self._prompt = None
        self._release()
        self._ask_next()

    def _release(self) -> None:
        """Shows what was held back behind a prompt."""
        held, self._held = self._held, []
        for write in held:
            write()


async def _stop(*tasks: asyncio.Task[Any] | asyncio.Future[Any] | None) -> None:
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
