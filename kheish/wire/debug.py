"""Debug artifacts on the wire, and as the debug room stores them."""

from __future__ import annotations

from kheish.core.prompt import RequestDigests
from kheish.wire.body import View
from kheish.wire.runtime import DebugLevel

DEBUG_ARTIFACT = r"^[0-9]{1,6}[b-d]?s?\.[0-9]{1,6}$"
"""As `ModelRequest.name` says, with as many letters as CONTEXT_OVERFLOWS_MAX."""


class HeaderView(View, frozen=True):
    name: str
    value: str


class DebugEvent(View, frozen=True):
    """A piece of a response, mostly one server-sent event, and when its end came."""

    at_ms: int
    text: str


class DebugRequest(View, frozen=True):
    """`sent_ms` counts from the beginning of the attempt, as all times here. `bytes` and `sha256` are those of the body
    as it was sent; `cut` says that not all of it is here. Where `method` is empty nothing went over a wire, and the
    body is what the driver was asked."""

    method: str
    url: str
    headers: list[HeaderView]
    sent_ms: int
    bytes: int
    sha256: str
    cut: bool
    body: str


class DebugResponse(View, frozen=True):
    """`bytes` and `sha256` are those of the body as it came, decompressed. `complete`: it came to its end. `status` 0:
    there was none."""

    status: int
    headers: list[HeaderView]
    answered_ms: int
    bytes: int
    sha256: str
    complete: bool
    cut: bool
    events: list[DebugEvent]


class DebugExchange(View, frozen=True):
    request: DebugRequest
    response: DebugResponse


class DebugSummary(View, frozen=True):
    """One attempt at a model call. `artifact` is `STEP.ATTEMPT`, or `STEPs.ATTEMPT` of a summary; with a letter more,
    `STEPb` to `STEPd`, after a provider found the context too large. `outcome`: `replied`, the code of a failure,
    `cancelled`, or nothing where the attempt is at work or its daemon died. `status` is that of the last response."""

    artifact: str
    session_id: str
    run_id: str
    model_call_id: str
    step: int
    attempt: int
    route: str
    model: str
    level: DebugLevel
    began_at_ms: int
    duration_ms: int
    outcome: str
    message: str
    status: int
    request_bytes: int
    response_bytes: int


class DebugArtifact(DebugSummary, frozen=True):
    digests: RequestDigests
    exchanges: list[DebugExchange]
