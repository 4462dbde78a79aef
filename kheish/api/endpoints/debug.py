"""Debug artifacts: what model calls sent and got, for people alone; and how much of that is kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core.permissions import require_operator
from kheish.runtime.supervisor import Caller
from kheish.wire.debug import DebugArtifact, DebugSummary, RuntimeView, SetDebugLevel

if TYPE_CHECKING:
    from kheish.api.app import App

log = logging.getLogger(__name__)


async def get_runtime(app: App, call: Call[None, NoQuery]) -> RuntimeView:
    return RuntimeView(debug_level=app.debugging.level)


async def set_debug_level(app: App, call: Call[SetDebugLevel, NoQuery]) -> RuntimeView:
    _require_operator(call.caller)
    app.debugging.set_level(call.body.level)
    log.info("%s set the debug level to %s", call.caller.principal, call.body.level)
    return RuntimeView(debug_level=app.debugging.level)


async def list_debug_artifacts(app: App, call: Call[None, NoQuery]) -> list[DebugSummary]:
    _require_operator(call.caller)
    return await app.debugging.list_artifacts(*await app.supervisor.find_run(call.path["id"]))


async def get_debug_artifact(app: App, call: Call[None, NoQuery]) -> DebugArtifact:
    _require_operator(call.caller)
    session_id, run_id = await app.supervisor.find_run(call.path["id"])
    return await app.debugging.read_artifact(session_id, run_id, call.path["artifact"])


def _require_operator(caller: Caller) -> None:
    require_operator(caller.is_operator, caller.principal, "look at debug artifacts or change what is kept")


ENDPOINTS = (
    Endpoint(method="GET", path="/v1/runtime", handler=get_runtime, summary="What can be changed at runtime",
             returns=RuntimeView),
    Endpoint(method="POST", path="/v1/runtime/debug-level", handler=set_debug_level, body=SetDebugLevel,
             summary="Say how much is kept of the model calls that begin from now on", returns=RuntimeView,
             codes=("operator_required",)),
    Endpoint(method="GET", path="/v1/runs/{id}/debug", handler=list_debug_artifacts,
             summary="List what is kept of a run's model calls, attempt by attempt", returns=list[DebugSummary],
             codes=("operator_required",)),
    Endpoint(method="GET", path="/v1/runs/{id}/debug/{artifact}", handler=get_debug_artifact,
             summary="What an attempt at a model call sent and got", returns=DebugArtifact,
             codes=("operator_required",)),
)  # fmt: skip
