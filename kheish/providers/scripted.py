"""`scripted`: plays a script file instead of asking a model. For demos and for tests of automations.

The place in the script is the number of model calls that the session has completed, which is in its journal: a script
goes on where it was after any restart. share/doc/kheish/scripted-provider.md describes the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from kheish.core.contracts import (
    Delta,
    Message,
    ModelRequest,
    ReasoningDelta,
    Reply,
    ReplyToolCall,
    TextDelta,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)
from kheish.core.events import StopReason, Usage
from kheish.core.model_calls import FAILURES
from kheish.errors import ProviderError


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ScriptToolCall(_Strict, frozen=True):
    tool: str
    arguments: dict[str, Any] = {}
    malformed: str = ""


class ScriptError(_Strict, frozen=True):
    """The first `times` attempts of the call fail with this."""

    code: str
    message: str = "the script says so"
    retry_after_ms: int | None = None
    times: int = 1


class ScriptReply(_Strict, frozen=True):
    """One reply. `when`: only where the last message contains this text. `deltas` is the text in pieces, `pace_ms`
    the pause before each. `hang`: this many first attempts never answer."""

    when: str = ""
    text: str = ""
    deltas: list[str] = []
    pace_ms: int = 0
    reasoning: str = ""
    tool_calls: list[ScriptToolCall] = []
    stop_reason: StopReason | None = None
    usage: Usage = Usage()
    error: ScriptError | None = None
    hang: int = 0


class Script(_Strict, frozen=True):
    """`after_last`: what follows the last reply: `fail` (the default), `repeat` the last, or `cycle`."""

    version: Literal[1]
    replies: list[ScriptReply]
    after_last: Literal["fail", "repeat", "cycle"] = "fail"


def load_script(path: Path) -> Script:
    """Raises ProviderError, saying what is wrong and where."""
    try:
        script = msgspec.json.decode(path.read_bytes(), type=Script)
    except OSError as error:
        raise ProviderError(f"cannot read the script {path}: {error.strerror}", code="route_not_ready") from error
    except msgspec.MsgspecError as error:
        raise ProviderError(f"cannot read the script {path}: {error}", code="route_not_ready") from error
    for number, reply in enumerate(script.replies):
        if reply.error is not None and reply.error.code not in FAILURES:
            raise ProviderError(
                f"cannot read the script {path}: $.replies[{number}].error.code must be one of {', '.join(FAILURES)}",
                code="route_not_ready",
            )
    return script


def choose_reply(script: Script, ordinal: int, last: str) -> ScriptReply | None:
    """A reply whose `when` is in the last message, else the one whose turn it is among those without a `when`."""
    for reply in script.replies:
        if reply.when and reply.when in last:
            return reply
    turns = [reply for reply in script.replies if not reply.when]
    if ordinal < len(turns):
        return turns[ordinal]
    if not turns or script.after_last == "fail":
        return None
    return turns[-1] if script.after_last == "repeat" else turns[ordinal % len(turns)]


def last_text(messages: tuple[Message, ...]) -> str:
    """The text that the model would have to answer: the last input, or the tool results after the last reply."""
    texts: list[str] = []
    for message in reversed(messages):
        if isinstance(message, ToolMessage | UserMessage):
            texts.insert(0, message.text)
        else:
            break
    return "\n".join(texts)


class Scripted:
    """`directory` is where relative script paths start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._scripts: dict[Path, tuple[int, Script]] = {}

    def _load(self, name: str) -> Script:
        path = self._directory / name
        try:
            stamp = path.stat().st_mtime_ns
        except OSError as error:
            raise ProviderError(f"cannot read the script {path}: {error.strerror}", code="route_not_ready") from error
        known = self._scripts.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, load_script(path))
            self._scripts[path] = known
        return known[1]

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        script = self._load(request.model)
        reply = choose_reply(script, request.ordinal, last_text(request.messages))
        if reply is None:
            raise ProviderError(
                f"the script {request.model} has no reply for model call {request.ordinal + 1} of the session",
                code="invalid",
            )
        if request.attempt <= reply.hang:
            await asyncio.Event().wait()
        if reply.error is not None and request.attempt <= reply.error.times + reply.hang:
            raise ProviderError(reply.error.message, code=reply.error.code, retry_after_ms=reply.error.retry_after_ms)
        if reply.reasoning:
            yield ReasoningDelta(text=reply.reasoning)
        for text in reply.deltas or ([reply.text] if reply.text else []):
            if reply.pace_ms:
                await asyncio.sleep(reply.pace_ms / 1000)
            yield TextDelta(text=text)
        for call in reply.tool_calls:
            yield ToolCallDelta(tool=call.tool)
        yield Reply(
            text=reply.text or "".join(reply.deltas),
            stop_reason=reply.stop_reason or ("tool_use" if reply.tool_calls else "end"),
            tool_calls=tuple(
                ReplyToolCall(
                    provider_id=f"scripted_{request.ordinal + 1}_{number}",
                    tool=call.tool,
                    arguments=call.arguments,
                    malformed=call.malformed,
                )
                for number, call in enumerate(reply.tool_calls, 1)
            ),
            usage=reply.usage,
            reasoning=reply.reasoning,
            model=request.model,
        )
