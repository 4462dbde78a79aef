"""Made from kheish/client/nouns.py by `python -m tests.architecture.generated`; changes belong there."""

# The daemon's answers are taken for what the views say, which the tests of the API hold it to.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import builtins
import os
import time

from kheish.client.http1 import REPLY_TIMEOUT_S, Request, segment

TYPE_CHECKING = False  # as type checkers read it; the module `typing` would cost a quick command its time
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Literal

    from kheish.client.client import AsyncKheish
    from kheish.client.views import (
        AnswerBody,
        ApprovalView,
        Behavior,
        BudgetBody,
        BudgetView,
        CapabilitiesView,
        ChainView,
        DebugArtifact,
        DebugLevel,
        DebugSummary,
        Delivery,
        HealthView,
        InboxView,
        InputAttachment,
        InterruptView,
        MasterKeyView,
        MatrixRow,
        Mode,
        OnBudget,
        PermissionAudit,
        PermissionView,
        Price,
        QuestionView,
        RecordPage,
        Remember,
        Resolution,
        ResolveOneOfMany,
        Revision,
        RouteDriver,
        RouteTestView,
        RouteView,
        RuleView,
        RuntimeView,
        RunView,
        SecretView,
        SessionPage,
        SessionView,
        StatusView,
        TestKind,
        ToolLimits,
        TranscriptView,
        UsageReport,
        WhyView,
    )

OVER = ("completed", "failed", "interrupted", "cancelled", "idle", "ended")
"""A status of a run that is over, or of a session with nothing to do."""
WAITING = ("waiting_for_approval", "waiting_for_user_question")


def is_held(view: SessionView) -> bool:
    """Whether a session would go on, were its queue not paused."""
    return view["queue_paused"] and bool(view["queued_run_ids"]) and not view["active_run_id"]


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _answer(answers: Iterable[AnswerBody], declined: bool, justification: str | None) -> dict[str, Any]:
    return _present(answers=[*answers], declined=declined, justification=justification)


def _input(
    content: str,
    model: str | None,
    delivery: Delivery | None,
    attachments: Iterable[InputAttachment] | None,
    metadata: dict[str, Any] | None,
    budget: BudgetBody | None,
    on_budget: OnBudget | None,
    pinned: bool | None,
) -> dict[str, Any]:
    return _present(
        content=content,
        model=model,
        delivery=delivery,
        attachments=None if attachments is None else [*attachments],
        metadata=metadata,
        budget=budget,
        on_budget=on_budget,
        pinned=pinned,
    )


class _Noun:
    def __init__(self, client: AsyncKheish) -> None:
        self._client = client

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        key: str | None = None,
        timeout_s: float | None = REPLY_TIMEOUT_S,
    ) -> Any:
        headers = {"Idempotency-Key": key} if key else None
        return self._client.send(Request(method, path, query=query, body=body, headers=headers, timeout_s=timeout_s))


