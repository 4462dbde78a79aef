"""May this tool call run? Rules decide, then the mode; both are tables.

A rule is `tool` or `tool(pattern)`, where the pattern is matched against the tool's main argument and `*` stands for
any text. A matching deny of any scope wins. Otherwise the nearest scope decides (session, project, user, default), in
it the more specific pattern, then the earlier rule. Where a rule *allows* a shell command, its `*` does not match the
characters that chain, redirect or substitute: `bash(git status*)` does not allow `git status; rm -rf .`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from kheish.core.contracts import ToolSpec
from kheish.core.events import Behavior, Mode, Rule, RuleScope
from kheish.errors import Invalid

_ASKING = ("bash", "write_file", "edit_file", "apply_patch", "mcp__*")
DEFAULT_RULES: tuple[Rule, ...] = (
    *(Rule(pattern=pattern, behavior="ask", scope="default") for pattern in _ASKING),
    Rule(pattern="*", behavior="allow", scope="default"),
)

_SCOPES: dict[RuleScope, int] = {"session": 0, "project": 1, "user": 2, "default": 3}
EDIT_TOOLS = frozenset(("write_file", "edit_file", "apply_patch"))
MODES: tuple[Mode, ...] = ("default", "accept_edits", "plan", "dont_ask", "bypass")
_SHELL_UNSAFE = r"[^;&|`$<>\n\r(){}\\]*"


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """`base_behavior` is the rule's, before the mode applied; `mode_effect` is empty where that changed nothing."""

    behavior: Behavior
    base_behavior: Behavior
    rule: str
    scope: RuleScope
    mode: Mode
    mode_effect: str = ""


class ParsedPattern(msgspec.Struct, frozen=True):
    tool: re.Pattern[str]
    argument: re.Pattern[str] | None
    specificity: tuple[int, int]


def _to_regex(pattern: str, star: str) -> re.Pattern[str]:
    parts = re.split(r"(\\.|\*)", pattern)
    out = []
    for part in parts:
        if part == "*":
            out.append(star)
        elif len(part) == 2 and part[0] == "\\":
            out.append(re.escape(part[1]))
        else:
            out.append(re.escape(part))
    return re.compile("".join(out) + r"\Z", re.DOTALL)


@lru_cache(maxsize=4096)
def parse_pattern(pattern: str, behavior: Behavior = "ask") -> ParsedPattern:
    """Raises Invalid for text that is no pattern."""
    match = re.match(r"([A-Za-z0-9_*.-]+)(?:\((.*)\))?\Z", pattern, re.DOTALL)
    if match is None:
        raise Invalid(
            f"cannot read the rule {pattern!r}: write tool or tool(pattern), such as bash(git status*)",
            code="invalid_rule",
        )
    tool, argument = match.group(1), match.group(2)
    star = _SHELL_UNSAFE if behavior == "allow" and tool == "bash" else ".*"
    literal = len(tool.replace("*", "")) * 1000 + len((argument or "").replace("*", ""))
    exact = int("*" not in tool) + (int("*" not in argument) if argument is not None else 0)
    return ParsedPattern(
        _to_regex(tool, ".*"),
        _to_regex(argument, star) if argument is not None else None,
        (exact, literal),
    )


def matches(rule: Rule, tool: str, main_argument: str) -> bool:
    parsed = parse_pattern(rule.pattern, rule.behavior)
    if not parsed.tool.match(tool):
        return False
    return parsed.argument is None or parsed.argument.match(main_argument) is not None


def main_argument_of(spec: ToolSpec | None, arguments: dict[str, Any]) -> str:
    if spec is None or not spec.main_argument:
        return ""
    value = arguments.get(spec.main_argument, "")
    return value if isinstance(value, str) else ""


def evaluate(
    mode: Mode, rules: Iterable[Rule], tool: str, spec: ToolSpec | None, arguments: dict[str, Any]
) -> Permission:
    """The decision with the rule that made it. `rules` are all that apply, of any scope, in order."""
    main = main_argument_of(spec, arguments)
    found = [rule for rule in rules if matches(rule, tool, main)]
    denies = [rule for rule in found if rule.behavior == "deny"]
    if denies:
        rule = denies[0]
    else:
        found.append(Rule(pattern="*", behavior="ask", scope="default"))

        def rank(rule: Rule) -> tuple[int, int, int]:
            exact, literal = parse_pattern(rule.pattern, rule.behavior).specificity
            return (_SCOPES[rule.scope], -exact, -literal)

        rule = min(found, key=rank)
    behavior, mode_effect = _apply_mode(mode, rule, tool, spec)
    return Permission(
        behavior=behavior,
        base_behavior=rule.behavior,
        rule=rule.pattern,
        scope=rule.scope,
        mode=mode,
        mode_effect=mode_effect,
    )


def _apply_mode(mode: Mode, rule: Rule, tool: str, spec: ToolSpec | None) -> tuple[Behavior, str]:
    if rule.behavior == "deny":
        return "deny", ""
    reads = spec is not None and spec.effect == "read"
    if mode == "plan" and not reads:
        return "deny", "plan mode allows only tools that read"
    if rule.behavior == "allow":
        return "allow", ""
    if mode == "accept_edits" and tool in EDIT_TOOLS and rule.scope == "default":
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
