"""`edit_file`; how it writes is proved in test_workspace."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.limits import TOOL_INPUT_BYTES_MAX
from kheish.tools.edit_file import _may_be_done
from tests.tools.workplace import Workplace


async def edit(place: Workplace, before: str | bytes, old: str, new: str, **options: object) -> bytes:
    """What the file is after an edit that goes well."""
    place.write("file.txt", before)
    await place.text("edit_file", path="file.txt", old_text=old, new_text=new, **options)
    return place.read("file.txt")


async def refusal(place: Workplace, before: str | bytes, old: str, new: str, **options: object) -> str:
    """What it says of an edit that does not; the file stays."""
    file = place.write("file.txt", before)
    held = file.read_bytes()
    text = await place.refusal("edit_file", path="file.txt", old_text=old, new_text=new, **options)
    assert file.read_bytes() == held
    return text


async def test_the_one_occurrence_is_replaced_and_the_change_is_shown(place: Workplace) -> None:
    place.write("file.txt", "one\ntwo\nthree\n")
    output = await place.run("edit_file", path="file.txt", old_text="two", new_text="2\n2.5")
    assert output.data == b"Replaced in file.txt (line 2)."
    assert place.read("file.txt") == b"one\n2\n2.5\nthree\n"
    assert output.metadata == {
        "path": "file.txt",
        "replaced": 1,
        "added": 2,
        "removed": 1,
        "diff": "--- a/file.txt\n+++ b/file.txt\n@@ -1,3 +1,4 @@\n one\n-two\n+2\n+2.5\n three",
    }


async def test_what_stands_more_than_once_is_not_guessed_at(place: Workplace) -> None:
    text = await refusal(place, "x = 1\ny = 1\nx = 1\n", "x = 1", "x = 2")
    assert text == (
        "old_text stands 2 times in file.txt (lines 1, 3); add lines around it until it is unique, or set replace_all"
    )
    assert "(lines 1, 2, 3, 4, 5, 6, 7, 8, ...)" in await refusal(place, "x\n" * 20, "x", "y")


async def test_every_occurrence_is_replaced_where_that_is_asked(place: Workplace) -> None:
    place.write("file.txt", "a b a\nb a\n")
    output = await place.run("edit_file", path="file.txt", old_text="a", new_text="aa", replace_all=True)
    assert output.data == b"Replaced in file.txt (3 times, lines 1, 1, 2)."
    assert output.metadata["replaced"] == 3
    assert place.read("file.txt") == b"aa b aa\nb aa\n"


async def test_text_is_exact_and_no_pattern(place: Workplace) -> None:
    assert await edit(place, "a.b\naxb\n", "a.b", r"\1$&") == b"\\1$&\naxb\n"
    assert await edit(place, "  x\n x\n", "  x", "y") == b"y\n x\n"


async def test_an_empty_new_text_deletes(place: Workplace) -> None:
    assert await edit(place, "one\ntwo\nthree\n", "two\n", "") == b"one\nthree\n"
    assert await edit(place, "all", "all", "") == b""


async def test_what_is_not_there_is_answered_with_what_is_like_it(place: Workplace) -> None:
    text = await refusal(place, "def f():\n    return 1\n", "  return 1\n  x", "y")
    assert text.startswith("old_text is not in file.txt exactly as given, but line 2 begins like it")
    assert await refusal(place, "one\n", "two", "y") == "old_text is not in file.txt; read the file again"


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (b"one\r\ntwo\r\n", "one\ntwo", "1\n2", b"1\r\n2\r\n"),
        (b"one\r\ntwo\r\n", "one\r\ntwo", "1\r\n2", b"1\r\n2\r\n"),
        (b"one\r\ntwo\r\n", "one", "1\n1.5", b"1\r\n1.5\r\ntwo\r\n"),
        (b"one\r\ntwo\r\n", "one", "1\r\n1.5", b"1\r\n1.5\r\ntwo\r\n"),
        (b"one\ntwo\n", "one\ntwo", "1\n2", b"1\n2\n"),
        (b"one\ntwo\nthree\r\n", "one\ntwo", "1\n2", b"1\n2\nthree\r\n"),
        (b"one\ntwo\nthree\r\nfour\r\n", "three\nfour", "3\n4", b"one\ntwo\n3\r\n4\r\n"),
        (b"one\ntwo\nthree\r\n", "two", "2\n2.5", b"one\n2\n2.5\nthree\r\n"),
        (b"one\r\ntwo\rthree", "two\rthree", "2\r3", b"one\r\n2\r3"),
    ],
)
async def test_line_ends_stay_as_the_file_has_them(
    place: Workplace, before: bytes, old: str, new: str, after: bytes
) -> None:
    assert await edit(place, before, old, new) == after


async def test_bytes_that_are_not_utf8_stay_as_they_are(place: Workplace) -> None:
    assert await edit(place, b"caf\xe9 one \xff\n", "one", "é") == b"caf\xe9 \xc3\xa9 \xff\n"
    assert "U+FFFD stands for bytes" in await refusal(place, b"caf\xe9 one\n", "caf\ufffd", "x")


async def test_a_file_that_is_not_there_names_the_tool_that_makes_one(place: Workplace) -> None:
    place.write("notes.txt")
    text = await place.refusal("edit_file", path="note.txt", old_text="a", new_text="b")
    assert text == "note.txt does not exist; near it: notes.txt; to make a file use write_file"
    assert place.names() == {"notes.txt"}


async def test_a_directory_is_not_edited(place: Workplace) -> None:
    os.mkdir(place.root / "src")
    assert "src is a directory" in await place.refusal("edit_file", path="src", old_text="a", new_text="b")


async def test_a_file_too_large_is_refused_before_and_after(place: Workplace) -> None:
    big = "x" * TOOL_INPUT_BYTES_MAX
    assert "1048577 bytes, more than 1048576" in await refusal(place, big + "y", "y", "z")
    assert "would have 1048577 bytes, more than 1048576" in await refusal(place, big[:-1] + "y", "y", "zz")


# -- a second attempt -------------------------------------------------------------------------------------------------

EDITS = [
    ("x = 1\n", "x = 1", "x = 2", False),
    ("import a\n", "import a", "import a\nimport b", False),
    ("a\n", "a", "aa", False),
    ("one\ntwo\nthree\n", "two\n", "", False),
    ("a\n\n\nb\n", "\n\n", "\n", False),
    ("foo foo\n", "foo", "foobar", True),
    ("foo barfoo\n", "foo", "bar", True),
    ("a\n\n\n\nb\n", "\n\n", "\n", True),
    ("a a", "a", "", True),
    ("one\r\ntwo\r\n", "one\ntwo", "two\none\ntwo", False),
]


@pytest.mark.parametrize(("before", "old", "new", "replace_all"), EDITS)
async def test_a_second_attempt_after_the_first_had_replaced_changes_nothing(
    place: Workplace, before: str, old: str, new: str, replace_all: bool
) -> None:
    after = await edit(place, before, old, new, replace_all=replace_all)
    output = await place.run(
        "edit_file", path="file.txt", old_text=old, new_text=new, replace_all=replace_all, attempt=2
    )
    assert not output.is_error
    assert output.metadata == {"path": "file.txt", "replaced": 0}
    assert b"the interrupted attempt had replaced it" in output.data
    assert place.read("file.txt") == after


@pytest.mark.parametrize(
    ("before", "old", "new", "replace_all"),
    [
        *(one for one in EDITS if one[0] != "a\n\n\n\nb\n"),
        ("x = 1\ny = 2\n", "1", "2", False),
        ("foo x foobar\n", "foo x", "foobar x", False),
        ("foo x foobar\n", "foo", "foobar", True),
        ("a b", "a", "b", True),
        ("x ab y", "ab", "", False),
        ("x ab ab", "ab", "", True),
    ],
)
async def test_a_second_attempt_after_the_first_had_not_begun_replaces(
    place: Workplace, before: str, old: str, new: str, replace_all: bool
) -> None:
    first = await edit(place, before, old, new, replace_all=replace_all)
    assert await edit(place, before, old, new, replace_all=replace_all, attempt=2) == first != before.encode()


async def test_where_it_cannot_be_told_nothing_is_changed_and_that_is_said(place: Workplace) -> None:
    place.write("file.txt", "import a\nimport b\n")
    text = await place.text("edit_file", path="file.txt", old_text="import a", new_text="import a\nimport b", attempt=2)
    assert text == "file.txt reads as if the interrupted attempt had replaced it; nothing was changed now."


async def test_a_second_attempt_refuses_what_the_first_would_have(place: Workplace) -> None:
    assert "is not in file.txt" in await refusal(place, "other\n", "x", "y", attempt=2)
    assert "stands 2 times" in await refusal(place, "x x\n", "x", "y", attempt=2)


few = st.text(alphabet="ab", min_size=1, max_size=4).map(str.encode)


@given(st.text(alphabet="ab", max_size=12).map(str.encode), few, few, st.booleans())
def test_no_second_attempt_ever_replaces_twice(before: bytes, old: bytes, new: bytes, replace_all: bool) -> None:
    count = before.count(old)
    if old != new and (count == 1 or (count and replace_all)):
        after = before.replace(old, new)
        assert _may_be_done(after, old, new, replace_all)
