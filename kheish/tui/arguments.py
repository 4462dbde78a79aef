"""The arguments of a call as JSON that a person edits."""

from __future__ import annotations

import json
from typing import Any, cast

from kheish.errors import Invalid
from kheish.terminal import json_safe


def to_text(arguments: dict[str, Any]) -> str:
    return json_safe(json.dumps(arguments, ensure_ascii=False, indent=2)) + "\n"


def parse_arguments(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Raises Invalid, saying where the fault is."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Invalid(f"cannot read the JSON: {error}") from error
    if problem := schema_problem(value, {"type": "object", **schema}, "the arguments"):
        raise Invalid(problem)
    return cast(dict[str, Any], value)


_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def schema_problem(value: Any, schema: dict[str, Any], name: str) -> str:
    """What a JSON Schema has against a value, as far as a slip of the hand goes; the daemon checks it all."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is_of(value, kind) for kind in kinds):
        return f"{name} must be {' or '.join(kinds)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{name} must be one of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return next(filter(None, (schema_problem(v, schema["items"], f"{name}[{i}]") for i, v in enumerate(value))), "")
    if not isinstance(value, dict):
        return ""
    known: dict[str, Any] = schema.get("properties", {})
    if missing := [key for key in schema.get("required", ()) if key not in value]:
        return f"{name} must have {', '.join(missing)}"
    if schema.get("additionalProperties") is False and (others := [key for key in value if key not in known]):
        return f"{name} cannot have {', '.join(others)}"
    return next(filter(None, (schema_problem(v, known[key], key) for key, v in value.items() if key in known)), "")


def _is_of(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return isinstance(value, (int, float)[: 1 + (kind == "number")]) and not isinstance(value, bool)
    return isinstance(value, _TYPES.get(kind, object))
