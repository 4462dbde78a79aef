"""`routes.toml`: the named ways to a model, as a person writes them. Strict, with the line of every fault.

version = 1
default_route = "claude"

[routes.claude]
driver = "anthropic"
default_model = "claude-opus-4-6"
api_key_env = "ANTHROPIC_API_KEY"

[chains.careful]
routes = ["claude", { route = "gpt/gpt-5.4-mini", on = ["overloaded"] }, "local"]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kheish.config import explain, locate
from kheish.core.chains import MAY_PASS
from kheish.core.contracts import FailureCode
from kheish.core.events import Hop
from kheish.errors import Invalid
from kheish.limits import CHAIN_HOPS_MAX
from kheish.wire.runtime import ContextTokens, Price, RouteDriver
from kheish.wire.secrets import SECRET_NAME

Driver = Literal[RouteDriver, "shell"]
SHELL: Literal["shell"] = "shell"
"""The route, and its driver, of a person's own commands. No file may take the name, make it the default or a model."""
FILE_NAME = "routes.toml"
_ROUTE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Home(NamedTuple):
    """Where a driver goes without a `base_url`: where the variable of its SDK says, else to `url`; the variable of its
    key; the model that a route takes which goes there; and whether that is shown images and documents."""

    url: str = ""
    key_env: str = ""
    model: str = ""
    is_multimodal: bool = False
    url_env: str = ""


_OPENAI = "https://api.openai.com/v1"
HOMES: dict[Driver, Home] = {
    "anthropic": Home("https://api.anthropic.com", "ANTHROPIC_API_KEY", "claude-opus-4-6", True, "ANTHROPIC_BASE_URL"),
    "openai": Home(_OPENAI, "OPENAI_API_KEY", "gpt-5.4", True, "OPENAI_BASE_URL"),
    "openai_compatible": Home(_OPENAI, "OPENAI_API_KEY", "gpt-5.4", False, "OPENAI_BASE_URL"),
    "google": Home("https://generativelanguage.googleapis.com/v1beta/openai/", "GEMINI_API_KEY", "gemini-2.5-flash",
                   True),
    "openrouter": Home("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openai/gpt-5.4-mini", True),
    "xai": Home("https://api.x.ai/v1", "XAI_API_KEY", "grok-4-fast-reasoning", True),
    "ollama": Home("http://127.0.0.1:11434/v1"),
    "llama_cpp": Home("http://127.0.0.1:8080/v1"),
    "scripted": Home(),
    "rehearsal": Home(model="rehearsal"),
    SHELL: Home(model="bash"),
}  # fmt: skip
"""All but the first two speak Chat Completions, or reach no server."""


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to a model. The key itself is never here, only the name of the secret (`auth_ref`) or of the variable
    that holds it; a driver has its usual one, and a server with a `base_url` of its own needs none unless it is named.
    `multimodal_input` says whether the model is shown images and documents; `price` what its models cost, where no
    table knows that; `context_tokens` how many tokens the model takes, with those of the reply."""

    driver: Driver
    default_model: str = ""
    api_key_env: str = ""
    auth_ref: str = ""
    base_url: str = ""
    multimodal_input: bool | None = None
    price: Price | None = None
    context_tokens: ContextTokens | None = None

    @property
    def key_env(self) -> str:
        if self.auth_ref:
            return ""
        if self.api_key_env or (self.base_url and self.driver == "openai_compatible"):
            return self.api_key_env
        return HOMES[self.driver].key_env

    @property
    def model(self) -> str:
        return self.default_model or ("" if self.base_url else HOMES[self.driver].model)

    @property
    def is_multimodal(self) -> bool:
        return HOMES[self.driver].is_multimodal if self.multimodal_input is None else self.multimodal_input


BUILT_IN = {
    "scripted": Route(driver="scripted"),
    "rehearsal": Route(driver="rehearsal"),
    SHELL: Route(driver=SHELL),
}
"""Always there, unless a file gives the name to another route (never that of `shell`). The model of `scripted` is the
path of its script."""


NO_MODEL = ("rehearsal", SHELL)
"""Drivers without a language model behind them."""


class RouteTable(msgspec.Struct, frozen=True):
    """The routes in force, and the chains of them; `source` says where they come from, unless `sources` says otherwise
    of one. The default may be a chain; with `default_model` it is another model of its route than that has."""

    routes: dict[str, Route]
    default_route: str
    source: str
    chains: dict[str, tuple[Hop, ...]] = {}
    sources: dict[str, str] = {}
    default_model: str = ""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    routes: dict[str, Any]
    chains: dict[str, Any] = {}
    default_route: str = ""


class _Hop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    route: str
    on: tuple[FailureCode, ...] = ()


class _Chain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`routes` are `route[/model]` in the order in which they are taken; `on` says for which failures one is left."""

    routes: tuple[str | _Hop, ...]


