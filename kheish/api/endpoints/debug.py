"""Debug artifacts: what model calls sent and got, for people alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core.permissions import require_operator
from kheish.runtime.supervisor import Caller
from kheish.wire.debug import DebugArtifact, DebugSummary

if TYPE_CHECKING:
    from kheish.api.app import App


async def list_debug_artifacts(app: App, call: Call[None, NoQuery]) -> list[DebugSummary]:
    _require_operator(call.caller)
    return await app.debugging.list_artifacts(*await app.supervisor.reader.find_run(call.path["id"]))


async def get_debug_artifact(app: App, call: Call[None, NoQuery]) -> DebugArtifact:
    _require_operator(call.caller)
    session_id, run_id = await app.supervisor.reader.find_run(call.path["id"])
    return await app.debugging.read_artifact(session_id, run_id, call.path["artifact"])


def _require_operator(caller: Caller) -> None:
    require_operator(caller.is_operator, caller.principal, "look at debug artifacts")


ENDPOINTS = (
    Endpoint(method="GET", path="/v1/runs/{id}/debug", handler=list_debug_artifacts,
             summary="List what is kept of a run's model calls, attempt by attempt", returns=list[DebugSummary],
             codes=("operator_required",)),
    Endpoint(method="GET", path="/v1/runs/{id}/debug/{artifact}", handler=get_debug_artifact,
             summary="What an attempt at a model call sent and got", returns=DebugArtifact,
             codes=("operator_required",)),
)  # fmt: skip
