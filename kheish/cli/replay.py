"""`kheish replay`."""

from __future__ import annotations

import json

from kheish.cli.output import EXIT_DEPARTED, paint, print_json, say
from kheish.cli.targets import connect
from kheish.client import DaemonUnreachable
from kheish.terminal import clean, counted, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MARKS = {"changed": "~", "missing": "-", "new": "+", "refused": "!", "request": ">"}
_VALUE_CHARS = 120


def replay(run_id: str, until: int | None, as_json: bool) -> int:
    import msgspec

    from kheish import paths
    from kheish.daemon import retracing

    root = paths.state_root()
    try:
        view = connect(start=False).runs.get(run_id)
        session_id, run_id = view["session_id"], view["run_id"]
    except DaemonUnreachable:
        session_id, run_id = retracing.find_run(root, run_id)
    made = retracing.retrace(root, paths.config_dir(), session_id, run_id, until or 0)
    report: dict[str, Any] = {
        "run_id": run_id,
        "session_id": session_id,
        "departs": bool(made.departures),
        "decisions": made.decisions,
        "unknown": made.unknown,
        "requests": made.requests,
        "departures": msgspec.to_builtins(made.departures),
    }
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    return EXIT_DEPARTED if made.departures else 0


def _print_report(report: dict[str, Any]) -> None:
    for departure in report["departures"]:
        what = " ".join(filter(None, (departure["event"], departure["tool"])))
        print(
            paint(
                one_line(f"{_MARKS[departure['how']]} step {departure['step']}, seq {departure['seq']}  {what}"), "bold"
            )
        )
        if departure["reason"]:
            print(f"    refused now: {one_line(departure['reason'])}")
        for change in departure["changes"]:
            print(f"    {one_line(change['field'])}: {_change(departure['how'], change)}")
    print(clean(f"{report['run_id']} of {report['session_id']}: {_sum_up(report)}"))
    if report["unknown"]:
        say(f"{report['unknown']} decisions were about what the journal does not tell, and were passed over")
    if not report["requests"]:
        say("no request was compared: debug artifacts tell what a model was shown (`kheish runtime set-debug-level`)")


def _change(how: str, change: dict[str, Any]) -> str:
    if how in ("missing", "new"):
        return _value(change["recorded"] if how == "missing" else change["now"])
    return f"{_value(change['recorded'])} -> {_value(change['now'])}"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _VALUE_CHARS)


def _sum_up(report: dict[str, Any]) -> str:
    count = len(report["departures"])
    departs = f"departs in {counted(count, 'place')}" if count else "the same"
    compared = f"{counted(report['decisions'], 'decision')} and {counted(report['requests'], 'request')} compared"
    return f"{departs}; {compared}"
