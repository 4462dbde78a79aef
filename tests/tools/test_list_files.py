"""`list_files`."""

from __future__ import annotations

import os

import pytest

from tests.tools.workplace import Workplace


async def test_a_directory_is_listed_by_name(place: Workplace) -> None:
    for name in ("b.txt", "a/deep/x.txt", "B.txt", ".hidden"):
        place.write(name)
    output = await place.run("list_files")
    assert output.data.decode() == ".hidden\nB.txt\na/\nb.txt"
    assert output.metadata == {"path": ".", "entries": 4}
    assert await place.text("list_files", path="a") == "deep/"
    assert await place.text("list_files", path="") == await place.text("list_files", path=".")


async def test_a_whole_tree_is_listed_with_the_paths_below_it(place: Workplace) -> None:
    for name in ("top/b.txt", "top/a/deep/x.txt", "top/a.txt"):
        place.write(name)
    assert await place.text("list_files", path="top", recursive=True) == "a/\na/deep/\na/deep/x.txt\na.txt\nb.txt"


async def test_links_are_named(place: Workplace) -> None:
    place.write("target/file.txt")
    (place.root / "link").symlink_to("target")
    assert await place.text("list_files", recursive=True) == "link\ntarget/\ntarget/file.txt"
    assert await place.text("list_files", path="link") == "file.txt"


async def test_an_empty_directory_says_so(place: Workplace) -> None:
    os.mkdir(place.root / "empty")
    output = await place.run("list_files", path="empty")
    assert output.data == b"[empty is empty]" and output.metadata["entries"] == 0


async def test_a_file_names_the_tool_that_reads_it(place: Workplace) -> None:
    place.write("a.txt")
    assert await place.refusal("list_files", path="a.txt") == "a.txt is a file; use read_file"


@pytest.mark.parametrize("recursive", [False, True])
async def test_no_more_than_the_bound_is_listed(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, recursive: bool
) -> None:
    monkeypatch.setattr("kheish.tools.list_files.LIST_ENTRIES_MAX", 2)
    place.write("a")
    place.write("b")
    assert await place.text("list_files", recursive=recursive) == "a\nb"
    place.write("c")
    text = await place.text("list_files", recursive=recursive)
    assert text.startswith("a\nb\n[only the first 2 entries;") and "glob_search" in text


async def test_a_tree_deeper_than_the_bound_ends_there(place: Workplace) -> None:
    os.makedirs(place.root / ("d/" * 70))
    assert (await place.text("list_files", recursive=True)).count("\n") == 64
