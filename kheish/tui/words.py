"""What several screens say in the same words."""

from __future__ import annotations

import os
from typing import Any

from kheish.amounts import say_account, share_used, used_of
from kheish.narration import call_text, plan_text
from kheish.terminal import ago, clean
from kheish.tui.live import Row, Spending


def age_text(row: Row, now_ms: int) -> str:
    if not row.since_ms:
        return ""
    age = ago(row.since_ms, now_ms)
    return {"needs you": f"waiting {age}", "working": f"for {age}", "queued": f"queued {age}"}.get(
        row.need, f"{age} ago"
    )


def asks_text(row: Row) -> str:
    """The first thing that the session asks, in one line."""
    ask = next(iter(row.asks.values()), None)
    if not ask:
        return ""
    more = f"  (+{len(row.asks) - 1})" if len(row.asks) > 1 else ""
    if "questions" in ask:
        return str(ask["questions"][0]["question"]) + more
    return call_text(ask.get("tool", ""), ask.get("input", {})) + more


def row_text(row: Row) -> str:
    """What a session is about: where its plan is and what it was told, or that alone."""
    plan = plan_text(row.plan) if row.active else ""
    return f"{plan}  ({row.headline})" if plan else row.headline


def budget_text(row: Row) -> str:
    """`budget 85%`: how much is used of the one that is nearest to its limit; "" where none is near."""
    return f"budget {max(map(share_used, row.budgets)):.0%}" if row.budgets else ""


def budgets_text(row: Row) -> str:
    """The same of each, with whose it is and what is used of what."""
    return ", ".join(
        f"{share_used(view):.0%} of the budget of {say_account(view['account'])} used ({used_of(view)})"
        for view in sorted(row.budgets, key=share_used, reverse=True)
    )


def call_detail(tool: str, arguments: dict[str, Any], width: int = 0) -> str:
    """What a call would do, without the tool's name, all of it or a width; what cannot be seen is written out."""
    return call_text(tool, arguments, width).removeprefix(tool).lstrip(": ")


def tokens_text(count: int) -> str:
    """`950`, `12k`, `1.2M`."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1_000_000:.1f}M"


def spent_text(spent: Spending) -> str:
    """`12k tok · $0.04`, with a `+` where nobody knows the price of some of it."""
    cost = f"${spent.cost_usd:.2f}" if spent.cost_usd >= 0.01 else "under $0.01"
    parts = [f"{tokens_text(spent.tokens)} tok" if spent.tokens else ""]
    parts.append(cost + "+" * (spent.unpriced_calls > 0) if spent.cost_usd else "")
    return " · ".join(filter(None, parts))


def short_path(path: str) -> str:
    """With `~` for the home directory."""
    path = clean(path)
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if path == home or path.startswith(home + os.sep) else path


def context_text(tokens: int, window_tokens: int) -> str:
    """`context 52k`, and how much of the window that is where it is known."""
    share = f" ({tokens / window_tokens:.0%})" if window_tokens else ""
    return f"context {tokens_text(tokens)}{share}" if tokens else ""
