"""`kheish doctor`: what `kheish.client.diagnostics` finds."""

from __future__ import annotations

from kheish.cli.output import paint, print_json
from kheish.cli.targets import connect
from kheish.client.diagnostics import NOTE, OK, WRONG, checks
from kheish.terminal import clean

_COLOR = {OK: "green", NOTE: "yellow", WRONG: "red"}


def doctor(as_json: bool) -> int:
    found = list(checks(connect()))
    if as_json:
        print_json([{"check": name, "verdict": verdict, "detail": detail} for name, verdict, detail in found])
    else:
        for name, verdict, detail in found:
            print(f"{paint(f'{verdict:<6}', _COLOR[verdict])} {name:<12} {clean(detail)}")
    return 1 if any(verdict == WRONG for _, verdict, _ in found) else 0
