"""`kheish inbox`: what waits for a human."""

from __future__ import annotations

from kheish.cli.approvals import approve_hint, call_lines
from kheish.cli.output import paint, print_json, say, short_ids
from kheish.cli.questions import answer_hint, question_lines
from kheish.cli.targets import connect
from kheish.terminal import ago, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import ApprovalView, QuestionView

_LINES_MAX = 8


def inbox(count: bool, as_json: bool) -> int:
    client = connect()
    if count:
        counts = client.daemon.status()["inbox"]
        total = counts["approvals"] + counts["questions"]
        if as_json:
            print_json({**counts, "total": total})
        else:
            print(total)
        return 0
    view = client.daemon.inbox()
    if as_json:
        print_json(view)
        return 0
    if not view["approvals"] and not view["questions"]:
        say("nothing waits for you")
    short = short_ids(row["request_id"] for row in (*view["approvals"], *view["questions"]))
    for a in view["approvals"]:
        id_ = short(a["request_id"])
        kind = {"tool_call": "approval", "budget": "budget"}.get(a["kind"], "outcome unknown")
        print(_head(id_, kind, a))
        for line in call_lines(a, lines_max=_LINES_MAX):
            print(line)
        print(paint(f"  {approve_hint(a, id_)}", "dim"))
    for q in view["questions"]:
        id_ = short(q["request_id"])
        print(_head(id_, "question", q))
        for line in question_lines(q["questions"]):
            print(line)
        print(paint(f"  {answer_hint(q, id_)}", "dim"))
    return 0


def _head(id_: str, kind: str, view: ApprovalView | QuestionView) -> str:
    return f"{paint(id_, 'yellow')}  {kind}, {ago(view['requested_at_ms'])} ago, session {clean(view['session_id'])}"
