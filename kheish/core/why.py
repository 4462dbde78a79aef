"""Why a run went where it went: its model calls, attempt by attempt, as its journal tells them, and in words."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from kheish.core.events import (
    Choice,
    ContextCompacted,
    Cooling,
    Event,
    Hop,
    ModelCallCompleted,
    ModelCallDied,
    ModelCallFailed,
    ModelCallRetrying,
    ModelCallStarted,
    Purpose,
    RunCompleted,
    RunFailed,
    RunSubmitted,
    Usage,
)
from kheish.core.usage import PriceOf, cost_of

Result = Literal["under_way", "replied", "failed", "died"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a model call: what it took and why (`reason`, with what was spared then), and what came of it.
    `request_id` is the provider's; `first_ms` is 0 where no piece of a reply is known of; `waited_ms` is the pause
    before the next attempt; `discarded`: it had begun to answer. `cost_usd` is null where no price is known.
    `compacted` says in words what became of the context after it."""

    model_call_id: str
    step: int
    attempt: int
    at_ms: int
    route: str
    model: str
    reason: Choice
    cooling: list[Cooling]
    result: Result
    code: str = ""
    message: str = ""
    request_id: str = ""
    first_ms: int = 0
    duration_ms: int = 0
    waited_ms: int = 0
    discarded: bool = False
    usage: Usage = Usage()
    cost_usd: float | None = None
    purpose: Purpose = "reply"
    compacted: str = ""


class Inquiry:
    """Is shown the events of one run in order."""

    def __init__(self, run_id: str, price_of: PriceOf) -> None:
        self._run_id = run_id
        self._price_of = price_of
        self.hops: tuple[Hop, ...] = ()
        self.attempts: list[Attempt] = []
        self._end = ""

    def add(self, event: Event, at_ms: int) -> None:
        if getattr(event, "run_id", "") != self._run_id:
            return
        match event:
            case RunSubmitted():
                self.hops = event.hops or (Hop(route=event.route, model=event.model),)
            case ModelCallStarted():
                self._begin(event)
            case ModelCallCompleted():
                last = self.attempts[-1]
                self._finish(
                    "replied",
                    request_id=event.request_id,
                    first_ms=event.first_ms,
                    duration_ms=event.duration_ms,
                    usage=event.usage,
                    cost_usd=cost_of(event, last.route, last.model, self._price_of),
                )
            case ModelCallRetrying() | ModelCallFailed():
                retrying = event if isinstance(event, ModelCallRetrying) else None
                self._finish(
                    "failed",
                    code=event.code,
                    message=event.message,
                    request_id=event.request_id,
                    duration_ms=event.duration_ms,
                    waited_ms=max(0, retrying.retry_at_ms - at_ms) if retrying else 0,
                    discarded=retrying is not None and retrying.discarded,
                    usage=event.usage,
                    cost_usd=event.cost_usd,
                )
            case ModelCallDied():
                self._finish("died")
            case ContextCompacted():
                self.attempts[-1] = replace(self.attempts[-1], compacted=_compacted(event))
            case RunCompleted():
                self._end = "the run completed"
            case RunFailed():
                self._end = f"the run failed ({event.code}): {event.message}"

    def _begin(self, event: ModelCallStarted) -> None:
        first = self.hops[0] if self.hops else Hop(route="", model="")
        self.attempts.append(
            Attempt(
                model_call_id=event.model_call_id,
                step=event.step,
                attempt=event.attempt,
                at_ms=event.at_ms,
                route=event.route or first.route,
                model=event.model or first.model,
                reason=event.reason,
                cooling=list(event.cooling),
                result="under_way",
                purpose=event.purpose,
            )
        )

    def _finish(self, result: Result, **fields: object) -> None:
        self.attempts[-1] = replace(self.attempts[-1], result=result, **fields)

    def lines(self) -> list[str]:
        """All of it in words."""
        chain = ", then ".join(_name(hop.route, hop.model) for hop in self.hops)
        lines = [f"the run takes {chain}"]
        for number, attempt in enumerate(self.attempts):
            before = self.attempts[number - 1] if number else None
            again = ", a summary" if attempt.purpose == "summary" else ""
            again += f", attempt {attempt.attempt}" if attempt.attempt > 1 else ""
            lines.append(
                f"step {attempt.step}{again}: {_name(attempt.route, attempt.model)}{_because(attempt, before)}"
                f"{_spared(attempt)}"
            )
            lines.append(f"  {_result(attempt)}")
            if attempt.compacted:
                lines.append(f"  {attempt.compacted}")
            if attempt.waited_ms:
                lines.append(f"  waited {_span(attempt.waited_ms)}")
        return [*lines, self._end] if self._end else lines


def _compacted(event: ContextCompacted) -> str:
    what = f"{event.messages} messages are left out" if event.messages else "long results are cut"
    what += ", a summary stands for them" if event.summary else ""
    size = f"about {event.tokens_before} -> {event.tokens_after} tokens"
    return f"the context was compacted ({event.reason}): {what}, {size}"


def _name(route: str, model: str) -> str:
    return f"{route}/{model}"


def _because(attempt: Attempt, before: Attempt | None) -> str:
    match attempt.reason:
        case "failover":
            failed = f"{_name(before.route, before.model)} failed ({before.code})" if before else "another failed"
            return f", since {failed}"
        case "cooling":
            return ", since those before it in the chain are spared"
        case "returned":
            return ", the first of the chain again"
        case "retry":
            return ", once more"
        case "resumed":
            return ", once more, since the daemon died"
        case "primary":
            return ""


def _spared(attempt: Attempt) -> str:
    return "".join(
        f"; {_name(spared.route, spared.model)} is spared for {_span(spared.until_ms - attempt.at_ms)} ({spared.code})"
        for spared in attempt.cooling
    )


def _result(attempt: Attempt) -> str:
    by = f" [{attempt.request_id}]" if attempt.request_id else ""
    match attempt.result:
        case "under_way":
            return "is under way"
        case "died":
            return "was cut off: the daemon died"
        case "failed":
            after = f" after {_span(attempt.duration_ms)}" if attempt.duration_ms else ""
            discarded = "; what it had said was discarded" if attempt.discarded else ""
            took = f"; it took all the same {_took(attempt)}" if attempt.usage != Usage() else ""
            return f"failed{after}: {attempt.code}: {attempt.message}{discarded}{took}{by}"
        case "replied":
            after = f" after {_span(attempt.duration_ms)}" if attempt.duration_ms else ""
            first = f", the first piece after {_span(attempt.first_ms)}" if attempt.first_ms else ""
            return f"answered{after}{first}: {_took(attempt)}{by}"


def _took(attempt: Attempt) -> str:
    usage = attempt.usage
    tokens_in = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    cached = f" ({usage.cache_read_tokens} from the cache)" if usage.cache_read_tokens else ""
    reasoning = f" ({usage.reasoning_tokens} of reasoning)" if usage.reasoning_tokens else ""
    cost = "price unknown" if attempt.cost_usd is None else f"${attempt.cost_usd:.6f}"
    return f"{tokens_in} tokens in{cached}, {usage.output_tokens} out{reasoning}; {cost}"


def _span(ms: int) -> str:
    if ms < 1000:
        return f"{max(0, ms)} ms"
    return f"{ms / 1000:.1f} s" if ms < 120_000 else f"{ms / 60_000:.0f} min"