class AsyncSessions(_Noun):
    async def create(
        self,
        session_id: str | None = None,
        *,
        cwd: str | None = None,
        permission_mode: Mode | None = None,
        title: str | None = None,
        key: str | None = None,
    ) -> SessionView:
        """A new session, or the one of that name. Without `cwd` a new one works in the current directory, and
        FileNotFoundError is raised where that is gone. Without a name, the same `key` makes one session."""
        here = os.getcwd() if cwd is None else None
        body = _present(session_id=session_id, cwd=cwd, default_cwd=here, permission_mode=permission_mode, title=title)
        return await self._send("POST", "/v1/sessions", body=body, key=key)

    async def fork(
        self,
        session_id: str,
        *,
        at: int | None = None,
        new_session_id: str | None = None,
        title: str | None = None,
        key: str | None = None,
    ) -> SessionView:
        """A new session whose transcript begins with this one's up to a record, the last possible without `at`. The
        same `key` makes one."""
        body = _present(session_id=new_session_id, at=at, title=title)
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/fork", body=body, key=key)

    async def list(
        self, *, status: str | None = None, cwd: str | None = None, limit: int | None = None
    ) -> builtins.list[SessionView]:
        """Newest change first, 100 unless `limit` says otherwise. `status`: a comma-separated choice."""
        return await self._send("GET", "/v1/sessions", query={"status": status, "cwd": cwd, "limit": limit})

    async def page(
        self,
        *,
        status: str | None = None,
        cwd: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> SessionPage:
        """The same in pages: the next one begins at `next_cursor`, which is None on the last."""
        query = {"page": True, "status": status, "cwd": cwd, "cursor": cursor, "limit": limit}
        return await self._send("GET", "/v1/sessions", query=query)

    async def get(self, session_id: str) -> SessionView:
        """With its rules."""
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}")

    async def transcript(
        self, session_id: str, *, first: int | None = None, limit: int | None = None
    ) -> TranscriptView:
        """The messages from position `first` (from 0) on; without it the last `limit`."""
        query = {"first": first, "limit": limit}
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}/transcript", query=query)

    async def events(self, session_id: str, *, cursor: str | None = None, limit: int | None = None) -> RecordPage:
        """The journal in pages: `cursor` is the seq to go on after. `AsyncKheish.events` follows it."""
        query = {"cursor": cursor, "limit": limit}
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}/events", query=query)

    async def runs(self, session_id: str) -> builtins.list[RunView]:
        """The newest 100, newest first."""
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}/runs")

    async def queue(self, session_id: str) -> builtins.list[RunView]:
        """The queued inputs, in order."""
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}/queue")

    async def rules(self, session_id: str) -> builtins.list[RuleView]:
        """All permission rules that apply, nearest scope first."""
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}/rules")

    async def audits(self, session_id: str) -> builtins.list[PermissionAudit]:
        """Every permission decision, oldest first."""
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}/permission-audits")

    async def approvals(self, session_id: str) -> builtins.list[ApprovalView]:
        """Those that wait."""
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}/approvals")

    async def questions(self, session_id: str) -> builtins.list[QuestionView]:
        """Those that wait."""
        return await self._send("GET", f"/v1/sessions/{segment(session_id)}/questions")

    async def submit(
        self,
        session_id: str,
        content: str,
        *,
        model: str | None = None,
        delivery: Delivery | None = None,
        attachments: Iterable[InputAttachment] | None = None,
        metadata: dict[str, Any] | None = None,
        budget: BudgetBody | None = None,
        on_budget: OnBudget | None = None,
        pinned: bool | None = None,
        key: str | None = None,
    ) -> RunView:
        """Submits an input; the answer is its run, durable. `model`: `[route/]model`. `delivery`, while a run is
        active: queue (the default), steer (the answer is the active run) or interrupt. `metadata` is kept with the run
        and not shown to the model. At the limit of its `budget` the run asks, unless it is to stop `on_budget`.
        `pinned`: it stays in what models are shown when the context is compacted."""
        body = _input(content, model, delivery, attachments, metadata, budget, on_budget, pinned)
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/runs", body=body, key=key)

    async def input(
        self,
        session_id: str,
        content: str,
        *,
        model: str | None = None,
        attachments: Iterable[InputAttachment] | None = None,
        metadata: dict[str, Any] | None = None,
        budget: BudgetBody | None = None,
        on_budget: OnBudget | None = None,
        pinned: bool | None = None,
        key: str | None = None,
    ) -> SessionView:
        """Submits and waits, for as long as it takes, until the run is over or needs a human; the answer is the
        session. Refused (`session_busy`) where a run is active."""
        body = _input(content, model, None, attachments, metadata, budget, on_budget, pinned)
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/input", body=body, key=key, timeout_s=None)

    async def wait(
        self, session_id: str, *, until: Literal["done", "blocked"] = "done", timeout_s: float | None = None
    ) -> SessionView:
        """The session once nothing is active or queued; with `blocked` also once it waits for a human, who may have
        paused its queue. When the time is over, as it is then."""
        # The first look comes after the stream's `sync`, so that nothing falls between the look and the stream.
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        async for event in self._client.events(session_id=session_id, cursor="tail", deadline_s=deadline_s):
            if event.event in ("record", "sync"):
                view = await self.get(session_id)
                if view["status"] in OVER and not view["queued_run_ids"]:
                    return view
                if until == "blocked" and (view["status"] in WAITING or is_held(view)):
                    return view
        return await self.get(session_id)

    async def interrupt(self, session_id: str, *, reason: str = "") -> InterruptView:
        """Stops the active run; the queue goes on."""
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/interrupt", body={"reason": reason})

    async def end(self, session_id: str, *, reason: str = "") -> SessionView:
        """For good: active and queued runs are interrupted, the journal stays."""
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/end", body={"reason": reason})

    async def set_permission_mode(self, session_id: str, mode: Mode) -> SessionView:
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/permission-mode", body={"mode": mode})

    async def set_model(self, session_id: str, model: str) -> SessionView:
        """What its runs take that name no model: a chain, `[route/]model`, or "" for the daemon's."""
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/model", body={"model": model})

    async def set_budget(
        self,
        session_id: str,
        *,
        cost_usd: float | None = None,
        tokens: float | None = None,
        steps: float | None = None,
        wall_ms: float | None = None,
    ) -> SessionView:
        """What all its runs and their children may use, in place of the budget that it had; what is left out has no
        limit but the daemon's."""
        body = _present(cost_usd=cost_usd, tokens=tokens, steps=steps, wall_ms=wall_ms)
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/budget", body=body)

    async def set_title(self, session_id: str, title: str) -> SessionView:
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/title", body={"title": title})

    async def label(self, session_id: str, seq: int, label: str) -> SessionView:
        """Gives a record of the session a label, a bookmark for people; an empty one takes it away."""
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/labels", body={"seq": seq, "label": label})

    async def add_rule(self, session_id: str, pattern: str, behavior: Behavior) -> SessionView:
        """`pattern` is `tool` or `tool(main argument)`, with `*` wildcards."""
        body = {"pattern": pattern, "behavior": behavior}
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/rules", body=body)

    async def compact(self, session_id: str) -> SessionView:
        """Has the next model call preceded by a compaction of what models are shown."""
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/compact")

    async def pause_queue(self, session_id: str) -> SessionView:
        """No queued run starts until it is resumed; the active one goes on."""
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/queue/pause")

    async def resume_queue(self, session_id: str) -> SessionView:
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/queue/resume")

    async def edit_queued(self, session_id: str, run_id: str, content: str) -> RunView:
        """Changes the text of a queued input; `run_id` is whole."""
        path = f"/v1/sessions/{segment(session_id)}/queue/{segment(run_id)}"
        return await self._send("PATCH", path, body={"content": content})

    async def move_queued(self, session_id: str, run_id: str, position: int) -> RunView:
        """Gives a queued input another place, counted from 1; `run_id` is whole."""
        path = f"/v1/sessions/{segment(session_id)}/queue/{segment(run_id)}/move"
        return await self._send("POST", path, body={"position": position})

    async def withdraw_queued(self, session_id: str, run_id: str) -> RunView:
        """Takes an input out of the queue; `run_id` is whole."""
        return await self._send("DELETE", f"/v1/sessions/{segment(session_id)}/queue/{segment(run_id)}")

    async def resolve_approvals(
        self, session_id: str, resolutions: Iterable[ResolveOneOfMany], *, key: str | None = None
    ) -> SessionView:
        """Several of one run, all or none."""
        body = {"resolutions": [*resolutions]}
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/approvals", body=body, key=key)

    async def resolve_approvals_of_run(
        self, session_id: str, resolutions: Iterable[ResolveOneOfMany], *, key: str | None = None
    ) -> RunView:
        """The same; the answer is the run."""
        body = {"resolutions": [*resolutions]}
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/approval-runs", body=body, key=key)

    async def answer_question(
        self,
        session_id: str,
        request_id: str,
        answers: Iterable[AnswerBody] = (),
        *,
        declined: bool = False,
        justification: str | None = None,
        key: str | None = None,
    ) -> SessionView:
        """Like `Questions.answer`; `request_id` is whole, and the answer is the session."""
        body = {"resolution": {"request_id": request_id, **_answer(answers, declined, justification)}}
        return await self._send("POST", f"/v1/sessions/{segment(session_id)}/questions", body=body, key=key)


