"""The daemon's part of every decision: its tools, and the rules that hold for all sessions.

Rules made by answering "always" are a document of the daemon, changed while it runs; those of config.toml are read when
it starts. The policy revision is that of the start for the daemon's life: what is being asked now was asked under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kheish.core.codec import canonical_digest
from kheish.core.contracts import ToolSpec
from kheish.core.draft import Settings
from kheish.core.events import Rule
from kheish.core.permissions import DEFAULT_RULES
from kheish.errors import NotFound, StoreError
from kheish.limits import STEPS_PER_RUN_MAX
from kheish.runtime.ledger import Limits
from kheish.store.committer import Committer
from kheish.store.documents import read_document, write_document
from kheish.wire.runtime import RuntimeSettings


class Policy:
    """`settings` is what the core decides with; it is replaced, never changed. `path` is the always-rules' document."""

    def __init__(
        self,
        path: Path,
        committer: Committer,
        tools: Mapping[str, ToolSpec],
        config_rules: tuple[Rule, ...],
        budgets: Limits,
    ) -> None:
        self._path = path
        self._committer = committer
        self._config_rules = config_rules
        self._changing = asyncio.Lock()
        self.user_rules: tuple[Rule, ...] = read_rules(path)
        rules = self._all_rules()
        restricting = [[r.pattern, r.behavior, r.scope] for r in rules if r.behavior != "allow"]
        self.settings = Settings(
            tools=tools,
            rules=rules,
            policy_revision=canonical_digest(restricting)[:16],
            steps_max=STEPS_PER_RUN_MAX,
            run_budget=budgets.run,
            session_budget=budgets.session,
        )

    async def add_user_rule(self, rule: Rule) -> None:
        """Makes a rule for all sessions, durably."""
        async with self._changing:
            if rule not in self.user_rules:
                await self._change((*self.user_rules, rule))

    async def remove_user_rule(self, pattern: str) -> list[Rule]:
        """Takes back what was made for all sessions with this pattern; returns it. Raises NotFound."""
        async with self._changing:
            removed = [rule for rule in self.user_rules if rule.pattern == pattern]
            if not removed:
                made = ", ".join(rule.pattern for rule in self.user_rules) or "none"
                raise NotFound(f"cannot find an always-rule {pattern}: there are {made}", code="rule_not_found")
            await self._change(tuple(rule for rule in self.user_rules if rule.pattern != pattern))
        return removed

    def take(self, runtime: RuntimeSettings) -> None:
        """What runs that are submitted or start from now on take along."""
        self.settings = msgspec.structs.replace(
            self.settings, system_prompt=runtime.system_prompt, tool_limits=runtime.tool_limits
        )

    async def _change(self, rules: tuple[Rule, ...]) -> None:
        try:
            await self._committer.run(write_document, self._path, rules)
        except OSError as error:
            raise StoreError.of_disk("change the rules for all sessions", error) from error
        self.user_rules = rules
        self.settings = msgspec.structs.replace(self.settings, rules=self._all_rules())

    def _all_rules(self) -> tuple[Rule, ...]:
        return (*self.user_rules, *self._config_rules, *DEFAULT_RULES)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """None only where there is nothing at all: a link to nowhere is no empty document."""
    try:
        return tuple(read_document(path, list[Rule]))
    except FileNotFoundError:
        return ()
