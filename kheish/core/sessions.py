"""Rules of the session itself: create, end, mode, rules, interrupt."""

from __future__ import annotations

from typing import get_args

from msgspec.structs import replace

from kheish.core import compaction, runs
from kheish.core.commands import (
    AddRule,
    Context,
    CreateSession,
    EndSession,
    InterruptSession,
    LabelRecord,
    RenameSession,
    SetMode,
    SetModel,
)
from kheish.core.draft import Draft
from kheish.core.events import (
    Mode,
    RecordLabelled,
    SessionCreated,
    SessionEnded,
    SessionForked,
    SessionModeChanged,
    SessionModelChanged,
    SessionRecovered,
    SessionRenamed,
    SessionRuleAdded,
)
from kheish.core.permissions import parse_pattern
from kheish.core.state import State
from kheish.errors import Conflict, Invalid
from kheish.limits import RECORD_LABELS_MAX


def create(draft: Draft, command: CreateSession) -> str:
    """Idempotent: an existing session is returned; another directory or mode than it has is a conflict."""
    state = draft.state
    if state.session_id:
        if command.forked is not None:
            raise Conflict(
                f"cannot fork into session {state.session_id}: it exists; choose another name",
                code="session_conflict",
                cwd=state.cwd,
            )
        if command.cwd and command.cwd != state.cwd:
            raise Conflict(
                f"cannot create session {state.session_id}: it exists with the directory {state.cwd}; "
                "choose another name, or leave the directory out",
                code="session_conflict",
                cwd=state.cwd,
            )
        return state.session_id
    if command.mode not in get_args(Mode):
        raise Invalid(f"cannot use mode {command.mode!r}: choose one of {', '.join(get_args(Mode))}")
    if command.mode != "default":
        draft.require_operator("choose a permission mode")
    draft.emit(
        SessionCreated(
            session_id=command.session_id,
            cwd=command.cwd,
            created_at_ms=draft.at_ms,
            mode=command.mode,
            title=command.title,
            body_digest=draft.context.body_digest,
            parent_session_id=command.parent_session_id,
            parent_run_id=command.parent_run_id,
        )
    )
    if command.forked is not None:
        draft.emit(command.forked)
    return command.session_id


def end(draft: Draft, command: EndSession) -> str:
    state = draft.state
    if not state.ended:
        for run_id in [state.active, *state.queue]:
            if run_id:
                runs.stop(draft, run_id, "interrupted", command.reason or "the session was ended")
        draft.emit(SessionEnded(reason=command.reason))
    return state.session_id


def interrupt(draft: Draft, command: InterruptSession) -> str:
    """Stops the active run; the queue goes on. The result is the run's id, or "" when none was active."""
    run_id = draft.state.active
    if run_id:
        runs.stop(draft, run_id, "interrupted", command.reason or "interrupted")
    return run_id


def set_mode(draft: Draft, command: SetMode) -> str:
    draft.require_operator("change the permission mode")
    if draft.state.mode != command.mode:
        draft.emit(SessionModeChanged(mode=command.mode))
    return draft.state.session_id


def set_model(draft: Draft, command: SetModel) -> str:
    draft.require_operator("choose the session's model")
    if draft.state.model != command.model:
        draft.emit(SessionModelChanged(model=command.model))
    return draft.state.session_id


def rename(draft: Draft, command: RenameSession) -> str:
    if command.title != draft.state.title:
        draft.emit(SessionRenamed(title=command.title))
    return draft.state.session_id


def label_record(draft: Draft, command: LabelRecord) -> str:
    state, label = draft.state, " ".join(command.label.split())
    if label and command.seq not in state.labels and len(state.labels) >= RECORD_LABELS_MAX:
        raise Conflict(
            f"cannot label record {command.seq}: {RECORD_LABELS_MAX} records have a label; take one away first",
            code="too_many_labels",
        )
    if label != state.labels.get(command.seq, ""):
        draft.emit(RecordLabelled(labelled_seq=command.seq, label=label))
    return state.session_id


def add_rule(draft: Draft, command: AddRule) -> str:
    draft.require_operator("add a permission rule")
    parse_pattern(command.rule.pattern, command.rule.behavior)
    rule = replace(command.rule, scope="session")
    if rule not in draft.state.rules:
        draft.emit(SessionRuleAdded(rule=rule))
    return draft.state.session_id


def on_created(state: State, event: SessionCreated, context: Context) -> None:
    state.session_id = event.session_id
    state.cwd = event.cwd
    state.mode = event.mode
    state.title = event.title
    state.created_at_ms = event.created_at_ms
    state.parent_session_id, state.parent_run_id = event.parent_session_id, event.parent_run_id
    runs.remember_key(state, context, event.body_digest, event.session_id)


def on_forked(state: State, event: SessionForked, context: Context) -> None:
    for message in event.messages:
        compaction.enter(state, message)


def on_ended(state: State, event: SessionEnded, context: Context) -> None:
    state.ended = True
    state.end_reason = event.reason


def on_mode_changed(state: State, event: SessionModeChanged, context: Context) -> None:
    state.mode = event.mode


def on_model_changed(state: State, event: SessionModelChanged, context: Context) -> None:
    state.model = event.model


def on_renamed(state: State, event: SessionRenamed, context: Context) -> None:
    state.title = event.title


def on_record_labelled(state: State, event: RecordLabelled, context: Context) -> None:
    if event.label:
        state.labels[event.labelled_seq] = event.label
    else:
        state.labels.pop(event.labelled_seq, None)


def on_rule_added(state: State, event: SessionRuleAdded, context: Context) -> None:
    state.rules.append(event.rule)


def on_recovered(state: State, event: SessionRecovered, context: Context) -> None:
    pass
