"""The narrow ports through which the kernel reaches the outside. Rooms implement them; the daemon wires them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Protocol

import msgspec

from kheish.core.contracts import Delta, ModelRequest, Reply, ToolSpec
from kheish.core.events import Hop, Process
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.core.usage import PriceOf
from kheish.runtime.recording import Recording
from kheish.store.workers import Workers
from kheish.wire.routes import TestKind
from kheish.wire.runtime import RouteFields, RuntimeSettings


class Clock(Protocol):
    def now_ms(self) -> int:
        """Unix milliseconds."""
        ...


class Provider(Protocol):
    """Code that reaches a model API.

    `stream` yields deltas and, last, exactly one `Reply`. It raises `kheish.errors.ProviderError` with a code of
    `core.model_calls.FAILURES` for every failure, including a stream that ends before the reply is complete. Closing
    the iterator or cancelling the awaiting task closes the connection. It never retries on its own.
    `check_key` asks for something that costs nothing and needs the key; it raises the same.
    """

    async def check_key(self) -> None: ...

    def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]: ...


class Providers(Protocol):
    """The routes of this daemon."""

    async def resolve(self, selector: str | None, kept: str = "") -> tuple[Hop, ...]:
        """The ways that a chain, or `[route/]model` (or None for the default), stands for: at least one, the first one
        first. `kept` is a default that was chosen nearer by, as `name` gave it. Raises Invalid or Conflict."""
        ...

    async def name(self, selector: str) -> str:
        """The selector as it may be kept as a default. Raises Invalid or Conflict."""
        ...

    async def with_windows(self, hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
        """The same ways, with how many tokens each model takes."""
        ...

    async def open(self, route: str) -> Provider:
        """The provider of a route; loads SDKs off the event loop on first use. Raises ProviderError."""
        ...

    async def describe_chains(self) -> list[dict[str, Any]]:
        """The chains: chain_id, hops, is_default."""
        ...

    async def prices(self, routes: Collection[str] = ()) -> PriceOf:
        """What calls of these routes cost, or of all; loads the table of prices off the event loop, where it may have
        one of them, on first use. Raises Invalid."""
        ...

    async def describe(self) -> list[dict[str, Any]]:
        """The routes for people and scripts: route_id, driver, default_model, is_default, ready, problem. No
        secrets."""
        ...

    async def checked(self, settings: RuntimeSettings) -> RuntimeSettings:
        """The settings themselves. Raises Conflict where a chain or the default would lose its route."""
        ...

    async def with_route(self, settings: RuntimeSettings, route_id: str, fields: RouteFields) -> RuntimeSettings: ...

    async def with_changes(
        self, settings: RuntimeSettings, route_id: str, changes: dict[str, object]
    ) -> RuntimeSettings: ...

    async def without_route(self, settings: RuntimeSettings, route_id: str) -> RuntimeSettings: ...

    async def probe(self, route_id: str, model: str, kind: TestKind) -> Probe:
        """Tries a route, which may cost a little. Raises NotFound or Invalid; what the provider says is an answer."""
        ...


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What came of trying a route. `code` is a failure's, "" where it went well."""

    model: str
    code: str = ""
    problem: str = ""
    latency_ms: int = 0


class Recorder(Protocol):
    """Keeps what attempts at model calls send and get, for people who look for a fault. Neither call waits or fails."""

    def begin(self, request: ModelRequest, route: str) -> Recording | None:
        """What the attempt is recorded in; None where nothing is kept."""
        ...

    def end(self, recording: Recording, outcome: ModelReplied | ModelFailed | None) -> None:
        """The attempt is over; None: it was cancelled."""
        ...


class ToolOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool produced. `data` is its whole output, at most limits.TOOL_OUTPUT_BYTES_MAX; the kernel bounds what
    the model sees and keeps the rest in a blob. `metadata` is small and shown to people (exit_code, path, ...)."""

    data: bytes
    is_error: bool = False
    metadata: dict[str, Any] = {}


class ToolCall(msgspec.Struct, kw_only=True):
    """One attempt at a tool call, as the tool sees it.

    `cwd` is the workspace root: absolute, resolved. `emit` publishes live output (text, not journaled). A tool of
    kind `process` awaits `announce` with the process it made before it lets that process do anything; when it
    returns, the start is durable. `read_blob(sha256, offset, limit)` reads stored output. `threads` are for
    what blocks. Cancelling the task that runs the tool must kill what it started, with all descendants, and only then
    end.
    """

    session_id: str
    run_id: str
    tool_call_id: str
    attempt: int
    arguments: dict[str, Any]
    cwd: str
    timeout_ms: int
    emit: Callable[[str], None]
    announce: Callable[[Process], Awaitable[None]]
    read_blob: Callable[[str, int, int], Awaitable[bytes]]
    threads: Workers


class Tool(Protocol):
    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, call: ToolCall) -> ToolOutput:
        """Raises nothing but CancelledError: what went wrong is an output with is_error, in words for the model."""
        ...
