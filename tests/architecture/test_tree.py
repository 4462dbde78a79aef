"""What may stand where in the repository, and what no file may say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.architecture.modules import REPOSITORY, tracked_files

TOP_LEVEL = {
    "kheish", "tests", "share", "completions",
    "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE",
}  # fmt: skip
DUST = {"utils", "util", "common", "base", "types", "manager", "helpers", "helper", "misc", "constants", "models"}
PLACES = re.compile(r"(?<![\w.~-])/(?:root|work)/\w")
"""Directories of machines on which this was written, beside those of the machine that runs the test."""


def test_nothing_else_stands_at_the_top() -> None:
    top = {path.relative_to(REPOSITORY).parts[0] for path in tracked_files()}
    assert {name for name in top - TOP_LEVEL if not name.startswith(".")} == set()
    assert {"kheish", "tests", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".ci"} <= top


def test_no_text_names_a_place_on_the_machine_that_it_was_written_on() -> None:
    places = [str(place) for place in (REPOSITORY, Path.home()) if len(place.parts) > 2]
    found = []
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if PLACES.search(line) or any(place in line for place in places):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_the_search_for_places_would_find_one() -> None:
    for root in ("root", "work"):
        assert PLACES.search(f'path = "/{root}/x"')
        assert not PLACES.search(f"share/{root}/x") and not PLACES.search(f'cwd="/{root}"')


def test_no_module_has_a_name_that_says_nothing() -> None:
    modules = [path for path in tracked_files() if path.suffix == ".py"]
    assert [str(path.relative_to(REPOSITORY)) for path in modules if path.stem in DUST] == []


def test_every_room_says_what_is_in_it_and_is_not_empty() -> None:
    for init in (REPOSITORY / "kheish").rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(init.read_text())), init
        inside = {path.name for path in init.parent.iterdir()} - {"__init__.py", "__pycache__"}
        assert inside or init.parent.name == "upgrades", f"{init.parent} is empty"


def test_every_module_begins_with_its_docstring() -> None:
    without = [
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "kheish").rglob("*.py")
        if not path.read_text().lstrip().startswith('"""')
    ]
    assert without == []
