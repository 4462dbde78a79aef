"""Compaction in the kernel: what models are asked, what followers see, and what is read after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from kheish.core import commands as c
from kheish.core.contracts import ModelRequest, Reply
from kheish.core.events import ToolMessage, Usage
from kheish.core.prompt import tokens_max
from kheish.core.state import State
from kheish.errors import ProviderError
from kheish.limits import CONTEXT_KEPT_TOKENS_MIN, CONTEXT_OVERFLOWS_MAX, MODEL_DEATHS_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.store.journal import Journal
from kheish.store.records import Record
from tests.runtime.kernel import Kernel, reply
from tests.runtime.test_supervisor import never

WINDOW = 3 * CONTEXT_KEPT_TOKENS_MIN
LONG = "x" * 4 * CONTEXT_KEPT_TOKENS_MIN


def answered(text: str, tokens: int) -> Reply:
    return Reply(text=text, stop_reason="end", usage=Usage(input_tokens=tokens, output_tokens=1))


FILLED = [answered(LONG, 2_000), answered(LONG, WINDOW), reply("done"), reply("and more")]
"""Replies of which the second fills the window."""


async def submit(kernel: Kernel, text: str = "go on", **fields: Any) -> str:
    return await kernel.send(c.SubmitRun(text=text, route="test", model="m", window_tokens=WINDOW, **fields))


async def run_through(kernel: Kernel, text: str = "go on") -> str:
    run_id = await submit(kernel, text)
    await kernel.until_status(run_id, "completed")
    return run_id


async def facts(kernel: Kernel) -> list[dict[str, Any]]:
    return [event for record in await kernel.supervisor.reader.read_records("s", 0, 1_000) for event in record.events]


def texts(request: ModelRequest) -> list[str]:
    return [message.text for message in request.messages]


async def test_a_summary_comes_before_the_window_is_full_and_stands_for_what_was_said(tmp_path: Path) -> None:
    async with Kernel(tmp_path, FILLED) as kernel:
        await kernel.create()
        for text in ("the first", "the second", "the third"):
            await run_through(kernel, text)
        *_, summary, last = kernel.provider.requests
        assert (summary.purpose, summary.tools, last.purpose) == ("summary", (), "reply")
        assert "== Input\nthe second" in texts(summary)[0] and "== Reply\nxxx" in texts(summary)[0]
        assert texts(last)[0] == "the first" and texts(last)[-1] == "the third"
        assert texts(last)[1].endswith("the gist") and LONG not in texts(last)
        assert last.output_tokens_max == WINDOW - tokens_max(WINDOW)
        transcript = await kernel.supervisor.reader.messages("s")
        assert [message.text for message in transcript] == ["the first", LONG, "the second", LONG, "the third", "done"]


async def test_what_the_summary_says_is_streamed_to_nobody(tmp_path: Path) -> None:
    async with Kernel(tmp_path, FILLED) as kernel:
        await kernel.create()
        subscription = kernel.supervisor.hub.subscribe(session_id="s")
        for text in ("the first", "the second", "the third"):
            await run_through(kernel, text)
        heard = [orjson.loads(frame.data) for frame in subscription.take() if frame.event == "delta"]
        assert heard and not any("the gist" in delta.get("text", "") for delta in heard)
        subscription.close()


@pytest.fixture
def read_from(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seqs from which a journal was read."""
    found: list[int] = []
    read = Journal.read

    def noting(self: Journal, from_seq: int = 1, *args: Any, **fields: Any) -> Iterator[Record]:
        found.append(from_seq)
        return read(self, from_seq, *args, **fields)

    monkeypatch.setattr(Journal, "read", noting)
    return found


