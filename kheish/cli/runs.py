"""`kheish cancel`, `kheish interrupt` and `kheish runs ...`."""

from __future__ import annotations

from kheish.amounts import used_of
from kheish.cli.output import paint, paint_status, print_json, print_json_line, print_table, say, short_ids, status_text
from kheish.cli.targets import connect, find_session, find_target
from kheish.errors import Conflict
from kheish.narration import BOXES, plan_text
from kheish.terminal import ago, clean, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import RunView


def cancel(target: str | None, reason: str, as_json: bool) -> int:
    client = connect()
    kind, id_ = find_target(client, target)
    if kind == "session":
        id_ = client.sessions.get(id_)["active_run_id"]
        if not id_:
            raise Conflict("cannot cancel: no run is active in this session")
    view = client.runs.cancel(id_, reason=reason)
    if as_json:
        print_json(view)
    else:
        print(f"{view['run_id']} {view['status']}")
    return 0


def interrupt(target: str | None, reason: str, as_json: bool) -> int:
    client = connect()
    view = client.sessions.interrupt(find_session(client, target), reason=reason)
    if as_json:
        print_json(view)
    elif view["interrupted"]:
        print(f"{view['run_id']} interrupted")
    else:
        say("no run was active")
    return 0


def list_(session: str | None, active: bool, limit: int, as_json: bool) -> int:
    client = connect()
    rows = client.runs.list(
        session_id=find_session(client, session) if session else None, active=active or None, limit=limit
    )
    if as_json:
        print_json(rows)
    elif not rows:
        say("there are no runs")
    else:
        short = short_ids(r["run_id"] for r in rows)
        print_table(
            ("run", "session", "status", "step", "age", "text"),
            [
                (short(r["run_id"]), r["session_id"], status_text(r["status"]), r["step"], ago(r["submitted_at_ms"]),
                 r["request"]["text_preview"])
                for r in rows
            ],
            {2: paint_status},
        )  # fmt: skip
    return 0


def get(run_id: str, as_json: bool) -> int:
    view = connect().runs.get(run_id)
    if as_json:
        print_json(view)
    else:
        print_run(view)
    return 0


def print_run(view: RunView) -> None:
    usage = view["usage"]
    print(f"{paint(view['run_id'], 'bold')}  {paint_status(view['status'])}")
    rows = [
        ("session", view["session_id"]),
        ("input", one_line(view["request"]["text_preview"], 100)),
        ("model", f"{view['request']['provider']}/{view['request']['model']}"),
        ("by", f"{view['request']['principal']} ({view['request']['origin']})"),
        ("step", f"step {view['step']}"),
        ("plan", plan_text(view["plan"])),
        ("tokens", f"{usage.get('input_tokens', 0)} in, {usage.get('output_tokens', 0)} out"),
        ("budget", used_of(view["budget"]) if view["budget"] else ""),
        ("approvals", " ".join(view["pending_approval_ids"])),
        ("questions", " ".join(view["pending_question_ids"])),
        ("error", f"{view['error']['code']}: {view['error']['message']}" if view["error"] else ""),
    ]
    for name, value in rows:
        if value:
            print(f"  {name:<10} {one_line(value)}")
        for item in view["plan"] if name == "plan" else ():
            print(f"{'':13}{BOXES[item['status']]} {one_line(item['content'])}")
    for text in view["outputs"]:
        print(clean(text))


def why(run_id: str, as_json: bool) -> int:
    view = connect().runs.why(run_id)
    if as_json:
        print_json(view)
    else:
        print(f"{paint(view['run_id'], 'bold')}  {paint_status(view['status'])}")
        for line in view["lines"]:
            print(clean(line).replace("\n", " "))
    return 0


def events(run_id: str, as_json: bool) -> int:
    client = connect()
    cursor = None
    while True:
        page = client.runs.events(run_id, cursor=cursor, limit=1000)
        for item in page["items"]:
            print_json_line(item)
        cursor = page["next_cursor"]
        if not cursor:
            return 0


def stream(run_id: str, cursor: str, as_json: bool) -> int:
    client = connect()
    for event in client.events(run_id=client.runs.get(run_id)["run_id"], cursor=cursor):
        print_json_line({"event": event.event, "id": event.id, "data": event.data})
    return 0
