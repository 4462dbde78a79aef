"""Permissions on the wire: rules, dry runs and audits."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from kheish.core.events import Behavior, Effect, Mode, Rule, RuleScope
from kheish.wire.body import Body, OptionalSession, View


class AddRule(Body, frozen=True):
    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]
    behavior: Behavior


class RuleView(View, frozen=True):
    pattern: str
    behavior: Behavior
    scope: RuleScope


class CheckPermission(Body, frozen=True):
    """Asks what would be decided; nothing runs and nothing is kept."""

    tool_name: str
    input: dict[str, Any] = {}
    session_id: OptionalSession = ""
    mode_override: Mode | None = None


class PermissionView(View, frozen=True):
    """`base_decision` is the matched rule's, before the mode applied; `mode_effect` says what that changed."""

    tool_name: str
    mode: Mode
    decision: Behavior
    base_decision: Behavior
    mode_effect: str
    matched_rule: str
    scope: RuleScope
    approval_required: bool
    reason: str = ""


class ListMatrix(Body, frozen=True):
    """With a session its own rules count too."""

    session_id: OptionalSession = ""


class MatrixRow(View, frozen=True):
    tool_name: str
    effect: Effect
    decisions: dict[str, Behavior]


class PermissionAudit(View, frozen=True):
    at_ms: int
    seq: int
    run_id: str
    tool_call_id: str
    tool: str
    behavior: Behavior
    rule: str
    rule_scope: RuleScope
    mode: Mode
    digest: str
    reason: str = ""


def rule_view(rule: Rule) -> RuleView:
    return RuleView(pattern=rule.pattern, behavior=rule.behavior, scope=rule.scope)