@pytest.mark.parametrize("is_compacted", [True, False])
async def test_after_a_compaction_a_restarted_daemon_reads_nothing_before_it(
    tmp_path: Path, read_from: list[int], is_compacted: bool
) -> None:
    replies = FILLED if is_compacted else [reply("short")]
    async with Kernel(tmp_path, list(replies)) as kernel:
        await kernel.create()
        for text in ("the first", "the second", "the third"):
            await run_through(kernel, text)
        for number in range(40):  # so that a checkpoint is written when the session is put away
            await kernel.send(c.RenameSession(title=f"title {number}"))
    read_from.clear()
    async with Kernel(tmp_path, list(replies), generation=2) as kernel:
        await run_through(kernel, "after it")
        (request,) = kernel.provider.requests
        assert read_from == ([] if is_compacted else [1])
        assert texts(request)[0] == "the first" and texts(request)[-1] == "after it"
        transcript = await kernel.supervisor.reader.messages("s")
        assert len(transcript) == 8, "people see all of it"


async def test_the_transcript_is_let_go_of_when_models_are_shown_it_no_longer(
    tmp_path: Path, read_from: list[int]
) -> None:
    async with Kernel(tmp_path, FILLED) as kernel:
        await kernel.create()
        for text in ("the first", "the second", "the third"):
            await run_through(kernel, text)
        assert read_from == []
        assert len(await kernel.supervisor.reader.messages("s")) == 6
        assert read_from == [1]
        assert await kernel.supervisor.reader.messages("s") == await kernel.supervisor.reader.messages("s")
        assert read_from == [1]


def too_large_above(bytes_max: int, then: Reply) -> Any:
    async def answer(request: ModelRequest) -> Reply:
        if sum(len(text) for text in texts(request)) > bytes_max:
            raise ProviderError("prompt is too long", code="too_large")
        return then

    return answer


async def test_results_are_cut_first_where_a_provider_finds_the_request_too_large(tmp_path: Path) -> None:
    large = reply("", ("read_file", {"path": "a"}))
    async with Kernel(tmp_path, [large, large, large, too_large_above(40_000, reply("done"))]) as kernel:

        async def read(call: ToolCall) -> ToolOutput:
            return ToolOutput(data=b"r" * 16_000)

        kernel.tools["read_file"].answer = read
        await kernel.create()
        run_id = await kernel.submit()
        run = await kernel.until_status(run_id, "completed")
        assert (run.output, run.step) == ("done", 4)
        assert [request.purpose for request in kernel.provider.requests] == ["reply"] * 5
        results = [m for m in kernel.provider.requests[-1].messages if isinstance(m, ToolMessage)]
        assert len(results) == 3 and "16000 bytes, cut" in results[0].text and len(results[-1].text) == 16_000
        (compacted,) = [event for event in await facts(kernel) if event["type"] == "context.compacted"]
        assert (compacted["reason"], compacted["messages"]) == ("too_large", 0)


async def test_what_is_still_too_large_is_summed_up_harder_each_time(tmp_path: Path) -> None:
    said = [reply("y" * 30_000) for _ in range(4)]
    async with Kernel(tmp_path, [*said, too_large_above(6_000, reply("done"))]) as kernel:
        await kernel.create()
        for number in range(4):
            await kernel.until_status(await kernel.submit(f"input {number}"), "completed")
        run = await kernel.until_status(await kernel.submit("the last"), "completed")
        assert (run.output, run.step) == ("done", 1)
        purposes = [request.purpose for request in kernel.provider.requests[4:]]
        assert purposes[:3] == ["reply", "summary", "reply"]
        assert purposes.count("reply") <= CONTEXT_OVERFLOWS_MAX + 1
        assert texts(kernel.provider.requests[-1])[-1] == "the last"


async def test_a_single_input_that_is_too_large_fails_with_advice_and_the_session_goes_on(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [too_large_above(20_000, reply("done"))]) as kernel:
        await kernel.create()
        run = await kernel.until_status(await kernel.submit("z" * 30_000), "failed")
        assert run.error_code == "too_large" and "give a smaller input" in run.error_message
        assert [request.purpose for request in kernel.provider.requests] == ["reply"], "nothing is there to sum up"
        run = await kernel.until_status(await kernel.submit("a small one"), "completed")
        assert "zzz" not in texts(kernel.provider.requests[-1])[-1]


