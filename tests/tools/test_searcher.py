"""The built-in searcher as a program of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from kheish.tools import searcher
from tests.tools.workplace import Workplace, swapping_scandir


def search(place: Workplace, **task: object) -> subprocess.CompletedProcess[bytes]:
    descriptor = os.open(place.root, os.O_RDONLY)
    whole = {
        "descriptor": descriptor, "pattern": "x", "glob": "", "glob_names_only": True, "ignore_case": False,
        "context": 0, "files_only": False, "skipped": [], "depth_max": 64, "file_bytes_max": 1 << 20,
        "line_chars_max": 100, "cpu_seconds_max": 20, **task,
    }  # fmt: skip
    command = [sys.executable, "-I", "-S", searcher.__file__, json.dumps(whole)]
    try:
        return subprocess.run(command, capture_output=True, pass_fds=(descriptor,), timeout=60)
    finally:
        os.close(descriptor)


def test_a_searcher_that_nobody_ends_ends_itself(place: Workplace) -> None:
    place.write("a.txt", "a" * 60 + "\n")
    done = search(place, pattern="(a+)+b", cpu_seconds_max=1)
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_a_searcher_that_fails_says_so(place: Workplace) -> None:
    done = search(place, context="none")
    assert done.returncode == 1, "it never came to the context, since nothing matched"
    place.write("a.txt", "x\n")
    done = search(place, context="none")
    assert done.returncode == 2 and b"TypeError" in done.stderr


def test_a_link_swapped_in_during_the_walk_of_the_built_in_searcher_is_not_entered(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("directory/inside.txt", "inside\n")
    swap = swapping_scandir(place, monkeypatch)
    directory = os.open(place.root, os.O_RDONLY)
    try:
        assert list(searcher.walk(directory, "", frozenset(), 64)) == []
        assert swap()
    finally:
        os.close(directory)


def test_what_may_not_be_read_is_left_out(unprivileged: Workplace) -> None:
    unprivileged.write("shut/a.txt", "needle\n")
    unprivileged.write("b.txt", "needle\n").chmod(0)
    unprivileged.write("c.txt", "needle\n")
    os.chmod(unprivileged.root / "shut", 0)
    directory = os.open(unprivileged.root, os.O_RDONLY)
    try:
        task = {"descriptor": directory, "glob": "", "skipped": [], "depth_max": 64}
        assert [path for path, _ in searcher.files(task)] == [b"./c.txt"]
    finally:
        os.close(directory)
