"""A question beside the work: answered in a session of its own, while the run goes on and learns nothing of it."""

from __future__ import annotations

import contextlib

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from kheish.client import DaemonUnreachable, MessageView, StreamEvent
from kheish.errors import KheishError
from kheish.ids import new_id
from kheish.limits import KIB
from kheish.terminal import one_line
from kheish.tui.actions import bindings
from kheish.tui.live import Conversation
from kheish.tui.screen import KheishScreen
from kheish.tui.widgets.field import Field
from kheish.tui.widgets.heading import Heading
from kheish.tui.widgets.transcript import Transcript

MESSAGES_TOLD = 20
TOLD_CHARS_MAX = 24 * KIB
SUFFIX = "-aside"


class AsideQuestion(KheishScreen[None], ModalScreen[None]):
    """The model is told the end of the session's conversation. It may read and change nothing: the mode is `plan`."""

    CSS = """
    AsideQuestion { align: center middle; background: $background 60%; }
    AsideQuestion Vertical { width: 90%; height: 80%; background: $background; border: round $primary 60%; }
    AsideQuestion Transcript { height: 1fr; }
    AsideQuestion Input { border: none; height: 1; padding: 0 1; background: $surface; }
    """
    BINDINGS = bindings("aside_question")

    def __init__(self, session_id: str, cwd: str, model: str) -> None:
        super().__init__()
        self._session_id = session_id
        self._cwd = cwd
        self._model = model
        self._talk = Conversation(session_id[: 128 - len(SUFFIX)] + SUFFIX)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Heading()
            yield Transcript(self.look)
            yield Field(placeholder="a side question; the run goes on and does not see it")

    def on_mount(self) -> None:
        self.query_one(Heading).show(self.look, "Beside the work", f"the answers are kept in {self._talk.session_id}")
        self.query_one(Input).focus()

    def look_changed(self) -> None:
        self.query_one(Transcript).look_changed(self.look)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        question = event.value.strip()
        if question:
            event.input.value = ""
            self.run_worker(self._ask(question), group="ask", exclusive=True)

    async def _ask(self, question: str) -> None:
        """Raises nothing: what fails is said."""
        name = self._talk.session_id
        try:
            told = await self.client.sessions.transcript(self._session_id, limit=MESSAGES_TOLD)
            view = await self.client.sessions.create(
                name, cwd=self._cwd, permission_mode="plan", title=f"beside {one_line(self._session_id, 80)}"
            )
            run = await self.client.sessions.submit(
                name,
                question,
                model=self._model or None,
                attachments=[
                    {"file_name": "conversation.txt", "media_type": "text/plain", "text": as_told(told["items"])}
                ],
                key=new_id("input"),
            )
            after = self._talk.last_seq or view["seq"]
            events = self.client.events(session_id=name, cursor=str(after))
            async with contextlib.aclosing(events):
                async for event in events:
                    self._show(event)
                    if event.event == "record" and run["run_id"] not in (self._talk.active, *self._queued()):
                        return
        except DaemonUnreachable:
            return
        except KheishError as error:
            self.kheish.say(error)

    def _queued(self) -> list[str]:
        return [queued.id for queued in self._talk.queue]

    def _show(self, event: StreamEvent) -> None:
        if event.event == "record":
            change = self._talk.apply(event.data)
        elif event.event == "delta":
            change = self._talk.hear(event.data)
        else:
            return
        if change is not None:
            self.query_one(Transcript).change(change)

    def action_close(self) -> None:
        self.dismiss()


def as_told(messages: list[MessageView]) -> str:
    """The end of a conversation as text, the newest last."""
    parts: list[str] = []
    room = TOLD_CHARS_MAX
    for message in reversed(messages):
        text = f"{message['role']}: {message['text']}\n"
        if len(text) > room:
            parts.append(text[:room])
            break
        parts.append(text)
        room -= len(text)
    return "This is the conversation that the question is about; do not go on with it.\n\n" + "\n".join(reversed(parts))