def load_routes(path: Path, others: Mapping[str, Route] = {}) -> RouteTable | None:
    """The routes of a file, whose chains and default may name `others` too; None where there is none. Raises Invalid,
    with path and line."""
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Invalid(f"cannot read {path}: {error}", code="invalid_routes", path=str(path)) from error
    try:
        file = msgspec.convert(tables, _File)
    except msgspec.ValidationError as error:
        key, reason = explain(error)
        raise _fault(path, text, (key,), reason) from error
    if not file.routes:
        raise _fault(path, text, ("routes",), "there are no routes; add a table such as [routes.claude]")
    routes = {route_id: _read_route(path, text, route_id, table) for route_id, table in file.routes.items()}
    default = file.default_route or (next(iter(routes)) if len(routes) == 1 else "")
    if not default:
        raise _fault(path, text, (), "default_route is needed where there are several routes")
    known = {**routes, **others}
    chains = {chain_id: _read_chain(path, text, chain_id, table, known) for chain_id, table in file.chains.items()}
    if default not in known and default not in chains:
        raise _fault(path, text, ("default_route",), f"default_route names no route: {default}")
    return RouteTable(routes, default, str(path), chains)


FROM_KEYS: tuple[tuple[str, str, Route], ...] = (
    ("anthropic", "ANTHROPIC_API_KEY", Route(driver="anthropic")),
    ("openai", "OPENAI_API_KEY", Route(driver="openai")),
    ("gemini", "GEMINI_API_KEY", Route(driver="google")),
    ("gemini", "GOOGLE_API_KEY", Route(driver="google", api_key_env="GOOGLE_API_KEY")),
    ("openrouter", "OPENROUTER_API_KEY", Route(driver="openrouter")),
    ("xai", "XAI_API_KEY", Route(driver="xai")),
)
"""The routes that keys make: id, the variable that holds the key, and the route. The first is the default."""


def routes_from_env(environ: Mapping[str, str]) -> RouteTable | None:
    """The routes that keys alone make; None without a key. Raises Invalid for a base URL that is none."""
    routes: dict[str, Route] = {}
    for route_id, variable, route in FROM_KEYS:
        if environ.get(variable):
            routes.setdefault(route_id, route)
    base_url = environ.get("OPENAI_BASE_URL", "")
    if "openai" in routes and base_url:
        if problem := url_problem(base_url):
            raise Invalid(f"cannot use OPENAI_BASE_URL: it {problem}", code="invalid_routes")
        routes["openai"] = _openai_at(base_url)
    return RouteTable(routes, next(iter(routes)), "environment") if routes else None


def _openai_at(base_url: str) -> Route:
    """OpenAI itself, also in one of its regions, or a server that is taken to speak what every such server speaks."""
    host = urlsplit(base_url).hostname or ""
    if host == "api.openai.com" or host.endswith(".api.openai.com"):
        return Route(driver="openai", base_url=base_url, default_model=HOMES["openai"].model)
    return Route(driver="openai_compatible", base_url=base_url, api_key_env="OPENAI_API_KEY")


