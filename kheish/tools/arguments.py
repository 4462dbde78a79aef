"""A tool's arguments as one type: the JSON Schema that the model sees and the check that the core runs come from it."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, TypeVar

import msgspec

from kheish.core.contracts import ToolSpec
from kheish.core.events import Effect, ToolKind
from kheish.limits import TOOL_TIMEOUT_MS

A = TypeVar("A", bound="ToolArguments")


class ToolArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every tool's arguments. `problem` may add what a schema cannot say."""

    def problem(self) -> str:
        """What is wrong with these values, or ""."""
        return ""


def parse(type_: type[A], arguments: dict[str, Any]) -> A:
    """Arguments that were checked before."""
    return msgspec.convert(arguments, type_)


def make_spec(
    name: str,
    type_: type[ToolArguments],
    *,
    effect: Effect,
    kind: ToolKind = "function",
    main_argument: str = "",
    timeout_ms: int = TOOL_TIMEOUT_MS,
) -> ToolSpec:
    """The specification of a tool; its prose is the file `<name>.md` beside its module."""

    def check(arguments: dict[str, Any]) -> str:
        try:
            msgspec.json.encode(arguments)
            return msgspec.convert(arguments, type_).problem()
        except UnicodeEncodeError:
            return "the arguments contain half of a surrogate pair, which is no text"
        except msgspec.ValidationError as error:
            return f"{error}; {name} takes {_signature(type_)}"

    return ToolSpec(
        name=name,
        description=resources.files("kheish.tools").joinpath(f"{name}.md").read_text("utf-8").strip(),
        input_schema=_schema(type_),
        effect=effect,
        kind=kind,
        main_argument=main_argument,
        timeout_ms=timeout_ms,
        check=check,
    )


@cache
def _schema(type_: type[ToolArguments]) -> dict[str, Any]:
    """A plain object schema: nested types inlined, since some model APIs know no `$ref`."""
    (schema,), definitions = msgspec.json.schema_components([type_], ref_template="{name}")
    inlined: dict[str, Any] = _inline(schema, definitions)
    inlined.pop("title", None)
    inlined.pop("description", None)
    return inlined


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {k: v for k, v in definitions[node["$ref"]].items() if k not in ("title", "description")}
    return {key: _inline(value, definitions) for key, value in node.items()}


def _signature(type_: type[ToolArguments]) -> str:
    fields = msgspec.structs.fields(type_)
    return ", ".join(f.encode_name if f.required else f"[{f.encode_name}]" for f in fields)
