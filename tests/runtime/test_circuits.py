"""Circuits: what is spared, until when, and the one call that finds out whether it is to be had again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kheish.core.chains import MAY_PASS
from kheish.core.commands import SubmitRun
from kheish.core.contracts import Reply
from kheish.core.events import Hop, ModelCallStarted
from kheish.core.model_calls import FAILURES
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.errors import ProviderError
from kheish.limits import CIRCUIT_PAUSE_MAX_MS, CIRCUIT_PAUSE_MS, RETRY_AFTER_MAX_MS
from kheish.runtime.circuits import Circuits
from tests.core.test_chains import HOPS
from tests.runtime.kernel import Kernel, reply

HOP = Hop(route="claude", model="m")
CALL: dict[str, Any] = {"run_id": "run_1", "model_call_id": "modelcall_1", "attempt": 1}


def failed(code: str = "overloaded", **fields: Any) -> ModelFailed:
    return ModelFailed(**CALL, code=code, message="", **fields)


REPLIED = ModelReplied(**CALL, reply=Reply(text="", stop_reason="end"))


def begun(circuits: Circuits, at_ms: int) -> None:
    started = ModelCallStarted(**CALL, step=1, at_ms=at_ms, route=HOP.route, model=HOP.model)
    circuits.note_decided([started], at_ms)


def spared_until(circuits: Circuits, at_ms: int) -> int:
    return next((cool.until_ms for cool in circuits.cooling(at_ms)), 0)


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("has_output", [False, True])
def test_it_opens_for_exactly_what_may_pass_and_before_there_was_output(code: str, has_output: bool) -> None:
    circuits = Circuits()
    circuits.note_outcome(HOP, failed(code, has_output=has_output), 100)
    assert bool(circuits.cooling(100)) == (code in MAY_PASS and not has_output)


def test_it_is_open_for_a_pause_or_as_long_as_the_server_asked() -> None:
    circuits = Circuits()
    circuits.note_outcome(HOP, failed(), 100)
    assert spared_until(circuits, 100) == 100 + CIRCUIT_PAUSE_MS
    assert circuits.cooling(100 + CIRCUIT_PAUSE_MS) == ()
    circuits.note_outcome(HOP, failed(retry_after_ms=60_000), 100)
    assert spared_until(circuits, 100) == 60_100
    circuits.note_outcome(HOP, failed(), 200)
    assert spared_until(circuits, 200) == 60_100, "another failure makes it no shorter"
    circuits.note_outcome(HOP, failed(retry_after_ms=10 * RETRY_AFTER_MAX_MS), 200)
    assert spared_until(circuits, 200) == 200 + RETRY_AFTER_MAX_MS


def test_when_it_is_half_open_one_call_is_the_probe_and_the_others_wait() -> None:
    circuits = Circuits()
    circuits.note_outcome(HOP, failed(), 0)
    begun(circuits, CIRCUIT_PAUSE_MS - 1)
    assert circuits.cooling(CIRCUIT_PAUSE_MS) == (), "what began while it was open is none"
    begun(circuits, CIRCUIT_PAUSE_MS)
    assert spared_until(circuits, CIRCUIT_PAUSE_MS) == 2 * CIRCUIT_PAUSE_MS
    circuits.note_outcome(HOP, REPLIED, CIRCUIT_PAUSE_MS + 1)
    assert circuits.cooling(CIRCUIT_PAUSE_MS + 1) == ()


def test_a_probe_that_fails_doubles_the_pause_up_to_a_bound_and_other_failures_do_not() -> None:
    circuits, at_ms, pauses = Circuits(), 0, []
    for _ in range(9):
        for _ in range(20):
            circuits.note_outcome(HOP, failed(), at_ms)
        pauses.append(spared_until(circuits, at_ms) - at_ms)
        at_ms += pauses[-1]
        begun(circuits, at_ms)
    assert pauses[:3] == [CIRCUIT_PAUSE_MS, 2 * CIRCUIT_PAUSE_MS, 4 * CIRCUIT_PAUSE_MS]
    assert pauses[-1] == CIRCUIT_PAUSE_MAX_MS


def test_a_probe_that_never_reports_is_made_again() -> None:
    circuits = Circuits()
    circuits.note_outcome(HOP, failed(), 0)
    begun(circuits, CIRCUIT_PAUSE_MS)
    assert circuits.cooling(2 * CIRCUIT_PAUSE_MS) == ()


def chained() -> SubmitRun:
    return SubmitRun(text="go", route=HOPS[0].route, model=HOPS[0].model, hops=HOPS)


async def taken(kernel: Kernel, session_id: str) -> list[tuple[str, str]]:
    """The route and the reason of each attempt in a session."""
    return [
        (event["route"], event.get("reason", "primary"))
        for record in await kernel.supervisor.reader.read_records(session_id, 0, 100)
        for event in record.events
        if event["type"] == "model_call.started"
    ]


async def test_a_failure_in_one_session_spares_the_route_in_another(tmp_path: Path) -> None:
    """The outcome opens the circuit before the decision that follows from it is made."""

    async def answer(request: Any) -> Reply:
        if request.model == HOPS[0].model:
            raise ProviderError("busy", code="overloaded")
        return reply("done")

    async with Kernel(tmp_path, [answer]) as kernel:
        for session_id in ("s", "t"):
            await kernel.create(session_id)
            run_id = await kernel.send(chained(), session_id)
            await kernel.until_status(run_id, "completed", session_id)
        assert await taken(kernel, "s") == [("claude", "primary"), ("gpt", "failover")]
        assert await taken(kernel, "t") == [("gpt", "cooling")]


async def test_while_one_session_probes_another_goes_past(tmp_path: Path) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def answer(request: Any) -> Reply:
        if request.model == HOPS[0].model:
            asked.set()
            await release.wait()
        return reply("done")

    async with Kernel(tmp_path, [answer]) as kernel:
        kernel.supervisor.circuits.note_outcome(HOPS[0], failed(), 0)
        await kernel.create("s")
        await kernel.create("t")
        probing = await kernel.send(chained(), "s")
        await asked.wait()
        passing = await kernel.send(chained(), "t")
        await kernel.until_status(passing, "completed", "t")
        assert (await taken(kernel, "s"), await taken(kernel, "t")) == ([("claude", "primary")], [("gpt", "cooling")])
        release.set()
        await kernel.until_status(probing, "completed", "s")
        again = await kernel.send(chained(), "t")
        await kernel.until_status(again, "completed", "t")
        assert (await taken(kernel, "t"))[-1] == ("claude", "primary"), "the probe was answered"
