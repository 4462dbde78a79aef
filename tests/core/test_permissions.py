"""May this tool call run? The matrix of modes, rules and their order, patterns and the attacks on them, approvals."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheish.core import commands as c
from kheish.core import events as e
from kheish.core.codec import call_digest
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
from kheish.errors import Conflict, Forbidden, Invalid, NotFound
from kheish.limits import TOOL_INPUT_BYTES_MAX
from kheish.tools.registry import load_tools
from tests.core.conversation import SETTINGS, Conversation
from tests.core.test_machine import ASK, kinds

SPECS: dict[str, ToolSpec] = {name: tool.spec for name, tool in load_tools().items()}
CWD = "/ws/project"


def rule(pattern: str, behavior: Behavior = "allow", scope: RuleScope = "session") -> Rule:
    return Rule(pattern=pattern, behavior=behavior, scope=scope)


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
    "ask_user_question": READS,
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
    ],
)
def test_what_a_mode_makes_of_an_explicit_rule(tool: str, explicit: Behavior, expected: tuple[str, ...]) -> None:
    """In the order of MODES: default, accept_edits, plan, dont_ask, bypass."""
    assert tuple(judge(tool, "x", rule(tool, explicit), mode=mode)[0] for mode in MODES) == expected


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


# -- in a session ---------------------------------------------------------------------------------------------------


def asking(*calls: str, mode: Mode = "default", settings: Any = SETTINGS) -> Conversation:
    """A session whose model asked for these commands."""
    talk = Conversation(mode=mode, settings=settings)
    talk.submit("go")
    talk.reply("", *(("bash", {"command": text}) for text in calls))
    return talk


def under(*rules: Rule, revision: str = "p2") -> Any:
    return replace(SETTINGS, rules=(*rules, *DEFAULT_RULES), policy_revision=revision)


def only(events: list[e.Event], type_: type[e.Event]) -> Any:
    (found,) = [event for event in events if isinstance(event, type_)]
    return found


@pytest.mark.parametrize(
    ("rules", "mode", "behavior", "decider", "scope", "reason"),
    [
        ((), "default", "ask", "bash", "default", ""),
        ((rule("bash(make *)", "allow", "user"),), "default", "allow", "bash(make *)", "user", ""),
        ((rule("bash(make *)", "allow", "user"),), "plan", "deny", "bash(make *)", "user", "plan mode"),
        ((rule("b*", "deny", "project"),), "bypass", "deny", "b*", "project", ""),
        ((), "bypass", "allow", "bash", "default", "bypass mode"),
    ],
)
def test_the_journal_has_the_rule_that_decided(
    rules: tuple[Rule, ...], mode: Mode, behavior: str, decider: str, scope: str, reason: str
) -> None:
    talk = Conversation(mode=mode, settings=under(*rules))
    talk.submit("go")
    decided = only(talk.reply("", ("bash", {"command": "make all"})), e.ToolCallDecided)
    assert (decided.behavior, decided.rule, decided.rule_scope, decided.mode) == (behavior, decider, scope, mode)
    assert decided.reason.startswith(reason) and bool(decided.reason) == bool(reason)
    assert decided.digest == call_digest("bash", {"command": "make all"}, "/work", "p2")


def test_a_denied_call_is_answered_with_the_rule() -> None:
    talk = asking("make", settings=under(rule("bash(make*)", "deny", "user")))
    assert talk.state.messages[-1].text == "Permission denied: the rule bash(make*) (user) denies it."
    assert not talk.state.approvals


def test_rules_of_the_session_are_nearer_than_those_of_the_daemon() -> None:
    talk = Conversation(settings=under(rule("bash(make*)", "ask", "user")))
    talk.send(c.AddRule(rule=rule("bash", "allow", "user")))
    assert talk.state.rules == [rule("bash", "allow", "session")], "whatever scope was claimed"
    talk.submit("go")
    assert only(talk.reply("", ("bash", {"command": "make"})), e.ToolCallDecided).behavior == "allow"
    assert talk.send(c.AddRule(rule=rule("bash"))) == [], "the same rule is no news"
    with pytest.raises(Invalid):
        talk.send(c.AddRule(rule=rule("bash(")))


def test_rules_know_the_workspace_of_the_session() -> None:
    talk = Conversation(settings=under(rule("read_file(secrets/*)", "deny", "user")))
    talk.submit("go")
    talk.reply("", ("read_file", {"path": f"{talk.state.cwd}/secrets/key"}))
    assert "Permission denied" in talk.state.messages[-1].text


def test_only_an_operator_chooses_a_mode_at_the_beginning() -> None:
    talk = Conversation()
    talk.state = type(talk.state)()
    with pytest.raises(Forbidden):
        talk.send(c.CreateSession(session_id="s", cwd="/work", mode="bypass"), is_operator=False)
    assert talk.send(c.CreateSession(session_id="s", cwd="/work"), is_operator=False)


@pytest.mark.parametrize("resolution", ["allow", "deny"])
def test_only_an_operator_resolves_an_approval(resolution: Any) -> None:
    talk = asking("make")
    item = c.ApprovalResolution(request_id=next(iter(talk.state.approvals)), resolution=resolution)
    with pytest.raises(Forbidden) as caught:
        talk.send(c.ResolveApprovals(resolutions=(item,)), is_operator=False, principal="run:run_1")
    assert caught.value.code == "operator_required" and "run:run_1" in caught.value.message


def test_an_approval_is_bound_to_what_would_run() -> None:
    talk = asking("make")
    (approval,) = talk.state.approvals.values()
    assert approval.digest == call_digest("bash", {"command": "make"}, "/work", "p1")
    for other in (
        call_digest("bash", {"command": "make "}, "/work", "p1"),
        call_digest("bash", {"command": "make"}, "/elsewhere", "p1"),
        call_digest("bash", {"command": "make"}, "/work", "p2"),
        call_digest("sh", {"command": "make"}, "/work", "p1"),
    ):
        assert other != approval.digest
        with pytest.raises(Conflict) as caught:
            talk.resolve(if_digest=other)
        assert caught.value.code == "approval_digest_mismatch"
    talk.resolve(if_digest=approval.digest[:6])
    assert not talk.state.approvals


def test_an_edit_makes_a_new_digest_and_is_checked() -> None:
    talk = asking("make", settings=under(rule("bash(rm *)", "deny", "user"), revision="p1"))
    with pytest.raises(Invalid, match="unknown argument 'bad'"):
        talk.resolve(updated_input={"bad": 1})
    with pytest.raises(Conflict, match=r"the rule bash\(rm \*\) \(user\) denies them") as caught:
        talk.resolve(updated_input={"command": "rm x"})
    assert caught.value.code == "edit_denied"
    with pytest.raises(Invalid, match="will not run"):
        talk.resolve("deny", updated_input={"command": "ls"})
    resolved = only(talk.resolve(updated_input={"command": "ls"}), e.ApprovalResolved)
    assert resolved.updated_input == {"command": "ls"}
    assert resolved.digest == call_digest("bash", {"command": "ls"}, "/work", "p1")
    (call,) = talk.state.runs[resolved.run_id].calls
    assert (call.arguments, call.digest) == ({"command": "ls"}, resolved.digest)


def test_a_human_may_edit_in_a_mode_that_asks_nothing_of_them() -> None:
    """What a mode denies, a person may still say; what a rule denies, not."""
    talk = asking("make")
    talk.send(c.SetMode(mode="dont_ask"))
    talk.resolve(updated_input={"command": "make -n"})
    assert not talk.state.approvals


def test_a_rule_that_came_to_deny_a_call_stands_above_a_yes() -> None:
    talk = asking("make")
    talk.send(c.AddRule(rule=rule("bash(make*)", "deny")))
    with pytest.raises(Conflict, match=r"the rule bash\(make\*\) \(session\) denies it") as caught:
        talk.resolve()
    assert caught.value.code == "approval_denied"
    talk.resolve("deny")
    assert talk.state.messages[-1].text == "A human denied this call."


@pytest.mark.parametrize("remember", ["session", "always"])
@pytest.mark.parametrize("resolution", ["allow", "deny"])
def test_remembering_makes_exactly_the_shown_rule(remember: Any, resolution: Any) -> None:
    text = r"grep -E '(a|b)*\.c' ; x"
    talk = asking(text)
    shown = exact_rule("bash", text, resolution, "user" if remember == "always" else "session")
    assert only(talk.resolve(resolution, remember=remember), e.ApprovalResolved).rule == shown
    (settled,) = talk.state.settled.values()
    if remember == "session":
        assert (talk.state.rules, settled.rule) == ([shown], None)
    else:
        assert (talk.state.rules, settled.rule) == ([], shown), "the daemon keeps it, and may take it back"


def test_remembering_a_path_makes_a_rule_that_knows_it_again() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("write_file", {"path": "./src//../a"}))
    talk.resolve(remember="session")
    assert talk.state.rules == [rule("write_file(a)")]
    talk.finish_tool(talk.tool_effect())
    talk.reply("", ("write_file", {"path": f"{talk.state.cwd}/a"}), ("write_file", {"path": "b"}))
    assert [approval.arguments for approval in talk.state.approvals.values()] == [{"path": "b"}]


def test_a_wider_rule_must_match_the_call_that_it_is_made_for() -> None:
    talk = asking("make all")
    for wrong, said in (("bash(git *)", "does not match"), ("bash(", "cannot read"), ("read_file", "does not match")):
        with pytest.raises(Invalid, match=said):
            talk.resolve(remember="always", rule=wrong)
    with pytest.raises(Invalid, match="say session or always"):
        talk.resolve(rule="bash(make *)")
    talk.resolve(remember="always", rule="bash(make *)")
    (settled,) = talk.state.settled.values()
    assert settled.rule == rule("bash(make *)", "allow", "user")


def test_a_wider_rule_is_no_way_around_the_ban_on_chains() -> None:
    talk = asking("make; rm x")
    with pytest.raises(Invalid, match="does not match"):
        talk.resolve(remember="session", rule="bash(make*)")


def test_a_batch_may_not_name_an_approval_twice() -> None:
    talk = asking("make")
    (request_id,) = talk.state.approvals
    items = tuple(c.ApprovalResolution(request_id=request_id, resolution=r) for r in ("allow", "deny"))
    with pytest.raises(Conflict) as caught:
        talk.send(c.ResolveApprovals(resolutions=items))  # type: ignore[arg-type]
    assert caught.value.code == "approval_state_conflict"
    assert list(talk.state.approvals) == [request_id]


def test_a_batch_that_gives_up_first_settles_nothing() -> None:
    """Giving one up fails the run and withdraws the other, which can then not be allowed."""
    talk = asking("a", "b")
    for _ in range(2):
        talk.resolve()
        talk.start_process(next(x for x in talk.effects() if talk_phase(talk, x) == "allowed"))
    talk.die()
    first, second = talk.state.approvals
    items = (
        c.ApprovalResolution(request_id=first, resolution="give_up"),
        c.ApprovalResolution(request_id=second, resolution="mark_done"),
    )
    with pytest.raises(Conflict):
        talk.send(c.ResolveApprovals(resolutions=items))
    assert list(talk.state.approvals) == [first, second]
    talk.send(c.ResolveApprovals(resolutions=tuple(reversed(items))))
    assert not talk.state.approvals


def talk_phase(talk: Conversation, effect: Any) -> str:
    run = talk.state.active_run
    assert run is not None
    return next(call.phase for call in run.calls if call.tool_call_id == effect.tool_call_id)


def test_an_empty_batch_and_a_mixed_one_are_refused() -> None:
    talk = asking("make")
    with pytest.raises(Invalid):
        talk.send(c.ResolveApprovals(resolutions=()))
    with pytest.raises(Invalid, match="choose one of allow, deny"):
        talk.resolve("mark_done")
    with pytest.raises(NotFound):
        talk.resolve(request_id="approval_none")


# -- another policy -------------------------------------------------------------------------------------------------


def test_under_other_rules_a_restart_asks_again() -> None:
    talk = asking("make")
    (before,) = talk.state.approvals.values()
    talk.settings = under(rule("bash(make*)", "ask", "user"))
    assert kinds(talk.die()) == ["approval.withdrawn", "approval.requested"]
    (after,) = talk.state.approvals.values()
    assert after.request_id != before.request_id
    assert (after.tool, after.arguments, after.rule) == ("bash", {"command": "make"}, "bash(make*)")
    assert after.digest == call_digest("bash", {"command": "make"}, "/work", "p2") != before.digest
    with pytest.raises(Conflict, match="withdrawn") as caught:
        talk.resolve(request_id=before.request_id)
    assert caught.value.code == "approval_state_conflict"
    talk.resolve(if_digest=after.digest)
    (call,) = talk.state.runs[after.run_id].calls
    assert (call.phase, call.digest) == ("allowed", after.digest)


def test_under_the_same_rules_a_restart_asks_nothing_again() -> None:
    talk = asking("make")
    before = dict(talk.state.approvals)
    talk.settings = replace(under(rule("bash(ls)", "allow", "user")), policy_revision="p1")
    assert talk.die() == []
    assert talk.state.approvals == before


def test_under_rules_that_deny_it_a_restart_denies_the_call() -> None:
    talk = asking("make")
    talk.settings = under(rule("bash(make*)", "deny", "user"))
    events = talk.die()
    assert kinds(events)[:3] == ["approval.withdrawn", "tool_call.decided", "tool_call.completed"]
    decided = only(events, e.ToolCallDecided)
    assert (decided.behavior, decided.rule, decided.rule_scope) == ("deny", "bash(make*)", "user")
    assert talk.state.messages[-1].text == "Permission denied: the rule bash(make*) (user) denies it."
    assert talk.state.active_run is not None and talk.state.active_run.model_call is not None


def test_under_rules_that_allow_it_a_restart_still_asks() -> None:
    talk = asking("make")
    talk.settings = under(rule("bash", "allow", "user"))
    talk.die()
    (approval,) = talk.state.approvals.values()
    assert approval.rule == "bash" and approval.policy_revision == "p2"


def test_a_call_of_unknown_outcome_is_asked_about_whatever_the_rules_became() -> None:
    talk = asking("make")
    talk.resolve()
    talk.start_process(talk.tool_effect())
    talk.die()
    (before,) = talk.state.approvals.values()
    talk.settings = under(rule("bash", "deny", "user"))
    talk.die()
    (after,) = talk.state.approvals.values()
    assert (after.kind, after.reason, after.rule) == ("uncertain", before.reason, "")
    with pytest.raises(Conflict) as caught:
        talk.resolve("retry")
    assert caught.value.code == "approval_denied"
    talk.resolve("mark_done")


def test_what_was_asked_under_other_rules_cannot_be_answered() -> None:
    talk = asking("make")
    talk.settings = under(revision="p2")
    with pytest.raises(Conflict) as caught:
        talk.resolve()
    assert caught.value.code == "approval_policy_changed"


def test_a_question_that_a_rule_asks_for_is_put_after_the_approval() -> None:
    talk = Conversation(settings=under(rule("ask_user_question", "ask", "user"), revision="p1"))
    run_id = talk.submit("go")
    talk.reply("", ("ask_user_question", ASK))
    assert talk.status(run_id) == "waiting_for_approval" and not talk.state.questions
    talk.resolve()
    assert talk.status(run_id) == "waiting_for_user_question"
    talk.answer()
    assert talk.status(run_id) == "running"