class AsyncRuns(_Noun):
    async def list(
        self, *, session_id: str | None = None, active: bool | None = None, limit: int | None = None
    ) -> builtins.list[RunView]:
        """Newest first, at most 100. `active` keeps those that are not over."""
        query = {"session_id": session_id, "active": active, "limit": limit}
        return await self._send("GET", "/v1/runs", query=query)

    async def get(self, run_id: str) -> RunView:
        return await self._send("GET", f"/v1/runs/{segment(run_id)}")

    async def events(self, run_id: str, *, cursor: str | None = None, limit: int | None = None) -> RecordPage:
        """The records that concern it, in pages. `AsyncKheish.events` follows them."""
        query = {"cursor": cursor, "limit": limit}
        return await self._send("GET", f"/v1/runs/{segment(run_id)}/events", query=query)

    async def why(self, run_id: str) -> WhyView:
        """Why it went where it went: its model calls, attempt by attempt, and in words."""
        return await self._send("GET", f"/v1/runs/{segment(run_id)}/why")

    async def debug(self, run_id: str) -> builtins.list[DebugSummary]:
        """What is kept of its model calls, attempt by attempt; nothing at the debug level `off`."""
        return await self._send("GET", f"/v1/runs/{segment(run_id)}/debug")

    async def debug_artifact(self, run_id: str, artifact: str) -> DebugArtifact:
        """What an attempt (`STEP.ATTEMPT`) sent and got."""
        return await self._send("GET", f"/v1/runs/{segment(run_id)}/debug/{segment(artifact)}")

    async def usage(self, run_id: str, *, by: Literal["model", "route", "session", "day"] | None = None) -> UsageReport:
        """What its model calls used and cost."""
        return await self._send("GET", f"/v1/runs/{segment(run_id)}/usage", query={"by": by})

    async def wait(
        self, run_id: str, *, until: Literal["done", "blocked"] = "done", timeout_s: float | None = None
    ) -> RunView:
        """The run once it is over; with `blocked` also once it, or the one before it in the queue, waits for a human,
        or the queue is paused. When the time is over, as it is then."""
        # The first look comes after the stream's `sync`, so that nothing falls between the look and the stream.
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        async for event in self._client.events(run_id=run_id, cursor="tail", deadline_s=deadline_s):
            if event.event in ("record", "sync", "heartbeat"):
                view = await self.get(run_id)
                if view["status"] in OVER or (view["status"] in WAITING and until == "blocked"):
                    return view
                if view["status"] == "queued" and until == "blocked":
                    session = await self._send("GET", f"/v1/sessions/{segment(view['session_id'])}")
                    if session["status"] in WAITING or is_held(session):
                        return view
        return await self.get(run_id)

    async def cancel(self, run_id: str, *, reason: str = "") -> RunView:
        """A finished run stays as it is."""
        return await self._send("POST", f"/v1/runs/{segment(run_id)}/cancel", body={"reason": reason})

    async def resolve_approvals(
        self, run_id: str, resolutions: Iterable[ResolveOneOfMany], *, key: str | None = None
    ) -> RunView:
        """Several of this run, all or none."""
        body = {"resolutions": [*resolutions]}
        return await self._send("POST", f"/v1/runs/{segment(run_id)}/approvals", body=body, key=key)

    async def answer_question(
        self,
        run_id: str,
        request_id: str,
        answers: Iterable[AnswerBody] = (),
        *,
        declined: bool = False,
        justification: str | None = None,
        key: str | None = None,
    ) -> RunView:
        """Like `Questions.answer`; `request_id` is whole."""
        body = {"resolution": {"request_id": request_id, **_answer(answers, declined, justification)}}
        return await self._send("POST", f"/v1/runs/{segment(run_id)}/questions", body=body, key=key)


