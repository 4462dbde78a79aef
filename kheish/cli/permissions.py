"""`kheish permissions ...`."""

from __future__ import annotations

from kheish.cli.approvals import parse_object
from kheish.cli.output import paint, print_json, print_table, say
from kheish.cli.targets import connect, find_session
from kheish.errors import Invalid
from kheish.terminal import clean, expose, moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import Behavior, Mode

_MAIN = {"bash": "command", "glob_search": "pattern", "grep_search": "pattern"}
_COLOR = {"allow": "green", "ask": "yellow", "deny": "red"}


def _paint(behavior: str) -> str:
    return paint(behavior, _COLOR.get(behavior, ""))


def check(tool: str, arg: str | None, input: str | None, mode: str | None, session: str | None, as_json: bool) -> int:
    if arg is not None and input is not None:
        raise Invalid("cannot use both --arg and --input")
    arguments = parse_object(input) if input is not None else {_MAIN.get(tool, "path"): arg} if arg is not None else {}
    client = connect()
    session_id = find_session(client, session) if session else None
    chosen: Mode | None = mode  # type: ignore[assignment]  # one of its parameter's choices
    view = client.permissions.check(tool, input=arguments, mode_override=chosen, session_id=session_id)
    if as_json:
        print_json(view)
        return 0
    print(_paint(view["decision"]))
    say(f"rule {clean(view['matched_rule'])} ({view['scope']}) in mode {view['mode']}")
    if view["mode_effect"]:
        say(clean(view["mode_effect"]))
    if view["reason"]:
        say(f"the arguments would be refused: {clean(view['reason'])}")
    return 0


def matrix(as_json: bool) -> int:
    rows = connect().permissions.matrix()
    if as_json:
        print_json(rows)
        return 0
    modes = list(rows[0]["decisions"]) if rows else []
    print_table(
        ("tool", "effect", *modes),
        [(r["tool_name"], r["effect"], *(r["decisions"][m] for m in modes)) for r in rows],
        {i + 2: _paint for i in range(len(modes))},
    )
    return 0


def rules(session: str | None, always: bool, as_json: bool) -> int:
    if always and session:
        raise Invalid("cannot list both: rules made for all sessions belong to none")
    client = connect()
    rows = client.permissions.rules() if always else client.sessions.rules(find_session(client, session))
    if as_json:
        print_json(rows)
    elif not rows:
        say("nothing was always allowed or denied")
    else:
        print_table(
            ("behavior", "scope", "pattern"), [(r["behavior"], r["scope"], r["pattern"]) for r in rows], {0: _paint}
        )
    return 0


def forget(pattern: str, as_json: bool) -> int:
    rows = connect().permissions.remove_rule(pattern)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            print(f"forgot {row['behavior']} {expose(row['pattern'])}")
    return 0


def _add(pattern: str, behavior: Behavior, session: str | None, as_json: bool) -> int:
    client = connect()
    view = client.sessions.add_rule(find_session(client, session), pattern, behavior)
    if as_json:
        print_json(view)
    else:
        print(f"{behavior} {clean(pattern)} in {clean(view['session_id'])}")
    return 0


def allow(pattern: str, session: str | None, as_json: bool) -> int:
    return _add(pattern, "allow", session, as_json)


def ask(pattern: str, session: str | None, as_json: bool) -> int:
    return _add(pattern, "ask", session, as_json)


def deny(pattern: str, session: str | None, as_json: bool) -> int:
    return _add(pattern, "deny", session, as_json)


def audit(session: str | None, as_json: bool) -> int:
    client = connect()
    rows = client.sessions.audits(find_session(client, session))
    if as_json:
        print_json(rows)
    elif not rows:
        say("nothing was decided yet")
    else:
        print_table(
            ("time", "decision", "tool", "rule", "scope", "mode"),
            [(moment(r["at_ms"]), r["behavior"], r["tool"], r["rule"], r["rule_scope"], r["mode"]) for r in rows],
            {1: _paint},
        )
    return 0
