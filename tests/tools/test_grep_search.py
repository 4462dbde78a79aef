"""`grep_search`: the same questions get the same answers, whether ripgrep is installed or not."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from kheish.limits import GREP_FILE_BYTES_MAX, GREP_LINE_CHARS_MAX, GREP_MATCHES_MAX
from tests.tools.workplace import Workplace

BUILT_IN, RIPGREP = "built-in", "ripgrep"


@pytest.fixture(params=[BUILT_IN, RIPGREP])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which program searches."""
    found = shutil.which("rg")
    if request.param == RIPGREP and found is None:
        pytest.skip("ripgrep is not installed: that it answers as the built-in searcher does is NOT TESTED here")
    monkeypatch.setenv("PATH", os.path.dirname(found) if found and request.param == RIPGREP else str(tmp_path))
    return str(request.param)


pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def tree(place: Workplace) -> Workplace:
    place.write("a.py", "import os\n\ndef main():\n    return os\n")
    place.write("src/b.py", "def other():\n    pass\n")
    place.write("src/deep/c.ts", "function other() {}\n")
    place.write("src/.hidden/d.txt", "other\n")
    place.write("z.txt", "last\nother\n")
    return place


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"pattern": "def"}, ["a.py:3:def main():", "src/b.py:1:def other():"]),
        ({"pattern": "other"}, ["src/.hidden/d.txt:1:other", "src/b.py:1:def other():",
                                "src/deep/c.ts:1:function other() {}", "z.txt:2:other"]),
        ({"pattern": r"^\s+\w+$"}, ["src/b.py:2:    pass"]),
        ({"pattern": "os$"}, ["a.py:1:import os", "a.py:4:    return os"]),
        ({"pattern": r"other\(\)"}, ["src/b.py:1:def other():", "src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "DEF", "ignore_case": True}, ["a.py:3:def main():", "src/b.py:1:def other():"]),
        ({"pattern": "DEF"}, ["Nothing in . matches DEF."]),
        ({"pattern": "other", "path": "src"}, ["src/.hidden/d.txt:1:other", "src/b.py:1:def other():",
                                               "src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "path": "src/deep/"}, ["src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "path": "z.txt"}, ["z.txt:2:other"]),
        ({"pattern": "nothing", "path": "z.txt"}, ["Nothing in z.txt matches nothing."]),
        ({"pattern": "other", "path": "z.txt", "output": "files"}, ["z.txt"]),
        ({"pattern": "other", "output": "files"}, ["src/.hidden/d.txt", "src/b.py", "src/deep/c.ts", "z.txt"]),
        ({"pattern": "nothing", "output": "files"}, ["Nothing in . matches nothing."]),
        ({"pattern": "other", "glob": "*.py"}, ["src/b.py:1:def other():"]),
        ({"pattern": "other", "glob": "*.{py,ts}"}, ["src/b.py:1:def other():", "src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "glob": "src/*.py"}, ["src/b.py:1:def other():"]),
        ({"pattern": "other", "glob": "src/**"}, ["src/.hidden/d.txt:1:other", "src/b.py:1:def other():",
                                                  "src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "glob": "src/"}, ["src/.hidden/d.txt:1:other", "src/b.py:1:def other():",
                                                "src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "glob": "**/deep/*"}, ["src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "glob": "**.ts"}, ["src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "glob": "[a-c].[!p]?"}, ["src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "glob": "deep/*", "path": "src"}, ["src/deep/c.ts:1:function other() {}"]),
        ({"pattern": "other", "glob": "*.rs"}, ["Nothing in . matches other in files like *.rs."]),
        ({"pattern": "other", "glob": "*.rs", "path": "z.txt"}, ["z.txt:2:other"]),
        ({"pattern": "main", "context": 1}, ["a.py:2-", "a.py:3:def main():", "a.py:4-    return os"]),
        ({"pattern": "os|pass|last", "context": 1, "glob": "{a.py,z.txt}"},
         ["a.py:1:import os", "a.py:2-", "a.py:3-def main():", "a.py:4:    return os", "--", "z.txt:1:last",
          "z.txt:2-other"]),
        ({"pattern": "--"}, ["Nothing in . matches --."]),
        ({"pattern": "-e"}, ["Nothing in . matches -e."]),
    ],
)  # fmt: skip
async def test_questions(tree: Workplace, arguments: dict[str, object], expected: list[str]) -> None:
    output = await tree.run("grep_search", **arguments)
    assert not output.is_error
    assert output.data.decode().split("\n") == expected
    found = 0 if expected[0].startswith("Nothing") else len(expected)
    assert output.metadata == {"files" if arguments.get("output") == "files" else "lines": found}


async def test_groups_of_context_that_do_not_touch_are_parted(place: Workplace) -> None:
    place.write("a.txt", "".join(f"{n}\n" for n in range(1, 12)))
    assert (await place.text("grep_search", pattern="^(2|4|9|11)$", context=1)).split("\n") == [
        "a.txt:1-1", "a.txt:2:2", "a.txt:3-3", "a.txt:4:4", "a.txt:5-5",
        "--",
        "a.txt:8-8", "a.txt:9:9", "a.txt:10-10", "a.txt:11:11",
    ]  # fmt: skip


async def test_text_is_searched_by_characters(place: Workplace) -> None:
    place.write("a.txt", "café\nÉCOLE\nna\u00efve 日本語\n")
    for pattern, options, line in (
        ("^caf.$", {}, "a.txt:1:café"),
        ("^école$", {"ignore_case": True}, "a.txt:2:ÉCOLE"),
        (r"\s\w{3}$", {}, "a.txt:3:naïve 日本語"),
        ("[éx]$", {}, "a.txt:1:café"),
    ):
        assert await place.text("grep_search", pattern=pattern, **options) == line


async def test_windows_line_ends_belong_to_no_line(place: Workplace) -> None:
    place.write("a.txt", "one\r\ntwo one\r\nthree")
    assert await place.text("grep_search", pattern="one$", context=1) == "a.txt:1:one\na.txt:2:two one\na.txt:3-three"


async def test_bytes_that_are_not_utf8_do_not_stop_it(place: Workplace) -> None:
    place.write("a.txt", b"caf\xe9 needle\n")
    assert await place.text("grep_search", pattern="needle") == "a.txt:1:caf\ufffd needle"


async def test_binary_and_large_files_are_left_out_of_a_tree_and_refused_by_name(place: Workplace) -> None:
    place.write("binary", b"needle\0\nneedle\n")
    place.write("wide.txt", "needle\n".encode("utf-16"))
    place.write("late", b"needle\n" + b"x" * 99 + b"\n" * 100_000 + b"\0\nneedle\n")
    place.write("large", b"needle\n" + b"x" * (GREP_FILE_BYTES_MAX - 6))
    place.write("text", "needle\n")
    assert await place.text("grep_search", pattern="needle") == "late:1:needle\ntext:1:needle"
    assert "binary is a binary file" in await place.refusal("grep_search", pattern="x", path="binary")
    assert "16777216; use bash" in await place.refusal("grep_search", pattern="x", path="large")


async def test_what_git_ignores_is_searched(place: Workplace) -> None:
    place.write(".gitignore", "build/\n*.log\n")
    place.write(".git/config", "needle\n")
    place.write(".ignore", "*\n")
    for name in ("build/out.js", "server.log", ".env"):
        place.write(name, "needle\n")
    assert await place.text("grep_search", pattern="needle", output="files") == ".env\nbuild/out.js\nserver.log"


async def test_a_long_line_is_cut(place: Workplace) -> None:
    for length in (GREP_LINE_CHARS_MAX, GREP_LINE_CHARS_MAX + 1, 50_000):
        place.write("a.txt", "é" * (length - 6) + "needle\n")
        cut = " [... cut]" if length > GREP_LINE_CHARS_MAX else ""
        line = "é" * (length - 6) + "needle"
        text = await place.text("grep_search", pattern="needle$")
        assert text == f"a.txt:1:{line[:GREP_LINE_CHARS_MAX]}{cut}"


async def test_more_than_the_bound_is_said_to_be_more(place: Workplace) -> None:
    place.write("a.txt", "needle\n" * GREP_MATCHES_MAX)
    assert len((await place.text("grep_search", pattern="needle")).split("\n")) == GREP_MATCHES_MAX
    place.write("b.txt", "needle\n" * 1_000_000)
    output = await place.run("grep_search", pattern="needle")
    *lines, note = output.data.decode().split("\n")
    assert lines == [f"a.txt:{n}:needle" for n in range(1, GREP_MATCHES_MAX + 1)]
    assert note == f"[only the first {GREP_MATCHES_MAX} are shown; narrow the pattern, the path or the glob]"
    assert output.metadata == {"lines": GREP_MATCHES_MAX}


async def test_many_long_lines_are_all_shown(place: Workplace) -> None:
    place.write("a.txt", ("needle" + "日" * 5000 + "\n") * GREP_MATCHES_MAX)
    lines = (await place.text("grep_search", pattern="needle")).split("\n")
    assert lines == [f"a.txt:{n}:needle{'日' * 394} [... cut]" for n in range(1, GREP_MATCHES_MAX + 1)]


async def test_more_files_than_the_bound_are_said_to_be_more(place: Workplace) -> None:
    for number in range(GREP_MATCHES_MAX + 5):
        place.write(f"{number:04}", "needle\n")
    *names, note = (await place.text("grep_search", pattern="needle", output="files")).split("\n")
    assert names == [f"{n:04}" for n in range(GREP_MATCHES_MAX)] and "only the first" in note


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "*a", "a{2,1}"])
async def test_what_is_no_regular_expression_is_refused_with_what_is_wrong(place: Workplace, pattern: str) -> None:
    place.write("a.txt", "a\n")
    refusal = await place.refusal("grep_search", pattern=pattern)
    assert refusal.startswith("the search failed: ") and pattern in refusal and len(refusal) > 40


async def test_a_glob_that_is_no_pattern_is_refused(place: Workplace) -> None:
    assert "cannot leave anything out" in await place.refusal("grep_search", pattern="x", glob="!*.py")
    assert "bad character range" in await place.refusal("grep_search", pattern="x", glob="[z-a]")


async def test_an_empty_path_is_the_workspace(tree: Workplace) -> None:
    assert await tree.text("grep_search", pattern="last", path="") == "z.txt:1:last"


async def test_what_may_not_be_read_is_left_out(unprivileged: Workplace, engine: str) -> None:
    if engine == BUILT_IN and not os.access(sys.executable, os.X_OK, effective_ids=True):
        pytest.skip("this Python cannot be run by another user")
    unprivileged.write("shut/a.txt", "needle\n")
    unprivileged.write("b.txt", "needle\n").chmod(0)
    unprivileged.write("c.txt", "other\n")
    os.chmod(unprivileged.root / "shut", 0)
    assert await unprivileged.text("grep_search", pattern="needle") == "Nothing in . matches needle."
    assert await unprivileged.text("grep_search", pattern="other") == "c.txt:1:other"


# -- an end at any time -----------------------------------------------------------------------------------------------


def endless(place: Workplace, engine: str) -> str:
    """A question that takes longer than any test; returns its pattern."""
    if engine == BUILT_IN:
        place.write("a.txt", "a" * 60 + "\n")
        return "(a+)+b"
    # ripgrep takes linear time, and the most for word boundaries among letters that are not ASCII.
    file = place.write("a.txt", "éb " * 4_000_000 + "\n")
    for number in range(200):
        os.link(file, place.root / f"{number}.txt")
    return r"\b\w{7}\b"


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[int]:
    """The pids of searchers, as they start."""
    pids: asyncio.Queue[int] = asyncio.Queue()
    original = asyncio.create_subprocess_exec

    async def spawn(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await original(*arguments, **options)
        pids.put_nowait(process.pid)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)
    return pids


async def test_a_search_that_takes_too_long_is_ended(
    place: Workplace, engine: str, spawned: asyncio.Queue[int]
) -> None:
    refusal = await place.refusal("grep_search", pattern=endless(place, engine), timeout_ms=700)
    assert refusal == "the search took longer than 700 ms; narrow the path or the glob"
    assert not os.path.exists(f"/proc/{spawned.get_nowait()}")


async def test_a_cancelled_search_ends_its_process_before_it_ends_itself(
    place: Workplace, engine: str, spawned: asyncio.Queue[int]
) -> None:
    call = asyncio.ensure_future(place.run("grep_search", pattern=endless(place, engine)))
    pid = await spawned.get()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not os.path.exists(f"/proc/{pid}")


async def test_a_search_whose_process_is_killed_is_not_taken_for_one_without_a_match(
    place: Workplace, engine: str, spawned: asyncio.Queue[int]
) -> None:
    call = asyncio.ensure_future(place.refusal("grep_search", pattern=endless(place, engine)))
    os.kill(await spawned.get(), signal.SIGKILL)
    assert await call == "the search failed: signal 9"


async def test_a_search_that_found_more_than_is_read_is_ended(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("a.txt", "needle\n" * 200_000)
    original = asyncio.create_subprocess_exec

    async def spawn(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await original(*arguments, **options)
        while not process.stdout._paused:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)
    call = asyncio.ensure_future(place.text("grep_search", pattern="needle"))
    done, _ = await asyncio.wait([call], timeout=20)
    assert done, "it waits for an exit that is never noted"
    assert "only the first" in await call


async def test_no_descriptor_stays_open(tree: Workplace) -> None:
    async def ask() -> None:
        await tree.run("grep_search", pattern="other")
        await tree.run("grep_search", pattern="other", path="z.txt")
        await tree.run("grep_search", pattern="(")
        await tree.run("grep_search", pattern="x", path="missing")

    await ask()
    before = set(os.listdir("/proc/self/fd"))
    await ask()
    assert set(os.listdir("/proc/self/fd")) == before


async def test_the_searcher_inherits_no_key(tree: Workplace, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine != RIPGREP:
        pytest.skip("the built-in searcher has no name on the PATH; both are started by the same call")
    found = shutil.which("rg")
    shims = tree.root.parent / "shims"
    shims.mkdir()
    (shims / "rg").write_text(f'#!/bin/sh\n/usr/bin/env > {shims}/environment\nexec {found} "$@"\n')
    (shims / "rg").chmod(0o755)
    monkeypatch.setenv("PATH", str(shims))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-of-grep")
    assert not (await tree.run("grep_search", pattern="other")).is_error
    assert "canary-of-grep" not in (shims / "environment").read_text()
