"""OpenAPI 3.1 of the table, from the very types that validate and answer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import orjson

from kheish import __version__
from kheish.api import problems
from kheish.api.router import Endpoint
from kheish.limits import CONNECTIONS_MAX, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, REQUEST_BODY_BYTES_MAX, SUBSCRIBERS_MAX
from kheish.wire.body import IDEMPOTENCY_KEY, View
from kheish.wire.status import STREAM_EVENTS, Problem

Json = dict[str, Any]

_ABOUT = f"""\
The daemon's API on its Unix socket; any host name will do. A body has at most {REQUEST_BODY_BYTES_MAX} bytes and is
read as JSON whatever its content type. Without `limit` a list has {PAGE_ITEMS_DEFAULT} items; more than
{PAGE_ITEMS_MAX} are never given. At most {CONNECTIONS_MAX} connections and {SUBSCRIBERS_MAX} streams are open at once.
HEAD is answered as GET without a body. Where there is no endpoint the answer is 404 `endpoint_not_found`; where it does
not take the method, 405 `method_not_allowed` with an Allow header."""
_JSON_LIMITS = """\
Any JSON value. An integer has at most 64 bits, and objects and arrays are nested at most about 250 deep: what is beyond
is refused."""
_ANY_JSON: Json = {
    "description": _JSON_LIMITS,
    "anyOf": [
        {"type": ["null", "boolean", "string"]},
        {"type": "number", "minimum": -(2**63), "maximum": 2**64 - 1},
        {"type": "array", "items": {"$ref": "#/components/schemas/Json"}},
        {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Json"}},
    ],
}
_ORIGIN: Json = {
    "name": "Kheish-Origin",
    "in": "header",
    "description": "What kind of client sends the request; journaled with its command. Other text counts as `http`.",
    "schema": {"type": "string", "default": "http", "examples": ["my-editor"]},
}
_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request gives the same result; with another one it is a conflict.",
    "schema": {"type": "string", "pattern": IDEMPOTENCY_KEY},
}


@cache
def describe(endpoints: tuple[Endpoint, ...]) -> bytes:
    """The document as JSON."""
    types: list[Any] = [Problem, *(event.data for event in STREAM_EVENTS)]
    types += [e.body for e in endpoints if e.body is not None]
    types += [e.returns for e in endpoints if e.returns not in (None, bytes)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    _complete(components)
    by_type = {repr(type_): schema for type_, schema in zip(types, schemas, strict=True)}
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_type)
    components |= {"Json": _ANY_JSON, "StreamEvent": _stream_event(by_type)}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Kheish", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "http://kheish", "description": "Over the Unix socket"}],
        "tags": [{"name": noun} for noun in dict.fromkeys(endpoint.noun for endpoint in endpoints)],
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }
    return orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)


def codes_of(endpoint: Endpoint) -> dict[int, list[str]]:
    """The codes of the problems that an endpoint may answer with, by status."""
    codes = {*problems.ANY, *endpoint.codes}
    for part in endpoint.parts.values():
        codes |= {*part.codes}
    if endpoint.body is not None:
        codes.add("malformed_json")
    if endpoint.keyed:
        codes.add("idempotency_conflict")
    if endpoint.stream:
        codes |= {"invalid_cursor", "too_many_subscribers"}
    if endpoint.is_command:
        codes.add("daemon_draining")
    if "id" in endpoint.parts:
        codes |= {*problems.OF_SESSION, *(problems.OF_APPEND if endpoint.is_command else ())}
    by_status = {status: [code for code in known if code in codes] for status, known in problems.CODES.items()}
    return {status: found for status, found in by_status.items() if found}


def _complete(components: dict[str, Json]) -> None:
    """Says what the types do not: an answer has all its fields, and objects of any content hold what JSON allows."""
    for view in _descendants(View):
        schema = components.get(view.__name__)
        if schema is not None and not view.__struct_config__.omit_defaults:
            schema["required"] = list(schema["properties"])
    for node in _nodes(components):
        if "description" in node and "title" in node:
            node["description"] = " ".join(node["description"].split())
        if node.get("type") == "object" and not {"properties", "additionalProperties"} & set(node):
            node["additionalProperties"] = {"$ref": "#/components/schemas/Json"}


def _descendants(base: type[View]) -> Iterator[type[View]]:
    for view in base.__subclasses__():
        yield view
        yield from _descendants(view)


def _nodes(value: Any) -> Iterator[Json]:
    """Every object in a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item)


def _operation(endpoint: Endpoint, by_type: dict[str, Json]) -> Json:
    operation: Json = {
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        "tags": [endpoint.noun],
        "parameters": list(_parameters(endpoint)),
        "responses": {
            str(endpoint.status): _answer(endpoint, by_type),
            **({"204": {"description": endpoint.if_empty}} if endpoint.if_empty else {}),
            **{str(status): _problem(status, codes) for status, codes in codes_of(endpoint).items()},
        },
    }
    if endpoint.body is not None:
        fields = msgspec.structs.fields(endpoint.body)
        operation["requestBody"] = {
            "required": any(field.required for field in fields),
            "content": {"application/json": {"schema": by_type[repr(endpoint.body)]}},
        }
    return operation


def _parameters(endpoint: Endpoint) -> Iterator[Json]:
    for name, part in endpoint.parts.items():
        schema = {"type": "string", "pattern": part.pattern}
        yield {"name": name, "in": "path", "required": True, "description": part.meaning, "schema": schema}
    (schema,), components = msgspec.json.schema_components([endpoint.query])
    query = components[schema["$ref"].rpartition("/")[2]]
    for name, schema in query["properties"].items():
        yield {"name": name, "in": "query", "required": name in query["required"], "schema": schema}
    if endpoint.keyed:
        yield _KEY
    if endpoint.stream:
        yield {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Takes the place of `cursor`: a reader that reconnects sends the id of the last event.",
            "schema": {k: v for k, v in query["properties"]["cursor"].items() if k != "default"},
        }
    yield _ORIGIN


def _answer(endpoint: Endpoint, by_type: dict[str, Json]) -> Json:
    if endpoint.stream:
        content: Json = {"text/event-stream": {"schema": {"$ref": "#/components/schemas/StreamEvent"}}}
    elif endpoint.returns is bytes:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    else:
        schema = {"type": "object"} if endpoint.returns is None else by_type[repr(endpoint.returns)]
        content = {"application/json": {"schema": schema}}
    return {"description": endpoint.summary, "content": content}


def _stream_event(by_type: dict[str, Json]) -> Json:
    """One event of a stream, as its fields: that is what OpenAPI before 3.2 describes of a stream."""
    return {
        "description": "A server-sent event. The stream is a sequence of them; the first may come with `retry`.",
        "oneOf": [
            {
                "description": event.meaning,
                "type": "object",
                "properties": {
                    "event": {"const": event.name},
                    "id": {"type": "string"} if event.has_id else False,
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": by_type[repr(event.data)],
                    },
                    "retry": {"type": "integer"},
                },
                "required": ["event", "data", *(["id"] if event.has_id else [])],
                "additionalProperties": False,
            }
            for event in STREAM_EVENTS
        ],
    }


def _problem(status: int, codes: list[str]) -> Json:
    shape: Json = {
        "allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"type": "object", "properties": {"status": {"const": status}, "code": {"enum": codes}}},
        ]
    }
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": {problems.CONTENT_TYPE.decode(): {"schema": shape}},
    }
