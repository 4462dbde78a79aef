"""Makes what follows from something else in kheish.client: the types of answers, and the asynchronous nouns."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from kheish.api.endpoints import ENDPOINTS
from kheish.core import events
from kheish.core.state import RunStatus
from kheish.wire import routes, runtime, sessions
from kheish.wire.approvals import ResolveOneOfMany
from kheish.wire.questions import AnswerBody
from kheish.wire.runs import InputAttachment
from kheish.wire.status import STREAM_EVENTS, StreamEvent
from tests.architecture.modules import REPOSITORY

MADE = "Made from {source} by `python -m tests.architecture.generated`; changes belong there."

# -- the types of answers -------------------------------------------------------------------------------------------

ALIASES = {
    value: name
    for module in (events, sessions, runtime, routes)
    for name, value in {**vars(module), "RunStatus": RunStatus}.items()
    if get_origin(value) is Literal
}
SPELLED = {**ALIASES, events.AnyEvent: "AnyEvent"}
BODIES = (InputAttachment, AnswerBody, ResolveOneOfMany)
"""What a method takes as an object of JSON."""
HEAD = '''"""{made}

The daemon's answers as types. At run time an answer is a plain dict, and an event of a stream is a `follow.Frame`. A
newer daemon may send more fields, and events of other types.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict
'''


def views() -> str:
    """kheish/client/views.py: a TypedDict for each struct that is sent, a class for each kind of event of a stream."""
    found: dict[str, type] = {}
    answers = (*(endpoint.returns for endpoint in ENDPOINTS), *(kind.data for kind in STREAM_EVENTS))
    for type_ in (*answers, *BODIES):
        for struct in structs_in(type_):
            assert found.setdefault(struct.__name__, struct) is struct, f"two structs are named {struct.__name__}"
    parts = [HEAD.format(made=MADE.format(source="kheish/wire and kheish/core/events.py"))]
    parts.append("".join(f"{name} = {spell_literal(value)}\n" for value, name in ALIASES.items()))
    parts += [typed_dict(struct) for _, struct in sorted(found.items())]
    parts.append(f"AnyEvent = {' | '.join(event.__name__ for event in get_args(events.AnyEvent))}\n")
    parts += [stream_event(kind) for kind in STREAM_EVENTS]
    parts.append(f"StreamEvent = {' | '.join(stream_event_name(kind) for kind in STREAM_EVENTS)}\n")
    return formatted("\n".join(parts), "kheish/client/views.py")


def structs_in(type_: Any) -> Iterator[type]:
    """The structs that a type is made of."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        yield type_
        for field in get_type_hints(type_).values():
            yield from structs_in(field)
    for inner in get_args(type_):
        yield from structs_in(inner)


def typed_dict(struct: Any) -> str:
    config = struct.__struct_config__
    may_lack = config.omit_defaults or config.forbid_unknown_fields
    lines = [f"class {struct.__name__}(TypedDict):"]
    if struct.__doc__:
        lines += [f'    """{inspect.getdoc(struct)}"""'.replace("\n", "\n    "), ""]
    if config.tag_field:
        lines.append(f"    {config.tag_field}: Literal[{config.tag!r}]")
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        spelled = spell(hints[field.name])
        lines.append(f"    {field.name}: {spelled if field.required or not may_lack else f'NotRequired[{spelled}]'}")
    return "\n".join(lines) + "\n"


def stream_event(kind: StreamEvent) -> str:
    meaning = f"{kind.meaning[0].upper()}{kind.meaning[1:]}."
    return (
        f"class {stream_event_name(kind)}:\n"
        f'    """{meaning}"""\n\n'
        f"    event: Literal[{kind.name!r}]\n    id: str\n    data: {kind.data.__name__}\n"
    )


def stream_event_name(kind: StreamEvent) -> str:
    return f"{kind.name.title()}Event"


def spell(type_: Any) -> str:
    """The type of the JSON, in the words of Python."""
    if type_ in SPELLED:
        return SPELLED[type_]
    args = get_args(type_)
    match get_origin(type_):
        case origin if origin is Annotated:
            return spell(args[0])
        case origin if origin is Literal:
            return spell_literal(type_)
        case origin if origin in (Union, UnionType):
            return " | ".join(map(spell, args))
        case origin if origin in (list, tuple):
            return f"list[{spell(args[0])}]"
        case origin if origin is dict:
            return f"dict[{spell(args[0])}, {spell(args[1])}]"
    return "None" if type_ is NoneType else str(type_.__name__)


def spell_literal(type_: Any) -> str:
    return f"Literal[{', '.join(map(repr, get_args(type_)))}]"


# -- the asynchronous nouns -----------------------------------------------------------------------------------------

ASYNC = (
    (r"(?m)^    def (?!_)", "    async def "),
    (r"\bself\.(_send|(?!_)\w+)\(", r"await self.\1("),
    (r"\bfor event in self\._client\.events\(", "async for event in self._client.events("),
    (r"(?m)^class (?!_)", "class Async"),
    (r"\bKheish\b", "AsyncKheish"),
)
"""What makes a blocking method one that is awaited: all that it calls on itself is, and all that it follows."""


def async_nouns() -> str:
    """kheish/client/async_nouns.py."""
    text = (REPOSITORY / "kheish/client/nouns.py").read_text("utf-8")
    for pattern, replacement in ASYNC:
        text = re.sub(pattern, replacement, text)
    _, _docstring, code = text.split('"""', 2)
    made = MADE.format(source="kheish/client/nouns.py")
    return formatted(f'"""{made}"""{code}', "kheish/client/async_nouns.py")


def formatted(code: str, name: str) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    command = [ruff, "format", "--quiet", "--stdin-filename", REPOSITORY / name, "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return done.stdout
