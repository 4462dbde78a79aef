"""What the world owes a session: values with an identity, so that asking twice does nothing twice."""

from __future__ import annotations

import msgspec

from kheish.core.events import Process


class Effect(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    @property
    def effect_id(self) -> str:
        raise NotImplementedError


class CallModel(Effect, frozen=True, kw_only=True):
    run_id: str
    model_call_id: str
    attempt: int

    @property
    def effect_id(self) -> str:
        return f"{self.model_call_id}/{self.attempt}"


class WakeAt(Effect, frozen=True, kw_only=True):
    """Report `RetryDue` at this unix time, or at once when it has passed; but wait `wait_ms_max` at most, where the
    clock was set back."""

    run_id: str
    model_call_id: str
    attempt: int
    at_ms: int
    wait_ms_max: int

    @property
    def effect_id(self) -> str:
        return f"{self.model_call_id}/{self.attempt}/wake"


class RunTool(Effect, frozen=True, kw_only=True):
    run_id: str
    tool_call_id: str
    attempt: int

    @property
    def effect_id(self) -> str:
        return f"{self.tool_call_id}/{self.attempt}"


class EndProcess(Effect, frozen=True, kw_only=True):
    """Make sure that a process which outlived its call is gone, with all its descendants."""

    tool_call_id: str
    process: Process

    @property
    def effect_id(self) -> str:
        return f"{self.tool_call_id}/{self.process.pid}/end"


AnyEffect = CallModel | WakeAt | RunTool | EndProcess
