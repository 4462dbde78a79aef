"""`scripted`: plays a script file instead of asking a model. For demos and for tests of automations.

The place in the script is read off the session's transcript, which is in its journal: a script goes on where it was
after any restart. share/doc/kheish/scripted-provider.md describes the file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from kheish.core.compaction import estimate_tokens
from kheish.core.contracts import (
    Delta,
    ModelRequest,
    ReasoningDelta,
    Reply,
    ReplyToolCall,
    TextDelta,
    ToolCallDelta,
    UsageDelta,
)
from kheish.core.events import AssistantMessage, Message, StopReason, Usage
from kheish.core.model_calls import FAILURES
from kheish.errors import ProviderError
from kheish.limits import SCRIPT_LOOK_EVERY_MS


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ScriptToolCall(_Strict, frozen=True):
    tool: str
    arguments: dict[str, Any] = {}
    malformed: str = ""


class ScriptError(_Strict, frozen=True):
    """The first `times` attempts of the call fail with this, and each takes the `usage` all the same."""

    code: str
    message: str = "the script says so"
    retry_after_ms: int | None = None
    times: int = 1
    usage: Usage = Usage()

    def __post_init__(self) -> None:
        if self.code not in FAILURES:
            raise ValueError(f"code must be one of {', '.join(FAILURES)}")


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


class _File(_Strict, frozen=True):
    """`after_last`: what follows the last reply: `fail` (the default), `repeat` the last, or `cycle`. `summary` is what
    it says where it is asked for one. `window_tokens`: what is larger, by an estimate, fails as `too_large`."""

    version: Literal[1]
    replies: list[msgspec.Raw]
    after_last: Literal["fail", "repeat", "cycle"] = "fail"
    summary: ScriptReply = ScriptReply(text="A summary, as the script has it.")
    window_tokens: int = 0


class Script(msgspec.Struct, frozen=True):
    """`matching` are the replies with a `when`, `turns` those that come by number."""

    matching: list[ScriptReply]
    turns: list[ScriptReply]
    after_last: Literal["fail", "repeat", "cycle"] = "fail"
    summary: ScriptReply = ScriptReply()
    window_tokens: int = 0


def load_script(path: Path) -> Script:
    """Raises ProviderError, saying what is wrong and where."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        replies = [_read_reply(number, raw) for number, raw in enumerate(file.replies)]
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ProviderError(f"cannot read the script {path}: {reason}", code="route_not_ready") from error
    return Script(
        [r for r in replies if r.when],
        [r for r in replies if not r.when],
        file.after_last,
        file.summary,
        file.window_tokens,
    )


def _read_reply(number: int, raw: msgspec.Raw) -> ScriptReply:
    """Raises ValidationError with the reply's number, which msgspec does not tell of an item in a list."""
    try:
        return msgspec.json.decode(raw, type=ScriptReply)
    except msgspec.ValidationError as error:
        reason, at, place = str(error).partition(" - at `$")
        raise msgspec.ValidationError(f"{reason} - at `$.replies[{number}]{place if at else '`'}") from error


def choose_reply(script: Script, ordinal: int, messages: tuple[Message, ...]) -> ScriptReply | None:
    """A reply whose `when` is in the text to be answered, else the one whose turn it is: each reply without a `when`
    has its turn once, in order."""
    turn = ordinal
    if script.matching:
        *earlier, found = match_calls(script, messages)
        if found is not None:
            return found
        turn -= sum(reply is not None for reply in earlier)
    if turn < len(script.turns):
        return script.turns[turn]
    if not script.turns or script.after_last == "fail":
        return None
    return script.turns[-1] if script.after_last == "repeat" else script.turns[turn % len(script.turns)]


def match_calls(script: Script, messages: tuple[Message, ...]) -> list[ScriptReply | None]:
    """What each model call of a transcript matched by its `when`, and the call that is due, last."""
    found: list[ScriptReply | None] = []
    text = ""
    for message in (*messages, None):
        if message is None or isinstance(message, AssistantMessage):
            found.append(next((reply for reply in script.matching if reply.when in text), None))
            text = ""
        else:
            text = f"{text}\n{message.text}" if text else message.text
    return found


class _Known(NamedTuple):
    """A script as its file was, and when that is to be looked at again."""

    script: Script
    stamp: int
    look_at_s: float


class Scripted:
    """`directory` is where relative script paths start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._scripts: dict[str, _Known] = {}

    def _load(self, name: str, is_first: bool) -> Script:
        """A changed file is in force from the next run on, and soon in those at work."""
        known = self._scripts.get(name)
        if known is not None and not is_first and time.monotonic() < known.look_at_s:
            return known.script
        path = self._directory / name
        try:
            stamp = path.stat().st_mtime_ns
        except OSError as error:
            raise ProviderError(f"cannot read the script {path}: {error.strerror}", code="route_not_ready") from error
        script = known.script if known is not None and known.stamp == stamp else load_script(path)
        self._scripts[name] = _Known(script, stamp, time.monotonic() + SCRIPT_LOOK_EVERY_MS / 1000)
        return script

    async def check_key(self) -> None:
        """It needs none."""

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        script = self._load(request.model, request.step == 1)
        if 0 < script.window_tokens < estimate_tokens(request.messages):
            raise ProviderError("the script says that the request is too large", code="too_large")
        reply: ScriptReply | None = script.summary
        if request.purpose == "reply":
            reply = choose_reply(script, request.ordinal, request.messages)
        if reply is None:
            raise ProviderError(
                f"the script {request.model} has no reply for model call {request.ordinal + 1} of the session",
                code="invalid",
            )
        if request.attempt <= reply.hang:
            await asyncio.Event().wait()
        if reply.error is not None and request.attempt <= reply.error.times + reply.hang:
            yield UsageDelta(usage=reply.error.usage)
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
