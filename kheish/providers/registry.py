"""The table of drivers and the routes in force: from `routes.toml`, else from keys in the environment, else from a
model server on this machine, else the rehearsal."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from kheish.core.events import Hop
from kheish.errors import Conflict, Invalid, KheishError, NotFound, ProviderError
from kheish.providers.prices import find_window
from kheish.providers.routes import (
    BUILT_IN,
    FILE_NAME,
    NO_MODEL,
    OWN_SERVER,
    Route,
    RouteTable,
    load_routes,
    routes_from_env,
)
from kheish.runtime.ports import Provider

LOCAL_SERVERS = (
    ("ollama", "http://127.0.0.1:11434/v1"),
    ("llamacpp", "http://127.0.0.1:8080/v1"),
    ("lmstudio", "http://127.0.0.1:1234/v1"),
)
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

    def __init__(self, config_dir: Path, environ: Mapping[str, str] | None = None, reveal: Reveal = no_secret) -> None:
        self._directory = config_dir
        self._environ = os.environ if environ is None else environ
        self._stamp: tuple[int, int] | None = None
        self._file: RouteTable | None = None
        self._local: tuple[float, RouteTable | None] = (float("-inf"), None)
        self._reveal = reveal
        self._open: dict[str, tuple[Route, str, Provider]] = {}
        self._opening = asyncio.Lock()
        self._windows: dict[tuple[str, str, str], int] = {}

    async def table(self) -> RouteTable:
        """The routes in force, the built-in ones last. Raises Invalid for a file that cannot be read."""
        chosen = self._from_file() or routes_from_env(self._environ) or await self._local_server()
        if chosen is None:
            return RouteTable(dict(BUILT_IN), "rehearsal", "built in")
        return RouteTable(
            {**chosen.routes, **{k: v for k, v in BUILT_IN.items() if k not in chosen.routes}},
            chosen.default_route,
            chosen.source,
            chosen.chains,
        )

    def _from_file(self) -> RouteTable | None:
        path = self._directory / FILE_NAME
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._stamp, self._file = None, None
            return None
        except OSError as error:
            raise Invalid(f"cannot read {path}: {error.strerror}", code="invalid_routes", path=str(path)) from error
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp != self._stamp:
            self._file = load_routes(path)
            self._stamp = stamp
        return self._file

    async def _local_server(self) -> RouteTable | None:
        at, found = self._local
        if time.monotonic() - at > _PROBE_KEPT_S:
            found = await asyncio.to_thread(find_local_server)
            self._local = (time.monotonic(), found)
        return found

    async def resolve(self, selector: str | None) -> tuple[Hop, ...]:
        table = await self.table()
        hops = table.chains.get(selector or table.default_route) or (_one_hop(table, selector or ""),)
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
        if route.driver in NO_MODEL:
            return -1
        if route.context_tokens is not None or route.driver == "scripted":
            return route.context_tokens or 0
        place = route.driver, route.base_url, model
        if place not in self._windows:
            self._windows[place] = await find_window(*place)
        return self._windows[place]

    async def open(self, route_id: str) -> Provider:
        try:
            table = await self.table()
        except KheishError as error:
            raise ProviderError(error.message, code="route_not_ready") from error
        route = table.routes.get(route_id)
        if route is None:
            raise ProviderError(f"cannot find route {route_id}: it is no longer configured", code="route_not_ready")
        key, problem = await self._key(route)
        if problem:
            raise ProviderError(f"cannot use route {route_id}: {problem}", code="route_not_ready")
        async with self._opening:
            known = self._open.get(route_id)
            if known is None or known[:2] != (route, key):
                known = self._open[route_id] = (route, key, await self._connect(route, key))
        return known[2]

    async def _connect(self, route: Route, key: str) -> Provider:
        base_url = self._base_url(route)
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
            case "openai_compatible":
                from kheish.providers import openai_compatible

                return await openai_compatible.connect(api_key=key, base_url=base_url, multimodal=route.is_multimodal)

    def _base_url(self, route: Route) -> str:
        """Never left to the SDKs, which take a variable that is set to nothing for a server."""
        variable, own = OWN_SERVER.get(route.driver, ("", ""))
        return route.base_url or self._environ.get(variable, "").strip() or own

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

    async def describe(self) -> list[dict[str, Any]]:
        table = await self.table()
        default_hops = table.chains.get(table.default_route)
        default_route = default_hops[0].route if default_hops else table.default_route
        problems = {route_id: (await self._key(route))[1] for route_id, route in table.routes.items()}
        return [
            {
                "route_id": route_id,
                "driver": route.driver,
                "default_model": route.model,
                "base_url": route.base_url,
                "api_key_env": route.key_env,
                "auth_ref": route.auth_ref,
                "multimodal_input": route.is_multimodal,
                "is_default": route_id == default_route,
                "ready": not problems[route_id],
                "problem": problems[route_id],
                "source": table.source if BUILT_IN.get(route_id) is not route else "built in",
            }
            for route_id, route in table.routes.items()
        ]

    async def describe_chains(self) -> list[dict[str, Any]]:
        table = await self.table()
        return [
            {"chain_id": chain_id, "hops": list(hops), "is_default": chain_id == table.default_route}
            for chain_id, hops in table.chains.items()
        ]


def _one_hop(table: RouteTable, selector: str) -> Hop:
    """`[route/]model`, of the default route where no other is named; of a default that is a chain its first route."""
    chain = table.chains.get(table.default_route)
    route_id, model = chain[0].route if chain else table.default_route, selector
    prefix, slash, rest = model.partition("/")
    if slash and prefix in table.chains:
        raise Invalid(f"cannot use {selector}: the chain {prefix} has its own models", path="$.model")
    if slash and prefix in table.routes:
        route_id, model = prefix, rest
    elif model in table.routes:
        route_id, model = model, ""
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
