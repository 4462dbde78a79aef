"""May this tool call run? Rules decide, then the mode; both are tables.

A rule is `tool` or `tool(pattern)`, where the pattern is matched against the tool's main argument and `*` stands for
any text. A matching deny of any scope wins. Otherwise the nearest scope decides (session, project, user, default), in
it the more specific pattern, then the earlier rule. Where a rule *allows* a shell command, its `*` does not match the
characters that chain, redirect or substitute: `bash(git status*)` does not allow `git status; rm -rf .`. A path is
matched under its two plain names, from the workspace and from the root, so that no spelling of it slips past a rule:
`write_file(src/*)` does not allow `src/../.env`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from kheish.core.contracts import ToolSpec
from kheish.core.events import Behavior, Mode, Rule, RuleScope
from kheish.errors import Forbidden, Invalid

_ASKING = ("bash", "write_file", "edit_file", "apply_patch", "mcp__*")
DEFAULT_RULES: tuple[Rule, ...] = (
    *(Rule(pattern=pattern, behavior="ask", scope="default") for pattern in _ASKING),
    Rule(pattern="*", behavior="allow", scope="default"),
)

_SCOPES: dict[RuleScope, int] = {"session": 0, "project": 1, "user": 2, "default": 3}
EDIT_TOOLS = frozenset(("write_file", "edit_file", "apply_patch"))
MODES: tuple[Mode, ...] = ("default", "accept_edits", "plan", "dont_ask", "bypass")
_PATH = "path"
"""A main argument of this name is a path in the workspace."""
_SHELL_UNSAFE = re.compile(r"[;&|`$<>\n\r(){}\\]")
_SHELL_COMMENT = re.compile(r"(?<!\S)#")


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """`base_behavior` is the rule's, before the mode applied; `mode_effect` is empty where that changed nothing."""

    behavior: Behavior
    base_behavior: Behavior
    rule: str
    scope: RuleScope
    mode: Mode
    mode_effect: str = ""

    @property
    def is_rule_deny(self) -> bool:
        """A rule denies it, whatever the mode: no human's yes can change that."""
        return self.base_behavior == "deny"


class Glob(msgspec.Struct, frozen=True):
    """The literal texts between the stars of a pattern; what a star stands for has no character of `unsafe`.

    Each text is taken where it first occurs, which finds a match wherever there is one, in linear time: arguments are
    a model's, and may be long and chosen to be slow.
    """

    texts: tuple[str, ...]
    unsafe: re.Pattern[str] | None = None

    def match(self, text: str) -> bool:
        first, *inner = self.texts
        if not inner:
            return text == first
        last = inner.pop()
        if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
            return False
        at, end = len(first), len(text) - len(last)
        for literal in inner:
            found = text.find(literal, at, end)
            if found < 0 or not self._may_be_star(text, at, found):
                return False
            at = found + len(literal)
        return self._may_be_star(text, at, end)

    def _may_be_star(self, text: str, start: int, end: int) -> bool:
        if self.unsafe is None:
            return True
        # What a pattern says after a star counts: it must not become a comment or a part of a quoted word.
        is_open = any(text.count(quote, start, end) % 2 for quote in "'\"") or _SHELL_COMMENT.search(text, start, end)
        return not (self.unsafe.search(text, start, end) or (is_open and end < len(text)))


class ParsedPattern(msgspec.Struct, frozen=True):
    """`specificity`: how many of its two parts are exact, then how many characters of each are literal."""

    tool: Glob
    argument: Glob | None
    specificity: tuple[int, int, int]


def _texts(pattern: str) -> tuple[str, ...]:
    """A pattern cut at its stars; `\\` takes the character after it literally."""
    texts = [""]
    for part in re.split(r"(\\.|\*)", pattern, flags=re.DOTALL):
        if part == "*":
            texts.append("")
        elif len(part) == 2 and part[0] == "\\":
            texts[-1] += part[1]
        else:
            texts[-1] += part
    return tuple(texts)


@lru_cache(maxsize=4096)
def parse_pattern(pattern: str, behavior: Behavior = "ask") -> ParsedPattern:
    """Raises Invalid for text that is no pattern."""
    match = re.match(r"([A-Za-z0-9_*.-]+)(?:\((.*)\))?\Z", pattern, re.DOTALL)
    if match is None:
        raise Invalid(
            f"cannot read the rule {pattern!r}: write tool or tool(pattern), such as bash(git status*)",
            code="invalid_rule",
        )
    tool = Glob(_texts(match.group(1)))
    if match.group(2) is None:
        return ParsedPattern(tool, None, (int(len(tool.texts) == 1), sum(map(len, tool.texts)), 0))
    runs_in_shell = behavior == "allow" and tool.match("bash")
    argument = Glob(_texts(match.group(2)), _SHELL_UNSAFE if runs_in_shell else None)
    return ParsedPattern(
        tool,
        argument,
        (
            int(len(tool.texts) == 1) + int(len(argument.texts) == 1),
            sum(map(len, tool.texts)),
            sum(map(len, argument.texts)),
        ),
    )


def matches(rule: Rule, tool: str, names: Iterable[str]) -> bool:
    """Whether a rule speaks of a call; `names` are all that its main argument goes by."""
    parsed = parse_pattern(rule.pattern, rule.behavior)
    if not parsed.tool.match(tool):
        return False
    return parsed.argument is None or any(map(parsed.argument.match, names))


