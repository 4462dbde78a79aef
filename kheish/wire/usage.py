"""What model calls used and cost, on the wire."""

from __future__ import annotations

import msgspec

from kheish.core.usage import By, Meter, Total
from kheish.wire.body import View
from kheish.wire.budgets import BudgetView


class UsageRow(View, frozen=True):
    """`cost_usd` is null where no price is known; what it leaves out of `calls` is `unpriced_calls`."""

    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: float | None
    unpriced_calls: int


class UsageReport(View, frozen=True):
    """Of the model calls that were completed since then. `is_whole`: nothing was left out because there is too much, or
    because a session is damaged."""

    by: By
    since_ms: int
    rows: list[UsageRow]
    total: UsageRow
    is_whole: bool
    budget: BudgetView | None = None
    """Of a run that has one."""


def usage_report(meter: Meter, *, is_whole: bool = True, budget: BudgetView | None = None) -> UsageReport:
    """Days in their order, anything else by what it cost, then by how many tokens came out."""
    rows = [_row(name, total) for name, total in sorted(meter.totals.items())]
    if meter.by != "day":
        rows.sort(key=lambda row: (-(row.cost_usd or 0.0), -row.output_tokens))
    return UsageReport(
        by=meter.by,
        since_ms=meter.since_ms,
        rows=rows,
        total=_row("total", meter.total),
        is_whole=is_whole,
        budget=budget,
    )


def _row(name: str, total: Total) -> UsageRow:
    return UsageRow(
        name=name,
        calls=total.calls,
        **msgspec.structs.asdict(total.tokens),
        cost_usd=round(total.cost_usd, 9) if total.unpriced_calls < total.calls else None,
        unpriced_calls=total.unpriced_calls,
    )
