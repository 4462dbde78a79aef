"""Routes that are made, changed, tried and taken away while the daemon runs, on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kheish.wire.body import Body, View
from kheish.wire.runtime import ContextTokens, ExpectedRevision, KeyVariable, Price, RouteDriver, RouteFields, SecretRef

ROUTE_ID = "^[a-z0-9][a-z0-9._-]{0,63}$"


class AddRoute(Body, frozen=True):
    """`driver` and the other keys are those of routes.toml."""

    route_id: Annotated[str, msgspec.Meta(pattern=ROUTE_ID)]
    driver: RouteDriver
    default_model: str = ""
    api_key_env: KeyVariable = ""
    auth_ref: SecretRef = ""
    base_url: str = ""
    multimodal_input: bool | None = None
    price: Price | None = None
    context_tokens: ContextTokens | None = None
    expected_revision: ExpectedRevision = None

    @property
    def fields(self) -> RouteFields:
        return RouteFields(**{name: getattr(self, name) for name in RouteFields.__struct_fields__})


class ChangeRoute(Body, frozen=True):
    """What is given changes; null, or left out, stays."""

    driver: RouteDriver | None = None
    default_model: str | None = None
    api_key_env: KeyVariable | None = None
    auth_ref: SecretRef | None = None
    base_url: str | None = None
    multimodal_input: bool | None = None
    price: Price | None = None
    context_tokens: ContextTokens | None = None
    expected_revision: ExpectedRevision = None

    @property
    def changes(self) -> dict[str, object]:
        given = {name: getattr(self, name) for name in RouteFields.__struct_fields__}
        return {name: value for name, value in given.items() if value is not None}


TestKind = Literal["auth", "canary"]


class TestRoute(Body, frozen=True):
    """`auth` asks the server for its list of models, which costs nothing and needs the key; `canary` makes one tiny
    call of a model, by default the route's own."""

    kind: TestKind = "canary"
    model: str = ""


class RouteTestView(View, frozen=True):
    """`code` is that of a failed model call, "" where it went well; `latency_ms` the time until the whole answer."""

    route_id: str
    model: str
    kind: TestKind
    ok: bool
    code: str
    problem: str
    latency_ms: int
