"""What a write changed is told in small."""

from __future__ import annotations

from kheish.limits import DIFF_BYTES_MAX, DIFF_INPUT_BYTES_MAX
from kheish.tools.diffs import changes


def test_a_change_is_counted_and_shown_with_the_lines_around_it() -> None:
    old = "".join(f"{n}\n" for n in range(1, 10))
    assert changes("a.txt", old.encode(), old.replace("5\n", "five\nand more\n").encode()) == {
        "added": 2,
        "removed": 1,
        "diff": "--- a/a.txt\n+++ b/a.txt\n@@ -2,7 +2,8 @@\n 2\n 3\n 4\n-5\n+five\n+and more\n 6\n 7\n 8",
    }


def test_a_change_of_line_ends_alone_is_a_change() -> None:
    assert changes("a", b"x\n", b"x\r\n")["added"] == 1
    assert changes("a", b"x", b"x\n")["added"] == 1
    assert changes("a", b"x\n", b"x\n") == {"added": 0, "removed": 0, "diff": ""}


def test_lines_that_look_like_a_diff_are_counted_once() -> None:
    counted = changes("a", b"-- old\n", b"++ new\n")
    assert (counted["added"], counted["removed"]) == (1, 1)


def test_a_long_diff_is_only_counted() -> None:
    counted = changes("a", b"", b"x\n" * DIFF_BYTES_MAX)
    assert counted == {"added": DIFF_BYTES_MAX, "removed": 0}


def test_what_is_too_large_to_compare_is_not_compared() -> None:
    half = b"x" * (DIFF_INPUT_BYTES_MAX // 2)
    assert "added" in changes("a", half, half)
    assert changes("a", half, half + b"x") == {}