class AsyncApprovals(_Noun):
    async def list(self, *, session_id: str | None = None) -> builtins.list[ApprovalView]:
        """What waits for a decision, oldest first."""
        return await self._send("GET", "/v1/approvals", query={"session_id": session_id})

    async def get(self, request_id: str) -> ApprovalView:
        """One that waits."""
        return await self._send("GET", f"/v1/approvals/{segment(request_id)}")

    async def resolve(
        self,
        request_id: str,
        resolution: Resolution,
        *,
        if_digest: str | None = None,
        remember: Remember | None = None,
        rule: str | None = None,
        updated_input: dict[str, Any] | None = None,
        raise_by: BudgetBody | None = None,
        justification: str | None = None,
        key: str | None = None,
    ) -> RunView:
        """`resolution`: one of the approval's `choices`. The answer is the run. `if_digest` (or its first characters)
        refuses to resolve anything but what was shown. `remember` makes a rule for this session or for `always`:
        `rule`, or one that matches this very call. `updated_input` edits the call's arguments; `raise_by` is how much
        more a budget is. The model is told the justification."""
        body = _present(
            resolution=resolution,
            if_digest=if_digest,
            remember=remember,
            rule=rule,
            updated_input=updated_input,
            raise_by=raise_by,
            justification=justification,
        )
        return await self._send("POST", f"/v1/approvals/{segment(request_id)}", body=body, key=key)

    async def allow(
        self,
        request_id: str,
        *,
        if_digest: str | None = None,
        remember: Remember | None = None,
        rule: str | None = None,
        updated_input: dict[str, Any] | None = None,
        justification: str | None = None,
        key: str | None = None,
    ) -> RunView:
        return await self.resolve(
            request_id,
            "allow",
            if_digest=if_digest,
            remember=remember,
            rule=rule,
            updated_input=updated_input,
            justification=justification,
            key=key,
        )

    async def deny(
        self,
        request_id: str,
        justification: str = "",
        *,
        if_digest: str | None = None,
        remember: Remember | None = None,
        rule: str | None = None,
        key: str | None = None,
    ) -> RunView:
        """The model is told the justification."""
        return await self.resolve(
            request_id,
            "deny",
            if_digest=if_digest,
            remember=remember,
            rule=rule,
            justification=justification,
            key=key,
        )


