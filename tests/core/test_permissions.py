"""May this tool call run? The matrix of modes, rules and their order, patterns and the attacks on them."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.contracts import ToolSpec
from kheish.core.events import Behavior, Mode, Rule, RuleScope
from kheish.core.permissions import (
    DEFAULT_RULES,
    MODES,
    evaluate,
    exact_rule,
    main_argument_of,
    matches,
    names_of,
    parse_pattern,
)
from kheish.errors import Invalid
from kheish.limits import TOOL_INPUT_BYTES_MAX
from kheish.tools.registry import load_tools
from tests.core.conversation import rule

SPECS: dict[str, ToolSpec] = {name: tool.spec for name, tool in load_tools().items()}
CWD = "/ws/project"


def judge(tool: str, main: str, *rules: Rule, mode: Mode = "default") -> tuple[str, str, str]:
    """(behavior, the rule that decided, its scope) under these rules and the default ones."""
    spec = SPECS.get(tool)
    arguments = {spec.main_argument: main} if spec and spec.main_argument else {}
    found = evaluate(mode, [*rules, *DEFAULT_RULES], tool, spec, arguments, CWD)
    return found.behavior, found.rule, found.scope


def command(text: str, *rules: Rule, mode: Mode = "default") -> str:
    return judge("bash", text, *rules, mode=mode)[0]


# -- modes ----------------------------------------------------------------------------------------------------------

READS = {"default": "allow", "accept_edits": "allow", "plan": "allow", "dont_ask": "allow", "bypass": "allow"}
EDITS = {"default": "ask", "accept_edits": "allow", "plan": "deny", "dont_ask": "deny", "bypass": "allow"}
ASKED = {"default": "ask", "accept_edits": "ask", "plan": "deny", "dont_ask": "deny", "bypass": "allow"}
MATRIX = {
    "read_file": READS,
    "list_files": READS,
    "glob_search": READS,
    "grep_search": READS,
    "ask_user_question": {**READS, "dont_ask": "deny"},
    "todo_write": READS,
    "write_file": EDITS,
    "edit_file": EDITS,
    "bash": ASKED,
}


def test_the_matrix_speaks_of_every_tool_and_every_mode() -> None:
    assert set(MATRIX) == set(SPECS)
    assert set(MODES) == set(get_args(Mode)) == set(READS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tool", MATRIX)
def test_each_mode_does_with_each_tool_what_the_matrix_says(tool: str, mode: Mode) -> None:
    assert judge(tool, "x", mode=mode)[0] == MATRIX[tool][mode]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tool", MATRIX)
@pytest.mark.parametrize("scope", get_args(RuleScope))
def test_an_explicit_deny_is_one_in_every_mode(tool: str, mode: Mode, scope: RuleScope) -> None:
    deny = rule(tool, "deny", scope)
    assert judge(tool, "x", rule(tool), rule("*"), deny, mode=mode) == ("deny", tool, scope)


@pytest.mark.parametrize("mode", MODES)
def test_tools_of_other_servers_are_asked_for_like_bash(mode: Mode) -> None:
    assert judge("mcp__files__read", "", mode=mode) == (ASKED[mode], "mcp__*", "default")


@pytest.mark.parametrize(
    ("tool", "explicit", "expected"),
    [
        ("bash", "allow", ("allow", "allow", "deny", "allow", "allow")),
        ("write_file", "ask", ("ask", "ask", "deny", "deny", "allow")),
        ("read_file", "ask", ("ask", "ask", "ask", "deny", "allow")),
        ("read_file", "allow", ("allow", "allow", "allow", "allow", "allow")),
        ("ask_user_question", "allow", ("allow", "allow", "allow", "allow", "allow")),
    ],
)
def test_what_a_mode_makes_of_an_explicit_rule(tool: str, explicit: Behavior, expected: tuple[str, ...]) -> None:
    """In the order of MODES: default, accept_edits, plan, dont_ask, bypass."""
    assert tuple(judge(tool, "x", rule(tool, explicit), mode=mode)[0] for mode in MODES) == expected


@pytest.mark.parametrize(
    ("path", "behavior"),
    [
        ("src/a.py", "allow"),
        (".gitignore", "allow"),
        ("a.git/x", "allow"),
        (".git/config", "ask"),
        ("src/../.git/hooks/pre-commit", "ask"),
        (f"{CWD}/sub/.git", "ask"),
        ("sub/.GIT/config", "ask"),
    ],
)
def test_accept_edits_asks_about_what_git_would_run(path: str, behavior: Behavior) -> None:
    for tool in ("write_file", "edit_file"):
        assert judge(tool, path, mode="accept_edits")[0] == behavior
        assert judge(tool, path, rule(f"{tool}(*)"), mode="accept_edits")[0] == "allow", "where a rule says so"


def test_a_decision_says_what_the_mode_changed() -> None:
    found = evaluate("plan", DEFAULT_RULES, "bash", SPECS["bash"], {"command": "ls"})
    assert (found.base_behavior, found.behavior, found.mode) == ("ask", "deny", "plan")
    assert "plan mode" in found.mode_effect
    assert evaluate("default", DEFAULT_RULES, "bash", SPECS["bash"], {}).mode_effect == ""


# -- which rule decides ---------------------------------------------------------------------------------------------


def test_the_nearest_scope_decides_whatever_is_more_specific() -> None:
    scopes: list[RuleScope] = ["session", "project", "user", "default"]
    exact: list[Rule] = [rule("bash(make)", "ask", scope) for scope in scopes]
    wide: list[Rule] = [rule("bash", "allow", scope) for scope in scopes]
    for near in range(3):
        for far in range(near + 1, 4):
            assert judge("bash", "make", exact[far], wide[near]) == ("allow", "bash", scopes[near])


def test_a_deny_of_the_farthest_scope_wins_over_an_exact_allow_of_the_nearest() -> None:
    assert judge("bash", "make", rule("bash(make)"), rule("b*", "deny", "user")) == ("deny", "b*", "user")


@pytest.mark.parametrize(
    "patterns",
    [
        ("bash(git status)", "bash(git status*)", "bash(git *)", "bash(*)", "b*", "*"),
        ("bash(git status)", "bash(git s*s)", "bash"),
        ("bash(git status)", "ba*(git status)", "b*(git status)", "*(git status)"),
        ("bash(git *)", "bas*(git *)", "*(git status*)"),
    ],
)
def test_within_a_scope_the_more_specific_pattern_decides(patterns: tuple[str, ...]) -> None:
    for position, specific in enumerate(patterns):
        for wider in patterns[position + 1 :]:
            for first, second in ((specific, wider), (wider, specific)):
                rules = [rule(first, "ask" if first == wider else "allow")]
                rules.append(rule(second, "ask" if second == wider else "allow"))
                assert judge("bash", "git status", *rules)[:2] == ("allow", specific), (specific, wider)


def test_an_escaped_star_is_exact() -> None:
    wide = rule("bash(make ******************)", "ask")
    assert judge("bash", "make *", wide, rule(r"bash(make \*)"))[:2] == ("allow", r"bash(make \*)")


def test_among_equals_the_earlier_rule_decides() -> None:
    one, two = rule("bash(git *)", "ask"), rule("bash(*stat*)", "allow")
    assert judge("bash", "git status", one, two) == ("ask", "bash(git *)", "session")
    assert judge("bash", "git status", two, one) == ("allow", "bash(*stat*)", "session")
    assert judge("bash", "x", rule("bash"), rule("bash", "ask"))[0] == "allow"


def test_what_no_rule_speaks_of_is_asked_for() -> None:
    found = evaluate("default", [], "bash", SPECS["bash"], {"command": "ls"})
    assert (found.behavior, found.rule, found.scope) == ("ask", "*", "default")


# -- patterns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "tool", "main", "expected"),
    [
        ("bash", "bash", "anything; at all", True),
        ("bash", "bash2", "x", False),
        ("bas", "bash", "x", False),
        ("*", "bash", "x", True),
        ("mcp__*", "mcp__files__read", "", True),
        ("mcp__*__read", "mcp__files__write", "", False),
        ("bash(ls)", "bash", "ls", True),
        ("bash(ls)", "bash", "ls -l", False),
        ("bash(ls)", "bash", "ls\n", False),
        ("bash(ls)", "bash", "ls\nrm x", False),
        ("bash(LS)", "bash", "ls", False),
        ("bash()", "bash", "", True),
        ("bash()", "bash", "x", False),
        ("bash(a.c)", "bash", "abc", False),
        ("bash(a+)", "bash", "aa", False),
        ("bash([ab])", "bash", "a", False),
        ("bash(^ls$)", "bash", "ls", False),
        ("bash(a|b)", "bash", "a", False),
        ("bash(a|b)", "bash", "a|b", True),
        ("bash(?)", "bash", "x", False),
        (r"bash(\d)", "bash", "1", False),
        (r"bash(\d)", "bash", "d", True),
        (r"bash(a\*b)", "bash", "a*b", True),
        (r"bash(a\*b)", "bash", "axb", False),
        (r"bash(a\\*)", "bash", "a\\", True),
        (r"bash(a\\*)", "bash", "a*", False),
        ("bash(a\\)", "bash", "a\\", True),
        ("bash(f(x))", "bash", "f(x)", True),
        ("bash(a*b*c)", "bash", "a1b2c", True),
        ("bash(a*b*c)", "bash", "acb", False),
        ("bash(ab*bc)", "bash", "abc", False),
        ("bash(a**b)", "bash", "ab", True),
        ("bash(*)", "bash", "", True),
    ],
)
def test_what_a_pattern_matches(pattern: str, tool: str, main: str, expected: bool) -> None:
    assert matches(rule(pattern, "ask"), tool, [main]) is expected


@pytest.mark.parametrize("pattern", ["", "bash(", "bash)", "bash(x) y", "ba sh", "bash(x", "(x)", "bash;", "b\u0430sh"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_pattern(pattern)
    assert caught.value.code == "invalid_rule"


PIECES = st.lists(st.sampled_from(["a", "b", "*", ";", r"\*", r"\\", "ab", "\n"]), max_size=7).map("".join)
TEXTS = st.lists(st.sampled_from(["a", "b", "*", ";", "\\", "ab", "\n"]), max_size=9).map("".join)


@given(PIECES, TEXTS, st.sampled_from(["allow", "deny"]))
def test_matching_finds_what_a_regular_expression_would(pattern: str, text: str, behavior: Behavior) -> None:
    star = r"[^;&|`$<>\n\r(){}\\]*" if behavior == "allow" else r".*"
    tokens = re.findall(r"\\.|.", pattern, re.DOTALL)
    regex = "".join(star if token == "*" else re.escape(token[-1]) for token in tokens)
    expected = re.fullmatch(regex, text, re.DOTALL) is not None
    assert matches(rule(f"bash({pattern})", behavior), "bash", [text]) is expected


@contextmanager
def not_for_ever() -> Iterator[None]:
    """Fails what would otherwise take hours."""

    def give_up(*_: object) -> None:
        raise AssertionError("it does not end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("pattern", ["*a*a*a*a*b", "*rm -rf*/*rm*/*", "*" * 50 + "b", "a*" * 20 + "b"])
@pytest.mark.parametrize("piece", ["a", "rm -rf ", "a rm -rf /"])
@pytest.mark.parametrize("behavior", ["allow", "deny"])
def test_an_argument_as_long_as_there_may_be_is_matched_in_no_time(
    pattern: str, piece: str, behavior: Behavior
) -> None:
    """A model that chooses its argument well must not stop the daemon."""
    with not_for_ever():
        command(piece * (TOOL_INPUT_BYTES_MAX // len(piece)), rule(f"bash({pattern})", behavior))


# -- commands: no chaining through a star that allows ---------------------------------------------------------------

CHAINS = [
    "git status; rm -rf .",
    "git status && rm x",
    "git status || rm x",
    "git status | sh",
    "git status & rm x",
    "git status\nrm x",
    "git status\r\nrm x",
    "git status\rrm x",
    "git status $(rm x)",
    "git status `rm x`",
    "git status ${x}",
    "git status $x",
    "git status > .bashrc",
    "git status 2>.bashrc",
    "git status < /etc/passwd",
    "git status <(rm x)",
    "git status \\\nrm x",
    "git status {a,b}",
    "git status (rm)",
    "git status a\\ b",
]


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize(
    "pattern", ["bash(git status*)", "bash(git*)", "bash(*)", "*(git status*)", "b*(git status*)", "bas*(*)", "ba*h(*)"]
)
def test_a_star_that_allows_does_not_let_another_command_in(pattern: str, text: str) -> None:
    assert command(text, rule(pattern)) == "ask"
    assert command(text, rule(pattern), mode="dont_ask") == "deny"
    assert command(text, rule(pattern, "deny")) == "deny", "a star that denies stands for anything"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deploy prod --dry-run", "allow"),
        ("deploy prod#1 --dry-run", "allow"),
        ("deploy prod # --dry-run", "ask"),
        ("deploy # --dry-run", "ask"),
        ("deploy prod\t#x --dry-run", "ask"),
        ("deploy 'a b' --dry-run", "allow"),
        ("deploy ' --dry-run '", "ask"),
        ('deploy prod " --dry-run"', "ask"),
    ],
)
def test_what_a_rule_says_after_a_star_is_neither_commented_out_nor_quoted(text: str, expected: str) -> None:
    assert command(text, rule("bash(deploy * --dry-run*)")) == expected
    assert command("git commit -m 'mend #12'", rule("bash(git commit *)")) == "allow", "there is nothing after this one"


@pytest.mark.parametrize(
    "text",
    [
        "FOO=bar git status",
        "LD_PRELOAD=./x.so git status",
        "env git status",
        "./git status",
        "/tmp/git status",
        " git status",
        "\tgit status",
        "\\git status",
        "gi\\t status",
        "g'i't status",
        '"git" status',
        "git\tstatus",
        "git  status",
        "git\u00a0status",
        "\u0261it status",
        "g\u0456t status",
        "\uff47it status",
        "git\u200b status",
        "git -c core.pager=x status",
        "GIT status",
    ],
)
def test_another_spelling_of_an_allowed_command_is_asked_for(text: str) -> None:
    assert command(text, rule("bash(git status*)")) == "ask"
    assert command("git status -s src/", rule("bash(git status*)")) == "allow"


def test_what_is_allowed_through_a_star_is_one_command_to_a_real_shell(tmp_path: Path) -> None:
    """Every character of ASCII, and those of Unicode that look like, or are called, something else."""
    odd = "\x85\u00a0\u037e\u2028\u2029\u200b\uff1b\uff06\uff5c\uff04\uff40\ufeff\u202e"
    allowed = 0
    for char in [*map(chr, range(1, 128)), *odd]:
        for text in (f"echo x{char}touch made", f"echo x {char} touch made", f"echo x{char}{char}touch made #"):
            if command(text, rule("bash(echo x*)")) == "allow":
                allowed += 1
                subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True)
                assert list(tmp_path.iterdir()) == [], repr(text)
    assert allowed > 300


def test_a_literal_of_a_rule_may_chain_since_a_human_wrote_it() -> None:
    chained = rule("bash(cd src && make *)")
    assert command("cd src && make all", chained) == "allow"
    assert command("cd src && make all && rm x", chained) == "ask"
    assert command("make; make", rule("bash(make; make)")) == "allow"
    assert command("anything; at all", rule("bash")) == "allow"


@pytest.mark.parametrize("where", ["sub", "./sub", ".", "sub/../sub", "'sub'", "-- sub"])
def test_what_is_allowed_here_is_asked_for_in_another_directory(where: str) -> None:
    """There the same words may run what others put there: a Makefile, a .git/config that names programs."""
    for rules in ([rule("bash(git status*)")], [rule("bash(cd*)"), rule("bash(git status*)")]):
        assert command(f"cd {where} && git status", *rules) == "ask"


def test_a_deny_that_is_walked_around_is_still_asked_for() -> None:
    for text in ("sudo\tx", " sudo x", "s''udo x", "true; sudo x", "command sudo x"):
        assert command(text, rule("bash(sudo *)", "deny")) == "ask"
    assert command("sudo x", rule("bash(sudo *)", "deny")) == "deny"


# -- paths: one place, many names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["secrets/key", "./secrets/key", "secrets//key", "secrets/./key", "x/../secrets/key",
    "/ws/project/secrets/key", "//ws/./project/secrets/key", "../project/secrets/key",
    "/ws/../ws/project/secrets/key", "secrets/../secrets/key/"])  # fmt: skip
@pytest.mark.parametrize("pattern", ["read_file(secrets/*)", "read_file(./secrets/*)", "read_file(/ws/project/sec*)"])
def test_no_spelling_of_a_path_slips_past_a_deny(path: str, pattern: str) -> None:
    assert judge("read_file", path, rule(pattern, "deny"))[0] == "deny"


@pytest.mark.parametrize("path", ["src/../.env", "src/../../x", "src/a/../../.env", "./src/../.env", "src/..",
    "/ws/project/src/../.env", "/ws/project/../src/a", "/src/a", "src", "../src/a", "\u0455rc/a", "src\u2215a",
    "SRC/a", "src\\a"])  # fmt: skip
def test_an_allowed_directory_is_not_left_by_any_spelling(path: str) -> None:
    assert judge("write_file", path, rule("write_file(src/*)"))[0] == "ask"


@pytest.mark.parametrize("path", ["src/a", "./src/a", "src/b/../a", "/ws/project/src/a", "../project/src/a"])
def test_an_allowed_file_is_allowed_by_every_name(path: str) -> None:
    assert judge("write_file", path, rule("write_file(src/*)"))[0] == "allow"


def test_only_paths_are_made_plain() -> None:
    assert judge("bash", "ls a/../b", rule("bash(ls b)"))[0] == "ask"
    assert judge("grep_search", "a/../b", rule("grep_search(b)", "deny"))[0] == "allow"


@pytest.mark.parametrize(
    ("path", "cwd", "names"),
    [
        ("a", "/", ("a", "/a", "a", "./a")),
        (".", "/ws", (".", "/ws")),
        ("..", "/ws", ("..", "/")),
        ("../../..", "/ws", ("../../..", "/")),
        ("/", "/ws", ("/", "/")),
        ("", "/ws", ("",)),
        ("./a/", "", ("a",)),
        ("/ws2/a", "/ws", ("/ws2/a", "/ws2/a")),
        ("a/b", "/ws/", ("a/b", "/ws/a/b", "a/b", "./a/b")),
    ],
)
def test_the_names_of_a_path(path: str, cwd: str, names: tuple[str, ...]) -> None:
    assert names_of(SPECS["read_file"], {"path": path}, cwd) == names


def test_an_argument_that_is_no_text_has_no_name() -> None:
    assert main_argument_of(SPECS["read_file"], {"path": ["secrets"]}) == ""
    assert main_argument_of(None, {"path": "x"}) == ""
    assert main_argument_of(SPECS["ask_user_question"], {"questions": []}) == ""


# -- the rule for this very call ------------------------------------------------------------------------------------


@given(
    st.text(st.sampled_from("ab*\\();|\n $.[?"), max_size=8), st.text(st.sampled_from("ab*\\();|\n $.[?"), max_size=8)
)
def test_an_exact_rule_matches_its_own_call_and_no_other(main: str, other: str) -> None:
    made = exact_rule("bash", main or "x", "allow", "session")
    assert matches(made, "bash", [main or "x"])
    assert not matches(made, "write_file", [main or "x"])
    assert other == (main or "x") or not matches(made, "bash", [other])
