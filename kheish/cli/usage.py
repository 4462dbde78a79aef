"""`kheish usage` and `kheish runs usage`."""

from __future__ import annotations

import time

from kheish.cli.budgets import line, warn_unpriced
from kheish.cli.output import print_json, print_table, say
from kheish.cli.targets import connect
from kheish.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kheish.client import UsageReport, UsageRow

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def usage(by: str, since: str, as_json: bool) -> int:
    # `by` is one of its parameter's choices.
    _print(connect().daemon.usage(by=by, since_ms=_read_since(since)), as_json)  # type: ignore[arg-type]
    return 0


def of_run(run_id: str, by: str, as_json: bool) -> int:
    # As above.
    report = connect().runs.usage(run_id, by=by)  # type: ignore[arg-type]
    _print(report, as_json)
    if report["budget"] and not as_json:
        print(f"budget of {line(report['budget'])}")
        warn_unpriced(report["budget"])
    return 0


def _read_since(text: str) -> int:
    """`90m`, `12h`, `7d`, `4w`, or `all`, as a time. Raises Invalid."""
    number, unit = text[:-1], text[-1:]
    if text == "all":
        return 0
    if unit not in _UNITS_MS or not number.isdecimal() or len(number) > 6:
        raise Invalid(f"cannot read --since {text!r}: write 90m, 12h, 7d, 4w or all")
    return max(0, time.time_ns() // 1_000_000 - int(number) * _UNITS_MS[unit])


def _print(report: UsageReport, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    if not report["rows"]:
        say("no model call was completed")
        return
    print_table(
        (report["by"], "calls", "in", "cached", "out", "reasoning", "cost"),
        [
            (row["name"], row["calls"],
             row["input_tokens"] + row["cache_read_tokens"] + row["cache_write_tokens"], row["cache_read_tokens"],
             row["output_tokens"], row["reasoning_tokens"], _cost(row))
            for row in (*report["rows"], report["total"])
        ],
    )  # fmt: skip
    if not report["is_whole"]:
        say("there is more than was read: choose a later --since, and see `kheish status` for damaged sessions")


def _cost(row: UsageRow) -> str:
    if row["cost_usd"] is None:
        return "unknown"
    more = f" and {row['unpriced_calls']} of unknown price" if row["unpriced_calls"] else ""
    return f"${row['cost_usd']:.4f}{more}"
