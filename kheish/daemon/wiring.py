"""Puts the rooms together. The only module that knows every room."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kheish.config import FILE_NAME, load_config, locate
from kheish.core.budgets import DIMENSIONS
from kheish.core.events import Behavior, Budget, Rule
from kheish.core.permissions import parse_pattern
from kheish.debug.service import Debugging
from kheish.errors import Invalid
from kheish.providers.registry import Routes
from kheish.runtime.ledger import Limits
from kheish.runtime.settings import RuntimeConfig
from kheish.runtime.supervisor import Supervisor, SystemClock
from kheish.secrets.master_key import MasterKey
from kheish.secrets.service import Secrets
from kheish.store.locks import DaemonLock
from kheish.tools.processes import end_tree
from kheish.tools.registry import load_tools


def config_rules(config_dir: Path) -> tuple[Rule, ...]:
    """The rules of `config.toml`, in its order. Raises Invalid."""
    permissions = load_config(config_dir).permissions
    by_behavior: tuple[tuple[Behavior, list[str]], ...] = (
        ("deny", permissions.deny),
        ("ask", permissions.ask),
        ("allow", permissions.allow),
    )
    rules = [
        Rule(pattern=pattern, behavior=behavior, scope="user")
        for behavior, patterns in by_behavior
        for pattern in patterns
    ]
    for rule in rules:
        try:
            parse_pattern(rule.pattern, rule.behavior)
        except Invalid as error:
            path = config_dir / FILE_NAME
            where = locate(path, path.read_text("utf-8"), ("permissions", rule.behavior))
            raise Invalid(f"cannot read {where}: {error.message}", code=error.code, path=str(path)) from error
    return tuple(rules)


async def check_configuration(root: Path, config_dir: Path, environ: Mapping[str, str]) -> None:
    """Whether a daemon would start, and have its routes, on what is written down now. Raises KheishError."""
    config_rules(config_dir)
    runtime = RuntimeConfig(root / "daemon" / "runtime.json", SystemClock())
    await Routes(config_dir, environ, runtime=lambda: runtime.settings).table()


def build_secrets(root: Path, config_dir: Path) -> Secrets:
    """Takes the master key out of the environment. Raises Invalid."""
    key_path = root / "daemon" / "auth-store-master.key"
    master_key = MasterKey(key_path, os.environ, in_keyring=load_config(config_dir).secrets.keyring)
    return Secrets(root / "daemon" / "secrets", master_key, SystemClock())


def config_budgets(config_dir: Path) -> Limits:
    """The budgets of `config.toml`. Raises Invalid."""
    budgets = load_config(config_dir).budgets

    def read(whose: str) -> Budget:
        return Budget(**{dimension: getattr(budgets, f"{whose}_{dimension}") for dimension in DIMENSIONS})

    return Limits(run=read("run"), session=read("session"), day=read("daily"), daemon=read("daemon"))


def build_debugging(root: Path, routes: Routes, secrets: Secrets, runtime: RuntimeConfig) -> Debugging:
    def known() -> list[str]:
        return [*secrets.values(), *routes.keys()]

    debugging = Debugging(root / "debug", SystemClock(), runtime.settings.debug_level, known)
    runtime.on_change.append(lambda settings: debugging.set_level(settings.debug_level))
    return debugging


def build_supervisor(
    root: Path, config_dir: Path, lock: DaemonLock, routes: Routes, runtime: RuntimeConfig, debugging: Debugging
) -> Supervisor:
    """Raises Invalid."""
    settings = load_config(config_dir)
    return Supervisor(
        root,
        generation=lock.generation,
        providers=routes,
        tools=load_tools(),
        kill_tree=end_tree,
        raise_generation=lock.raise_generation,
        config_rules=config_rules(config_dir),
        quotas=settings.quotas,
        store=settings.store,
        budgets=config_budgets(config_dir),
        runtime=runtime,
        recorder=debugging,
    )