class RouteFault(Exception):
    """What is wrong with a route, and the key at fault, or "" for all of it. It repeats nothing that may be secret."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


def read_route(route_id: str, table: Any) -> Route:
    """A route from its keys, wherever they are written down. Raises RouteFault."""
    try:
        route = msgspec.convert(table, Route)
    except msgspec.ValidationError as error:
        raise RouteFault(*explain(error)) from error
    if not _ROUTE_ID.match(route_id):
        raise RouteFault("", "this is no route id: lower-case letters, digits, `.`, `_`, `-`")
    if SHELL in (route_id, route.driver):
        raise RouteFault("", f"{SHELL} is built in, for a person's own commands, and no way to a model")
    if not route.model:
        raise RouteFault("", "it needs a default_model (--model)")
    if problem := url_problem(route.base_url):
        raise RouteFault("base_url", f"base_url {problem}")
    if route.api_key_env and not _VARIABLE.match(route.api_key_env):
        raise RouteFault("api_key_env", "api_key_env must be the name of an environment variable, not a key")
    if route.auth_ref and not re.fullmatch(SECRET_NAME.removesuffix("$"), route.auth_ref):
        raise RouteFault("auth_ref", "auth_ref must be the name of a secret, not a key")
    if route.auth_ref and route.api_key_env:
        raise RouteFault("auth_ref", "it has both an auth_ref and an api_key_env; one of them holds the key")
    return route


def _read_route(path: Path, text: str, route_id: str, table: Any) -> Route:
    try:
        return read_route(route_id, table)
    except RouteFault as fault:
        place = ("routes", route_id, *fault.key.split("."))
        raise _fault(path, text, place, f"route {route_id}: {fault.reason}") from fault


def _read_chain(path: Path, text: str, chain_id: str, table: Any, routes: Mapping[str, Route]) -> tuple[Hop, ...]:
    def fault(key: str, reason: str) -> Invalid:
        return _fault(path, text, ("chains", chain_id, key), f"chain {chain_id}: {reason}")

    try:
        chain = msgspec.convert(table, _Chain)
    except msgspec.ValidationError as error:
        key, reason = explain(error)
        raise fault(key if not key or key in table else "routes", reason) from error
    if not _ROUTE_ID.match(chain_id):
        raise fault("", "this is no chain id: lower-case letters, digits, `.`, `_`, `-`")
    if chain_id in routes or chain_id in BUILT_IN:
        raise fault("", "a route has this name")
    hops: list[Hop] = []
    for given in chain.routes:
        named = given if isinstance(given, _Hop) else _Hop(route=given)
        route_id, _, model = named.route.partition("/")
        route = routes.get(route_id) or BUILT_IN.get(route_id)
        if route is None or route_id == SHELL:
            raise fault("routes", f"{route_id} is no route" if route is None else f"{SHELL} is no way to a model")
        if never := [code for code in named.on if code not in MAY_PASS]:
            raise fault("routes", f"a route is not left for {never[0]}; it may be for {', '.join(MAY_PASS)}")
        if not (model or route.model):
            raise fault("routes", f"{route_id} needs a model: write {route_id}/MODEL")
        hops.append(Hop(route=route_id, model=model or route.model, on=named.on))
    if len({(hop.route, hop.model) for hop in hops}) < len(hops):
        raise fault("routes", "the same route and model are in it twice")
    if not 1 <= len(hops) <= CHAIN_HOPS_MAX:
        raise fault("routes", f"it needs between 1 and {CHAIN_HOPS_MAX} routes")
    return tuple(hops)


def url_problem(base_url: str) -> str:
    """What is wrong with a base URL that is given, or "". It does not repeat it: it may hold a password."""
    try:
        url = urlsplit(base_url)
        is_whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        is_bare = "@" not in url.netloc and not url.query and not url.fragment
        # What no client takes in a URL: blanks, control characters, what is no ASCII.
        is_bare = is_bare and base_url.isascii() and base_url.isprintable() and " " not in base_url
    except ValueError:
        is_whole = is_bare = False
    return "" if not base_url or (is_whole and is_bare) else "must be http(s)://host[:port][/path]"


def _fault(path: Path, text: str, place: tuple[str, ...], message: str) -> Invalid:
    """The error, with the line of the key or table that it speaks of."""
    where = locate(path, text, tuple(filter(None, place)))
    return Invalid(f"cannot read {where}: {message}", code="invalid_routes", path=str(path))
