"""`write_file`; how it writes is proved in test_workspace."""

from __future__ import annotations

import os

from kheish.limits import TOOL_INPUT_BYTES_MAX
from tests.tools.workplace import Workplace


async def test_a_new_file_is_made_with_its_directories(place: Workplace) -> None:
    output = await place.run("write_file", path="a/new/dir/file.txt", content="one\ntwo\n")
    assert output.data == b"Made a/new/dir/file.txt (2 lines, 8 bytes)."
    assert place.read("a/new/dir/file.txt") == b"one\ntwo\n"
    assert output.metadata == {
        "path": "a/new/dir/file.txt",
        "bytes": 8,
        "added": 2,
        "removed": 0,
        "diff": "--- /dev/null\n+++ b/a/new/dir/file.txt\n@@ -0,0 +1,2 @@\n+one\n+two",
    }


async def test_a_file_is_replaced_as_a_whole_and_the_change_is_shown(place: Workplace) -> None:
    place.write("file.txt", "one\ntwo\nthree\n")
    output = await place.run("write_file", path="file.txt", content="one\n2\nthree\nfour")
    assert output.data == b"Replaced file.txt (4 lines, 16 bytes)."
    assert place.read("file.txt") == b"one\n2\nthree\nfour"
    assert (output.metadata["added"], output.metadata["removed"]) == (2, 1)
    assert output.metadata["diff"].endswith("@@ -1,3 +1,4 @@\n one\n-two\n+2\n three\n+four")


async def test_the_same_again_touches_nothing(place: Workplace) -> None:
    file = place.write("file.txt", "same\n")
    before = file.stat()
    output = await place.run("write_file", path="file.txt", content="same\n")
    assert output.data == b"Left unchanged: file.txt (1 lines, 5 bytes)."
    assert file.stat() == before, "who watches the file is not woken"


async def test_a_repeated_attempt_writes_what_the_first_did(place: Workplace) -> None:
    for attempt in (1, 2):
        output = await place.run("write_file", path="file.txt", content="x", attempt=attempt)
        assert not output.is_error and place.read("file.txt") == b"x"


async def test_an_empty_file_can_be_made(place: Workplace) -> None:
    assert await place.text("write_file", path="file.txt", content="") == "Made file.txt (0 lines, 0 bytes)."
    assert place.read("file.txt") == b""


async def test_content_is_written_as_it_is(place: Workplace) -> None:
    content = "caf\u00e9 \U0001f600\r\n\ttab\0nul\ufeff"
    await place.text("write_file", path="file.txt", content=content)
    assert place.read("file.txt") == content.encode()


async def test_a_file_larger_than_can_be_written_is_not_taken_for_its_own_beginning(place: Workplace) -> None:
    place.write("file.txt", b"x" * (TOOL_INPUT_BYTES_MAX + 1))
    text = await place.text("write_file", path="file.txt", content="x" * TOOL_INPUT_BYTES_MAX)
    assert text.startswith("Replaced") and len(place.read("file.txt")) == TOOL_INPUT_BYTES_MAX


async def test_a_directory_is_not_replaced(place: Workplace) -> None:
    os.makedirs(place.root / "src/deep")
    for path in ("src", "src/deep/..", "."):
        assert "is a directory" in await place.refusal("write_file", path=path, content="x")
    assert place.names() == {"src", "src/deep"}


async def test_a_file_is_no_directory_to_write_into(place: Workplace) -> None:
    place.write("file.txt", "x")
    refusal = await place.refusal("write_file", path="file.txt/new.txt", content="x")
    assert refusal == "file.txt is not a directory"
