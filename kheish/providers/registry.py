"""The table of drivers and the routes in force: from `routes.toml`, else from keys in the environment, else from a
model server on this machine, else the rehearsal."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import asdict, replace

from kheish.core.events import Hop
from kheish.core.usage import PriceOf
from kheish.errors import Conflict, Invalid, KheishError, NotFound, ProviderError
from kheish.limits import ROUTES_LOOK_EVERY_MS, RUNTIME_ROUTES_MAX
from kheish.providers.prices import find_window, load_prices
from kheish.providers.probes import probe
from kheish.providers.routes import (
    BUILT_IN,
    FILE_NAME,
    HOMES,
    NO_MODEL,
    SHELL,
    Route,
    RouteFault,
    RouteTable,
    load_routes,
    read_route,
    routes_from_env,
    url_problem,
)
from kheish.runtime.ports import Probe, Provider
from kheish.wire.routes import TestKind
from kheish.wire.runtime import RouteFields, RuntimeSettings

LOCAL_SERVERS = (
    ("ollama", HOMES["ollama"].url),
    ("llamacpp", HOMES["llama_cpp"].url),
    ("lmstudio", "http://127.0.0.1:1234/v1"),
)
RUNTIME = "runtime"
"""The source of a route that was set while the daemon runs."""
_FOUND = {
    "built in": "it is built in",
    "environment": "a key in the daemon's environment makes it",
    "local server": "a server on this machine makes it",
}
"""Where a route comes from that nobody wrote down."""
_PROBE_TIMEOUT_S = 0.3
_PROBE_KEPT_S = 30.0

Reveal = Callable[[str], Awaitable[str]]
"""The value of a secret, by its name. Raises KheishError."""


async def no_secret(name: str) -> str:
    raise NotFound(f"cannot find secret {name}", code="secret_not_found")


class Routes:
    """Implements `runtime.ports.Providers`. Keys are read whenever a route is used, from the daemon's environment or
    from its secrets, and never shown: a changed secret opens a new client at the next call. A changed `routes.toml` is
    in force from the next run."""

    def __init__(
        self,
        config_dir: Path,
        environ: Mapping[str, str] | None = None,
        reveal: Reveal = no_secret,
        runtime: Callable[[], RuntimeSettings] = RuntimeSettings,
    ) -> None:
        self._directory = config_dir
        self._environ = os.environ if environ is None else environ
        self._runtime = runtime
        self._stamp: tuple[int, int, dict[str, RouteFields]] | None = None
        self._file: RouteTable | None = None
        self._local: tuple[float, RouteTable | None] = (float("-inf"), None)
        self._made: tuple[RouteTable | None, RuntimeSettings, RouteTable] | None = None
        """The last table, and what it was made of."""
        self._look_at_s = 0.0
        self._reveal = reveal
        self._open: dict[str, tuple[Route, str, Provider]] = {}
        self._opening = asyncio.Lock()
        self._windows: dict[tuple[str, str, str], int] = {}

    async def table(self, settings: RuntimeSettings | None = None) -> RouteTable:
        """The routes in force, the built-in ones last; or what would be under other settings. Raises Invalid for a file
        that cannot be read."""
        settings = settings or self._runtime()
        overlay = _read_overlay(settings)
        chosen = await self._base(settings.routes, overlay)
        if self._made is None or self._made[:2] != (chosen, settings):
            self._made = chosen, settings, _whole(chosen, settings, overlay)
        return self._made[2]

    async def _base(self, fields: dict[str, RouteFields], overlay: Mapping[str, Route]) -> RouteTable | None:
        """What there is besides what was set while the daemon runs, the built-in routes aside."""
        return self._from_file(fields, overlay) or routes_from_env(self._environ) or await self._local_server()

    def _from_file(self, fields: dict[str, RouteFields], overlay: Mapping[str, Route]) -> RouteTable | None:
        path = self._directory / FILE_NAME
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._stamp, self._file = None, None
            return None
        except OSError as error:
            raise Invalid(f"cannot read {path}: {error.strerror}", code="invalid_routes", path=str(path)) from error
        stamp = (stat.st_mtime_ns, stat.st_size, fields)
        if stamp != self._stamp:
            self._file = load_routes(path, overlay)
            self._stamp = stamp
        return self._file

    async def _local_server(self) -> RouteTable | None:
        at, found = self._local
        if time.monotonic() - at > _PROBE_KEPT_S:
            found = await asyncio.to_thread(find_local_server)
            self._local = (time.monotonic(), found)
        return found

    async def resolve(self, selector: str | None, kept: str = "") -> tuple[Hop, ...]:
        table = await self.table()
        hops = _hops(_with_default(table, kept) if kept else table, selector or "")
        for hop in hops:
            _, problem = await self._key(table.routes[hop.route])
            if problem:
                raise Conflict(f"cannot use route {hop.route}: {problem}", code="route_not_ready")
        return hops

    async def with_windows(self, hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
        routes = (await self.table()).routes
        return tuple(
            [
                replace(hop, window_tokens=await self._window(routes[hop.route], hop.model))
                if hop.route in routes
                else hop
                for hop in hops
            ]
        )

    async def _window(self, route: Route, model: str) -> int:
        """How many tokens a model takes, as a hop has it."""
        route = self._sent(route)
        if route.driver in NO_MODEL:
            return -1
        if route.context_tokens is not None or route.driver == "scripted":
            return route.context_tokens or 0
        place = route.driver, route.base_url, model
        if place not in self._windows:
            self._windows[place] = await find_window(route, model)
        return self._windows[place]

    async def _table_for_calls(self) -> RouteTable:
        """There may be very many in a second: the file is looked at now and then."""
        if self._made is not None and self._made[1] is self._runtime() and time.monotonic() < self._look_at_s:
            return self._made[2]
        table = await self.table()
        self._look_at_s = time.monotonic() + ROUTES_LOOK_EVERY_MS / 1000
        return table

    async def open(self, route_id: str) -> Provider:
        try:
            table = await self._table_for_calls()
        except KheishError as error:
            raise ProviderError(error.message, code="route_not_ready") from error
        route = table.routes.get(route_id)
        if route is None:
            raise ProviderError(f"cannot find route {route_id}: it is no longer configured", code="route_not_ready")
        key, problem = await self._key(route)
        if problem:
            raise ProviderError(f"cannot use route {route_id}: {problem}", code="route_not_ready")
        known = self._open.get(route_id)
        if known is not None and known[:2] == (route, key):
            return known[2]
        async with self._opening:
            known = self._open.get(route_id)
            if known is None or known[:2] != (route, key):
                try:
                    known = self._open[route_id] = (route, key, await self._connect(route, key))
                except KheishError:
                    raise
                except Exception as error:  # such as a host that is none; its words may hold a key
                    raise ProviderError(
                        f"cannot use route {route_id}: its client refuses it ({type(error).__name__})",
                        code="route_not_ready",
                    ) from error
        return known[2]

    async def _connect(self, route: Route, key: str) -> Provider:
        base_url = self._sent(route).base_url or HOMES[route.driver].url
        match route.driver:
            case "scripted":
                from kheish.providers.scripted import Scripted

                return Scripted(self._directory)
            case "rehearsal":
                from kheish.providers.rehearsal import Rehearsal

                return Rehearsal()
            case "shell":
                from kheish.providers.shell import Shell

                return Shell()
            case "anthropic":
                from kheish.providers import anthropic

                return await anthropic.connect(api_key=key, base_url=base_url, multimodal=route.is_multimodal)
            case "openai":
                from kheish.providers import openai

                return await openai.connect(api_key=key, base_url=base_url, multimodal=route.is_multimodal)
            case _:
                from kheish.providers import openai_compatible

                return await openai_compatible.connect(api_key=key, base_url=base_url, multimodal=route.is_multimodal)

    def _sent(self, route: Route) -> Route:
        """With the server to which a variable of the environment sends it. Never left to the SDKs, which take a
        variable that is set to nothing for a server."""
        url_env = HOMES[route.driver].url_env
        return replace(route, base_url=route.base_url or self._environ.get(url_env, "").strip())

    async def _key(self, route: Route) -> tuple[str, str]:
        """(the key, without the white space that files leave at its end; what is wrong with it, or "")."""
        if route.auth_ref:
            holder, then = f"the secret {route.auth_ref}", ""
            try:
                key = (await self._reveal(route.auth_ref)).strip()
            except KheishError as error:
                return "", error.message
        else:
            holder, then = route.key_env, ", then `kheish daemon restart`"
            key = self._environ.get(holder, "").strip() if holder else ""
            if holder and not key:
                return "", f"{holder} is not set where the daemon was started; set it{then}"
        if not (key.isascii() and key.isprintable()):
            return "", f"{holder} holds characters that no key has; set it anew{then}"
        return key, ""

    def keys(self) -> list[str]:
        """Those in the environment that routes use, and those that calls at work were given."""
        table = self._file or routes_from_env(self._environ)
        variables = [route.key_env for route in table.routes.values() if route.key_env] if table else []
        return [*(self._environ.get(name, "") for name in variables), *(key for _, key, _ in [*self._open.values()])]

    async def prices(self, routes: Collection[str] = ()) -> PriceOf:
        table = (await self.table()).routes
        chosen = {route_id: table[route_id] for route_id in table if not routes or route_id in routes}
        return await load_prices({route_id: self._sent(route) for route_id, route in chosen.items()})

    async def describe(self) -> list[dict[str, Any]]:
        table = await self.table()
        default_route = _default_of(table)[0]
        problems = {route_id: (await self._key(route))[1] for route_id, route in table.routes.items()}
        return [
            {
                "route_id": route_id,
                "driver": route.driver,
                "default_model": route.model,
                "base_url": "" if url_problem(url := self._sent(route).base_url) else url,
                "api_key_env": route.key_env,
                "auth_ref": route.auth_ref,
                "multimodal_input": route.is_multimodal,
                "is_default": route_id == default_route,
                "ready": not problems[route_id],
                "problem": problems[route_id],
                "source": table.sources.get(route_id, table.source),
            }
            for route_id, route in table.routes.items()
        ]

    async def describe_chains(self) -> list[dict[str, Any]]:
        table = await self.table()
        return [
            {"chain_id": chain_id, "hops": list(hops), "is_default": chain_id == table.default_route}
            for chain_id, hops in table.chains.items()
        ]

    # -- while the daemon runs -----------------------------------------------------------------------------------

    async def name(self, selector: str) -> str:
        """A choice to keep, which is the same whatever the default becomes: a chain, a route, or a model of a route.
        Raises Invalid or Conflict where it cannot be used now."""
        hop, *_ = await self.resolve(selector)
        if hop.route == SHELL:
            raise Invalid(
                f"cannot keep {SHELL} as the model: it takes each input for a command; `kheish run --model {SHELL} "
                "COMMAND` names it for one",
                path="$.model",
            )
        table = await self.table()
        if selector in table.chains or selector in table.routes:
            return selector
        hop = _one_hop(table, selector)
        return f"{hop.route}/{hop.model}"

    async def checked(self, settings: RuntimeSettings) -> RuntimeSettings:
        """The settings, if chains and the default have their routes under them. Raises Conflict, or Invalid where the
        file cannot be read anyway."""
        now = self._runtime()
        if (settings.routes, settings.model) == (now.routes, now.model):
            return settings
        try:
            table = await self.table(settings)
        except Invalid as error:
            await self.table()
            raise Conflict(
                f"cannot do that, routes.toml would no longer hold: {error.message}", code="route_in_use"
            ) from error
        if settings.model and _default_of(table)[0] not in table.routes:
            raise Conflict(
                f"cannot do that: the default model is {settings.model}, which would be gone; choose another first: "
                "`kheish runtime set-model`",
                code="route_in_use",
            )
        return settings

    async def with_route(self, settings: RuntimeSettings, route_id: str, fields: RouteFields) -> RuntimeSettings:
        """Raises Conflict where a route of this name was added before."""
        if route_id in settings.routes:
            raise Conflict(
                f"cannot add route {route_id}: it was added before; `kheish routes set {route_id}` changes it",
                code="route_conflict",
            )
        return await self._with(settings, route_id, fields)

    async def with_changes(
        self, settings: RuntimeSettings, route_id: str, changes: dict[str, object]
    ) -> RuntimeSettings:
        """Of a route of any source; one of the file is then as it is there now, with the changes. Where its key comes
        from is one thing: another secret or variable takes the place of what there was. Raises NotFound."""
        found = (await self.table(settings)).routes.get(route_id)
        if found is None:
            raise await self._unknown(route_id)
        if found.driver == SHELL:
            raise Invalid(
                f"cannot change route {SHELL}: it is built in, for a person's own commands", code="invalid_route"
            )
        fields = msgspec.convert(msgspec.to_builtins(found), RouteFields)
        if changes.get("auth_ref"):
            fields = replace(fields, api_key_env="")
        elif changes.get("api_key_env"):
            fields = replace(fields, auth_ref="")
        return await self._with(settings, route_id, replace(fields, **changes))

    async def _with(self, settings: RuntimeSettings, route_id: str, fields: RouteFields) -> RuntimeSettings:
        try:
            read_route(route_id, asdict(fields))
        except RouteFault as fault:
            place = f"$.{fault.key}" if fault.key else "$"
            raise Invalid(f"cannot use route {route_id}: {fault.reason}", code="invalid_route", path=place) from fault
        routes = {**settings.routes, route_id: fields}
        if len(routes) > RUNTIME_ROUTES_MAX:
            raise Conflict(
                f"cannot add route {route_id}: {RUNTIME_ROUTES_MAX} were added; write it into routes.toml",
                code="route_conflict",
            )
        return await self.checked(replace(settings, routes=routes))

    async def without_route(self, settings: RuntimeSettings, route_id: str) -> RuntimeSettings:
        """Raises NotFound, or Conflict where the route stands elsewhere or is used."""
        if route_id not in settings.routes:
            table = await self.table(settings)
            if route_id not in table.routes:
                raise await self._unknown(route_id)
            source = table.sources.get(route_id, table.source)
            raise Conflict(
                f"cannot remove route {route_id}: it was not added while the daemon runs; "
                + _FOUND.get(source, f"take it out of {source}"),
                code="route_not_added",
            )
        routes = {name: fields for name, fields in settings.routes.items() if name != route_id}
        return await self.checked(replace(settings, routes=routes))

    async def _unknown(self, route_id: str) -> NotFound:
        known = ", ".join((await self.table()).routes)
        return NotFound(f"cannot find route {route_id}: there are {known}", code="route_not_found")

    async def probe(self, route_id: str, model: str, kind: TestKind) -> Probe:
        table = await self.table()
        route = table.routes.get(route_id)
        if route is None:
            raise await self._unknown(route_id)
        model = model or route.model
        if kind == "canary" and not model:
            raise Invalid(f"cannot try route {route_id} without a model", code="model_missing", path="$.model")
        try:
            return await probe(await self.open(route_id), model, kind)
        except ProviderError as error:
            return Probe(model=model, code=error.code, problem=error.message)


def _read_overlay(settings: RuntimeSettings) -> dict[str, Route]:
    """Raises Invalid for what only another version of Kheish can have written."""
    overlay = {}
    for route_id, fields in settings.routes.items():
        try:
            overlay[route_id] = read_route(route_id, asdict(fields))
        except RouteFault as fault:
            raise Invalid(
                f"cannot use route {route_id}: {fault.reason}; `kheish routes remove {route_id}`", code="invalid_routes"
            ) from fault
    return overlay


def _whole(chosen: RouteTable | None, settings: RuntimeSettings, overlay: Mapping[str, Route]) -> RouteTable:
    """What was chosen, what was set while the daemon runs, and what is built in."""
    base = chosen or RouteTable({}, next(iter(overlay), "rehearsal"), "built in")
    added = {route_id: route for route_id, route in BUILT_IN.items() if route_id not in base.routes}
    sources = dict.fromkeys(added, "built in")
    for route_id in overlay:
        sources[route_id] = RUNTIME + (f", instead of {base.source}" if route_id in base.routes else "")
    table = RouteTable(
        {**base.routes, **overlay, **{k: v for k, v in added.items() if k not in overlay}},
        base.default_route,
        base.source,
        base.chains,
        sources,
    )
    return _with_default(table, settings.model) if settings.model else table


def _with_default(table: RouteTable, kept: str) -> RouteTable:
    """With a choice that `name` made as the default."""
    if kept in table.chains:
        return replace(table, default_route=kept, default_model="")
    route_id, _, model = kept.partition("/")
    return replace(table, default_route=route_id, default_model=model)


def _default_of(table: RouteTable) -> tuple[str, str]:
    """(route, the model of it that was chosen, or ""); of a chain its first."""
    chain = table.chains.get(table.default_route)
    return (chain[0].route, chain[0].model) if chain else (table.default_route, table.default_model)


def _hops(table: RouteTable, selector: str) -> tuple[Hop, ...]:
    return table.chains.get(selector or table.default_route) or (_one_hop(table, selector),)


def _one_hop(table: RouteTable, selector: str) -> Hop:
    """`[route/]model`, of the default route where no other is named; of a default that is a chain its first route."""
    route_id, chosen = _default_of(table)
    model = selector or chosen
    prefix, slash, rest = model.partition("/")
    if selector and slash and prefix in table.chains:
        raise Invalid(f"cannot use {selector}: the chain {prefix} has its own models", path="$.model")
    if selector and slash and prefix in table.routes:
        route_id, model = prefix, rest
    elif selector and model in table.routes:
        route_id, model = model, ""
    if route_id not in table.routes:
        raise Conflict(
            f"cannot use the default: there is no route {route_id} any more; choose another with `kheish runtime "
            "set-model`, or of the session with `kheish sessions set-model`",
            code="route_not_ready",
        )
    model = model or table.routes[route_id].model
    if not model:
        raise Invalid(
            f"cannot use route {route_id} without a model: write {route_id}/MODEL",
            code="model_missing",
            path="$.model",
        )
    return Hop(route=route_id, model=model)


def find_local_server() -> RouteTable | None:
    """The first model server on this machine that lists a model; blocks for at most a second."""
    import http.client  # most daemons have a route, and start without it

    for name, base_url in LOCAL_SERVERS:
        url = urlsplit(base_url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", f"{url.path}/models")
            response = connection.getresponse()
            listed = json.loads(response.read(1 << 20)) if response.status == 200 else {}
            model = str(listed["data"][0]["id"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            continue
        finally:
            connection.close()
        route = Route(driver="openai_compatible", default_model=model, base_url=base_url)
        return RouteTable({name: route}, name, "local server")
    return None
