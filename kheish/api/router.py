"""The table's machinery: what an endpoint is, how a path finds it, how a request becomes a call."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from kheish.api.problems import MethodNotAllowed, invalid_body
from kheish.core.codec import canonical_digest
from kheish.errors import Invalid, KheishError, NotFound
from kheish.runtime.supervisor import Caller
from kheish.wire.body import SESSION_ID, Body
from kheish.wire.debug import DEBUG_ARTIFACT
from kheish.wire.routes import ROUTE_ID
from kheish.wire.secrets import SECRET_NAME

B = TypeVar("B")
Q = TypeVar("Q")


class NoQuery(Body, frozen=True):
    pass


class Call(msgspec.Struct, Generic[B, Q]):
    """One request, checked: the parts of its path, its query, its body (None where the endpoint takes none), who
    sends it, and the key that makes it safe to repeat."""

    path: dict[str, str]
    query: Q
    body: B
    caller: Caller
    key: str = ""
    body_digest: str = ""
    last_event_id: str = ""


class Raw(msgspec.Struct, frozen=True):
    """An answer that is no JSON of ours."""

    data: bytes
    content_type: str = "application/octet-stream"


class Part(msgspec.Struct, frozen=True):
    """What stands in a path after one of its words. What does not have its form is `refused` with the first code."""

    pattern: str
    meaning: str
    codes: tuple[str, ...]
    refused: type[KheishError] = NotFound


_DIGITS = "[0-9A-HJKMNP-TV-Z]"
PARTS = {
    "sessions": Part(SESSION_ID, "the id of a session", ("invalid_request",), Invalid),
    "runs": Part(f"^(run_)?{_DIGITS}{{1,26}}$", "the id of a run, or an unambiguous beginning of it",
                 ("run_not_found", "ambiguous_id")),
    "queue": Part(f"^run_{_DIGITS}{{26}}$", "the id of a queued run", ("run_not_found",)),
    "approvals": Part(f"^(approval_)?{_DIGITS}{{1,26}}$", "the id of an approval, or an unambiguous beginning of it",
                      ("approval_not_found", "approval_state_conflict", "ambiguous_id")),
    "questions": Part(f"^(question_)?{_DIGITS}{{1,26}}$", "the id of a question, or an unambiguous beginning of it",
                      ("question_not_found", "question_state_conflict", "ambiguous_id")),
    "debug": Part(DEBUG_ARTIFACT, "a step and an attempt, such as 2.1", ("debug_artifact_not_found",)),
    "secrets": Part(SECRET_NAME, "the name of a secret: lower-case letters, digits, `.`, `_`, `-`",
                    ("invalid_request", "secret_not_found"), Invalid),
    "routes": Part(ROUTE_ID, "the id of a route: lower-case letters, digits, `.`, `_`, `-`",
                   ("invalid_request", "route_not_found"), Invalid),
    "blobs": Part("^[0-9a-f]{64}$", "the sha256 of the bytes", ("invalid_request", "blob_not_found"), Invalid),
}  # fmt: skip

Handler = Callable[..., Awaitable[object]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table. `returns` is the type of the answer; `stream` says that it is server-sent events.
    `keyed`: takes an Idempotency-Key. `codes` are the problems that its form does not tell (`openapi.codes_of`);
    `if_empty` says when the answer is 204; `waits` that it may be long in coming, and ends when the client leaves."""

    method: str
    path: str
    handler: Handler
    summary: str
    returns: Any = None
    body: Any = None
    query: Any = NoQuery
    status: int = 200
    stream: bool = False
    keyed: bool = False
    codes: tuple[str, ...] = ()
    if_empty: str = ""
    waits: bool = False

    @property
    def parts(self) -> dict[str, Part]:
        """The parts of the path by their names."""
        return _parts_of(self.path)

    @property
    def is_command(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"

    @property
    def operation(self) -> str:
        """Its id in the description of the API."""
        return self.handler.__name__

    @property
    def noun(self) -> str:
        return self.path.removeprefix("/v1/").partition("/")[0].strip("/")


@cache
def _parts_of(path: str) -> dict[str, Part]:
    return {name: PARTS[word] for word, name in re.findall(r"/([^/]+)/\{(\w+)\}", path)}


class Router:
    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        self.endpoints = endpoints
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Endpoint]]] = []
        for endpoint in endpoints:
            if "{" not in endpoint.path:
                self._exact.setdefault(endpoint.path, {})[endpoint.method] = endpoint
                continue
            pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", endpoint.path) + r"\Z")
            for known, methods in self._patterns:
                if known == pattern:
                    methods[endpoint.method] = endpoint
                    break
            else:
                self._patterns.append((pattern, {endpoint.method: endpoint}))

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """`path` is as it was sent: an encoded slash in a part does not part it. Raises NotFound, or MethodNotAllowed
        with the methods that there are."""
        methods, parts = self._methods(path)
        if not methods:
            raise NotFound(f"cannot find {path}: see GET /v1/openapi.json", code="endpoint_not_found")
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            raise MethodNotAllowed(f"cannot {method} {path}: it takes {', '.join(methods)}", allow=list(methods))
        return endpoint, parts

    def _methods(self, path: str) -> tuple[dict[str, Endpoint], dict[str, str]]:
        exact = self._exact.get(path)
        if exact is not None:
            return exact, {}
        for pattern, methods in self._patterns:
            match = pattern.match(path)
            if match is not None:
                return methods, {name: unquote(value) for name, value in match.groupdict().items()}
        return {}, {}


def check_parts(endpoint: Endpoint, given: dict[str, str]) -> None:
    """Raises what the part says for one that does not have its form."""
    for name, part in endpoint.parts.items():
        if not re.fullmatch(part.pattern.removesuffix("$"), given[name]):
            raise part.refused(f"cannot use {given[name]!r} as {part.meaning}", code=part.codes[0], path=name)


def parse_query(endpoint: Endpoint, raw: bytes) -> Any:
    """Raises Invalid for an unknown or mistyped parameter, or one that is given twice."""
    pairs = parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True) if raw else []
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Invalid("cannot accept the query: a parameter is given twice", path="$")
    try:
        return msgspec.convert(values, endpoint.query, strict=False)
    except msgspec.ValidationError as error:
        fault = invalid_body(str(error))
        raise Invalid(fault.message.replace("the request", "the query"), code=fault.code, **fault.details) from error


def parse_body(endpoint: Endpoint, path: dict[str, str], raw: bytes) -> tuple[Any, str]:
    """The checked body, and the digest that an Idempotency-Key is bound to: of the endpoint, the parts of the path and
    the body. Raises Invalid: `malformed_json`, or `invalid_request` with the path of the fault."""
    if endpoint.body is None:
        return None, ""
    try:
        body = msgspec.json.decode(raw or b"{}", type=endpoint.body)
        return body, canonical_digest([endpoint.method, endpoint.path, path, msgspec.to_builtins(body)])
    except msgspec.ValidationError as error:
        raise invalid_body(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"cannot read the body as JSON: {error}", code="malformed_json", path="$") from error
    except (TypeError, RecursionError) as error:
        # Integers over 64 bits and very deep nesting have no canonical form: an approval could not be bound to them.
        raise Invalid(f"cannot accept the request: {error}", code="invalid_request", path="$") from error
