"""The table of endpoints, by noun. A handler is `async (app, call) -> answer`."""

from __future__ import annotations

from kheish.api.endpoints import (
    approvals,
    budgets,
    daemon,
    debug,
    permissions,
    questions,
    routes,
    runs,
    runtime,
    secrets,
    sessions,
    usage,
)
from kheish.api.router import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *daemon.ENDPOINTS,
    *sessions.ENDPOINTS,
    *runs.ENDPOINTS,
    *approvals.ENDPOINTS,
    *questions.ENDPOINTS,
    *permissions.ENDPOINTS,
    *usage.ENDPOINTS,
    *budgets.ENDPOINTS,
    *secrets.ENDPOINTS,
    *debug.ENDPOINTS,
    *runtime.ENDPOINTS,
    *routes.ENDPOINTS,
)
