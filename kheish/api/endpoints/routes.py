"""Routes that are added, changed and removed while the daemon runs, by people alone; and trying one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kheish.api.endpoints.runtime import CHANGES, change
from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core.permissions import require_operator
from kheish.errors import NotFound
from kheish.wire.body import Body
from kheish.wire.routes import AddRoute, ChangeRoute, RouteTestView, TestRoute
from kheish.wire.runtime import ExpectedRevision
from kheish.wire.status import RouteView

if TYPE_CHECKING:
    from kheish.api.app import App


class RemoveQuery(Body, frozen=True):
    expected_revision: ExpectedRevision = None


async def add_route(app: App, call: Call[AddRoute, NoQuery]) -> RouteView:
    """It wins over one of that name elsewhere."""
    body = call.body
    providers = app.supervisor.providers
    await change(
        app, call, lambda settings: providers.with_route(settings, body.route_id, body.fields),
        f"routes add {body.route_id}", body.expected_revision,
    )  # fmt: skip
    return await _view(app, body.route_id)


async def change_route(app: App, call: Call[ChangeRoute, NoQuery]) -> RouteView:
    route_id = call.path["route_id"]
    providers = app.supervisor.providers
    await change(
        app, call, lambda settings: providers.with_changes(settings, route_id, call.body.changes),
        f"routes set {route_id}", call.body.expected_revision,
    )  # fmt: skip
    return await _view(app, route_id)


async def remove_route(app: App, call: Call[None, RemoveQuery]) -> RouteView:
    """What it was."""
    route_id = call.path["route_id"]
    providers = app.supervisor.providers
    before = await _view(app, route_id)
    await change(
        app, call, lambda settings: providers.without_route(settings, route_id),
        f"routes remove {route_id}", call.query.expected_revision,
    )  # fmt: skip
    return before


async def test_route(app: App, call: Call[TestRoute, NoQuery]) -> RouteTestView:
    route_id, body = call.path["route_id"], call.body
    require_operator(call.caller.is_operator, call.caller.principal, "try a route")
    found = await app.supervisor.providers.probe(route_id, body.model, body.kind)
    return RouteTestView(
        route_id=route_id,
        model=found.model,
        kind=body.kind,
        ok=not found.code,
        code=found.code,
        problem=found.problem,
        latency_ms=found.latency_ms,
    )


async def _view(app: App, route_id: str) -> RouteView:
    rows: list[dict[str, Any]] = await app.supervisor.providers.describe()
    found = next((row for row in rows if row["route_id"] == route_id), None)
    if found is None:
        known = ", ".join(row["route_id"] for row in rows)
        raise NotFound(f"cannot find route {route_id}: there are {known}", code="route_not_found")
    return RouteView(**found)


_R = "/v1/runtime/routes"
_REFUSED = ("invalid_route", "invalid_routes", "route_conflict", "route_in_use")

ENDPOINTS = (
    Endpoint(method="POST", path=_R, handler=add_route, summary="Add a route to a model", body=AddRoute,
             returns=RouteView, codes=(*CHANGES, *_REFUSED)),
    Endpoint(method="PATCH", path=_R + "/{route_id}", handler=change_route, summary="Change a route", body=ChangeRoute,
             returns=RouteView, codes=(*CHANGES, *_REFUSED)),
    Endpoint(method="DELETE", path=_R + "/{route_id}", handler=remove_route, query=RemoveQuery,
             summary="Remove a route that was added while the daemon ran", returns=RouteView,
             codes=(*CHANGES, "invalid_routes", "route_in_use", "route_not_added")),
    Endpoint(method="POST", path=_R + "/{route_id}/test", handler=test_route, body=TestRoute, waits=True,
             summary="Try a route, with its key alone or with one tiny call", returns=RouteTestView,
             codes=("operator_required", "invalid_routes", "model_missing")),
)  # fmt: skip
