"""The tables are complete: nothing is defined that no table names, and nothing named that is not there."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

import kheish.api.endpoints
import kheish.tools
import kheish.wire
from kheish import limits
from kheish.api.endpoints import ENDPOINTS
from kheish.api.openapi import describe
from kheish.cli import table
from kheish.cli.command import Command
from kheish.cli.table import DAILY, GROUPS
from kheish.client.diagnostics import KEYS
from kheish.core import commands, effects, events, machine, outcomes
from kheish.core.contracts import ToolSpec
from kheish.core.events import Hop
from kheish.providers.registry import Routes
from kheish.providers.routes import FROM_KEYS, HOMES, SHELL, Driver, Route
from kheish.tools.registry import TOOLS, load_tools
from kheish.wire.body import Body, View
from kheish.wire.routes import AddRoute, ChangeRoute
from kheish.wire.runtime import RouteFields
from tests.architecture.modules import REPOSITORY

COMMANDS: list[tuple[str, Command]] = [("", command) for command in DAILY]
COMMANDS += [(group, command) for group, (_, rows) in GROUPS.items() for command in rows]
NAMES = [f"{group} {command.name}".strip() for group, command in COMMANDS]


def structs_of(module: ModuleType, base: type) -> set[type]:
    """What a module defines of a family, without its head."""
    return {
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value is not base
        and value.__module__ == module.__name__
    }


def test_doctor_knows_every_key_that_makes_a_route() -> None:
    assert set(KEYS) == {variable for _, variable, _ in FROM_KEYS}


# -- the machine ----------------------------------------------------------------------------------------------------


def test_every_event_is_in_the_union_and_in_the_machine() -> None:
    defined = structs_of(events, events.Event)
    assert set(get_args(events.AnyEvent)) == defined
    assert set(machine.EVENTS) == defined


def test_every_command_outcome_and_effect_is_in_its_table() -> None:
    assert set(machine.COMMANDS) == structs_of(commands, commands.Command)
    assert set(machine.OUTCOMES) == structs_of(outcomes, outcomes.Outcome)
    assert set(get_args(effects.AnyEffect)) == structs_of(effects, effects.Effect)


@pytest.mark.parametrize("table", [machine.EVENTS, machine.COMMANDS, machine.OUTCOMES])
def test_names_of_the_machine_are_unique_and_in_form(table: dict[type, Any]) -> None:
    tags = [str(type_.__struct_config__.tag) for type_ in table]  # type: ignore[attr-defined]
    assert len(set(tags)) == len(tags)
    form = r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*" if table is machine.EVENTS else r"[a-z]+(_[a-z]+)*"
    assert [tag for tag in tags if not re.fullmatch(form, tag)] == []


def test_every_rule_of_the_machine_stands_once() -> None:
    handlers = [*machine.EVENTS.values(), *machine.COMMANDS.values(), *machine.OUTCOMES.values()]
    assert len(set(handlers)) == len(handlers)


# -- tools and drivers ----------------------------------------------------------------------------------------------


def test_every_tool_has_a_row_and_its_prose() -> None:
    folder = Path(kheish.tools.__file__).parent
    modules = {name: import_module(f"kheish.tools.{name}") for _, name, _ in pkgutil.iter_modules([str(folder)])}
    assert {name for name, module in modules.items() if hasattr(module, "TOOL")} == set(TOOLS)
    assert {path.stem for path in folder.glob("*.md")} == set(TOOLS)
    for name, tool in load_tools().items():
        spec: ToolSpec = tool.spec
        assert spec.name == name
        assert spec.description == (folder / f"{name}.md").read_text().strip() and len(spec.description) > 80
        assert spec.input_schema["type"] == "object" and spec.input_schema["additionalProperties"] is False
        assert spec.main_argument == "" or spec.main_argument in spec.input_schema["properties"]
        assert spec.check({"no_such_argument": 1}) != ""


@pytest.mark.parametrize("driver", [driver for driver in get_args(Driver) if driver != SHELL])
async def test_every_driver_that_a_file_may_name_can_be_connected(tmp_path: Path, driver: str) -> None:
    (tmp_path / "routes.toml").write_text(
        f'version = 1\n[routes.r]\ndriver = "{driver}"\ndefault_model = "m"\napi_key_env = "K"\n'
    )
    routes = Routes(tmp_path, {"K": "k"})
    assert await routes.resolve(None) == (Hop(route="r", model="m"),)
    assert hasattr(await routes.open("r"), "stream")


def test_every_driver_has_a_home_and_a_choice_on_the_command_line() -> None:
    drivers = set(get_args(Driver))
    assert set(HOMES) == drivers
    assert {*table._DRIVERS, SHELL} == drivers, "all but a person's own commands"


def test_a_route_has_the_same_keys_in_the_file_on_the_wire_and_in_the_settings() -> None:
    keys = set(Route.__struct_fields__)
    assert set(RouteFields.__struct_fields__) == keys
    for shape in (AddRoute, ChangeRoute):
        assert set(shape.__struct_fields__) - {"route_id", "expected_revision"} == keys


# -- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "command"), COMMANDS, ids=NAMES)
def test_every_command_has_a_function_that_takes_its_parameters(group: str, command: Command) -> None:
    module, _, name = command.target.partition(":")
    function = getattr(import_module(f"kheish.cli.{module}"), name)
    parameters = inspect.signature(function).parameters
    assert {param.name for param in command.params} == set(parameters)
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters.values())
    assert get_type_hints(function)["return"] is int
    assert command.help and all(param.help for param in command.params)


def test_names_and_flags_of_commands_are_unique() -> None:
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    assert not {command.name for command in DAILY} & set(GROUPS) - {"daemon"}
    for _, command in COMMANDS:
        flags = [flag for param in command.params for flag in param.flags]
        assert len(set(flags)) == len(flags), command.name
        arguments = [param for param in command.params if not param.flags]
        assert [param.many for param in arguments[:-1]] == [False] * len(arguments[:-1]), "only the last takes the rest"


# -- the wire -------------------------------------------------------------------------------------------------------

NOUNS = ("approvals", "budgets", "permissions", "questions", "runs", "sessions", "usage")
"""One file name in every layer; `wire/status.py` has what the daemon says of itself."""
NOUNS_OF_ROOMS = {"debug": "debug", "secrets": "secrets", "runtime": "runtime.settings", "routes": "providers.routes"}
"""The same, with a place in a room instead of a part of the core."""


def wire_modules() -> dict[str, ModuleType]:
    return {name: import_module(f"kheish.wire.{name}") for _, name, _ in pkgutil.iter_modules(kheish.wire.__path__)}


def test_every_noun_has_the_same_file_name_in_every_layer() -> None:
    assert set(wire_modules()) == {*NOUNS, *NOUNS_OF_ROOMS, "status", "body"}
    for noun in (*NOUNS, *NOUNS_OF_ROOMS):
        own = f"core.{noun}" if noun in NOUNS else NOUNS_OF_ROOMS[noun]
        for module in (own, f"wire.{noun}", f"api.endpoints.{noun}", f"cli.{noun}"):
            assert import_module(f"kheish.{module}").__doc__


def test_every_module_of_endpoints_is_in_the_table() -> None:
    modules = [
        import_module(f"kheish.api.endpoints.{name}")
        for _, name, _ in pkgutil.iter_modules(kheish.api.endpoints.__path__)
    ]
    rows = [endpoint for module in modules for endpoint in module.ENDPOINTS]
    assert all(module.ENDPOINTS for module in modules)
    assert Counter(map(id, rows)) == Counter(map(id, ENDPOINTS))
    places = [(endpoint.method, endpoint.path) for endpoint in ENDPOINTS]
    assert len(set(places)) == len(places)
    assert all(endpoint.summary for endpoint in ENDPOINTS)


def reachable(type_: Any, seen: set[type] | None = None) -> set[type]:
    """The structs that a type is made of."""
    seen = set() if seen is None else seen
    for part in _parts(type_):
        if part not in seen:
            seen.add(part)
            for field in get_type_hints(part).values():
                reachable(field, seen)
    return seen


def _parts(type_: Any) -> Iterator[type]:
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        yield type_
    for inner in get_args(type_):
        yield from _parts(inner)


def test_every_shape_of_the_wire_is_taken_or_given_by_an_endpoint() -> None:
    defined = {
        shape for module in wire_modules().values() for base in (Body, View) for shape in structs_of(module, base)
    }
    used: set[type] = set()
    for endpoint in ENDPOINTS:
        for shape in (endpoint.body, endpoint.query, endpoint.returns):
            used |= reachable(shape)
    used |= {base for shape in used for base in shape.__mro__}
    unused = {shape.__name__ for shape in defined - used}
    described = describe(ENDPOINTS).decode()
    assert {name for name in unused if f'"{name}"' not in described} == set()


# -- bounds ---------------------------------------------------------------------------------------------------------


def test_every_bound_is_held_somewhere() -> None:
    used = {
        word
        for path in (REPOSITORY / "kheish").rglob("*.py")
        if path.name != "limits.py"
        for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", path.read_text())
    }
    unused = {name for name in vars(limits) if name.isupper()} - used
    assert unused == set()


def test_every_bound_says_its_unit() -> None:
    units = (
        "_MS", "_S", "_BYTES", "_RECORDS", "_MAX", "_MIN", "_KEPT", "_THREADS", "_DEFAULT", "KIB", "MIB", "GIB",
    )  # fmt: skip
    for name, value in vars(limits).items():
        if name.isupper():
            assert name.endswith(units), name
            assert isinstance(value, int | float) and value > 0, name
