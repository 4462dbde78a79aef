"""`kheish inbox`: what waits for a human."""

from __future__ import annotations

from kheish.cli.output import ago, clean, one_line, paint, print_json, say
from kheish.cli.render import call_text
from kheish.cli.targets import connect


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
    for a in view["approvals"]:
        kind = "approval" if a["kind"] == "tool_call" else "outcome unknown"
        print(
            f"{paint(a['request_id'], 'yellow')}  {kind}, {ago(a['requested_at_ms'])} ago, "
            f"session {clean(a['session_id'])}"
        )
        print(f"  {clean(call_text(a['tool'], a['input']))}")
        if a["kind"] == "tool_call":
            hint = f"kheish approve {a['request_id']} --if-digest {a['digest'][:8]}"
        else:
            hint = f"kheish approve {a['request_id']} --verify | --retry | --mark-done | --give-up"
        print(paint(f"  {hint}", "dim"))
    for q in view["questions"]:
        print(
            f"{paint(q['request_id'], 'yellow')}  question, {ago(q['requested_at_ms'])} ago, "
            f"session {clean(q['session_id'])}"
        )
        for question in q["questions"]:
            print(f"  {one_line(question['question'])}")
            for number, option in enumerate(question.get("options", ()), 1):
                note = f" - {one_line(option['description'])}" if option.get("description") else ""
                print(f"    {number}. {one_line(option['label'])}{note}")
        print(paint(f"  kheish answer {q['request_id']} TEXT", "dim"))
    return 0
