"""What the core knows of the outside, as plain data: a model's request and reply, a tool's specification.

Rooms implement these; nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from kheish.core.events import NO_USAGE, Effect, Message, Purpose, StopReason, Struct, ToolKind, Usage


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as the model, the permissions and recovery see it.

    `effect`: `read` changes nothing; `idempotent` may be repeated; `unsafe` must not be repeated unasked.
    `kind`: `function` starts when it is decided; `process` starts when its process is journaled; `question` is
    answered by a human. `main_argument` names the argument that permission patterns match. `check` returns what is
    wrong with the arguments, or "" - it is pure.
    """

    name: str
    description: str
    input_schema: dict[str, Any]
    effect: Effect
    kind: ToolKind = "function"
    main_argument: str = ""
    timeout_ms: int
    check: Callable[[dict[str, Any]], str]


class ToolDefinition(Struct, frozen=True):
    name: str
    description: str
    input_schema: dict[str, Any]


class ModelRequest(Struct, frozen=True):
    """One model call, provider-neutral. `ordinal` counts the session's replies before this one. `blobs` holds, by
    sha256, the bytes of the attachments that a model which takes images and documents may be shown."""

    session_id: str
    run_id: str
    model_call_id: str
    attempt: int
    ordinal: int
    step: int
    model: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...]
    output_tokens_max: int
    blobs: dict[str, bytes] = {}
    may_use_tools: bool = True
    """Where it may not, the tools are there all the same: the transcript has calls of them."""
    purpose: Purpose = "reply"
    overflows: int = 0
    """How often a provider found the context too large in this step."""

    @property
    def name(self) -> str:
        """Among the attempts of its run: `STEP.ATTEMPT`, of a summary `STEPs.ATTEMPT`; with a letter more, from `b` on,
        after the context was too large."""
        again = chr(ord("a") + self.overflows) if self.overflows else ""
        return f"{self.step}{again}{'s' * (self.purpose == 'summary')}.{self.attempt}"


class TextDelta(Struct, tag_field="kind", tag="text", frozen=True):
    text: str


class ReasoningDelta(Struct, tag_field="kind", tag="reasoning", frozen=True):
    text: str


class ToolCallDelta(Struct, tag_field="kind", tag="tool_call", frozen=True):
    """The model began to ask for a tool; its arguments come with the reply."""

    tool: str


class UsageDelta(Struct, tag_field="kind", tag="usage", frozen=True):
    """What the provider says that the call has taken so far. It counts where no reply comes."""

    usage: Usage


Delta = TextDelta | ReasoningDelta | ToolCallDelta | UsageDelta


class ReplyToolCall(Struct, frozen=True):
    """`malformed` holds the raw text where it was not a JSON object."""

    provider_id: str
    tool: str
    arguments: dict[str, Any]
    malformed: str = ""


class Reply(Struct, frozen=True):
    """A complete reply. A stream that ends early never becomes one. `request_id` is the provider's name for the
    call."""

    text: str
    stop_reason: StopReason
    tool_calls: tuple[ReplyToolCall, ...] = ()
    usage: Usage = NO_USAGE
    reasoning: str = ""
    model: str = ""
    provider_state: dict[str, Any] = {}
    request_id: str = ""


class NewContext(Struct, frozen=True):
    """What models may be shown in place of a context: `left_out` counts the messages that are not in it."""

    shown: tuple[Message, ...]
    left_out: int
    summary: str = ""


FailureCode = Literal[
    "rate_limited",
    "overloaded",
    "server_error",
    "timeout",
    "connection",
    "too_large",
    "auth",
    "invalid",
    "content_refused",
    "route_not_ready",
]
