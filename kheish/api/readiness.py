"""Whether the routes to models can be used, as the daemon knows without asking anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kheish.errors import Invalid
from kheish.wire.status import ProviderReadiness, RouteReadiness, RouteStatus, WarningView

if TYPE_CHECKING:
    from kheish.api.app import App


async def look(app: App) -> tuple[ProviderReadiness, list[WarningView]]:
    """Every route, and a warning for each that is not ready although the default or a chain needs it."""
    providers, now_ms = app.supervisor.providers, app.supervisor.clock.now_ms()
    try:
        rows, chains = await providers.describe(), await providers.describe_chains()
    except Invalid as error:
        action = "correct the file; `kheish routes path` says where it is"
        return ProviderReadiness(routes=[]), [WarningView(code=error.code, message=error.message, action=action)]
    spared = {cooling.route: cooling for cooling in app.supervisor.circuits.cooling(now_ms)}
    used = {hop.route for chain in chains for hop in chain["hops"]}
    active = {hop.route for chain in chains if chain["is_default"] for hop in chain["hops"]}
    active |= {row["route_id"] for row in rows if row["is_default"]}
    routes, warnings = [], []
    for row in rows:
        route_id, problem = row["route_id"], row["problem"]
        status: RouteStatus
        if not row["ready"]:
            status = "error" if route_id in used | active else "warning"
        elif cooling := spared.get(route_id):
            status, problem = "warning", f"spared for {max(1, (cooling.until_ms - now_ms) // 1000)} s: {cooling.code}"
        else:
            status = "ok"
        routes.append(RouteReadiness(route_id=route_id, status=status, problem=problem))
        if status == "error":
            code = "provider_active_route_not_ready" if route_id in active else "provider_route_not_ready"
            warnings.append(WarningView(code=code, message=f"route {route_id}: {problem}", action=_action(row)))
    return ProviderReadiness(routes=routes), warnings


def _action(row: dict[str, Any]) -> str:
    if row["auth_ref"]:
        return f"kheish secrets set {row['auth_ref']}"
    return f"set {row['api_key_env']} where the daemon is started, then `kheish daemon restart`"