async def test_a_provider_that_finds_everything_too_large_ends_the_run_in_bounded_calls(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [*FILLED[:2], too_large_above(0, reply(""))]) as kernel:
        kernel.provider.summary = too_large_above(0, reply(""))
        await kernel.create()
        for text in ("the first", "the second"):
            await run_through(kernel, text)
        run = await kernel.until_status(await submit(kernel), "failed")
        assert run.error_code == "too_large"
        assert len(kernel.provider.requests) <= 2 + 2 * (CONTEXT_OVERFLOWS_MAX + 1)


@pytest.mark.parametrize("summary", ["", "too_large", "auth"])
async def test_without_a_summary_the_oldest_is_left_out_and_a_line_says_so(tmp_path: Path, summary: str) -> None:
    async def fail(request: ModelRequest) -> Reply:
        raise ProviderError("no", code=summary)

    async with Kernel(tmp_path, FILLED) as kernel:
        kernel.provider.summary = fail if summary else reply("")
        await kernel.create()
        for text in ("the first", "the second", "the third"):
            await run_through(kernel, text)
        last = kernel.provider.requests[-1]
        assert any("there is no summary of them" in text for text in texts(last)) and LONG not in texts(last)
        (compacted,) = [event for event in await facts(kernel) if event["type"] == "context.compacted"]
        assert "summary" not in compacted and compacted["messages"] > 0


async def test_a_daemon_that_dies_in_the_summary_asks_for_it_again(tmp_path: Path) -> None:
    async with Kernel(tmp_path, list(FILLED)) as kernel:
        await kernel.create()
        for text in ("the first", "the second"):
            await run_through(kernel, text)
        kernel.provider.summary = never
        run_id = await submit(kernel, "the third")
        while kernel.provider.requests[-1].purpose != "summary":
            await asyncio.sleep(0)
    async with Kernel(tmp_path, list(FILLED), generation=2) as kernel:
        await kernel.until_status(run_id, "completed")
        assert [(r.purpose, r.attempt) for r in kernel.provider.requests] == [("summary", 2), ("reply", 1)]


async def test_after_too_many_deaths_in_the_summary_the_run_goes_on_without(tmp_path: Path) -> None:
    async with Kernel(tmp_path, list(FILLED)) as kernel:
        await kernel.create()
        for text in ("the first", "the second"):
            await run_through(kernel, text)
        kernel.provider.summary = never
        run_id = await submit(kernel, "the third")
    for generation in range(2, 2 + MODEL_DEATHS_MAX):
        (tmp_path / "daemon" / "stopped.json").unlink()  # it died, as far as anybody knows
        async with Kernel(tmp_path, list(FILLED), generation=generation) as kernel:
            kernel.provider.summary = never
            state: State = await kernel.state()
            if state.active_run is None or state.active_run.model_call is None:
                break
            if state.active_run.model_call.purpose == "reply":
                await kernel.until_status(run_id, "completed")
    assert generation == 1 + MODEL_DEATHS_MAX
    async with Kernel(tmp_path, list(FILLED), generation=9) as kernel:
        assert (await kernel.state()).runs[run_id].output == "done"


async def test_a_requested_compaction_survives_a_restart(tmp_path: Path) -> None:
    async with Kernel(tmp_path, list(FILLED)) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit("the first"), "completed")
        await kernel.until_status(await kernel.submit("the second"), "completed")
        await kernel.send(c.CompactContext())
    async with Kernel(tmp_path, list(FILLED), generation=2) as kernel:
        await kernel.until_status(await kernel.submit("the third"), "completed")
        assert [request.purpose for request in kernel.provider.requests] == ["summary", "reply"]
        (compacted,) = [event for event in await facts(kernel) if event["type"] == "context.compacted"]
        assert compacted["reason"] == "requested"
