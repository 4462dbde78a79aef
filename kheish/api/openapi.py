"""OpenAPI 3.1 of the table, from the very types that validate and answer."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec
import orjson

from kheish import __version__
from kheish.api.router import Endpoint
from kheish.wire.status import Problem, RecordView

_REF = "#/components/schemas/{name}"
_STREAM = (
    "Server-sent events: `record` (id: the cursor, data: RecordView), `sync` (the replay has ended), `delta` (live "
    "text, no id), `heartbeat`, `gap` (reconnect with the last id), `bye` (the stream is over, and why)."
)


@cache
def describe(endpoints: tuple[Endpoint, ...]) -> bytes:
    """The document as JSON."""
    types: list[Any] = [Problem, RecordView]
    types += [e.body for e in endpoints if e.body is not None]
    types += [e.returns for e in endpoints if e.returns not in (None, bytes)]
    types += [e.query for e in endpoints]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(_key, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_type, components)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Kheish", "version": __version__, "description": "The daemon's API on its Unix socket."},
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }
    return orjson.dumps(document)


def _key(type_: Any) -> str:
    return repr(type_)


def _operation(endpoint: Endpoint, by_type: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    query = _resolve(by_type[_key(endpoint.query)], components)
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in query.get("properties", {}).items()
    ]
    if endpoint.keyed:
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 200}})
    if endpoint.stream:
        parameters.append({"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}})
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "tags": [endpoint.noun],
        "parameters": parameters,
        "responses": {
            str(endpoint.status): {"description": endpoint.summary, "content": _content(endpoint, by_type)},
            "default": {
                "description": "A problem",
                "content": {"application/problem+json": {"schema": by_type[_key(Problem)]}},
            },
        },
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": by_type[_key(endpoint.body)]}},
        }
    return operation


def _content(endpoint: Endpoint, by_type: dict[str, Any]) -> dict[str, Any]:
    if endpoint.stream:
        return {"text/event-stream": {"schema": {"type": "string", "description": _STREAM}}}
    if endpoint.returns is bytes:
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    schema = by_type[_key(endpoint.returns)] if endpoint.returns is not None else {"type": "object"}
    return {"application/json": {"schema": schema}}


def _resolve(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found
