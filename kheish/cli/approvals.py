"""`kheish approve`, `kheish deny` and `kheish approvals ...`."""

from __future__ import annotations

import json

from kheish.amounts import example, read_raise, say_account, used_of
from kheish.cli.output import paint, print_json, print_table, say, short_ids
from kheish.cli.targets import connect, find_session
from kheish.errors import Invalid
from kheish.narration import call_text, limits_text
from kheish.terminal import ago, clean, counted, expose, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from kheish.client import ApprovalView, BudgetView, Kheish, Remember, Resolution, ResolveOneOfMany, RunView
    from kheish.client.views import ApprovalRequested

_LINES_MAX = 20


def approve(
    request_id: str,
    if_digest: str | None,
    edit: str | None,
    session: bool,
    always: bool,
    rule: str | None,
    verify: bool,
    retry: bool,
    mark_done: bool,
    give_up: bool,
    raise_by: str | None,
    message: str,
    as_json: bool,
) -> int:
    chosen: dict[Resolution, bool] = {"verify": verify, "retry": retry, "mark_done": mark_done, "give_up": give_up}
    verbs = [verb for verb, is_chosen in chosen.items() if is_chosen]
    if len(verbs) > 1 or (session and always):
        raise Invalid("cannot do both: choose one of these options")
    if rule and not (session or always):
        raise Invalid("cannot keep a rule for one call: add --session or --always")
    client = connect()
    approval = client.approvals.get(request_id)
    if raise_by or approval["kind"] == "budget":
        if verbs or session or always or edit is not None:
            raise Invalid(
                "cannot use these options with a budget: --raise AMOUNT raises it, `kheish deny` stops the run"
            )
        return _raise(client, approval, if_digest, raise_by, message, as_json)
    edited = parse_object(edit) if edit is not None else None
    remember: Remember | None = "session" if session else "always" if always else None
    if remember and not rule and not as_json:
        what = expose(approval["exact_rule"]) if edited is None else f"exactly {call_text(approval['tool'], edited)}"
        say(f"rule: allow {what} ({'this session' if session else 'every session'})")
    run = client.approvals.resolve(
        approval["request_id"],
        verbs[0] if verbs else "allow",
        if_digest=if_digest,
        remember=remember,
        rule=rule,
        updated_input=edited,
        justification=message or None,
    )
    shown: ApprovalView = {**approval, "input": edited} if edited is not None else approval
    return _done(shown, run, verbs[0] if verbs else "allowed", as_json)


def _raise(
    client: Kheish, approval: ApprovalView, if_digest: str | None, raise_by: str | None, message: str, as_json: bool
) -> int:
    budget, id_ = approval["budget"], approval["request_id"]
    if budget is None:
        raise Invalid(f"cannot raise {id_}: it is no budget, but a tool call")
    if not raise_by:
        raise Invalid(f"cannot raise the budget: say by how much, such as --raise {example(budget['reached'])}")
    amount = read_raise(raise_by, budget["reached"])
    run = client.approvals.resolve(id_, "raise", if_digest=if_digest, raise_by=amount, justification=message or None)
    return _done(approval, run, f"raised by {limits_text(amount)}", as_json)


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object of the command line. Raises Invalid."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Invalid(f"cannot read the JSON: {error}") from error
    if not isinstance(value, dict):
        raise Invalid('cannot use this JSON: it must be an object, such as \'{"command": "make test"}\'')
    return value


def _done(approval: ApprovalView, run: RunView, how: str, as_json: bool) -> int:
    if as_json:
        print_json(run)
    else:
        print(f"{how.replace('_', ' ')}: {clean(call_text(approval['tool'], approval['input']))}")
        say(f"run {run['run_id']} is {run['status'].replace('_', ' ')}")
    return 0


def deny(request_id: str, if_digest: str | None, message: str, as_json: bool) -> int:
    client = connect()
    approval = client.approvals.get(request_id)
    if approval["kind"] == "budget":
        run = client.approvals.resolve(
            approval["request_id"], "stop", if_digest=if_digest, justification=message or None
        )
        return _done(approval, run, "stopped", as_json)
    run = client.approvals.deny(approval["request_id"], message, if_digest=if_digest)
    return _done(approval, run, "denied", as_json)


def allow(request_id: str, if_digest: str | None, raise_by: str | None, message: str, as_json: bool) -> int:
    client = connect()
    approval = client.approvals.get(request_id)
    if raise_by or approval["kind"] == "budget":
        return _raise(client, approval, if_digest, raise_by, message, as_json)
    run = client.approvals.allow(approval["request_id"], if_digest=if_digest, justification=message or None)
    return _done(approval, run, "allowed", as_json)


