"""What a person decides about, as lines: all of it, nothing hidden, and drawn only where it is looked at."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.strip import Strip

from kheish.terminal import expose
from kheish.tui.code import COLOURED_CHARS_MAX
from kheish.tui.diff import (
    COMPARED_MAX,
    SPLIT_WIDTH_MIN,
    Diff,
    FileDiff,
    LazyLines,
    files_of,
    json_lines,
    shell_lines,
    unified,
)
from tests.tui.test_blocks import LOOK, make_look

LINE = st.sampled_from(
    [
        "",
        "a",
        "b",
        "x = 1",
        "-- a",
        "++ b",
        "@@ -1 +1 @@",
        "diff --git a/x b/x",
        "\\ No",
        "日本",
        "\tt",
        "\x1b[31m",
        "c\r",
    ]
)
FILE = st.none() | st.tuples(st.lists(LINE, max_size=12), st.sampled_from(["", "\n"])).map(
    lambda made: "\n".join(made[0]) + made[1]
)
HIDING = st.text(st.sampled_from("ab |>\n\t\x1b\u202e\u200b\x00\x7f\u00ad日é👩\u200d\u0301"), max_size=300)


def texts_of(lines: LazyLines | list[Strip]) -> list[str]:
    return [line.text.rstrip() for line in lines]


def content(lines: LazyLines | list[Strip]) -> str:
    """The text of the lines without blanks and without the marks of lines that go on."""
    return "".join("".join(line.text.split()) for line in lines).replace("…", "")


def applied(file: FileDiff, text: str, *, back: bool = False) -> str:
    """The file as the diff makes it; `back`: as it was."""
    gone, come = "+-" if back else "-+"
    before = text.split("\n")
    found, at = [], 0
    for hunk in file.hunks:
        start = max(0, (hunk.new_start if back else hunk.old_start) - any(sign in f" {gone}" for sign in hunk.signs))
        found += before[at:start]
        at = start
        for i, (sign, line) in enumerate(zip(hunk.signs, hunk.lines, strict=True)):
            has_newline = hunk.signs[i + 1 : i + 2] != "\\"
            if sign in f" {gone}":
                assert before[at] == line
                at += 1
                if not has_newline:
                    assert at == len(before)
                    before.append("")
            if sign in f" {come}":
                found.append(line)
                if has_newline and at == len(before):
                    before.append("")
                elif not has_newline:
                    return "\n".join(found)
    return "\n".join(found + before[at:])


@given(FILE, FILE)
@settings(max_examples=300, deadline=None)
def test_a_diff_says_what_changes(old: str | None, new: str | None) -> None:
    files = files_of(unified("dir/a.py", old, new))
    assert [file.path for file in files] == ["dir/a.py"] * (old != new)
    files = files or [FileDiff("", "", [], [])]
    assert applied(files[0], old or "") == (new or "")
    assert applied(files[0], new or "", back=True) == (old or "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\nb\n", "a\nc\n"), (None, "a\nb"), ("a\nb\n", None), ("a", "a\n"), ("a\n", "a"), ("a\n" * 30, "a\n" * 31),
        ("-- x\n++ y\n", "++ y\n"), ("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "0\n2\n3\n4\n5\n6\n7\n8\n0\n"),
        ("1\n2\n3\n4\n5\n6\n7\n", "0\n2\n3\n4\n5\n6\n0\n"), ("a\r\nb\n", "a\nb\n"), ("", "a\n"), ("a\n", ""),
        ("".join(f"{i}\n" for i in range(40)), "".join(f"{i}\n" for i in range(40) if i not in (3, 30))),
    ],
)  # fmt: skip
def test_git_takes_a_diff_for_what_it_says(tmp_path: Path, old: str | None, new: str | None) -> None:
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_bytes(old.encode())
    command = ["git", "apply", "--unidiff-zero", "-"]
    subprocess.run(command, cwd=tmp_path, input=unified("a.txt", old, new).encode(), check=True)
    assert (path.read_bytes().decode() if path.exists() else None) == new


def test_files_too_different_to_compare_are_replaced() -> None:
    count = int(COMPARED_MAX**0.5) + 2
    one, other = ("".join(f"{i}{name}\n" for i in range(count)) for name in "ab")
    (file,) = files_of(unified("a", f"same\ncommon\n{one}same\n", f"same\n{other}common\nsame\n"))
    assert file.hunks[0].signs == f" {'-' * (count + 1)}{'+' * (count + 1)} "


def test_a_file_that_comes_twice_is_there_twice() -> None:
    text = unified("a", "x\n", "y\n")
    assert [(file.path, len(file.hunks)) for file in files_of(text + text)] == [("a", 1), ("a", 1)]


def test_a_diff_of_many_files_is_read_as_git_writes_it() -> None:
    files = files_of(
        "a remark\n"
        "diff --git a/one.py b/one.py\nindex 12ab..34cd 100644\n--- a/one.py\n+++ b/one.py\n"
        "@@ -1,2 +1,2 @@ def f():\n--- was\n+++ is\n ctx\n\\ No newline at end of file\n"
        "diff --git a/old.py b/new.py\nsimilarity index 90%\nrename from old.py\nrename to new.py\n"
        "diff --git a/bin b/bin\nBinary files a/bin and b/bin differ\n"
        "--- /dev/null\t1970\n+++ b/made.sh\t2026\n@@ -0,0 +1 @@\n+x\n"
        "--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "--- a/was\n+++ b/is\n@@ -3 +3 @@\n-x\n+y\nafter it\n"
    )
    assert [(file.path, file.old_path, file.added, file.removed) for file in files] == [
        ("", "", 0, 0), ("one.py", "", 1, 1), ("new.py", "", 0, 0), ("bin", "", 0, 0), ("made.sh", "", 1, 0),
        ("gone", "", 0, 1), ("is", "was", 1, 1), ("", "", 0, 0),
    ]  # fmt: skip
    assert [file.notes for file in files] == [
        ["a remark"], [], ["similarity index 90%", "rename from old.py", "rename to new.py"],
        ["Binary files a/bin and b/bin differ"], ["new"], ["deleted"], [], ["after it"],
    ]  # fmt: skip
    assert files[1].hunks[0].lines == ["-- was", "++ is", "ctx", " No newline at end of file"]


@given(HIDING, st.integers(1, 80))
@settings(max_examples=200, deadline=None)
def test_a_command_is_whole_and_hides_nothing(command: str, width: int) -> None:
    lines = shell_lines(command, width, LOOK)
    assert all(line.cell_length <= width for line in lines)
    if width >= 2:  # a wide character has no room in one column
        assert content(lines) == "".join(expose(command).split())


@given(
    st.recursive(HIDING | st.integers() | st.none(), lambda inner: st.dictionaries(HIDING, inner, max_size=3)),
    st.integers(10, 80),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_value_is_whole_and_hides_nothing(value: object, width: int) -> None:
    lines = json_lines(value, width, LOOK)
    assert all(line.cell_length <= width for line in lines)
    assert content(lines) == "".join(expose(json.dumps(value, indent=2, ensure_ascii=False)).split())


@given(HIDING, HIDING, st.integers(8, 140), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_diff_is_whole_and_hides_nothing(old: str, new: str, width: int, split: bool) -> None:
    lines = Diff(unified("a.py", old, new), width, LOOK, split)
    assert all(line.cell_length <= width for line in lines)
    halves = [[line.crop(0, width // 2) for line in lines], [line.crop(width // 2) for line in lines]]
    is_split = split and width >= SPLIT_WIDTH_MIN and all(file.added and file.removed for file in lines.files)
    shown = [content(found) for found in (halves if is_split else [list(lines)])]
    for hunk in lines.files[0].hunks if lines.files else ():
        for sign, line in zip(hunk.signs, hunk.lines, strict=True):
            words = sign.strip(" \\") + "".join(expose(line).split())
            sides = {"-": shown[:1], "+": shown[-1:], " ": shown, "\\": ["".join(shown)]}[sign]
            assert all(words in side for side in sides)


@given(st.lists(st.integers(0, 10_000), max_size=50), st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_line_is_the_same_whichever_was_looked_at_before(order: list[int], split: bool) -> None:
    made = random.Random(1)
    old = "".join(f"value_{i} = {'x' * made.randrange(150)}\n" for i in range(300))
    new = "".join(line for line in old.splitlines(True) if made.random() < 0.9) + "one more\n"
    diff, other = (Diff(unified("a.py", old, new), 130, LOOK, split) for _ in range(2))
    for y in order:
        diff.line(y % diff.height)
    assert list(diff) == [other.line(y) for y in reversed(range(other.height))][::-1]
    assert diff[-1] == other.line(other.height - 1) and diff[5:8] == [other.line(y) for y in (5, 6, 7)]


OLD = "def f():\n    return 1\n\n\n# end\n"
NEW = "def f():\n    # a comment\n    return 2\n\n\n# end"


def test_a_unified_diff_has_numbers_signs_and_a_head() -> None:
    assert texts_of(Diff(unified("a.py", OLD, NEW), 60, LOOK)) == [
        "a.py  +3 -2",
        "@@ -1,5 +1,6 @@",
        "1 1   def f():",
        "2   -     return 1",
        "  2 +     # a comment",
        "  3 +     return 2",
        "3 4",
        "4 5",
        "5   - # end",
        "  6 + # end",
        "      No newline at end of file",
    ]


def test_a_split_diff_has_before_and_after_side_by_side() -> None:
    found = texts_of(Diff(unified("a.py", OLD, NEW), 120, LOOK, split=True))
    assert [(line[:30].rstrip(), line[60:].rstrip()) for line in found[2:]] == [
        ("1   def f():", "1   def f():"),
        ("2 -     return 1", "2 +     # a comment"),
        ("", "3 +     return 2"),
        ("3", "4"),
        ("4", "5"),
        ("5 - # end", "6 + # end"),
        ("", "    No newline at end of file"),
    ]
    assert texts_of(Diff(unified("a.py", OLD, NEW), 119, LOOK, split=True)) == texts_of(
        Diff(unified("a.py", OLD, NEW), 119, LOOK)
    )


@pytest.mark.parametrize(("old", "new"), [("", NEW), (OLD, ""), (OLD, OLD + "\nmore\n")])
def test_where_nothing_took_the_place_of_anything_one_column_is_enough(old: str, new: str) -> None:
    change = unified("a.py", old, new)
    assert texts_of(Diff(change, 160, LOOK, split=True)) == texts_of(Diff(change, 160, LOOK))


def test_the_shorter_side_of_a_split_diff_is_there_once() -> None:
    found = texts_of(Diff(unified("a", "short\n", "x" * 100 + "\n"), 120, LOOK, split=True))[2:]
    assert [line[:30].rstrip() for line in found] == ["1 - short", ""]
    assert [line[60:].rstrip() for line in found] == ["1 + " + "x" * 55, "  … " + "x" * 45]


def test_what_was_added_and_removed_is_seen_to_the_edge() -> None:
    diff = Diff(unified("a.py", OLD, NEW), 60, LOOK)
    under = [{segment.style.bgcolor for segment in line if segment.style is not None} for line in diff]
    assert under[3] == {LOOK.removed.bgcolor} and under[4] == {LOOK.added.bgcolor} and under[2] == {None}
    assert [diff[y].cell_length for y in (3, 4)] == [60, 60]


def test_code_in_a_diff_has_the_colours_of_its_file() -> None:
    def color(path: str) -> object:
        (found,) = [s.style for s in Diff(unified(path, OLD, NEW), 60, LOOK)[5] if s.text.strip() == "return"] or [None]
        return found and found.color

    assert color("a.py") not in (None, LOOK.text.color)
    assert color("a.unknown") is None and color("noname") is None


def test_colours_reach_the_end_of_what_is_long() -> None:
    line = "return 'text'"
    for lines in (
        shell_lines(f"{line}\n" * COLOURED_CHARS_MAX, 80, LOOK),
        Diff(unified("a.py", None, f"{line}\n" * COLOURED_CHARS_MAX), 80, LOOK),
    ):
        last = next(found for found in reversed(lines) if line in found.text)
        assert len({segment.style for segment in last if segment.text.strip()}) > 1


def test_it_says_where_hunks_begin() -> None:
    text = "".join(f"{i}\n" for i in range(40))
    changed = text.replace("3\n", "x\n", 1).replace("35\n", "y" * 100 + "\n")
    diff = Diff(unified("a", text, changed) + unified("b", None, "x\n"), 40, LOOK)
    found = texts_of(diff)
    assert [found[y] for y in diff.hunk_rows] == ["@@ -1,7 +1,7 @@", "@@ -33,7 +33,7 @@", "@@ -0,0 +1,1 @@"]


def test_a_line_that_goes_on_is_told_from_one_of_its_own() -> None:
    assert texts_of(shell_lines("rm " + "x" * 20 + "\nls", 12, LOOK)) == [
        "  rm xxxxxxx",
        "… xxxxxxxxxx",
        "… xxx",
        "  ls",
    ]
    assert texts_of(shell_lines("ls", 12, LOOK)) == ["ls"]
    ascii_only = make_look(ascii_only=True)
    assert all(line.isascii() for line in texts_of(shell_lines("x" * 50, 20, ascii_only)))


def test_nothing_makes_no_lines() -> None:
    assert list(Diff("", 80, LOOK)) == [] and Diff("", 80, LOOK).height == 0
    assert texts_of(shell_lines("", 80, LOOK)) == [""]
    assert files_of(unified("a", "x\n", "x\n")) == []
    assert files_of(unified("a", None, "")) == [FileDiff("a", "", ["new"], [])]
