"""Command lines: the quick way and the Typer way are one, every command explains itself, mistakes are named."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from kheish.cli.command import Command, Param
from kheish.cli.main import run
from kheish.cli.table import DAILY, GROUPS, find_command
from kheish.cli.typer_app import Chosen, build
from kheish.errors import Invalid

COMMANDS = {(c.name,): c for c in DAILY} | {
    (group, c.name): c for group, (_, commands) in GROUPS.items() for c in commands
}
CHOSEN: list[Chosen] = []
APP = typer.main.get_command(build(CHOSEN.append))

each_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


def slow_way(argv: list[str]) -> Chosen | None:
    """What Typer makes of a line; None where it refuses it or shows help."""
    CHOSEN.clear()
    try:
        APP.main(args=argv, prog_name="kheish")
    except SystemExit as stop:
        assert bool(CHOSEN) or stop.code == 2 or {"-h", "--help"} & {*argv}
    return CHOSEN[0] if CHOSEN else None


def quick_way(argv: list[str]) -> Chosen | None:
    found = find_command(argv)
    values = found[0].parse(found[1]) if found else None
    return (found[0], values) if found and values is not None else None


@pytest.mark.parametrize("module", ["kheish.cli.table", "kheish.cli.command", "kheish.errors", "kheish.cli.wait"])
def test_ctrl_c_while_it_is_loaded_ends_it_silently(module: str) -> None:
    code = f"""
import sys
class Finder:
    def find_spec(name, *rest):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder)
from kheish.cli.main import main
sys.argv = ["kheish", "wait", "run_01"]
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


# -- one table, two ways --------------------------------------------------------------------------------------------

PLAIN = [
    "ps",
    "ps -a --json",
    "ps --all --limit 3",
    "ps --limit=3",
    "logs",
    "logs run_01KB -f",
    "logs -f run_01KB",
    "logs run_01KB --follow -n 5 --json",
    "logs -n 5 -n 6",
    "logs -n -3",
    "logs ''",
    "inbox",
    "inbox --count --json",
    "wait",
    "wait review --until idle",
    "wait review --until=blocked --timeout 2.5",
    "wait --timeout=0 --timeout 1e3 --json --json",
    "status --json",
    "daemon status",
    "daemon status --json",
    "completion bash",
    "run fix the failing test",
    "run -s review - --json",
    "run go --attach a --attach=b --mode plan",
    "approve 01KB3 --if-digest 5f0c2a",
    "answer 01KB3 --option 2 --option 3",
    "answer 01KB3 after the release",
    "sessions list --status idle,running",
    "sessions set-mode review plan",
    "sessions verify --all",
    "permissions check --tool bash --arg x",
    "daemon run",
]
REFUSED = [
    "ps extra",
    "ps --limit",
    "ps --limit x",
    "ps --limit 1.5",
    "ps --jsn",
    "ps --json=yes",
    "logs one two",
    "logs --lines=",
    "wait --until",
    "wait --until finished",
    "wait --timeout soon",
    "status now",
    "daemon status -x",
    "completion",
    "completion tcsh",
    "run",
    "run go --mode fast",
    "approve",
    "sessions set-mode review fast",
    "permissions check",
]
ONLY_TYPER = ["run -- -x", "logs -fn 5", "logs -n5", "logs -- -f", "ps -h", "wait --help"]


def split(line: str) -> list[str]:
    return ["" if word == "''" else word for word in line.split()]


@pytest.mark.parametrize("line", PLAIN)
def test_a_plain_line_means_the_same_both_ways(line: str) -> None:
    quick = quick_way(split(line))
    assert quick is not None, "it does not go the quick way"
    assert quick == slow_way(split(line))


@pytest.mark.parametrize("line", REFUSED)
def test_both_ways_refuse_a_wrong_line(line: str) -> None:
    assert quick_way(split(line)) is None
    assert slow_way(split(line)) is None


@pytest.mark.parametrize("line", ONLY_TYPER)
def test_the_quick_way_leaves_what_it_does_not_know_to_typer(line: str) -> None:
    assert quick_way(split(line)) is None


def lines_of(words: tuple[str, ...], command: Command) -> st.SearchStrategy[list[str]]:
    """Lines from the command's own flags, good and bad values, and what belongs to neither."""
    flags = [flag for param in command.params for flag in param.flags]
    values = ["1", "-1", "0", "2.5", "1_0", " 7", "x", "", "-", "idle", "blocked", "run_01KB", "é", "nan", "inf"]
    joined = [f"{flag}={value}" for flag in flags for value in ("1", "idle", "", "a=b")]
    odd = ["--", "-h", "--jso", "-n5", "-fa", "-x", "--no-json", "---"]
    return st.lists(st.sampled_from([*flags, *values, *joined, *odd]), max_size=6).map(lambda rest: [*words, *rest])


@given(st.one_of([lines_of(words, command) for words, command in COMMANDS.items()]))
def test_no_line_means_one_thing_quickly_and_another_slowly(argv: list[str]) -> None:
    quick = quick_way(argv)
    if quick is not None:
        # By their words, since one value that is not a number is not another.
        assert repr(quick) == repr(slow_way(argv))


# -- the table is whole ---------------------------------------------------------------------------------------------