class AsyncQuestions(_Noun):
    async def list(self, *, session_id: str | None = None) -> builtins.list[QuestionView]:
        """What waits for an answer, oldest first."""
        return await self._send("GET", "/v1/questions", query={"session_id": session_id})

    async def get(self, request_id: str) -> QuestionView:
        """One that waits."""
        return await self._send("GET", f"/v1/questions/{segment(request_id)}")

    async def answer(
        self,
        request_id: str,
        answers: Iterable[AnswerBody] = (),
        *,
        declined: bool = False,
        justification: str | None = None,
        key: str | None = None,
    ) -> RunView:
        """An answer for each question, or `declined`. The answer is the run."""
        body = _answer(answers, declined, justification)
        return await self._send("POST", f"/v1/questions/{segment(request_id)}", body=body, key=key)


class AsyncPermissions(_Noun):
    async def check(
        self,
        tool_name: str,
        *,
        input: dict[str, Any] | None = None,
        session_id: str | None = None,
        mode_override: Mode | None = None,
    ) -> PermissionView:
        """What would be decided; nothing runs and nothing is kept."""
        body = _present(tool_name=tool_name, input=input, session_id=session_id, mode_override=mode_override)
        return await self._send("POST", "/v1/runtime/permissions/check", body=body)

    async def matrix(self, *, session_id: str | None = None) -> list[MatrixRow]:
        """What each mode does with each tool; with a session by its rules too."""
        return await self._send("POST", "/v1/runtime/permissions/matrix", body=_present(session_id=session_id))

    async def rules(self) -> list[RuleView]:
        """Those made by answering `always`, which hold for all sessions."""
        return await self._send("GET", "/v1/runtime/permissions/rules")

    async def remove_rule(self, pattern: str) -> list[RuleView]:
        """Takes an `always` rule back, by its whole pattern; the answer is what was removed."""
        return await self._send("DELETE", "/v1/runtime/permissions/rules", query={"pattern": pattern})


