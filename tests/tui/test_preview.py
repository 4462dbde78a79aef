"""What a call of a file tool would make of the file on the disk, and what is the matter with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kheish.limits import TOOL_INPUT_BYTES_MAX
from kheish.tui.preview import change


def edit(folder: Path, old: str, new: str, **more: object) -> tuple[list[str], str]:
    """(lines of the diff that change something, note)."""
    found = change("edit_file", {"path": "a.txt", "old_text": old, "new_text": new, **more}, str(folder))
    assert found is not None
    lines = [line for line in found.diff.split("\n") if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")]
    return lines, found.note


@pytest.mark.parametrize(
    ("text", "old", "new", "replace_all", "changed", "note"),
    [
        ("one\ntwo\n", "two", "2", False, ["-two", "+2"], ""),
        ("one\r\ntwo\r\n", "one\ntwo\n", "1\n", False, 3, ""),
        ("a\nb\na\n", "a", "c", True, ["-a", "+c", "-a", "+c"], "2 times"),
        ("a\nb\na\n", "a", "c", False, ["-a", "+c"], "the text to replace stands in it 2 times: the edit will fail"),
        ("one\n", "three", "3", False, ["-three", "+3"], "the text to replace is not in it: the edit will fail"),
    ],
)
def test_an_edit_is_shown_as_it_would_be_made(
    tmp_path: Path, text: str, old: str, new: str, replace_all: bool, changed: list[str] | int, note: str
) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    lines, said = edit(tmp_path, old, new, replace_all=replace_all)
    assert (lines if isinstance(changed, list) else len(lines)) == changed
    assert said == note


def test_an_edit_of_no_file_says_that_it_will_fail(tmp_path: Path) -> None:
    assert edit(tmp_path, "a", "b") == (["-a", "+b"], "there is no such file: the edit will fail")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert edit(tmp_path, "a", "b")[1] == "it is no regular file: the edit will fail"


def test_a_file_too_large_to_compare_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * (TOOL_INPUT_BYTES_MAX + 1))
    assert "too many to compare" in edit(tmp_path, "a", "b")[1]


def test_a_new_file_and_a_write_that_changes_nothing_are_called_so(tmp_path: Path) -> None:
    arguments = {"path": "a.txt", "content": "one\n"}
    found = change("write_file", arguments, str(tmp_path))
    assert found is not None and "+one" in found.diff and found.note == "there is no such file yet"
    (tmp_path / "a.txt").write_text("one\n")
    found = change("write_file", arguments, str(tmp_path))
    assert found is not None and found.note == "it changes nothing"


@pytest.mark.parametrize(
    ("tool", "arguments"), [("bash", {"command": "ls"}), ("write_file", {"path": "x"}), ("edit_file", {"path": 5})]
)
def test_other_calls_have_no_preview(tool: str, arguments: dict[str, object]) -> None:
    assert change(tool, arguments, "/") is None


def test_a_file_too_large_to_compare_is_not_called_new(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * (TOOL_INPUT_BYTES_MAX + 1))
    made = change("write_file", {"path": "a.txt", "content": "one\n"}, str(tmp_path))
    assert made is not None and "too many to compare" in made.note and "/dev/null" not in made.diff
