"""The session machine as a conversation: given events, when a command, then events or a refusal."""

from __future__ import annotations

from tests.core.conversation import Conversation


def test_a_run_without_tools_completes() -> None:
    talk = Conversation()
    run_id = talk.submit("hello")
    assert talk.status(run_id) == "running"
    talk.reply("hi")
    assert talk.status(run_id) == "completed"
    assert talk.state.runs[run_id].output == "hi"
