"""A kernel on a real store, with a provider and tools that tests hold by the hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from kheish.core import commands as c
from kheish.core.contracts import Delta, ModelRequest, Reply, ReplyToolCall, TextDelta, ToolSpec
from kheish.core.events import Hop, Process, Usage
from kheish.core.state import Run, State, status_of
from kheish.core.usage import PriceOf
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.runtime.supervisor import Caller, Supervisor
from kheish.store.records import Record
from tests.core.conversation import TOOLS

OPERATOR = Caller(principal="user:1", origin="test", is_operator=True)
Answer = Callable[[ModelRequest], Awaitable[Reply]]


def reply(text: str = "", *calls: tuple[str, dict[str, Any]]) -> Reply:
    return Reply(
        text=text,
        stop_reason="tool_use" if calls else "end",
        tool_calls=tuple(
            ReplyToolCall(provider_id=f"p{i}", tool=tool, arguments=arguments)
            for i, (tool, arguments) in enumerate(calls)
        ),
    )


def price(route: str, model: str, usage: Usage, at_ms: int) -> float | None:
    """A dollar for a million tokens that go in, ten for those that come out; only of the model `m`."""
    return (usage.input_tokens + 10 * usage.output_tokens) / 1_000_000 if model == "m" else None


class Scripted:
    """A provider that plays replies by the request's ordinal, and its summary; an awaitable one is awaited first."""

    def __init__(self, replies: list[Reply | Answer]) -> None:
        self.replies = replies
        self.summary: Reply | Answer = reply("the gist")
        self.requests: list[ModelRequest] = []

    async def resolve(self, selector: str | None, kept: str = "") -> tuple[Hop, ...]:
        return (Hop(route="test", model=selector or "m"),)

    async def with_windows(self, hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
        return hops

    async def open(self, route: str) -> Scripted:
        return self

    async def prices(self, routes: Collection[str] = ()) -> PriceOf:
        return price

    async def describe(self) -> list[dict[str, Any]]:
        return []

    async def describe_chains(self) -> list[dict[str, Any]]:
        return []

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        self.requests.append(request)
        answer = self.replies[min(request.ordinal, len(self.replies) - 1)]
        if request.purpose == "summary":
            answer = self.summary
        result = answer if isinstance(answer, Reply) else await answer(request)
        if result.text:
            yield TextDelta(text=result.text)
        yield result


class HandTool:
    """A tool whose runs are listed, and which answers through `answer`."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec
        self.runs: list[ToolCall] = []
        self.answer: Callable[[ToolCall], Awaitable[ToolOutput]] | None = None

    async def run(self, call: ToolCall) -> ToolOutput:
        if self.spec.kind == "process":
            await call.announce(Process(pid=2**22 + 1 + len(self.runs), start_ticks=1))
        self.runs.append(call)
        return await self.answer(call) if self.answer else ToolOutput(data=f"{self.spec.name} ran".encode())


class Kernel:
    def __init__(self, root: Path, replies: list[Reply | Answer], generation: int = 1, **options: Any) -> None:
        self.provider = Scripted(replies)
        self.tools = {name: HandTool(spec) for name, spec in TOOLS.items()}
        self.ended: list[Process] = []
        self.end_faults: list[OSError] = []
        """What comes of the next attempts to end one."""
        self.supervisor = Supervisor(
            root,
            generation=generation,
            providers=self.provider,
            tools=dict(self.tools),
            kill_tree=self._kill_tree,
            raise_generation=lambda minimum: max(minimum, generation),
            **options,
        )

    async def _kill_tree(self, process: Process, tool_call_id: str, grace_ms: int) -> bool:
        if self.end_faults:
            raise self.end_faults.pop(0)
        self.ended.append(process)
        return True

    async def __aenter__(self) -> Kernel:
        await self.supervisor.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.supervisor.drain(0)
        await self.supervisor.close()

    async def send(self, command: c.Command, session_id: str = "s", **fields: Any) -> str:
        return (await self.supervisor.submit(session_id, command, OPERATOR, **fields)).result

    async def create(self, session_id: str = "s", mode: Any = "default") -> None:
        await self.send(c.CreateSession(session_id=session_id, cwd="/", mode=mode), session_id)

    async def submit(self, text: str = "go", session_id: str = "s", **fields: Any) -> str:
        return await self.send(c.SubmitRun(text=text, route="test", model="m"), session_id, **fields)

    async def state(self, session_id: str = "s") -> State:
        return (await self.supervisor.reader.state(session_id))[0]

    async def replayed(self, *after: int) -> list[tuple[str, Record]]:
        """What was published after a (generation, position)."""
        replayed = self.supervisor.reader.replay((after[0], after[1]), (1_000_000, 0))
        return [(session_id, record) async for session_id, record, _ in replayed]

    async def until(self, wanted: Callable[[State], bool], session_id: str = "s") -> State:
        """The state once it is as wanted, told by the hub."""
        subscription = self.supervisor.hub.subscribe(session_id=session_id)
        try:
            async with asyncio.timeout(10):
                while not wanted(state := await self.state(session_id)):
                    if not await subscription.wait():  # it was too slow for a large delta
                        subscription = self.supervisor.hub.subscribe(session_id=session_id)
                return state
        finally:
            subscription.close()

    async def until_status(self, run_id: str, status: str, session_id: str = "s") -> Run:
        state = await self.until(lambda s: status_of(s, s.runs[run_id]) == status, session_id)
        return state.runs[run_id]