class AsyncSecrets(_Noun):
    async def list(self) -> builtins.list[SecretView]:
        """By name. No answer holds a value."""
        return await self._send("GET", "/v1/runtime/secrets")

    async def get(self, name: str) -> SecretView:
        return await self._send("GET", f"/v1/runtime/secrets/{segment(name)}")

    async def set(self, name: str, value: str) -> SecretView:
        """Makes or replaces it; what uses it takes the new value at its next use."""
        return await self._send("POST", "/v1/runtime/secrets", body={"name": name, "value": value})

    async def delete(self, name: str, *, force: bool | None = None) -> SecretView:
        """The answer is what it was. Refused (`secret_in_use`) while routes use it, unless `force`."""
        return await self._send("DELETE", f"/v1/runtime/secrets/{segment(name)}", query={"force": force})

    async def master_key(self) -> MasterKeyView:
        """Where the key is that seals all secrets, and whether it can be used."""
        return await self._send("GET", "/v1/runtime/master-key")

    async def rotate_master_key(self) -> MasterKeyView:
        """Makes another one and seals all secrets anew; their values stay."""
        return await self._send("POST", "/v1/runtime/master-key/rotate", timeout_s=None)


class AsyncRuntime(_Noun):
    """What is set while the daemon runs. A change with an `expected_revision` is refused where that is another."""

    async def get(self) -> RuntimeView:
        return await self._send("GET", "/v1/runtime")

    async def revisions(self) -> list[Revision]:
        """The newest 100, newest first."""
        return await self._send("GET", "/v1/runtime/revisions")

    async def set_model(self, model: str, *, expected_revision: int | None = None) -> RuntimeView:
        """What a run takes where neither it nor its session names one: a chain, `[route/]model`, or "" for the default
        of the routes."""
        body = _present(model=model, expected_revision=expected_revision)
        return await self._send("POST", "/v1/runtime/model", body=body)

    async def set_permission_mode(self, mode: Mode, *, expected_revision: int | None = None) -> RuntimeView:
        """Of new sessions."""
        body = _present(mode=mode, expected_revision=expected_revision)
        return await self._send("POST", "/v1/runtime/permission-mode", body=body)

    async def set_system_prompt(self, system_prompt: str, *, expected_revision: int | None = None) -> RuntimeView:
        """What is added to the system text of runs that are submitted from now on; "" for nothing."""
        body = _present(system_prompt=system_prompt, expected_revision=expected_revision)
        return await self._send("POST", "/v1/runtime/system-prompt", body=body)

    async def set_debug_level(self, level: DebugLevel, *, expected_revision: int | None = None) -> RuntimeView:
        body = _present(level=level, expected_revision=expected_revision)
        return await self._send("POST", "/v1/runtime/debug-level", body=body)

    async def tool_limits(self) -> dict[str, ToolLimits]:
        """Of the tools that have any."""
        return await self._send("GET", "/v1/runtime/tool-limits")

    async def set_tool_limits(
        self,
        tool: str,
        *,
        timeout_ms: int | None = None,
        output_bytes: int | None = None,
        expected_revision: int | None = None,
    ) -> RuntimeView:
        """For runs that start from now on; 0 is the tool's own bound, None leaves one as it is."""
        body = _present(
            tool=tool, timeout_ms=timeout_ms, output_bytes=output_bytes, expected_revision=expected_revision
        )
        return await self._send("POST", "/v1/runtime/tool-limits", body=body)

    async def rollback(self, target_revision: int, *, expected_revision: int | None = None) -> RuntimeView:
        """To the settings of an earlier revision, routes among them, as a new one."""
        body = _present(target_revision=target_revision, expected_revision=expected_revision)
        return await self._send("POST", "/v1/runtime/rollback", body=body)


