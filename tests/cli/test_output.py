"""What reaches a terminal: nothing that moves its cursor, tables that fit, ids that tell each other apart."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.cli.output import fail, paint, print_json, print_table, short_ids
from kheish.client.errors import ApiError, DaemonUnreachable
from kheish.errors import Conflict, Corrupt, Forbidden, Invalid, KheishError, NewerFormat, NotFound, Refused
from kheish.ids import IdSource
from kheish.terminal import ago
from tests.test_terminal import TEXT, is_harmless


class Tty(io.StringIO):
    """A terminal of 80 columns, since it has no number to ask about."""

    def isatty(self) -> bool:
        return True


@contextmanager
def standard_output(stream: io.StringIO) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        patch.setenv("NO_COLOR", "1")
        yield


def at_terminal(call: Callable[[], object]) -> str:
    with standard_output(tty := Tty()):
        call()
    return tty.getvalue()


# -- tables ---------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_whole_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "empty", "what"), [("日本", "", "x" * 200), ("abcdef", "", "y")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["NAME    EMPTY  WHAT", f"日本           {'x' * 200}", "abcdef         y"]


def test_a_terminal_gets_the_columns_that_hold_something_cut_to_its_width() -> None:
    rows = [("one", "", "x" * 200), ("two", "", "y")]
    lines = at_terminal(lambda: print_table(("name", "empty", "what"), rows)).splitlines()
    assert lines[0] == "NAME  WHAT"
    assert lines[1] == f"one   {'x' * 73}…" and len(lines[1]) == 80
    assert lines[2] == "two   y"


def test_a_terminal_that_is_too_narrow_gets_a_few_lines_for_each_row() -> None:
    rows = [("n" * 40, "i" * 35, "w" * 200), ("short", "", "y")]
    assert at_terminal(lambda: print_table(("name", "id", "what"), rows)).splitlines() == [
        "n" * 40,
        f" id    {'i' * 35}",
        f" what  {'w' * 72}…",
        "short",
        " what  y",
    ]


# -- ids ------------------------------------------------------------------------------------------------------------


def test_ids_are_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        short_ids(["run_01KB3AAAAAAAAAAAAAAAAAAAAA"])("run_01KB3AAAAAAAAAAAAAAAAAAAAA")
        == "run_01KB3AAAAAAAAAAAAAAAAAAAAA"
    )


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True), st.integers(0, 3))
def test_short_ids_name_one_id_each(numbers: list[int], time: int) -> None:
    ids = [f"run_{time:010d}{number:016d}" for number in numbers] + [IdSource().new("run"), ""]
    with standard_output(Tty()):
        short = short_ids(ids)
    for id_ in ids[:-1]:
        assert [other for other in ids if other.startswith(short(id_))] == [id_]
    assert short("") == ""


def test_an_id_of_another_time_is_short() -> None:
    id_, other = "run_01M89MNN8BP31CW6XW0K96F001", "run_01M89MNNHRFH4147QJHV5ZMY01"
    with standard_output(Tty()):
        assert short_ids([id_, other])(id_) == "run_01M89MNN8BP3"


def test_an_id_that_begins_another_stays_whole() -> None:
    with standard_output(Tty()):
        assert short_ids(["a_1", "a_12"])("a_1") == "a_1"


# -- JSON, ages, colours --------------------------------------------------------------------------------------------


@given(TEXT)
def test_json_at_a_terminal_is_harmless_and_loses_nothing(text: str) -> None:
    shown = at_terminal(lambda: print_json({"text": text}))
    assert is_harmless(shown)
    assert json.loads(shown) == {"text": text}


@given(TEXT)
def test_json_in_a_pipe_is_one_line_of_ascii(text: str) -> None:
    with standard_output(pipe := io.StringIO()):
        print_json([text])
    line = pipe.getvalue()
    assert line.isascii() and line.count("\n") == 1 and json.loads(line) == [text]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86399, "23h"), (86400, "1d"), (-5, "0s")],
)
def test_an_age_is_one_number(seconds: int, shown: str) -> None:
    assert ago(1_000_000, 1_000_000 + seconds * 1000) == shown


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    tty = Tty()
    assert paint("x", "red", tty) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    assert paint("x", "", tty) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red", tty) == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert paint("x", "red", io.StringIO()) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", tty) == "x"


# -- exit status ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KheishError("x"), 1),
        (Invalid("x"), 2),
        (ApiError(413, "body_too_large", "x", {}), 2),
        (DaemonUnreachable("x"), 3),
        (Forbidden("x"), 4),
        (ApiError(401, "token_required", "x", {}), 4),
        (NotFound("x"), 5),
        (Conflict("x"), 6),
        (Refused("x"), 6),
        (ApiError(429, "too_many", "x", {}), 7),
        (ApiError(503, "too_many_connections", "x", {}), 7),
        (Conflict("x", code="daemon_draining"), 7),
        (Corrupt("x"), 1),
        (NewerFormat("x"), 1),
        (ApiError(503, "blob_corrupt", "x", {}), 1),
        (ApiError(503, "archive_corrupt", "x", {}), 2),
    ],
)
def test_an_error_has_its_exit_status(error: KheishError, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(error) == status
    said = capsys.readouterr()
    assert said.err == f"kheish: {error.message}\n" and said.out == ""


def test_an_error_text_is_cleaned_too(capsys: pytest.CaptureFixture[str]) -> None:
    fail(KheishError("cannot\x1b[2J\u202e do"))
    assert capsys.readouterr().err == "kheish: cannot do\n"
