"""`rehearsal`: no language model. It says so, and lets a person try everything else by hand; what it does is a pure
function of the conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from kheish.core.contracts import Delta, ModelRequest, Reply, ReplyToolCall, TextDelta, ToolCallDelta
from kheish.core.events import ToolMessage, UserMessage

NOTICE = """\
This is a rehearsal: there is no language model behind it. Three ways to get one: set a key such as ANTHROPIC_API_KEY \
or OPENAI_API_KEY and run `kheish daemon restart`; start a local server (such as Ollama); or write routes.toml \
(`kheish routes path` says where).
Meanwhile: `!COMMAND` runs bash, `?QUESTION | option | option` asks you, `read PATH`, `write PATH TEXT`.
"""


def plan(text: str) -> tuple[str, ReplyToolCall | None]:
    """What to say and which tool to call for one input."""
    text = text.strip()
    if text.startswith("!") and text[1:].strip():
        return "", _call("bash", command=text[1:].strip())
    if text.startswith("?") and text[1:].strip():
        question, *options = (part.strip() for part in text[1:].split("|"))
        labels = [{"label": option} for option in dict.fromkeys(options) if option]
        return "", _call("ask_user_question", questions=[{"question": question or "?", "options": labels}])
    verb, _, rest = text.partition(" ")
    if verb == "read" and rest.strip():
        return "", _call("read_file", path=rest.strip())
    if verb == "write":
        path, _, content = rest.strip().partition(" ")
        if path:
            return "", _call("write_file", path=path, content=content + "\n" if content else "")
    return f"You said: {' '.join(text.split())}", None


def _call(tool: str, **arguments: Any) -> ReplyToolCall:
    return ReplyToolCall(provider_id="rehearsal_1", tool=tool, arguments=arguments)


class Rehearsal:
    async def check_key(self) -> None:
        """It needs none."""

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        last = request.messages[-1] if request.messages else None
        call: ReplyToolCall | None = None
        if isinstance(last, ToolMessage):
            failed = " (it failed)" if last.is_error else ""
            text = f"{last.tool} returned{failed}:\n{last.text}"
        else:
            text, call = plan(last.text if isinstance(last, UserMessage) else "")
        if request.ordinal == 0:
            text = f"{NOTICE}{text}"
        if text:
            yield TextDelta(text=text)
        if call is not None:
            yield ToolCallDelta(tool=call.tool)
        yield Reply(
            text=text,
            stop_reason="tool_use" if call else "end",
            tool_calls=(call,) if call else (),
            model="rehearsal",
        )
