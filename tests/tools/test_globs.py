"""`glob_search` and its patterns."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.tools.globs import compile_glob
from kheish.tools.work import Unusable
from tests.tools.workplace import Workplace


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.py", ["a.py", ".py"], ["a.pyc", "d/a.py", "a.py/b"]),
        ("**/*.py", ["a.py", "d/a.py", "d/e/a.py"], ["a.pyc", "d/a.py/b"]),
        ("**.py", ["a.py", "d/e/a.py"], ["a.pyc"]),
        ("src/**", ["src/a", "src/d/a"], ["src", "asrc/a"]),
        ("src/", ["src/a", "src/d/a"], ["src"]),
        ("**", ["a", "d/a"], []),
        ("src/**/test_*.{ts,tsx}", ["src/test_a.ts", "src/d/e/test_.tsx"], ["src/a.ts", "test_a.ts", "src/test_a.t"]),
        ("a/**/b/**/c", ["a/b/c", "a/x/b/y/z/c", "a/b/b/c/c"], ["a/c", "a/b", "b/c"]),
        ("**/a/*/b", ["a/x/b", "q/a/a/b", "a/a/x/b"], ["a/b", "a/x/y/b"]),
        ("?.md", ["a.md", "é.md"], [".md", "ab.md", "/.md"]),
        ("[abc].md", ["a.md"], ["d.md", "[abc].md"]),
        ("[!abc].md", ["d.md"], ["a.md", "/.md"]),
        ("[^a-c].md", ["d.md"], ["b.md"]),
        ("[]a].md", ["].md", "a.md"], ["b.md"]),
        ("[a&&b]", ["&", "a"], ["c"]),
        (r"\[id\].tsx", ["[id].tsx"], ["i.tsx"]),
        (r"\*", ["*"], ["a"]),
        ("{a,b/{c,d}}.py", ["a.py", "b/c.py", "b/d.py"], ["b.py", "c.py"]),
        ("{a}.py", ["{a}.py"], ["a.py"]),
        ("a,b", ["a,b"], ["a"]),
        ("./src//./*.py", ["src/a.py"], ["a.py"]),
        ("(a|b)+.$", ["(a|b)+.$"], ["a.$"]),
        ("two\nlines*", ["two\nlines", "two\nlines\n"], ["two"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    compiled = compile_glob(pattern)
    assert [path for path in (*matching, *others) if compiled.match(path)] == matching


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("/etc/*", "matched below path"),
        ("../*", "matched below path"),
        ("a/../b", "matched below path"),
        ("!*.py", "cannot leave anything out"),
        ("[z-a]", "bad character range"),
        ("a\0", "NUL"),
        ("a" * 1001, "1000 characters"),
        ("{a,b}" * 9, "256 alternatives"),
        ("{" + "a," * 300 + "a}", "256 alternatives"),
    ],
)
def test_what_is_no_pattern_is_refused_in_words(pattern: str, words: str) -> None:
    with pytest.raises(Unusable) as caught:
        compile_glob(pattern)
    assert words in str(caught.value)


def is_match(pattern: list[str], path: list[str]) -> bool:
    """The meaning of a pattern, tried out in every way."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return any(is_match(pattern[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and is_name_match(pattern[0], path[0]) and is_match(pattern[1:], path[1:])


def is_name_match(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(is_name_match(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and is_name_match(pattern[1:], name[1:])


names = st.text(alphabet="ab", min_size=1, max_size=6)
pattern_names = st.text(alphabet="ab*?", min_size=1, max_size=6).filter(lambda name: "**" not in name)


@given(
    st.lists(st.one_of(st.just("**"), pattern_names), min_size=1, max_size=6),
    st.lists(names, min_size=1, max_size=6),
)
def test_a_pattern_matches_exactly_what_it_means(pattern: list[str], path: list[str]) -> None:
    assert bool(compile_glob("/".join(pattern)).match("/".join(path))) == is_match(pattern, path)


def test_no_pattern_takes_for_ever() -> None:
    tries = [
        ("*a" * 100 + "b", "a" * 250),
        ("**/*a*a*a*a*a*a*a*a*a*b", "a/" * 60 + "a" * 250),
        ("**/a/" * 30 + "b", "a/" * 64 + "a"),
        ("**/*?*?*?*?*?*?b/" * 10, "a/" * 64 + "a" * 250),
        ("{a,a,a}" * 5 + "*b", "a" * 250),
        ("[ab]*" * 100 + "c", "ab" * 120),
    ]
    code = f"from kheish.tools.globs import compile_glob\nfor p, t in {tries!r}: assert not compile_glob(p).match(t)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


async def test_the_latest_changed_come_first(place: Workplace) -> None:
    for changed_s, name in ((100, "old.py"), (300, "d/new.py"), (200, "mid.py"), (200, "also-mid.py")):
        os.utime(place.write(name), (changed_s, changed_s))
    place.write("other.txt")
    output = await place.run("glob_search", pattern="**/*.py")
    assert output.data == b"d/new.py\nalso-mid.py\nmid.py\nold.py"
    assert output.metadata == {"files": 4}


async def test_paths_are_given_as_other_tools_take_them(place: Workplace) -> None:
    place.write("src/deep/a.py", "x\n")
    assert await place.text("glob_search", pattern="**/*.py", path="src") == "src/deep/a.py"
    assert await place.text("glob_search", pattern="*.py", path="src/deep/") == "src/deep/a.py"
    assert "x" in await place.text("read_file", path="src/deep/a.py")


async def test_an_absolute_pattern_inside_the_workspace_is_understood(place: Workplace) -> None:
    place.write("src/a.py")
    assert await place.text("glob_search", pattern=f"{place.root}/src/*.py") == "src/a.py"
    assert "matched below path" in await place.refusal("glob_search", pattern=f"{place.outside}/*")


async def test_only_files_are_found(place: Workplace) -> None:
    place.write("src/src")
    assert await place.text("glob_search", pattern="**/src") == "src/src"


async def test_no_match_says_what_to_try(place: Workplace) -> None:
    place.write("src/[id].ts")
    output = await place.run("glob_search", pattern="*.ts")
    assert output.data.decode() == (
        "No file below . matches *.ts (only files directly in it were looked at; **/*.ts looks below)."
    )
    assert not output.is_error and output.metadata == {"files": 0}
    assert await place.text("glob_search", pattern="*.ts", path="src") == "src/[id].ts"
    assert await place.text("glob_search", pattern="src/[id].ts") == (
        "No file below . matches src/[id].ts ([ begins a set of characters; \\[ is the character)."
    )
    assert await place.text("glob_search", pattern=r"src/\[id\].ts") == "src/[id].ts"


async def test_more_files_than_are_shown_are_counted(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.tools.glob_search.LIST_ENTRIES_MAX", 3)
    for number in range(5):
        os.utime(place.write(f"{number}.txt"), (number, number))
    output = await place.run("glob_search", pattern="*")
    assert output.data.decode() == "4.txt\n3.txt\n2.txt\n[2 more; narrow the pattern]"
    assert output.metadata == {"files": 5}


async def test_a_file_is_no_place_to_search_below(place: Workplace) -> None:
    place.write("a.txt")
    assert await place.refusal("glob_search", pattern="*", path="a.txt") == "a.txt is not a directory"
