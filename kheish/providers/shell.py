"""`shell`: no language model. It makes a person's own command a run like any other, durable and under the session's
permissions: it calls `bash` with the text of the input, once, and has nothing to add to the result. What it does is a
pure function of the conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator

from kheish.core.contracts import Delta, ModelRequest, Reply, ReplyToolCall, ToolCallDelta
from kheish.core.events import UserMessage


class Shell:
    """The command is what the run was submitted with; an input that is steered into it is not one."""

    async def check_key(self) -> None:
        """It needs none."""

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        last = request.messages[-1] if request.messages else None
        command = last.text.strip() if request.step == 1 and isinstance(last, UserMessage) else ""
        if not command:
            yield Reply(text="", stop_reason="end", model="bash")
            return
        call = ReplyToolCall(provider_id="shell_1", tool="bash", arguments={"command": command})
        yield ToolCallDelta(tool=call.tool)
        yield Reply(text="", stop_reason="tool_use", tool_calls=(call,), model="bash")
