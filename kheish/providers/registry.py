"""The table of drivers and the routes in force: from `routes.toml`, else from keys in the environment, else from a
model server on this machine, else the rehearsal."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kheish.errors import Conflict, Invalid, KheishError, ProviderError
from kheish.providers.routes import FILE_NAME, OWN_SERVER, SHELL, Route, RouteTable, load_routes, routes_from_env
from kheish.runtime.ports import Provider

LOCAL_SERVERS = (
    ("ollama", "http://127.0.0.1:11434/v1"),
    ("llamacpp", "http://127.0.0.1:8080/v1"),
    ("lmstudio", "http://127.0.0.1:1234/v1"),
)
_PROBE_TIMEOUT_S = 0.3
_PROBE_KEPT_S = 30.0

BUILT_IN = {
    "scripted": Route(driver="scripted"),
    "rehearsal": Route(driver="rehearsal"),
    SHELL: Route(driver=SHELL),
}
"""Always there, unless a file gives the name to another route (never that of `shell`). The model of `scripted` is the
path of its script."""


class Routes:
    """Implements `runtime.ports.Providers`. Keys are read from the daemon's environment when a route is first used and
    never shown. A changed `routes.toml` is in force from the next run."""

    def __init__(self, config_dir: Path, environ: Mapping[str, str] | None = None) -> None:
        self._directory = config_dir
        self._environ = os.environ if environ is None else environ
        self._stamp: tuple[int, int] | None = None
        self._file: RouteTable | None = None
        self._local: tuple[float, RouteTable | None] = (float("-inf"), None)
        self._open: dict[tuple[str, Route], Provider] = {}
        self._opening = asyncio.Lock()

    async def table(self) -> RouteTable:
        """The routes in force, the built-in ones last. Raises Invalid for a file that cannot be read."""
        chosen = self._from_file() or routes_from_env(self._environ) or await self._local_server()
        if chosen is None:
            return RouteTable(dict(BUILT_IN), "rehearsal", "built in")
        return RouteTable(
            {**chosen.routes, **{k: v for k, v in BUILT_IN.items() if k not in chosen.routes}},
            chosen.default_route,
            chosen.source,
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

    async def resolve(self, selector: str | None) -> tuple[str, str]:
        table = await self.table()
        route_id, model = table.default_route, selector or ""
        prefix, slash, rest = model.partition("/")
        if slash and prefix in table.routes:
            route_id, model = prefix, rest
        elif model in table.routes:
            route_id, model = model, ""
        route = table.routes[route_id]
        model = model or route.model
        if not model:
            raise Invalid(
                f"cannot use route {route_id} without a model: write {route_id}/MODEL",
                code="model_missing",
                path="$.model",
            )
        if problem := self._problem(route):
            raise Conflict(f"cannot use route {route_id}: {problem}", code="route_not_ready")
        return route_id, model

    async def open(self, route_id: str) -> Provider:
        try:
            table = await self.table()
        except KheishError as error:
            raise ProviderError(error.message, code="route_not_ready") from error
        route = table.routes.get(route_id)
        if route is None:
            raise ProviderError(f"cannot find route {route_id}: it is no longer configured", code="route_not_ready")
        if problem := self._problem(route):
            raise ProviderError(f"cannot use route {route_id}: {problem}", code="route_not_ready")
        async with self._opening:
            provider = self._open.get((route_id, route))
            if provider is None:
                provider = await self._connect(route)
                self._open[route_id, route] = provider
        return provider

    async def _connect(self, route: Route) -> Provider:
        key, base_url = self._key(route), self._base_url(route)
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

    def _key(self, route: Route) -> str:
        """Without the white space that files leave at its end."""
        return self._environ.get(route.key_env, "").strip() if route.key_env else ""

    def _problem(self, route: Route) -> str:
        key = self._key(route)
        if route.key_env and not key:
            return f"{route.key_env} is not set where the daemon was started; set it, then `kheish daemon restart`"
        if not (key.isascii() and key.isprintable()):
            return f"{route.key_env} holds characters that no key has; set it anew, then `kheish daemon restart`"
        return ""

    async def describe(self) -> list[dict[str, Any]]:
        table = await self.table()
        return [
            {
                "route_id": route_id,
                "driver": route.driver,
                "default_model": route.model,
                "base_url": route.base_url,
                "api_key_env": route.key_env,
                "multimodal_input": route.is_multimodal,
                "is_default": route_id == table.default_route,
                "ready": not self._problem(route),
                "problem": self._problem(route),
                "source": table.source if BUILT_IN.get(route_id) is not route else "built in",
            }
            for route_id, route in table.routes.items()
        ]


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
