"""What a model is told of each tool, and what it is told when its arguments are wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from kheish.core.permissions import main_argument_of
from kheish.tools.registry import TOOLS as TABLE
from tests.tools.workplace import TOOLS, Workplace

EXPECTED = {
    "read_file": ("read", "function", "path"),
    "list_files": ("read", "function", "path"),
    "glob_search": ("read", "function", "pattern"),
    "grep_search": ("read", "function", "pattern"),
    "write_file": ("idempotent", "function", "path"),
    "edit_file": ("idempotent", "function", "path"),
    "bash": ("unsafe", "process", "command"),
    "ask_user_question": ("read", "question", ""),
    "todo_write": ("read", "function", ""),
}

each_tool = pytest.mark.parametrize("name", TABLE)


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object schema in a schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


def test_the_table_names_every_tool_there_is() -> None:
    prose = {file.name.removesuffix(".md") for file in resources.files("kheish.tools").iterdir() if ".md" in file.name}
    assert set(TABLE) == prose == set(EXPECTED)
    assert [tool.spec.name for tool in TOOLS.values()] == list(TABLE)


@each_tool
def test_a_tool_has_an_effect_class_a_kind_and_the_argument_that_patterns_match(name: str) -> None:
    spec = TOOLS[name].spec
    assert (spec.effect, spec.kind, spec.main_argument) == EXPECTED[name]
    assert spec.timeout_ms == 180_000


@each_tool
def test_a_tool_is_described_by_the_prose_beside_it(name: str) -> None:
    description = TOOLS[name].spec.description
    assert description == resources.files("kheish.tools").joinpath(f"{name}.md").read_text().strip()
    mentioned = set(re.findall(r"\b[a-z]+_(?:file|files|search|question)\b", description))
    assert mentioned <= set(TABLE), "it speaks of a tool that there is not"


@each_tool
def test_a_schema_is_plain_closed_and_described(name: str) -> None:
    schema = TOOLS[name].spec.input_schema
    assert "$ref" not in str(schema) and "$defs" not in schema
    for one in objects(schema):
        assert one["additionalProperties"] is False
        assert set(one["required"]) <= set(one["properties"])
        for key, value in one["properties"].items():
            assert value.get("description"), f"{key} is not described"
            assert "type" in value or "enum" in value
            assert (key in one["required"]) != ("default" in value)


@each_tool
def test_the_main_argument_is_one_that_the_tool_has_and_the_rules_see(name: str) -> None:
    spec = TOOLS[name].spec
    if spec.main_argument:
        assert spec.input_schema["properties"][spec.main_argument]["type"] == "string"
        assert main_argument_of(spec, {spec.main_argument: "the/value"}) == "the/value"
    else:
        assert main_argument_of(spec, {"questions": []}) == ""


@each_tool
def test_an_unknown_argument_is_refused_with_the_ones_there_are(name: str) -> None:
    spec = TOOLS[name].spec
    problem = spec.check({"pth": "x"})
    assert "`pth`" in problem or "required field" in problem
    for key in spec.input_schema["properties"]:
        assert key in problem.partition(f"{name} takes ")[2]


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("read_file", {}, ["missing", "`path`", "[offset]"]),
        ("read_file", {"path": ""}, ["length >= 1", "$.path"]),
        ("read_file", {"path": "x", "offset": 0}, [">= 1", "$.offset"]),
        ("read_file", {"path": "x", "limit": 2001}, ["<= 2000", "$.limit"]),
        ("read_file", {"path": "x", "offset": "5"}, ["`int`", "`str`", "$.offset"]),
        ("read_file", {"path": ["x"]}, ["`str`", "`array`", "$.path"]),
        ("read_file", {"path": "half \ud83d"}, ["surrogate"]),
        ("grep_search", {"pattern": "a\nb"}, ["one line"]),
        ("grep_search", {"pattern": "x" * 2001}, ["<= 2000", "$.pattern"]),
        ("grep_search", {"pattern": "a", "context": 21}, ["<= 20", "$.context"]),
        ("grep_search", {"pattern": "a", "output": "count"}, ["'count'", "$.output"]),
        ("write_file", {"path": "x"}, ["missing", "`content`"]),
        ("write_file", {"path": "new/", "content": ""}, ["new/", "directory"]),
        ("write_file", {"path": "x", "content": "é" * (512 * 1024 + 1)}, ["1048576 bytes", "bash"]),
        ("edit_file", {"path": "x", "old_text": "", "new_text": "y"}, ["length >= 1", "$.old_text"]),
        ("edit_file", {"path": "x", "old_text": "y", "new_text": "y"}, ["the same"]),
        ("bash", {"command": ""}, ["length >= 1", "$.command"]),
        ("bash", {"command": "a\0b"}, ["NUL"]),
        ("bash", {"command": "x" * 131_072}, ["131071 bytes", "write_file"]),
        ("bash", {"command": "ls", "timeout_ms": 0}, [">= 1", "$.timeout_ms"]),
        ("bash", {"command": "ls", "timeout_ms": 3_600_001}, ["<= 3600000"]),
        ("ask_user_question", {"questions": []}, ["length >= 1", "$.questions"]),
        ("ask_user_question", {"questions": [{"question": "a?"}] * 5}, ["<= 4", "$.questions"]),
        ("ask_user_question", {"questions": [{"question": "a?", "options": ["yes"]}]}, ["`object`", "options[0]"]),
        (
            "ask_user_question",
            {"questions": [{"question": "a?", "options": [{"label": "b"}, {"label": "b"}]}]},
            ["'a?'", "not all different"],
        ),
        ("ask_user_question", {"questions": [{"question": "a?", "multi_select": True}]}, ["'a?'", "offers none"]),
    ],
)
def test_wrong_arguments_are_answered_with_what_is_wrong(name: str, arguments: Any, words: list[str]) -> None:
    problem = TOOLS[name].spec.check(arguments)
    assert all(word in problem for word in words), problem
    assert len(problem) < 400


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_file", {"path": "x", "offset": 1, "limit": 2000}),
        ("list_files", {}),
        ("glob_search", {"pattern": "*"}),
        ("grep_search", {"pattern": "a", "glob": "*.py", "output": "files", "ignore_case": True, "context": 20}),
        ("write_file", {"path": "x", "content": "x" * 1024 * 1024}),
        ("edit_file", {"path": "x", "old_text": "a", "new_text": ""}),
        ("bash", {"command": "x" * 131_071, "timeout_ms": 3_600_000}),
        ("ask_user_question", {"questions": [{"question": "a?", "options": [{"label": "b", "description": "c"}]}] * 4}),
    ],
)
def test_right_arguments_are_let_through(name: str, arguments: Any) -> None:
    assert TOOLS[name].spec.check(arguments) == ""


async def test_a_question_never_runs(place: Workplace) -> None:
    refusal = await place.refusal("ask_user_question", questions=[{"question": "Which?"}])
    assert "answered by a human" in refusal