def list_(session: str | None, as_json: bool) -> int:
    client = connect()
    rows = client.approvals.list(session_id=find_session(client, session) if session else None)
    if as_json:
        print_json(rows)
    elif not rows:
        say("nothing waits for approval")
    else:
        short = short_ids(r["request_id"] for r in rows)
        print_table(
            ("approval", "session", "age", "digest", "call"),
            [
                (short(r["request_id"]), r["session_id"], ago(r["requested_at_ms"]), r["digest"][:8],
                 call_text(r["tool"], r["input"]))
                for r in rows
            ],
        )  # fmt: skip
    return 0


def show(request_id: str, as_json: bool) -> int:
    view = connect().approvals.get(request_id)
    if as_json:
        print_json(view)
        return 0
    print(f"{paint(view['request_id'], 'yellow')}  session {clean(view['session_id'])}, run {view['run_id']}")
    for line in call_lines(view, lines_max=0):
        print(line)
    print(f"  digest     {view['digest']}")
    print(f"  choices    {', '.join(view['choices'])}")
    return 0


def call_lines(view: ApprovalView, lines_max: int = _LINES_MAX) -> Iterator[str]:
    """What would run, and why it is asked: all of it, unless an argument has more lines than this."""
    if view["budget"] is not None:
        yield from _budget_lines(view, view["budget"])
        return
    yield f"  tool       {expose(view['tool'])}"
    for name, value in view["input"].items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines = expose(text).rstrip("\n").split("\n")
        shown = lines[:lines_max] if lines_max else lines
        yield f"  {one_line(name):<10} {shown[0]}"
        yield from (f"{'':13}{line}" for line in shown[1:])
        if len(shown) < len(lines):
            more = counted(len(lines) - len(shown), "more line")
            yield f"{'':13}... {more}: kheish approvals show {view['request_id']}"
    yield f"  directory  {expose(view['cwd'])}"
    why = [f"rule {expose(view['rule'])}"] * bool(view["rule"]) + [one_line(view["reason"])] * bool(view["reason"])
    yield f"  asked by   {', '.join(why)}"


def _budget_lines(view: ApprovalView, budget: BudgetView) -> Iterator[str]:
    """What is used up, and who set it."""
    yield f"  budget     {one_line(say_account(budget['account']))}, set by {one_line(budget['by'])}"
    yield f"  used       {used_of(budget)}"
    yield f"  run        {view['run_id']}"
    yield f"  asked by   {one_line(view['reason'])}"


def approve_hint(approval: ApprovalView | ApprovalRequested, id_: str) -> str:
    """The command that resolves it."""
    if approval.get("kind") == "uncertain":
        return f"kheish approve {id_} --verify | --retry | --mark-done | --give-up"
    if approval.get("kind") == "budget":
        budget: Any = approval.get("budget") or approval.get("standing") or {}
        reached = budget.get("reached", [])
        return f"kheish approve {id_} --raise {example(reached)} | kheish deny {id_}"
    return f"kheish approve {id_} --if-digest {approval['digest'][:8]}"


def _resolve_all(client: Kheish, session: str | None, resolution: Resolution, message: str, as_json: bool) -> int:
    """Run by run, and each run's all or none."""
    by_run: dict[str, list[ApprovalView]] = {}
    left = 0
    for row in client.approvals.list(session_id=find_session(client, session) if session else None):
        if row["kind"] == "tool_call":
            by_run.setdefault(row["run_id"], []).append(row)
        else:
            left += 1
    runs = []
    for run_id, rows in by_run.items():
        resolutions: list[ResolveOneOfMany] = [
            {
                "request_id": row["request_id"],
                "resolution": resolution,
                "if_digest": row["digest"],
                "justification": message,
            }
            for row in rows
        ]
        runs.append(client.runs.resolve_approvals(run_id, resolutions))
        for row in rows:
            say(f"{resolution}: {clean(call_text(row['tool'], row['input']))}")
    if as_json:
        print_json(runs)
    elif not (runs or left):
        say("nothing waits for approval")
    if left:
        say(f"{left} more: budgets and uncertain outcomes are decided one by one; see `kheish inbox`", "yellow")
    return 0


def allow_all(session: str | None, message: str, as_json: bool) -> int:
    return _resolve_all(connect(), session, "allow", message, as_json)


def deny_all(session: str | None, message: str, as_json: bool) -> int:
    return _resolve_all(connect(), session, "deny", message, as_json)
