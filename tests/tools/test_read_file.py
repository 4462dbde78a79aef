"""`read_file`, of files and of stored outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kheish.limits import READ_FILE_LINE_CHARS_MAX, READ_FILE_LINES_MAX, TOOL_RESULT_INLINE_BYTES_MAX
from tests.tools.workplace import Workplace


def numbered(text: str) -> list[tuple[int, str]]:
    """The lines of a page, without its note."""
    lines = [line for line in text.split("\n")[:-1] if not line.startswith("[")]
    return [(int(number), line) for number, _, line in (line.partition("\t") for line in lines)]


async def pages(place: Workplace, path: str) -> list[tuple[int, str]]:
    """Everything, by following the notes as a model would."""
    lines: list[tuple[int, str]] = []
    offset = 1
    while True:
        text = await place.text("read_file", path=path, offset=offset)
        assert len(text.encode()) <= TOOL_RESULT_INLINE_BYTES_MAX, "the kernel would shorten the page itself"
        lines += numbered(text)
        if not text.endswith("]\n"):
            return lines
        offset = int(text.rsplit("[more lines follow; go on with offset ", 1)[1].removesuffix("]\n"))


async def test_lines_come_with_their_numbers(place: Workplace) -> None:
    place.write("a.txt", "one\n\n  three\nlast without end")
    output = await place.run("read_file", path="a.txt")
    assert output.data.decode() == "     1\tone\n     2\t\n     3\t  three\n     4\tlast without end\n"
    assert output.metadata == {"path": "a.txt", "first_line": 1, "lines": 4}


async def test_a_page_is_what_was_asked_for_and_says_how_to_go_on(place: Workplace) -> None:
    place.write("a.txt", "".join(f"line {n}\n" for n in range(1, 11)))
    output = await place.run("read_file", path="a.txt", offset=4, limit=2)
    assert output.data.decode() == "     4\tline 4\n     5\tline 5\n[more lines follow; go on with offset 6]\n"
    assert output.metadata == {"path": "a.txt", "first_line": 4, "lines": 2}
    assert await place.text("read_file", path="a.txt", offset=9, limit=2) == "     9\tline 9\n    10\tline 10\n"


async def test_an_offset_past_the_end_says_how_many_lines_there_are(place: Workplace) -> None:
    place.write("a.txt", "one\ntwo\n")
    assert await place.refusal("read_file", path="a.txt", offset=3) == "a.txt has 2 lines; there is no line 3"


async def test_an_empty_file_says_so(place: Workplace) -> None:
    place.write("a.txt")
    assert await place.text("read_file", path="a.txt") == "[a.txt is empty]"


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="there is no such file system here")
async def test_a_file_that_gives_no_size_is_read_to_its_end(place: Workplace) -> None:
    place.root = Path(f"/proc/{os.getpid()}")
    lines = numbered(await place.text("read_file", path="smaps"))
    assert sum(len(line) for _, line in lines) > os.sysconf("SC_PAGE_SIZE"), "the kernel gives a page at a time"


async def test_windows_line_ends_are_not_shown(place: Workplace) -> None:
    place.write("a.txt", "one\r\ntwo\r\n")
    assert await place.text("read_file", path="a.txt") == "     1\tone\n     2\ttwo\n"


async def test_bytes_that_are_not_utf8_do_not_stop_it(place: Workplace) -> None:
    place.write("a.txt", b"caf\xe9\nna\xc3\xafve\n")
    assert await place.text("read_file", path="a.txt") == "     1\tcaf\ufffd\n     2\tnaïve\n"


async def test_characters_across_the_pieces_in_which_a_file_is_read_stay_whole(place: Workplace) -> None:
    line = "é" * 700
    place.write("a.txt", f"x{line}\n" * 500)
    assert await pages(place, "a.txt") == [(n, f"x{line}") for n in range(1, 501)]


async def test_a_large_file_is_read_page_by_page(place: Workplace) -> None:
    place.write("a.txt", "".join(f"line {n}\n" for n in range(1, 5001)))
    assert await pages(place, "a.txt") == [(n, f"line {n}") for n in range(1, 5001)]


async def test_no_page_has_more_lines_than_the_bound(place: Workplace) -> None:
    place.write("a.txt", "\n" * (READ_FILE_LINES_MAX + 1))
    text = await place.text("read_file", path="a.txt")
    assert text.endswith(f"[more lines follow; go on with offset {READ_FILE_LINES_MAX + 1}]\n")


async def test_a_long_line_is_cut_and_says_by_how_much(place: Workplace) -> None:
    place.write("a.txt", "x" * (READ_FILE_LINE_CHARS_MAX + 5) + "\nnext\n")
    text = await place.text("read_file", path="a.txt")
    assert text == f"     1\t{'x' * READ_FILE_LINE_CHARS_MAX} [... 5 characters cut]\n     2\tnext\n"


async def test_a_line_without_end_is_not_read_into_memory(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.tools.read_file.TOOL_OUTPUT_BYTES_MAX", 300_000)
    place.write("a.txt", "x" * 600_000)
    assert await place.refusal("read_file", path="a.txt") == "a.txt has a line of more than 300000 bytes; use bash"


async def test_a_binary_file_is_refused_with_what_to_do(place: Workplace) -> None:
    place.write("a.bin", b"ELF\0\1")
    assert await place.refusal("read_file", path="a.bin") == (
        "a.bin is a binary file of 5 bytes; look at it with bash (file, xxd, strings)"
    )


async def test_a_directory_names_the_tool_that_lists_it(place: Workplace) -> None:
    place.write("src/a.py")
    assert await place.refusal("read_file", path="src") == (
        "src is a directory, not a file; list_files shows what is in it"
    )
    assert "list_files" in await place.refusal("read_file", path=".")


# -- stored outputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [
        "".join(f"line {n}\n" for n in range(1, 3000)),
        "".join(f'{{"n": {n}}}, ' for n in range(5000)),
        "é" * 50_000 + "\n\nlast",
        "progress 1%\rprogress 2%\rdone\r\nnext\n" * 1000,
    ],
    ids=["lines", "one long line", "long line and more", "carriage returns"],
)
async def test_the_whole_of_a_stored_output_comes_within_reach(place: Workplace, stored: str) -> None:
    sha = place.blobs.put(stored.encode())
    lines = await pages(place, f"blob:{sha}")
    assert [number for number, _ in lines] == list(range(1, len(lines) + 1))
    assert all(len(line) <= READ_FILE_LINE_CHARS_MAX for _, line in lines)
    assert "".join(line for _, line in lines) == stored.replace("\n", "").replace("\r", "")


async def test_a_binary_output_can_be_read_as_far_as_it_is_text(place: Workplace) -> None:
    sha = place.blobs.put(b"\xff\0text\n")
    assert await place.text("read_file", path=f"blob:{sha}") == "     1\t\ufffd\0text\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blob:" + "0" * 64, "is not a stored output"),
        ("blob:" + "0" * 63, "64 hex digits"),
        ("blob:../../etc/passwd", "64 hex digits"),
        ("blob:" + "A" * 64, "64 hex digits"),
    ],
)
async def test_a_blob_that_there_is_not_is_refused_in_words(place: Workplace, name: str, words: str) -> None:
    assert words in await place.refusal("read_file", path=name)


async def test_a_file_that_is_named_like_a_blob_can_be_read_by_its_path(place: Workplace) -> None:
    place.write("blob:x", "a file\n")
    assert "a file" in await place.text("read_file", path="./blob:x")
