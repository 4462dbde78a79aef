"""A world that answers every effect the same way each time, so that a cut and an uncut life can be compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kheish.core.effects import CallModel, EndProcess, RunTool, WakeAt
from kheish.core.events import AssistantMessage, ToolMessage, UserMessage
from kheish.core.outcomes import RetryDue
from tests.core.conversation import Conversation

Reply = tuple[str, tuple[tuple[str, dict[str, Any]], ...]]


class World:
    """`replies` are a session's model replies by ordinal. Counts each side effect by call and attempt."""

    def __init__(self, talk: Conversation, replies: list[Reply]) -> None:
        self.talk = talk
        self.replies = replies
        self.effects: Counter[str] = Counter()

    def step(self) -> bool:
        """Performs one owed effect, else one human decision; whether there was anything to do."""
        effects = self.talk.effects()
        if effects:
            self.perform(effects[0])
            return True
        if self.talk.state.approvals:
            approval = next(iter(self.talk.state.approvals.values()))
            self.talk.resolve("allow" if approval.kind == "tool_call" else "mark_done")
            return True
        if self.talk.state.questions:
            self.talk.answer()
            return True
        return False

    def perform(self, effect: Any) -> None:
        talk = self.talk
        match effect:
            case CallModel():
                if talk.purpose == "summary":
                    talk.sum_up()
                    return
                text, calls = (
                    self.replies[talk.state.ordinal] if talk.state.ordinal < len(self.replies) else ("end", ())
                )
                talk.reply(text, *calls)
            case WakeAt():
                talk.send(RetryDue(run_id=effect.run_id, model_call_id=effect.model_call_id, attempt=effect.attempt))
            case EndProcess():
                talk.end_process(effect)
            case RunTool():
                call = next(c for c in talk.state.runs[effect.run_id].calls if c.tool_call_id == effect.tool_call_id)
                if call.phase == "allowed":
                    talk.start_process(effect)
                else:
                    self.effects[f"{effect.tool_call_id}/{effect.attempt}"] += 1
                    talk.finish_tool(effect, f"{call.tool} done")

    def settle(self) -> None:
        for _ in range(1000):
            if not self.step():
                return
        raise AssertionError("the session never comes to rest")


def check_transcript(talk: Conversation) -> None:
    """Every reply's calls are answered at once, in order, and by nothing else."""
    messages = talk.messages
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        if isinstance(message, AssistantMessage):
            answers = messages[position : position + len(message.tool_requests)]
            asked = [request.tool_call_id for request in message.tool_requests]
            if len(answers) < len(asked):
                assert talk.state.active and position + len(answers) == len(messages)
                assert not answers
                return
            assert [a.tool_call_id for a in answers if isinstance(a, ToolMessage)] == asked
            position += len(asked)
        else:
            assert isinstance(message, UserMessage)