@each_command
def test_every_row_names_a_function_that_takes_its_values(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    module, _, name = command.target.partition(":")
    function = getattr(import_module(f"kheish.cli.{module}"), name)
    parameters = inspect.signature(function).parameters
    assert {p.name for p in command.params} == set(parameters)
    assert not [p for p in parameters.values() if p.default is not p.empty], "defaults belong into the table"


@each_command
def test_every_command_speaks_json(words: tuple[str, ...]) -> None:
    flags = {flag for param in COMMANDS[words].params for flag in param.flags}
    # The daemon itself, what only a shell reads, and what is for eyes alone.
    assert "--json" in flags or words in (("daemon", "run"), ("completion",), ("tui",), ("attach",))


@each_command
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[words]
    with pytest.raises(SystemExit) as stop:
        APP.main(args=[*words, "--help"], prog_name="kheish")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80, "no line of it is broken by a terminal"
    help_text = " ".join(shown.split())
    assert f"Usage: kheish {' '.join(words)} " in help_text
    assert " ".join(command.help.split()) in help_text
    for param in command.params:
        assert param.help and param.help.split()[0] in help_text
        assert all(flag in help_text for flag in param.flags)


@pytest.mark.parametrize(
    "words",
    ["run", "ps", "logs", "inbox", "approve", "deny", "answer", "wait", "cancel", "sessions create", "sessions export",
     "sessions verify", "sessions input", "runs list", "permissions check", "permissions allow"],
)  # fmt: skip
def test_commands_with_more_than_one_way_show_an_example(words: str) -> None:
    text = COMMANDS[tuple(words.split())].help
    assert "Example" in text and f"kheish {words}" in text


@each_command
def test_examples_are_lines_that_are_understood(words: tuple[str, ...]) -> None:
    for line in COMMANDS[words].help.splitlines():
        for part in line.removeprefix("Example: ").split("|"):
            example = part.split("`")[0].strip()
            if example.startswith("kheish "):
                assert slow_way(shlex.split(example)[1:]) is not None, example


def test_the_list_of_commands_says_what_each_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words, command in COMMANDS.items():
        if len(words) == 1:
            assert f"{words[0]} {' '.join(command.help.split('.')[0].split()[:6])}" in shown
    for group, (text, _) in GROUPS.items():
        assert f"{group} {text.removesuffix('.')}" in shown


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_lists_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([group, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command.name} " in shown for command in GROUPS[group][1])


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "daemon", "logs"]) == 0
    assert "Usage: kheish daemon logs" in capsys.readouterr().out


# -- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        ("pss", "ps"),
        ("aprove x", "approve"),
        ("session list", "sessions"),
        ("sessions lst", "list"),
        ("daemon strat", "start"),
        ("ps --jsn", "--json"),
        ("run --detatch x", "--detach"),
    ],
)
def test_a_mistyped_word_gets_the_nearest_suggested(
    line: str, suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    said = capsys.readouterr()
    assert re.search(rf"(Did you mean|Possible options).*{suggestion}\b", said.err)
    assert said.out == ""


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["ps", "extra"], "extra"),
        (["ps", "--limit", "0"], "--limit"),
        (["ps", "--limit", "x"], "--limit"),
        (["logs", "-n", "-1"], "--lines"),
        (["logs", ""], "TARGET"),
        (["wait", "--timeout", "-1"], "--timeout"),
        (["wait", "--timeout", "nan"], "--timeout"),
        (["wait", "--until", "soon"], "'done', 'blocked', 'idle'"),
        (["cancel", ""], "TARGET"),
        (["run"], "TEXT"),
        (["run", ""], "nothing"),
        (["run", "  \n"], "nothing"),
        (["run", "-s", "", "x"], "--session"),
        (["run", "--steer", "--interrupt", "x"], "both"),
        (["run", "--mode", "yolo", "x"], "bypass"),
        (["run", "--attach", "/does/not/exist", "x"], "/does/not/exist"),
        (["run", "\udcff"], "UTF-8"),
        (["approve"], "REQUEST_ID"),
        (["approve", ""], "REQUEST_ID"),
        (["approve", "x", "--session", "--always"], "both"),
        (["approve", "x", "--retry", "--verify"], "both"),
        (["approve", "x", "--rule", "bash(*)"], "--always"),
        (["sessions", "verify"], "--all"),
        (["sessions", "verify", "x", "--all"], "--all"),
        (["sessions", "list", "--status", "bored"], "bored"),
        (["sessions", "events", "x", "--limit", "0"], "--limit"),
        (["permissions", "check"], "--tool"),
        (["permissions", "check", "--tool", "bash", "--arg", "a", "--input", "{}"], "--input"),
        (["permissions", "check", "--tool", "bash", "--input", "["], "JSON"),
        (["permissions", "check", "--tool", "bash", "--input", "[]"], "object"),
        (["daemon", "logs", "-n", "-3"], "--lines"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_line_is_named_and_is_status_2(argv: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv) == 2
    said = capsys.readouterr()
    assert named in said.err
    assert said.out == "" and "Traceback" not in said.err


def test_a_number_may_be_absent_but_not_too_small() -> None:
    param = Param("n", "--n", kind=int, at_least=1)
    with pytest.raises(Invalid, match="at least 1"):
        param.check(0)
    param.check(1)
    param.check(None)


# -- leaving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_quick_command_leaves_when_its_output_is_out(unbuffered: str, tmp_path: Path) -> None:
    def leave(stdout: int) -> tuple[int, str]:
        argv = [sys.executable, "-m", "kheish", "daemon", "status"]
        env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(argv, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True)
        os.close(stdout)
        return done.returncode, done.stderr

    said = tmp_path / "said"
    assert leave(os.open(said, os.O_WRONLY | os.O_CREAT)) == (3, "")
    assert said.read_text() == "stopped\n"
    assert leave(os.open("/dev/full", os.O_WRONLY)) == (1, "kheish: cannot go on: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    assert leave(writer) == (141, "")
