"""`kheish replay`: a run's decisions again, from its journal, by the code and under the rules of today. It reads files
and writes nothing, with or without a running daemon, whose code may be older."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kheish.core.codec import decode_events
from kheish.core.draft import Settings
from kheish.core.events import ApprovalResolved, Rule
from kheish.core.permissions import DEFAULT_RULES
from kheish.core.prompt import RequestDigests
from kheish.core.retrace import Retrace
from kheish.daemon.wiring import config_budgets, config_rules
from kheish.debug.files import read_artifact
from kheish.errors import Conflict, KheishError, NotFound
from kheish.limits import STEPS_PER_RUN_MAX
from kheish.runtime.fold import context_of
from kheish.runtime.policy import read_rules
from kheish.store.segments import read_records
from kheish.store.session_dir import session_names, session_path
from kheish.tools.registry import load_tools


def retrace(root: Path, config_dir: Path, session_id: str, run_id: str, until_step: int = 0) -> Retrace:
    """Raises Corrupt, NewerFormat, Invalid where the journal or config.toml cannot be read."""

    def sent(name: str) -> RequestDigests | None:
        try:
            return read_artifact(root / "debug", session_id, run_id, name).digests
        except NotFound:
            return None

    path = session_path(root, session_id)
    made = Retrace(run_id, settings_of(root, config_dir), sent, until_step, dict(_rules(path)))
    for record in read_records(path):
        made.add(decode_events(record.events_json), context_of(record), record.seq, str(record.by.get("command", "")))
        if made.is_over:
            break
    return made


def _rules(path: Path) -> Iterator[tuple[Rule, int]]:
    """Those that were made for all sessions in this one, and the records that made them."""
    for record in read_records(path):
        if b'"approval.resolved"' in record.events_json:
            for event in decode_events(record.events_json):
                if isinstance(event, ApprovalResolved) and event.rule and event.rule.scope == "user":
                    yield event.rule, record.seq


def settings_of(root: Path, config_dir: Path) -> Settings:
    """What a daemon that is started now would decide with."""
    return Settings(
        tools={name: tool.spec for name, tool in load_tools().items()},
        rules=(*read_rules(root / "daemon" / "permissions.json"), *config_rules(config_dir), *DEFAULT_RULES),
        policy_revision="",
        steps_max=STEPS_PER_RUN_MAX,
        session_budget=config_budgets(config_dir).session,
    )


def find_run(root: Path, given: str) -> tuple[str, str]:
    """(session id, run id), by the id or its beginning, where no daemon can be asked. Raises NotFound, Conflict."""
    wanted = given if given.startswith("run_") else f"run_{given}"
    found = {run_id: session_id for session_id, run_id in _runs(root) if run_id.startswith(wanted)}
    if not found:
        raise NotFound(f"cannot find run {given} in {root}", code="run_not_found")
    if len(found) > 1:
        raise Conflict(f"cannot tell which run {given} is: {', '.join(sorted(found)[:5])}", code="ambiguous_id")
    ((run_id, session_id),) = found.items()
    return session_id, run_id


def _runs(root: Path) -> Iterator[tuple[str, str]]:
    """Of a damaged session those before the fault, none of one that cannot be read."""
    for session_id in session_names(root):
        with contextlib.suppress(KheishError, OSError):
            for record in read_records(session_path(root, session_id)):
                if b'"run.submitted"' in record.events_json:
                    yield from ((session_id, e["run_id"]) for e in record.events if e["type"] == "run.submitted")
