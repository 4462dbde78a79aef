"""`kheish doctor`: what `kheish.client.diagnostics` finds."""

from __future__ import annotations

from kheish.cli.output import paint, print_json, say
from kheish.cli.targets import connect
from kheish.client.diagnostics import NOTE, OK, WRONG, check_routes, checks
from kheish.limits import CANARY_TIMEOUT_MS
from kheish.terminal import clean, text_width

_COLOR = {OK: "green", NOTE: "yellow", WRONG: "red"}


def doctor(what: str, check_auth: bool, canary: bool, as_json: bool) -> int:
    client = connect()
    if (check_auth or canary) and not as_json:
        say(f"asking each route, for {CANARY_TIMEOUT_MS // 1000} s at most ...", "dim")
    found = list(checks(client)) if what == "all" else []
    if what == "routes" or check_auth or canary:
        found += check_routes(client, check_auth=check_auth, canary=canary)
    if as_json:
        print_json([{"check": name, "verdict": verdict, "detail": detail} for name, verdict, detail in found])
    else:
        width = max((text_width(name) for name, _, _ in found), default=0)
        for name, verdict, detail in found:
            print(f"{paint(f'{verdict:<6}', _COLOR[verdict])} {clean(name).ljust(width)}  {clean(detail)}")
    return 1 if any(verdict == WRONG for _, verdict, _ in found) else 0