@lru_cache(maxsize=1024)
def _deciding(rules: tuple[Rule, ...], tool: str) -> tuple[tuple[Rule, Glob | None], ...]:
    """The rules about a tool, with what each wants of its main argument, in the order in which they decide: the first
    that matches does. There are few, and the same ones for every call; the last one matches whatever is left."""

    def rank(rule: Rule) -> tuple[int, ...]:
        if rule.behavior == "deny":
            return ()
        return _SCOPES[rule.scope], *(-count for count in parse_pattern(rule.pattern, rule.behavior).specificity)

    speaking = [rule for rule in rules if parse_pattern(rule.pattern, rule.behavior).tool.match(tool)]
    ordered = sorted([*speaking, Rule(pattern="*", behavior="ask", scope="default")], key=rank)
    return tuple((rule, parse_pattern(rule.pattern, rule.behavior).argument) for rule in ordered)


def require_operator(is_operator: bool, principal: str, what: str) -> None:
    """Some things only a person's own client may do: never a run, whatever its tools were told. Raises Forbidden."""
    if not is_operator:
        raise Forbidden(f"cannot {what}: only a local operator may, not {principal}", code="operator_required")


def main_argument_of(spec: ToolSpec | None, arguments: dict[str, Any]) -> str:
    """What a rule for this very call says; a path without its detours."""
    if spec is None or not spec.main_argument:
        return ""
    value = arguments.get(spec.main_argument, "")
    if not isinstance(value, str):
        return ""
    return _plain(value) if value and spec.main_argument == _PATH else value


def names_of(spec: ToolSpec | None, arguments: dict[str, Any], cwd: str) -> tuple[str, ...]:
    """All that the main argument of a call goes by: one name, or those of a path in the workspace `cwd`."""
    main = main_argument_of(spec, arguments)
    if spec is None or spec.main_argument != _PATH or not main or not cwd:
        return (main,)
    absolute = main if main.startswith("/") else _plain(f"{cwd}/{main}")
    root = _plain(cwd).rstrip("/")
    if not absolute.startswith(f"{root}/"):
        return (main, absolute)
    inside = absolute[len(root) + 1 :]
    return (main, absolute, inside, f"./{inside}")


def _plain(path: str) -> str:
    """A path without `.`, `..` (where its text allows that) and doubled slashes."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and (parts or path.startswith("/")) and parts[-1:] != [".."]:
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts) or "."


def evaluate(
    mode: Mode, rules: Iterable[Rule], tool: str, spec: ToolSpec | None, arguments: dict[str, Any], cwd: str = ""
) -> Permission:
    """The decision with the rule that made it. `rules` are all that apply, of any scope, in order; `cwd` is the
    workspace, without which a path is known only as it is written."""
    rule = _find_deciding(tuple(rules), tool, spec, arguments, cwd)
    behavior, mode_effect = _apply_mode(mode, rule, tool, spec, arguments)
    return Permission(
        behavior=behavior,
        base_behavior=rule.behavior,
        rule=rule.pattern,
        scope=rule.scope,
        mode=mode,
        mode_effect=mode_effect,
    )


def _find_deciding(
    rules: tuple[Rule, ...], tool: str, spec: ToolSpec | None, arguments: dict[str, Any], cwd: str
) -> Rule:
    """The names of a call are found where a rule asks for them."""
    names: tuple[str, ...] = ()
    *some, (last, _) = _deciding(rules, tool)
    for rule, wanted in some:
        names = names or (names_of(spec, arguments, cwd) if wanted else ())
        if wanted is None or any(map(wanted.match, names)):
            return rule
    return last


def _apply_mode(
    mode: Mode, rule: Rule, tool: str, spec: ToolSpec | None, arguments: dict[str, Any]
) -> tuple[Behavior, str]:
    if rule.behavior == "deny":
        return "deny", ""
    reads = spec is not None and spec.effect == "read"
    if mode == "plan" and not reads:
        return "deny", "plan mode allows only tools that read"
    if rule.behavior == "allow":
        if mode == "dont_ask" and rule.scope == "default" and spec is not None and spec.kind == "question":
            return "deny", "dont_ask mode asks nobody: decide yourself, or say what you would have asked"
        return "allow", ""
    is_plain_edit = tool in EDIT_TOOLS and ".git" not in main_argument_of(spec, arguments).lower().split("/")
    if mode == "accept_edits" and is_plain_edit and rule.scope == "default":
        return "allow", "accept_edits mode allows edits of files"
    if mode == "bypass":
        return "allow", "bypass mode asks nothing"
    if mode == "dont_ask":
        return "deny", "dont_ask mode denies what it would have to ask"
    return "ask", ""


def exact_rule(tool: str, main_argument: str, behavior: Behavior, scope: RuleScope) -> Rule:
    """The rule that matches this very call and nothing else: what "always" makes unless the human widens it."""
    if not main_argument:
        return Rule(pattern=tool, behavior=behavior, scope=scope)
    literal = re.sub(r"([\\*])", r"\\\1", main_argument)
    return Rule(pattern=f"{tool}({literal})", behavior=behavior, scope=scope)