class AsyncRoutes(_Noun):
    """Routes that are added while the daemon runs; `Daemon.routes` lists all."""

    async def add(
        self,
        route_id: str,
        driver: RouteDriver,
        *,
        default_model: str | None = None,
        api_key_env: str | None = None,
        auth_ref: str | None = None,
        base_url: str | None = None,
        multimodal_input: bool | None = None,
        price: Price | None = None,
        context_tokens: int | None = None,
        expected_revision: int | None = None,
    ) -> RouteView:
        """With the keys of routes.toml. It wins over one of that name elsewhere."""
        body = _present(
            route_id=route_id,
            driver=driver,
            default_model=default_model,
            api_key_env=api_key_env,
            auth_ref=auth_ref,
            base_url=base_url,
            multimodal_input=multimodal_input,
            price=price,
            context_tokens=context_tokens,
            expected_revision=expected_revision,
        )
        return await self._send("POST", "/v1/runtime/routes", body=body)

    async def set(
        self,
        route_id: str,
        *,
        driver: RouteDriver | None = None,
        default_model: str | None = None,
        api_key_env: str | None = None,
        auth_ref: str | None = None,
        base_url: str | None = None,
        multimodal_input: bool | None = None,
        price: Price | None = None,
        context_tokens: int | None = None,
        expected_revision: int | None = None,
    ) -> RouteView:
        """Changes what is given, of a route of any source; one of routes.toml is then taken from here."""
        body = _present(
            driver=driver,
            default_model=default_model,
            api_key_env=api_key_env,
            auth_ref=auth_ref,
            base_url=base_url,
            multimodal_input=multimodal_input,
            price=price,
            context_tokens=context_tokens,
            expected_revision=expected_revision,
        )
        return await self._send("PATCH", f"/v1/runtime/routes/{segment(route_id)}", body=body)

    async def remove(self, route_id: str, *, expected_revision: int | None = None) -> RouteView:
        """One that was added; the answer is what it was. Refused (`route_in_use`) while a chain or the default needs
        it."""
        query = {"expected_revision": expected_revision}
        return await self._send("DELETE", f"/v1/runtime/routes/{segment(route_id)}", query=query)

    async def test(self, route_id: str, *, kind: TestKind | None = None, model: str | None = None) -> RouteTestView:
        """Tries it: `auth` asks for the list of models, which costs nothing, `canary` (the default) makes one tiny call
        of a model."""
        body = _present(kind=kind, model=model)
        return await self._send("POST", f"/v1/runtime/routes/{segment(route_id)}/test", body=body)


class AsyncDaemon(_Noun):
    async def status(self) -> StatusView:
        """Version, pid, generation, counts, warnings, and the cursor of the stream of all sessions."""
        return await self._send("GET", "/v1/status")

    async def capabilities(self) -> CapabilitiesView:
        """What this daemon can do: operations, drivers, tools, modes, limits."""
        return await self._send("GET", "/v1/capabilities")

    async def inbox(self, *, session_id: str | None = None) -> InboxView:
        """All approvals and questions that wait."""
        return await self._send("GET", "/v1/inbox", query={"session_id": session_id})

    async def routes(self) -> list[RouteView]:
        """The routes to models, without secrets."""
        return await self._send("GET", "/v1/routes")

    async def chains(self) -> list[ChainView]:
        """The chains of routes, and which of their hops are spared now."""
        return await self._send("GET", "/v1/chains")

    async def budgets(self) -> builtins.list[BudgetView]:
        """Of this day and of the daemon, where there are any."""
        return await self._send("GET", "/v1/budgets")

    async def usage(
        self, *, by: Literal["model", "route", "session", "day"] | None = None, since_ms: int | None = None
    ) -> UsageReport:
        """What all model calls since a time (unix milliseconds) used and cost, added up from the journals."""
        return await self._send("GET", "/v1/usage", query={"by": by, "since_ms": since_ms}, timeout_s=None)

    async def blob(self, sha256: str, *, offset: int | None = None, limit: int | None = None) -> bytes:
        """Stored bytes, such as a long tool output; 1 MiB unless `limit` says otherwise, at most 16."""
        return await self._send("GET", f"/v1/blobs/{segment(sha256)}", query={"offset": offset, "limit": limit})

    async def health(self) -> HealthView:
        """Is the process alive."""
        return await self._send("GET", "/healthz")

    async def readiness(self) -> HealthView:
        """Does it take work. Raises ApiError (503, `daemon_draining`) while it stops."""
        return await self._send("GET", "/readyz")

    async def openapi(self) -> dict[str, Any]:
        """The description of the API: OpenAPI 3.1."""
        return await self._send("GET", "/v1/openapi.json")
