"""Performs `RunTool`: runs the tool, publishes live output, bounds the result and keeps the whole in a blob."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kheish.core.contracts import ToolSpec
from kheish.core.effects import RunTool
from kheish.core.events import Process, ToolLimits
from kheish.core.outcomes import ToolFinished
from kheish.core.state import ToolCall as CallState
from kheish.limits import (
    LIVE_OUTPUT_CHARS_MAX,
    TOOL_PREVIEW_HEAD_BYTES,
    TOOL_PREVIEW_TAIL_BYTES,
    TOOL_RESULT_INLINE_BYTES_MAX,
)
from kheish.runtime.hub import Hub
from kheish.runtime.model_calls import DeltaPublisher
from kheish.runtime.ports import Tool, ToolCall, ToolOutput
from kheish.store.blobs import Blobs
from kheish.store.committer import Committer
from kheish.store.workers import Workers


def timeout_of(spec: ToolSpec, call: CallState, limits: ToolLimits, time_left_ms: Callable[[], int | None]) -> int:
    """A call may ask for its own `timeout_ms`, up to what an operator set. Beyond its usual time it gets no more than
    budgets leave; within it nothing is cut off, which may be worse than what takes too long."""
    asked = call.arguments.get("timeout_ms")
    given = asked if isinstance(asked, int) and asked > 0 else limits.timeout_ms or spec.timeout_ms
    given = min(given, limits.timeout_ms or given)
    if given > spec.timeout_ms and (left_ms := time_left_ms()) is not None:
        given = min(given, max(left_ms, spec.timeout_ms))
    return given


async def run_tool(
    effect: RunTool,
    call: CallState,
    tool: Tool,
    limits: ToolLimits,
    *,
    session_id: str,
    cwd: str,
    hub: Hub,
    blobs: Blobs,
    committer: Committer,
    threads: Workers,
    announce: Callable[[Process], Awaitable[None]],
    time_left_ms: Callable[[], int | None],
) -> ToolFinished:
    """One attempt. Only cancellation escapes."""
    deltas = DeltaPublisher(
        hub,
        session_id,
        effect.run_id,
        chars_max=LIVE_OUTPUT_CHARS_MAX,
        tool_call_id=effect.tool_call_id,
        tool=call.tool,
    )

    async def read_blob(sha256: str, offset: int, limit: int) -> bytes:
        return await committer.run(lambda: blobs.read(sha256, offset, limit))

    try:
        output = await tool.run(
            ToolCall(
                session_id=session_id,
                run_id=effect.run_id,
                tool_call_id=effect.tool_call_id,
                attempt=effect.attempt,
                arguments=call.arguments,
                cwd=cwd,
                timeout_ms=timeout_of(tool.spec, call, limits, time_left_ms),
                emit=lambda text: deltas.add("tool_output", text),
                announce=announce,
                read_blob=read_blob,
                threads=threads,
            )
        )
    except asyncio.CancelledError:
        raise
    except Exception as error:
        output = ToolOutput(data=f"The tool failed: {type(error).__name__}: {error}".encode(), is_error=True)
    finally:
        deltas.close()
    text = blob = ""
    shown_bytes = limits.output_bytes or TOOL_RESULT_INLINE_BYTES_MAX
    if len(output.data) <= shown_bytes:
        text = output.data.decode("utf-8", "replace")
    else:  # megabytes are not decoded on the event loop
        try:
            blob = await committer.run(lambda: blobs.put(output.data))
            where = f"read_file with the path blob:{blob} pages through the whole"
        except OSError as error:  # the call took effect all the same
            where = f"the whole could not be stored: {error.strerror}"
        text = preview(output.data, where, shown_bytes)
    return ToolFinished(
        run_id=effect.run_id,
        tool_call_id=effect.tool_call_id,
        output=text,
        is_error=output.is_error,
        output_bytes=len(output.data),
        blob=blob,
        metadata=output.metadata,
    )


def preview(data: bytes, where: str, shown_bytes: int = TOOL_RESULT_INLINE_BYTES_MAX) -> str:
    """The head and the tail of an output that is larger than is shown whole, and where the whole is."""
    head_bytes = TOOL_PREVIEW_HEAD_BYTES * shown_bytes // TOOL_RESULT_INLINE_BYTES_MAX
    tail_bytes = TOOL_PREVIEW_TAIL_BYTES * shown_bytes // TOOL_RESULT_INLINE_BYTES_MAX
    head = data[:head_bytes].decode("utf-8", "ignore")
    tail = data[-tail_bytes:].decode("utf-8", "ignore")
    left_out = len(data) - head_bytes - tail_bytes
    return f"{head}\n[... {left_out} of {len(data)} bytes left out; {where} ...]\n{tail}"
