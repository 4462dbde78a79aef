"""The tools of files reach nothing outside the workspace, whatever a path is made of and whatever changes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.tools import workspace
from kheish.tools.workspace import SKIPPED_DIRECTORIES, shown
from tests.tools.workplace import CALL_ID, TOOLS, Workplace, swapping_scandir

FILE_CALLS: dict[str, dict[str, Any]] = {
    "read_file": {},
    "write_file": {"content": "changed"},
    "edit_file": {"old_text": "secret", "new_text": "changed"},
    "grep_search": {"pattern": "."},
}
DIRECTORY_CALLS: dict[str, dict[str, Any]] = {
    "list_files": {"recursive": True},
    "glob_search": {"pattern": "**"},
    "grep_search": {"pattern": "."},
}
each_file_tool = pytest.mark.parametrize("tool", FILE_CALLS)
each_directory_tool = pytest.mark.parametrize("tool", DIRECTORY_CALLS)


def assert_outside_is_untouched(place: Workplace) -> None:
    assert sorted(os.listdir(place.outside)) == ["secret.txt"]
    assert (place.outside / "secret.txt").read_text() == f"{place.SECRET}\n"


@contextlib.contextmanager
def just_after(
    monkeypatch: pytest.MonkeyPatch, function: str, name: str, change: Callable[[], None]
) -> Iterator[Callable[[], bool]]:
    """Makes the change at the first moment after `os.<function>` looked at `name`; gives whether that came."""
    original = getattr(os, function)
    done = False

    def look_then_change(path: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal done
        try:
            return original(path, *arguments, **options)
        finally:
            if path == name and not done:
                done = True
                change()

    with monkeypatch.context() as patch:
        patch.setattr(os, function, look_then_change)
        yield lambda: done


# -- paths ------------------------------------------------------------------------------------------------------------


def escapes(place: Workplace) -> dict[str, str]:
    """Paths that lead to `outside/secret.txt`, or would."""
    place.write("inside/file.txt", "inside\n")
    (place.root / "file-link").symlink_to(place.outside / "secret.txt")
    (place.root / "relative-link").symlink_to("../outside/secret.txt")
    (place.root / "directory-link").symlink_to(place.outside)
    (place.root / "inside" / "up").symlink_to("../..")
    (place.root / "root-link").symlink_to("/")
    (place.root / "link-to-link").symlink_to("directory-link")
    (place.root / "detour").symlink_to(f"{place.root}/../outside")
    (place.root / "near").symlink_to(f"{place.root}-not/secret.txt")
    outside = str(place.outside / "secret.txt")
    return {
        "dots": "../outside/secret.txt",
        "dots further down": "inside/../../outside/secret.txt",
        "dots below what is not there": "missing/../../outside/secret.txt",
        "absolute": outside,
        "absolute with dots": f"{place.root}/../outside/secret.txt",
        "absolute with the same beginning": f"{place.root}-not/secret.txt",
        "file link": "file-link",
        "relative link": "relative-link",
        "directory link": "directory-link/secret.txt",
        "link upwards in the middle": "inside/up/outside/secret.txt",
        "link to the root of all": f"root-link{outside}",
        "link to a link": "link-to-link/secret.txt",
        "link that is absolute with dots": "detour/secret.txt",
        "link that is nearly inside": "near",
    }


ESCAPES = (
    "dots",
    "dots further down",
    "dots below what is not there",
    "absolute",
    "absolute with dots",
    "absolute with the same beginning",
    "file link",
    "relative link",
    "directory link",
    "link upwards in the middle",
    "link to the root of all",
    "link to a link",
    "link that is absolute with dots",
    "link that is nearly inside",
)


@each_file_tool
@pytest.mark.parametrize("kind", ESCAPES)
async def test_no_path_leads_a_file_tool_outside(place: Workplace, tool: str, kind: str) -> None:
    paths = escapes(place)
    assert set(paths) == set(ESCAPES)
    before = place.names()
    refusal = await place.refusal(tool, path=paths[kind], **FILE_CALLS[tool])
    assert "is outside the workspace" in refusal
    assert place.names() == before
    assert_outside_is_untouched(place)


@each_directory_tool
@pytest.mark.parametrize("kind", ESCAPES)
async def test_no_path_leads_a_directory_tool_outside(place: Workplace, tool: str, kind: str) -> None:
    directory = escapes(place)[kind].removesuffix("/secret.txt")
    assert "is outside the workspace" in await place.refusal(tool, path=directory, **DIRECTORY_CALLS[tool])


@each_directory_tool
async def test_a_walk_does_not_follow_links(place: Workplace, tool: str) -> None:
    escapes(place)
    text = await place.text(tool, **DIRECTORY_CALLS[tool])
    assert "inside/file.txt" in text
    assert "secret.txt" not in text and place.SECRET not in text


async def test_links_and_dots_that_stay_inside_are_followed(place: Workplace) -> None:
    place.write("a/b/file.txt", "found\n")
    (place.root / "to-b").symlink_to("a/b")
    (place.root / "a" / "b" / "to-a").symlink_to("../../a")
    (place.root / "absolute").symlink_to(place.root / "a" / "b" / "file.txt")
    (place.root / "a" / "absolute").symlink_to(place.root / "a" / "b")
    for path in (
        "a/b/file.txt",
        "./a//b/./file.txt",
        f"{place.root}/a/b/file.txt",
        "a/b/../b/file.txt",
        "to-b/file.txt",
        "to-b/to-a/b/file.txt",
        "absolute",
        "a/absolute/file.txt",
        "missing/../absolute",
    ):
        output = await place.run("read_file", path=path)
        assert output.data.endswith(b"\tfound\n"), path
        assert output.metadata["path"] == "a/b/file.txt", "people are shown the file that it really is"


async def test_dots_take_back_a_name_as_permissions_read_it(place: Workplace) -> None:
    place.write("deep/er/target.txt", "where the link leads\n")
    place.write("target.txt", "where the path says\n")
    (place.root / "link").symlink_to("deep/er")
    assert "where the path says" in await place.text("read_file", path="link/../target.txt")


async def test_a_link_that_leads_to_itself_ends(place: Workplace) -> None:
    (place.root / "loop").symlink_to("loop")
    (place.root / "one").symlink_to("two/x")
    (place.root / "two").symlink_to("one/y")
    for path in ("loop", "loop/x", "one"):
        assert "more than 40 links" in await place.refusal("read_file", path=path)


async def test_a_dangling_link_inside_is_written_through(place: Workplace) -> None:
    (place.root / "link").symlink_to("target.txt")
    await place.text("write_file", path="link", content="new")
    assert place.read("target.txt") == b"new"
    assert (place.root / "link").is_symlink()


@each_file_tool
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a\0b", "NUL"),
        ("x" * 256, "255"),
        ("é" * 128, "255"),
        ("x/" * 2048 + "x", "4096 bytes"),
        ("d/" * 100 + "x", "64 directories deep"),
    ],
    ids=["NUL", "long name", "long name in bytes", "long path", "deep path"],
)
async def test_an_impossible_path_is_refused_in_words(place: Workplace, tool: str, path: str, words: str) -> None:
    refusal = await place.refusal(tool, path=path, **FILE_CALLS[tool])
    assert words in refusal and len(refusal) < 500
    assert place.names() == set()


@each_file_tool
@pytest.mark.parametrize("path", ["~", "~/notes.txt"])
async def test_the_home_directory_is_not_taken_for_a_name_in_the_workspace(
    place: Workplace, tool: str, path: str
) -> None:
    assert "./~" in await place.refusal(tool, path=path, **FILE_CALLS[tool])
    assert place.names() == set()


@each_file_tool
async def test_no_link_leads_into_a_git_directory_unnamed(place: Workplace, tool: str) -> None:
    hook = place.write(".git/hooks/pre-commit", "echo\n")
    os.symlink(".git/hooks", place.root / "docs")
    assert "use that path" in await place.refusal(tool, path="docs/pre-commit", **FILE_CALLS[tool])
    assert hook.read_text() == "echo\n"


async def test_a_file_that_begins_with_a_tilde_is_a_file(place: Workplace) -> None:
    for path in ("./~", "~draft", "a/~"):
        await place.run("write_file", path=path, content="x")
    assert place.names() >= {"~", "~draft", "a"}


@each_file_tool
async def test_half_a_surrogate_pair_is_no_path(place: Workplace, tool: str) -> None:
    arguments = {"path": "\ud83d.txt", **FILE_CALLS[tool]}
    assert "surrogate" in TOOLS[tool].spec.check(arguments)
    with pytest.raises(workspace.Unusable, match="surrogate"), workspace.locate(str(place.root), "\ud83d.txt"):
        pass


async def test_the_longest_name_that_the_file_system_takes_can_be_written_and_read(place: Workplace) -> None:
    name = "x" * 255
    await place.text("write_file", path=name, content="long\n")
    assert "long" in await place.text("read_file", path=name)
    assert place.names() == {name}


async def test_a_workspace_that_is_gone_is_an_error_in_words(place: Workplace) -> None:
    for tool, arguments in FILE_CALLS.items():
        refusal = await place.refusal(tool, path="x", root=place.root / "gone", **arguments)
        assert "No such file or directory" in refusal and "gone" in refusal


# -- changes meanwhile ------------------------------------------------------------------------------------------------


@each_file_tool
@pytest.mark.parametrize("swapped", ["directory", "directory/secret.txt"])
async def test_a_link_swapped_in_after_the_look_is_not_followed(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, tool: str, swapped: str
) -> None:
    place.write("directory/secret.txt", "inside, secret\n")

    def swap() -> None:
        (place.root / swapped).rename(place.root / "moved")
        (place.root / swapped).symlink_to(place.outside.parent / swapped.replace("directory", "outside"))

    with just_after(monkeypatch, "stat", os.path.basename(swapped), swap) as happened:
        output = await place.run(tool, path="directory/secret.txt", **FILE_CALLS[tool])
        assert happened()
    assert output.is_error, output.data
    assert place.SECRET.encode() not in output.data
    assert_outside_is_untouched(place)


async def test_a_link_swapped_in_while_a_file_is_written_is_itself_replaced(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.write("file.txt", "old")

    def swap() -> None:
        file.unlink()
        file.symlink_to(place.outside / "secret.txt")

    original = os.fsync
    swaps = [swap]

    def sync_then_swap(descriptor: int) -> None:
        original(descriptor)
        if swaps:
            swaps.pop()()

    monkeypatch.setattr(os, "fsync", sync_then_swap)
    await place.text("write_file", path="file.txt", content="new")
    assert not swaps
    assert not file.is_symlink() and file.read_text() == "new"
    assert_outside_is_untouched(place)


@pytest.mark.parametrize("tool", ["list_files", "glob_search"])
async def test_a_link_swapped_in_during_a_walk_is_not_entered(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    place.write("directory/inside.txt", "inside\n")
    swap = swapping_scandir(place, monkeypatch)
    text = await place.text(tool, **DIRECTORY_CALLS[tool])
    assert swap() and "secret" not in text and "inside.txt" not in text


@pytest.mark.parametrize("swapped", ["directory", "directory/secret.txt"])
async def test_a_search_keeps_to_what_it_found_when_a_link_takes_its_place(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    place.write("directory/secret.txt", "inside\n")
    original = asyncio.create_subprocess_exec

    async def swap_then_start(*arguments: Any, **options: Any) -> Any:
        (place.root / swapped).rename(place.root / "moved")
        (place.root / swapped).symlink_to(place.outside.parent / swapped.replace("directory", "outside"))
        return await original(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", swap_then_start)
    assert await place.text("grep_search", pattern=".", path=swapped) == "directory/secret.txt:1:inside"


async def test_many_edits_of_one_file_at_once_all_stand(place: Workplace) -> None:
    place.write("file.txt", "".join(f"line {n}.\n" for n in range(30)))
    await asyncio.gather(
        *(place.text("edit_file", path="file.txt", old_text=f"line {n}.", new_text=f"edited {n}.") for n in range(30))
    )
    assert place.read("file.txt").decode() == "".join(f"edited {n}.\n" for n in range(30))


# -- special files ----------------------------------------------------------------------------------------------------


@each_file_tool
async def test_a_fifo_is_neither_opened_nor_waited_for(place: Workplace, tool: str) -> None:
    os.mkfifo(place.root / "fifo")
    # With both ends held by the test, a tool that opens it takes the bytes instead of hanging for ever.
    held = os.open(place.root / "fifo", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(held, b"secret bytes")
        assert "fifo is not a regular file" in await place.refusal(tool, path="fifo", **FILE_CALLS[tool])
        assert os.read(held, 100) == b"secret bytes"
    finally:
        os.close(held)
    assert stat.S_ISFIFO(os.stat(place.root / "fifo").st_mode)


@each_file_tool
async def test_nobody_who_waits_at_a_fifo_is_woken(place: Workplace, tool: str) -> None:
    os.mkfifo(place.root / "fifo")
    await place.refusal(tool, path="fifo", **FILE_CALLS[tool])
    with pytest.raises(OSError, match="No such device or address"):  # there is no reader, and was none
        os.close(os.open(place.root / "fifo", os.O_WRONLY | os.O_NONBLOCK))


async def test_a_fifo_swapped_in_after_the_look_is_not_waited_for(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.write("file.txt", "x")

    def swap() -> None:
        file.unlink()
        os.mkfifo(file)

    # Comes to the rescue of a tool that waits, so that this test fails and does not hang.
    rescuer = threading.Timer(5, lambda: os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK)))
    rescuer.start()
    with just_after(monkeypatch, "stat", "file.txt", swap) as happened:
        assert await place.refusal("read_file", path="file.txt") == "file.txt is not a regular file"
        assert happened() and rescuer.is_alive()
    rescuer.cancel()


@each_file_tool
async def test_a_socket_is_not_a_file(place: Workplace, tool: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place.root / "s"))
        assert "s is not a regular file" in await place.refusal(tool, path="s", **FILE_CALLS[tool])


@each_file_tool
async def test_a_device_is_not_a_file(place: Workplace, tool: str) -> None:
    refusal = await place.refusal(tool, path="zero", root=Path("/dev"), **FILE_CALLS[tool])
    assert "zero is not a regular file" in refusal
    assert stat.S_ISCHR(os.stat("/dev/zero").st_mode)


@each_directory_tool
async def test_special_files_do_not_stop_a_walk(place: Workplace, tool: str) -> None:
    os.mkfifo(place.root / "fifo")
    place.write("zz.txt", "last\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place.root / "s"))
        assert "zz.txt" in await place.text(tool, **DIRECTORY_CALLS[tool])


# -- atomic writes ----------------------------------------------------------------------------------------------------

WRITES: dict[str, dict[str, Any]] = {
    "write_file": {"content": "new " * 4096},
    "edit_file": {"old_text": "old", "new_text": "new " * 4096},
}
each_writing_tool = pytest.mark.parametrize("tool", WRITES)


@each_writing_tool
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o4755])
async def test_a_write_keeps_the_mode(place: Workplace, tool: str, mode: int) -> None:
    file = place.write("file.txt", "old")
    file.chmod(mode)
    await place.text(tool, path="file.txt", **WRITES[tool])
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert file.read_text() == "new " * 4096
    assert place.names() == {"file.txt"}


@each_writing_tool
async def test_a_write_replaces_the_file_as_a_whole(place: Workplace, tool: str) -> None:
    file = place.write("file.txt", "old")
    with file.open("rb") as reader:
        await place.text(tool, path="file.txt", **WRITES[tool])
        assert reader.read() == b"old", "who read the old file reads on in it"


@each_writing_tool
async def test_a_write_is_on_the_disk_before_it_takes_the_place_of_the_old_one(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    place.write("file.txt", "old")
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        sync(descriptor)
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"{os.fstat(descriptor).st_size}")

    def noted_replace(*arguments: Any, **options: Any) -> None:
        replace(*arguments, **options)
        steps.append("replace")

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    await place.text(tool, path="file.txt", **WRITES[tool])
    assert steps == ["16384", "replace", "directory"]


@each_writing_tool
async def test_a_full_disk_leaves_the_old_file_and_nothing_else(place: Workplace, tool: str) -> None:
    place.write("file.txt", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        refusal = await place.refusal(tool, path="file.txt", **WRITES[tool])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refusal == "file.txt could not be written: File too large"
    assert place.read("file.txt") == b"old"
    assert place.names() == {"file.txt"}


@each_writing_tool
async def test_a_directory_that_may_not_be_changed_stays_as_it_is(unprivileged: Workplace, tool: str) -> None:
    unprivileged.write("shut/file.txt", "old")
    os.chmod(unprivileged.root / "shut", 0o500)
    refusal = await unprivileged.refusal(tool, path="shut/file.txt", **WRITES[tool])
    assert refusal == "shut/file.txt could not be written: Permission denied"
    assert unprivileged.names() == {"shut", "shut/file.txt"}
    assert unprivileged.read("shut/file.txt") == b"old"


@each_writing_tool
async def test_a_read_only_file_stays_as_it_is(place: Workplace, tool: str) -> None:
    file = place.write("file.txt", "old")
    file.chmod(0o444)
    assert "file.txt is read-only (mode 0444)" in await place.refusal(tool, path="file.txt", **WRITES[tool])
    assert place.names() == {"file.txt"} and file.read_text() == "old"


@each_writing_tool
async def test_what_a_killed_attempt_left_is_cleared_by_the_next(place: Workplace, tool: str) -> None:
    place.write("file.txt", "old")
    place.write(f".kheish-{CALL_ID}", "half of what was to be writt")
    assert await place.text("list_files") == "file.txt", "what is half done is not shown"
    await place.text(tool, path="file.txt", attempt=2, **WRITES[tool])
    assert place.names() == {"file.txt"}


async def test_what_may_not_be_read_says_so(unprivileged: Workplace) -> None:
    unprivileged.write("file.txt", "x").chmod(0)
    unprivileged.write("shut/file.txt", "x")
    os.chmod(unprivileged.root / "shut", 0)
    try:
        assert await unprivileged.refusal("read_file", path="file.txt") == "file.txt may not be read"
        assert await unprivileged.refusal("list_files", path="shut") == "shut may not be entered"
        assert "shut may not be entered" in await unprivileged.refusal("read_file", path="shut/deep/file.txt")
        assert await unprivileged.text("list_files", recursive=True) == "file.txt\nshut/"
        assert await unprivileged.text("glob_search", pattern="**") == "file.txt"
        os.chmod(unprivileged.root / "shut", 0o400)
        assert await unprivileged.refusal("read_file", path="shut/file.txt") == "Permission denied: file.txt"
    finally:
        os.chmod(unprivileged.root / "shut", 0o700)


# -- names ------------------------------------------------------------------------------------------------------------


async def test_names_that_are_not_text_are_shown_as_text(place: Workplace) -> None:
    directory = os.fsencode(place.root)
    for name in (b"latin-\xe9.txt", b"two\nlines.txt", b"bell\x07.txt"):
        place.write(os.fsdecode(name), "needle\n")
    os.symlink(b"latin-\xe9.txt", directory + b"/link")
    wanted = ["bell\ufffd.txt", "latin-\ufffd.txt", "two\ufffdlines.txt"]
    assert (await place.text("list_files")).split("\n") == sorted([*wanted, "link"])
    assert sorted((await place.text("glob_search", pattern="*.txt")).split("\n")) == wanted
    output = await place.run("read_file", path="link")
    assert output.data == b"     1\tneedle\n"
    assert output.metadata["path"] == "latin-\ufffd.txt", "what is journaled is text"
    output = await place.run("edit_file", path="link", old_text="needle", new_text="pin")
    assert output.metadata["path"] == "latin-\ufffd.txt" and "latin-\ufffd.txt" in output.metadata["diff"]
    assert "latin-\ufffd.txt:1:pin" in await place.text("grep_search", pattern="pin")
    assert shown("plain é \u202f.txt") == "plain é \u202f.txt"


async def test_what_is_missing_is_answered_with_what_is_near(place: Workplace) -> None:
    place.write("src/config.py")
    place.write("src/contig.py")
    assert await place.refusal("read_file", path="src/confg.py") == (
        "src/confg.py does not exist; near it: src/config.py, src/contig.py"
    )
    assert await place.refusal("read_file", path="scr/config.py") == "scr does not exist; near it: src"
    assert await place.refusal("list_files", path="nothing") == "nothing does not exist"
    assert "does not exist" in await place.refusal("grep_search", pattern="x", path="srx")


@pytest.mark.parametrize("name", sorted(SKIPPED_DIRECTORIES))
async def test_what_nobody_means_is_searched_only_where_it_is_named(place: Workplace, name: str) -> None:
    place.write(f"{name}/deep/file.txt", "needle\n")
    place.write(f"sub/{name}/file.txt", "needle\n")
    place.write("file.txt", "needle\n")
    assert await place.text("glob_search", pattern="**/*.txt") == "file.txt"
    assert await place.text("grep_search", pattern="needle", output="files") == "file.txt"
    listed = sorted(["file.txt", f"{name}/ [not listed]", "sub/", f"sub/{name}/ [not listed]"])
    assert sorted((await place.text("list_files", recursive=True)).split("\n")) == listed
    assert await place.text("list_files", path=name, recursive=True) == "deep/\ndeep/file.txt"
    assert await place.text("glob_search", pattern="**/*.txt", path=name) == f"{name}/deep/file.txt"
    assert await place.text("grep_search", pattern="needle", path=name) == f"{name}/deep/file.txt:1:needle"
