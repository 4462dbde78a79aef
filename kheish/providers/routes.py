"""`routes.toml`: the named ways to a model, as a person writes them. Strict, with the line of every fault.

version = 1
default_route = "claude"

[routes.claude]
driver = "anthropic"
default_model = "claude-opus-4-6"
api_key_env = "ANTHROPIC_API_KEY"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from kheish.errors import Invalid

Driver = Literal["anthropic", "openai_compatible", "scripted", "rehearsal"]
FILE_NAME = "routes.toml"
_ROUTE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")

KEY_ENV: dict[str, str] = {"anthropic": "ANTHROPIC_API_KEY", "openai_compatible": "OPENAI_API_KEY"}
DEFAULT_MODEL: dict[str, str] = {
    "anthropic": "claude-opus-4-6",
    "openai_compatible": "gpt-5.4",
    "rehearsal": "rehearsal",
}


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to a model. The key itself is never here, only the name of the variable that holds it; a driver has
    its usual one, and a server with a `base_url` of its own needs none unless it is named."""

    driver: Driver
    default_model: str = ""
    api_key_env: str = ""
    base_url: str = ""

    @property
    def key_env(self) -> str:
        if self.api_key_env or (self.base_url and self.driver == "openai_compatible"):
            return self.api_key_env
        return KEY_ENV.get(self.driver, "")

    @property
    def model(self) -> str:
        return self.default_model or ("" if self.base_url else DEFAULT_MODEL.get(self.driver, ""))


class RouteTable(msgspec.Struct, frozen=True):
    """The routes in force; `source` says where they come from."""

    routes: dict[str, Route]
    default_route: str
    source: str


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    routes: dict[str, Route]
    default_route: str = ""


def load_routes(path: Path) -> RouteTable | None:
    """The routes of a file; None where there is none. Raises Invalid, with path and line."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"cannot read {path}: {error}", code="invalid_routes", path=str(path)) from error
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"cannot read {path}: {error}", code="invalid_routes", path=str(path)) from error
    except msgspec.ValidationError as error:
        raise _fault(path, text, str(error)) from error
    if not file.routes:
        raise _fault(path, text, "there are no routes; add a table such as [routes.claude]")
    default = file.default_route or (next(iter(file.routes)) if len(file.routes) == 1 else "")
    if not default:
        raise _fault(path, text, "default_route is needed where there are several routes")
    if default not in file.routes:
        raise _fault(path, text, f"default_route names no route: {default}", "default_route")
    for route_id, route in file.routes.items():
        _check(path, text, route_id, route)
    return RouteTable(file.routes, default, str(path))


def routes_from_env(environ: Mapping[str, str]) -> RouteTable | None:
    """The routes that keys alone make; None without a key."""
    routes = {}
    if environ.get("ANTHROPIC_API_KEY"):
        routes["anthropic"] = Route(driver="anthropic")
    if environ.get("OPENAI_API_KEY"):
        routes["openai"] = Route(driver="openai_compatible", base_url=environ.get("OPENAI_BASE_URL", ""))
    return RouteTable(routes, next(iter(routes)), "environment") if routes else None


def _check(path: Path, text: str, route_id: str, route: Route) -> None:
    if not _ROUTE_ID.match(route_id):
        raise _fault(path, text, f"{route_id!r} is no route id: lower-case letters, digits, `.`, `_`, `-`", route_id)
    if not route.model:
        raise _fault(path, text, f"route {route_id} needs a default_model", f"[routes.{route_id}]")
    if route.base_url:
        url = urlsplit(route.base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
            raise _fault(
                path, text, f"base_url of route {route_id} must be http(s)://host[:port][/path]", f"[routes.{route_id}]"
            )


def _fault(path: Path, text: str, message: str, near: str = "") -> Invalid:
    """The error, with the line where the key it speaks of stands."""
    field = re.search(r"unknown field `(\w+)`", message)
    where = re.search(r"\$\.routes\[\.\.\.\](?:\.(\w+))?", message)
    name = near or (field.group(1) if field else "") or ((where.group(1) or "") if where else "")
    for number, line in enumerate(text.splitlines(), 1):
        if name and name in line.split("#")[0]:
            return Invalid(f"cannot read {path}, line {number}: {message}", code="invalid_routes", path=str(path))
    return Invalid(f"cannot read {path}: {message}", code="invalid_routes", path=str(path))
