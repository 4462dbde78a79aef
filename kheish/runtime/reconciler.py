"""Makes the world match what a session's state owes: starts what is missing, cancels what is no longer owed.

It looks only at `pending(state)` and at what it is doing, never at what happened: after a restart, a cancel or an
approval it is the same code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec.structs import replace

from kheish.core.budgets import find_time_left, tokens_of
from kheish.core.commands import Context
from kheish.core.compaction import make_plan, shorten
from kheish.core.contracts import ModelRequest
from kheish.core.effects import AnyEffect, CallModel, EndProcess, RunTool, WakeAt
from kheish.core.events import Attachment, Hop, Message, Process, ToolLimits
from kheish.core.machine import pending
from kheish.core.outcomes import (
    ModelFailed,
    ModelReplied,
    Outcome,
    ProcessGone,
    RetryDue,
    ToolFinished,
    ToolProcessMade,
)
from kheish.core.prompt import build_request, build_summary_request
from kheish.core.state import Run
from kheish.core.tool_calls import lookup
from kheish.errors import Invalid, KheishError
from kheish.limits import PROCESS_END_AGAIN_MS, PROCESS_KILL_GRACE_MS, TOOL_CALLS_PARALLEL_MAX
from kheish.runtime.actor import Actor, Applied
from kheish.runtime.circuits import Circuits
from kheish.runtime.model_calls import call_model, when_possible
from kheish.runtime.ports import Clock, Providers, Recorder, Tool
from kheish.runtime.tool_calls import run_tool
from kheish.store.blobs import Blobs
from kheish.store.workers import Workers

KillTree = Callable[[Process, str, int], Awaitable[bool]]
"""Ends a process of a tool call, by the call's id, with all its descendants, within a grace in milliseconds; says
whether there was anything to end."""


class Handle:
    """What is being done for one effect, or was done: its task is over while its outcome is being recorded, and where
    that could not be reported. It is then not cancelled."""

    def __init__(self, effect: AnyEffect) -> None:
        self.effect = effect
        self.has_begun = False
        self.task: asyncio.Task[None] | None = None


class Reconciler:
    def __init__(
        self,
        *,
        clock: Clock,
        providers: Providers,
        circuits: Circuits,
        tools: dict[str, Tool],
        threads: Workers,
        blobs: Blobs,
        kill_tree: KillTree,
        make_context: Callable[[str], Context],
        on_trouble: Callable[[Actor, BaseException], None],
        recorder: Recorder | None,
    ) -> None:
        self._clock = clock
        self._providers = providers
        self._circuits = circuits
        self._tools = tools
        self._threads = threads
        self._blobs = blobs
        self._kill_tree = kill_tree
        self._make_context = make_context
        self._on_trouble = on_trouble
        self._recorder = recorder
        self._handles: dict[str, dict[str, Handle]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._stopped = False

    def is_idle(self, session_id: str) -> bool:
        return not self._handles.get(session_id)

    def reconcile(self, actor: Actor) -> None:
        if self._stopped:
            return
        effects = pending(actor.state)
        if not effects and actor.session_id not in self._handles:
            return
        owed = {effect.effect_id: effect for effect in effects}
        handles = self._handles.setdefault(actor.session_id, {})
        for effect_id, handle in list(handles.items()):
            if effect_id in owed or handle.task is None:
                continue
            if handle.task.done():
                del handles[effect_id]
                continue
            handle.task.cancel()
            if not handle.has_begun:  # nor will it, and it cannot say when it has ended
                del handles[effect_id]
            elif isinstance(handle.effect, RunTool):
                self._ending[handle.effect.tool_call_id] = handle.task
        # What is at work is never put off for another: begun again it would take effect twice.
        room = TOOL_CALLS_PARALLEL_MAX - sum(isinstance(handle.effect, RunTool) for handle in handles.values())
        for effect_id, effect in owed.items():
            if effect_id in handles:
                continue
            if isinstance(effect, RunTool):
                if room <= 0:
                    continue
                room -= 1
            handle = Handle(effect)
            handles[effect_id] = handle
            handle.task = asyncio.create_task(self._perform(actor, handle))
        if not handles:
            self._handles.pop(actor.session_id, None)

    async def _perform(self, actor: Actor, handle: Handle) -> None:
        effect, outcome = handle.effect, None
        handle.has_begun = True
        try:
            outcome = await self._outcome(actor, effect)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            # What is owed stays owed, and its handle stays: it may have taken effect, so that only recovery, which
            # knows what may be repeated, takes it up again. A process may be ended twice, and all else waits for that.
            self._on_trouble(actor, error)
            if isinstance(error, KheishError) or not isinstance(effect, EndProcess):
                return
            await asyncio.sleep(PROCESS_END_AGAIN_MS / 1000)
        finally:
            if isinstance(effect, RunTool):
                self._ending.pop(effect.tool_call_id, None)
        if outcome is None:
            self._ended(actor, handle)
        else:
            self._report(actor, outcome, partial(self._reported, actor, handle, outcome))

    def _report(self, actor: Actor, outcome: Outcome, tell: Callable[[Applied | Exception], None]) -> None:
        actor.post(outcome, partial(self._make_context, actor.session_id), tell)

    def _reported(self, actor: Actor, handle: Handle, outcome: Outcome | None, found: Applied | Exception) -> None:
        """`outcome`: what may be reported as a failure where it cannot be recorded."""
        if isinstance(found, Invalid) and outcome is not None:
            failure = _failure(handle.effect, outcome, found.message)
            self._report(actor, failure, partial(self._reported, actor, handle, None))
        elif isinstance(found, Exception):
            self._on_trouble(actor, found)  # its handle stays, as above
        else:
            self._ended(actor, handle)

    def _ended(self, actor: Actor, handle: Handle) -> None:
        handles = self._handles.get(actor.session_id, {})
        if handles.get(handle.effect.effect_id) is handle:  # it is still owed, or was not looked at since
            del handles[handle.effect.effect_id]
            self.reconcile(actor)

    async def _outcome(self, actor: Actor, effect: AnyEffect) -> Outcome:
        match effect:
            case CallModel():
                try:
                    messages = await when_possible(actor.session_id, actor.shown)
                except (KheishError, OSError) as error:
                    return _failed(effect, "session_unreadable", str(error))
                run = actor.state.runs[effect.run_id]
                assert run.model_call is not None
                if run.model_call.purpose == "summary":
                    return await self._sum_up(actor, effect, run, messages)
                request = build_request(actor.state, run, messages, actor.kernel.policy.settings.tools)
                outcome = await self._call(actor, effect, run, request, actor.attached)
                if isinstance(outcome, ModelFailed) and outcome.code == "too_large" and not run.overflows:
                    context = await asyncio.to_thread(shorten, messages)
                    return replace(outcome, context=context)
                return outcome
            case WakeAt():
                left_ms = min(effect.at_ms - self._clock.now_ms(), effect.wait_ms_max)
                await asyncio.sleep(max(0, left_ms) / 1000)
                return RetryDue(run_id=effect.run_id, model_call_id=effect.model_call_id, attempt=effect.attempt)
            case RunTool():
                return await self._run_tool(actor, effect)
            case EndProcess():
                ending = self._ending.get(effect.tool_call_id)
                if ending is not None:
                    await asyncio.wait([ending])
                killed = await self._kill_tree(effect.process, effect.tool_call_id, PROCESS_KILL_GRACE_MS)
                return ProcessGone(tool_call_id=effect.tool_call_id, pid=effect.process.pid, killed=killed)

    async def _priced(self, hop: Hop, outcome: ModelReplied | ModelFailed) -> ModelReplied | ModelFailed:
        """With what the attempt cost, if anybody knows."""
        if isinstance(outcome, ModelReplied):
            usage, model = outcome.reply.usage, outcome.reply.model or hop.model
        else:
            usage, model = outcome.usage, hop.model
        if not tokens_of(usage):
            return outcome
        try:
            price_of = await self._providers.prices((hop.route,))
            cost_usd = price_of(hop.route, model, usage, self._clock.now_ms())
        except Exception:
            return outcome  # no reply is lost for want of a price
        return replace(outcome, cost_usd=cost_usd)

    async def _call(
        self,
        actor: Actor,
        effect: CallModel,
        run: Run,
        request: ModelRequest,
        attached: Sequence[Attachment] = (),
    ) -> ModelReplied | ModelFailed:
        hop = run.chain[run.hop]
        outcome = await call_model(
            effect,
            request,
            hop.route,
            attached,
            providers=self._providers,
            hub=actor.kernel.hub,
            blobs=self._blobs,
            committer=actor.kernel.committer,
            recorder=self._recorder,
        )
        self._circuits.note_outcome(hop, outcome, self._clock.now_ms())
        return await self._priced(hop, outcome)

    async def _sum_up(
        self, actor: Actor, effect: CallModel, run: Run, messages: Sequence[Message]
    ) -> ModelReplied | ModelFailed:
        """A summary, with what models are shown from then on; or its failure, with what they are shown without one."""
        plan = await asyncio.to_thread(make_plan, actor.state, run, tuple(messages))
        if plan is None or not plan.left_out:
            code = "too_large" if run.overflows else "nothing_to_compact"
            failed = _failed(effect, code, "there is nothing that a summary could stand for")
            return replace(failed, context=plan.cut if plan else None)
        record = await asyncio.to_thread(plan.record)
        outcome = await self._call(actor, effect, run, build_summary_request(actor.state, run, record))
        if isinstance(outcome, ModelReplied) and outcome.reply.text.strip():
            return replace(outcome, context=plan.with_summary(outcome.reply.text))
        return replace(outcome, context=plan.cut)

    async def _run_tool(self, actor: Actor, effect: RunTool) -> Outcome:
        call = lookup(actor.state, effect.run_id, effect.tool_call_id)
        assert call is not None

        async def announce(process: Process) -> None:
            made = ToolProcessMade(run_id=effect.run_id, tool_call_id=effect.tool_call_id, process=process)
            await actor.submit(made, partial(self._make_context, actor.session_id))
            now = lookup(actor.state, effect.run_id, effect.tool_call_id)
            if now is None or now.phase != "started" or now.attempt != effect.attempt:
                raise asyncio.CancelledError

        def time_left_ms() -> int | None:
            state, default = actor.state, actor.kernel.policy.settings.session_budget
            outside = actor.kernel.ledger.outside(actor.session_id, state.day)
            return find_time_left(state, state.runs[effect.run_id], default, outside)

        return await run_tool(
            effect,
            call,
            self._tools[call.tool],
            actor.state.runs[effect.run_id].tool_limits.get(call.tool, ToolLimits()),
            session_id=actor.session_id,
            cwd=actor.state.cwd,
            hub=actor.kernel.hub,
            blobs=self._blobs,
            committer=actor.kernel.committer,
            threads=self._threads,
            announce=announce,
            time_left_ms=time_left_ms,
        )

    async def stop(self, grace_ms: int) -> None:
        """Starts nothing more; gives tool calls the grace to finish and report; then cancels everything, which kills
        what they started. What did not finish is found by recovery at the next start."""
        self._stopped = True
        tools = [
            h.task
            for handles in self._handles.values()
            for h in handles.values()
            if h.task is not None and isinstance(h.effect, RunTool)
        ]
        if tools and grace_ms:
            await asyncio.wait(tools, timeout=grace_ms / 1000)
        tasks = [h.task for handles in self._handles.values() for h in handles.values() if h.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _failure(effect: AnyEffect, outcome: Outcome, reason: str) -> Outcome:
    """What is reported of an effect whose outcome cannot be recorded."""
    match effect:
        case CallModel():
            failed = _failed(effect, "reply_too_large", reason)
            assert isinstance(outcome, ModelReplied | ModelFailed)
            usage = outcome.reply.usage if isinstance(outcome, ModelReplied) else outcome.usage
            return replace(failed, usage=usage, cost_usd=outcome.cost_usd)
        case RunTool():
            return ToolFinished(
                run_id=effect.run_id, tool_call_id=effect.tool_call_id, output=reason, is_error=True, output_bytes=0
            )
        case _:
            return outcome


def _failed(effect: CallModel, code: str, message: str) -> ModelFailed:
    return ModelFailed(
        run_id=effect.run_id,
        model_call_id=effect.model_call_id,
        attempt=effect.attempt,
        code=code,
        message=message,
    )
