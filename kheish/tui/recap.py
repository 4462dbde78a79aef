"""What became of a session since the person was last at work in it, in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kheish.client import RecordView
from kheish.terminal import ago, counted, one_line
from kheish.tui.live import OVER

AWAY_MS = 30 * 60_000
"""Who did something more recently than this was not away."""
_DECIDED = ("approval.resolved", "question.answered")


def recap(records: Sequence[RecordView], me: str, now_ms: int) -> str:
    """`while you were away (2h): 2 runs completed, 1 run failed, 1 request settled by user:7`; "" where the person was
    not away, nothing of this happened, or these records, a session's newest, do not reach back to what `me` did."""
    mine = max((place for place, record in enumerate(records) if record["by"]["principal"] == me), default=-1)
    if mine < 0 or now_ms - records[mine]["at_ms"] < AWAY_MS:
        return ""
    ended: Counter[str] = Counter()
    settled: Counter[str] = Counter()
    restarts = 0
    for record in records[mine + 1 :]:
        for event in record["events"]:
            if event["type"] in OVER:
                ended[OVER[event["type"]]] += 1
            elif event["type"] in _DECIDED:
                settled[record["by"]["principal"]] += 1
            restarts += event["type"] == "session.recovered"
    told = [f"{counted(count, 'run')} {how}" for how, count in ended.items()]
    told += [f"{counted(count, 'request')} settled by {one_line(who, 40)}" for who, count in settled.items()]
    told += [counted(restarts, "restart of the daemon", "restarts of the daemon")] * bool(restarts)
    return f"while you were away ({ago(records[mine]['at_ms'], now_ms)}): {', '.join(told)}" if told else ""
