"""What model calls used and cost, added up from the facts of a journal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Literal

import msgspec

from kheish.core.events import Event, Hop, ModelCallCompleted, ModelCallStarted, Rate, RunSubmitted, Usage

By = Literal["model", "route", "session", "day"]
PriceOf = Callable[[str, str, Usage, int], float | None]
"""US dollars of a call: by its route, its model, what it used and when. None where nobody knows."""

UNKNOWN = "unknown"
_THOUSAND_IN, _THOUSAND_OUT = Usage(input_tokens=1000), Usage(output_tokens=1000)


class Total(msgspec.Struct):
    """`unpriced_calls` are those whose price nobody knows: what they cost is no part of `cost_usd`."""

    calls: int = 0
    tokens: Usage = Usage()
    cost_usd: float = 0.0
    unpriced_calls: int = 0

    def add(self, usage: Usage, cost_usd: float | None) -> None:
        self.calls += 1
        self.tokens = add_usage(self.tokens, usage)
        self.cost_usd += cost_usd or 0.0
        self.unpriced_calls += cost_usd is None


def add_usage(a: Usage, b: Usage) -> Usage:
    return Usage(**{name: getattr(a, name) + getattr(b, name) for name in Usage.__struct_fields__})


def cost_of(event: ModelCallCompleted, route: str, model: str, price_of: PriceOf) -> float | None:
    """As it was journaled; of a journal from before that was done, by the prices of today."""
    if event.cost_usd is not None:
        return event.cost_usd
    return price_of(route, event.model or model, event.usage, event.at_ms)


def rates_of(hops: tuple[Hop, ...], price_of: PriceOf, at_ms: int) -> tuple[Rate | None, ...]:
    """What each hop costs, as it is reckoned before a call; none where no price is known."""

    def rate(hop: Hop) -> Rate | None:
        # Of a thousand tokens: a larger call may be of another price.
        input_usd, output_usd = [
            price_of(hop.route, hop.model, usage, at_ms) for usage in (_THOUSAND_IN, _THOUSAND_OUT)
        ]
        if input_usd is None or output_usd is None:
            return None
        return Rate(input_usd=1000 * input_usd, output_usd=1000 * output_usd)

    rates = tuple(map(rate, hops))
    return rates if any(rates) else ()


class Meter:
    """Is shown the events of journals in order, session by session. Days are those of the daemon's time zone."""

    def __init__(self, by: By, since_ms: int, price_of: PriceOf) -> None:
        self.by: By = by
        self.since_ms = since_ms
        self._price_of = price_of
        self.totals: dict[str, Total] = {}
        self.total = Total()
        self._under_way: dict[str, tuple[str, str]] = {}
        self._runs: dict[str, tuple[str, str]] = {}

    def begin_session(self) -> None:
        """Nothing of the session before it is under way in the next."""
        self._under_way.clear()
        self._runs.clear()

    def add(self, session_id: str, event: Event) -> None:
        match event:
            case RunSubmitted():
                self._runs[event.run_id] = event.route, event.model
            case ModelCallStarted(route=route) if route:
                self._under_way[event.run_id] = route, event.model
            case ModelCallCompleted():
                # Journals from before there were chains name the route with the run alone.
                known = self._under_way.get(event.run_id) or self._runs.get(event.run_id)
                if event.at_ms >= self.since_ms:
                    self._count(session_id, event, *(known or (UNKNOWN, "")))

    def _count(self, session_id: str, event: ModelCallCompleted, route: str, model: str) -> None:
        model = model or event.model or UNKNOWN
        cost_usd = cost_of(event, route, model, self._price_of)
        names: dict[By, str] = {"model": model, "route": route, "session": session_id}
        name = names.get(self.by) or date.fromtimestamp(event.at_ms / 1000).isoformat()
        for total in (self.totals.setdefault(name, Total()), self.total):
            total.add(event.usage, cost_usd)
