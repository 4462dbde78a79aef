"""What an operator sets while the daemon runs, its revisions, and the way back to one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core.events import ToolLimits
from kheish.core.permissions import require_operator
from kheish.errors import Invalid, KheishError
from kheish.limits import TOOL_OUTPUT_SHOWN_MIN_BYTES
from kheish.runtime.settings import Edit
from kheish.wire.runtime import (
    Revision,
    RollBack,
    RuntimeSettings,
    RuntimeView,
    SetDebugLevel,
    SetDefaultMode,
    SetDefaultModel,
    SetSystemPrompt,
    SetToolLimits,
)

if TYPE_CHECKING:
    from kheish.api.app import App

log = logging.getLogger(__name__)


async def get_runtime(app: App, call: Call[None, NoQuery]) -> RuntimeView:
    return await _view(app)


async def list_revisions(app: App, call: Call[None, NoQuery]) -> list[Revision]:
    """The newest first."""
    return app.supervisor.runtime.revisions[::-1]


async def set_default_model(app: App, call: Call[SetDefaultModel, NoQuery]) -> RuntimeView:
    given = call.body.model.strip()

    async def edit(settings: RuntimeSettings) -> RuntimeSettings:
        return replace(settings, model=await app.supervisor.providers.name(given) if given else "")

    return await _set(app, call, edit, f"set-model {given}" if given else "set-model --reset")


async def set_default_permission_mode(app: App, call: Call[SetDefaultMode, NoQuery]) -> RuntimeView:
    mode = call.body.mode
    return await _set(app, call, _setting(permission_mode=mode), f"set-permission-mode {mode}")


async def set_system_prompt(app: App, call: Call[SetSystemPrompt, NoQuery]) -> RuntimeView:
    text = call.body.system_prompt.strip()
    return await _set(app, call, _setting(system_prompt=text), f"set-system-prompt ({len(text)} characters)")


async def set_debug_level(app: App, call: Call[SetDebugLevel, NoQuery]) -> RuntimeView:
    return await _set(app, call, _setting(debug_level=call.body.level), f"set-debug-level {call.body.level}")


async def list_tool_limits(app: App, call: Call[None, NoQuery]) -> dict[str, ToolLimits]:
    """Of the tools that have any."""
    return app.supervisor.runtime.settings.tool_limits


async def set_tool_limits(app: App, call: Call[SetToolLimits, NoQuery]) -> RuntimeView:
    body, tools = call.body, app.supervisor.policy.settings.tools
    if body.tool not in tools:
        raise Invalid(
            f"cannot find the tool {body.tool}: there are {', '.join(tools)}", code="tool_not_found", path="$.tool"
        )
    if body.output_bytes and body.output_bytes < TOOL_OUTPUT_SHOWN_MIN_BYTES:
        raise Invalid(
            f"cannot show {body.output_bytes} bytes: 0 for the tool's own bound, or {TOOL_OUTPUT_SHOWN_MIN_BYTES} and "
            "more",
            path="$.output_bytes",
        )
    given = {name: getattr(body, name) for name in ("timeout_ms", "output_bytes") if getattr(body, name) is not None}

    async def edit(settings: RuntimeSettings) -> RuntimeSettings:
        changed = replace(settings.tool_limits.get(body.tool, ToolLimits()), **given)
        others = {tool: limits for tool, limits in settings.tool_limits.items() if tool != body.tool}
        return replace(settings, tool_limits=others if changed == ToolLimits() else {**others, body.tool: changed})

    what = " ".join(f"{name} {value}" for name, value in given.items())
    return await _set(app, call, edit, f"tool-limits {body.tool} {what}".rstrip())


async def roll_back(app: App, call: Call[RollBack, NoQuery]) -> RuntimeView:
    target = call.body.target_revision

    async def edit(settings: RuntimeSettings) -> RuntimeSettings:
        return await app.supervisor.providers.checked(app.supervisor.runtime.find(target).settings)

    return await _set(app, call, edit, f"rollback {target}")


def _setting(**fields: Any) -> Edit:
    async def edit(settings: RuntimeSettings) -> RuntimeSettings:
        return replace(settings, **fields)

    return edit


async def _set(app: App, call: Call[Any, NoQuery], edit: Edit, what: str) -> RuntimeView:
    await change(app, call, edit, what, call.body.expected_revision)
    return await _view(app)


async def change(app: App, call: Call[Any, Any], edit: Edit, what: str, expected_revision: int | None) -> None:
    """Durable on return. Raises Forbidden where no operator asks."""
    require_operator(call.caller.is_operator, call.caller.principal, "change the daemon's settings")
    made = await app.supervisor.runtime.change(
        edit, by=call.caller.principal, origin=call.caller.origin, change=what, expected_revision=expected_revision
    )
    log.info("%s: %s, revision %d", call.caller.principal, what, made.revision)


async def _view(app: App) -> RuntimeView:
    current = app.supervisor.runtime.current
    route_id = model_id = problem = ""
    try:
        hop, *_ = await app.supervisor.providers.resolve(None)
        route_id, model_id = hop.route, hop.model
    except KheishError as error:
        problem = error.message
    return RuntimeView(
        revision=current.revision,
        updated_at_ms=current.at_ms,
        updated_by=current.by,
        settings=current.settings,
        route_id=route_id,
        model_id=model_id,
        problem=problem,
    )


_R = "/v1/runtime"
CHANGES = ("operator_required", "runtime_revision_conflict", "disk_failed")
"""What may come of any change."""

ENDPOINTS = (
    Endpoint(method="GET", path=_R, handler=get_runtime, summary="What was set while the daemon runs",
             returns=RuntimeView),
    Endpoint(method="GET", path=_R + "/revisions", handler=list_revisions,
             summary="The settings as they were, the newest first", returns=list[Revision]),
    Endpoint(method="POST", path=_R + "/model", handler=set_default_model,
             summary="What a run takes that names no model", body=SetDefaultModel, returns=RuntimeView,
             codes=(*CHANGES, "invalid_routes", "model_missing", "route_not_ready")),
    Endpoint(method="POST", path=_R + "/permission-mode", handler=set_default_permission_mode,
             summary="The permission mode of new sessions", body=SetDefaultMode, returns=RuntimeView, codes=CHANGES),
    Endpoint(method="POST", path=_R + "/system-prompt", handler=set_system_prompt,
             summary="What is added to the system text of later runs", body=SetSystemPrompt, returns=RuntimeView,
             codes=CHANGES),
    Endpoint(method="POST", path=_R + "/debug-level", handler=set_debug_level,
             summary="What is kept of model calls for debugging", body=SetDebugLevel, returns=RuntimeView,
             codes=CHANGES),
    Endpoint(method="GET", path=_R + "/tool-limits", handler=list_tool_limits,
             summary="The bounds that were set for tools", returns=dict[str, ToolLimits]),
    Endpoint(method="POST", path=_R + "/tool-limits", handler=set_tool_limits,
             summary="Bounds of a tool for runs that start later", body=SetToolLimits, returns=RuntimeView,
             codes=(*CHANGES, "tool_not_found")),
    Endpoint(method="POST", path=_R + "/rollback", handler=roll_back,
             summary="Back to the settings of an earlier revision, as a new one", body=RollBack, returns=RuntimeView,
             codes=(*CHANGES, "revision_not_found", "route_in_use", "invalid_routes")),
)  # fmt: skip
