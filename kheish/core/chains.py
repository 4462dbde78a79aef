"""Which hop of its run's chain an attempt at a model call takes: the first that was not tried and need not be spared.

A hop is left only for failures that may pass; one that had begun to answer is tried again once before that. What is
spared at present is the daemon's to know and comes with the message; what was chosen, and why, is in the journal.
"""

from __future__ import annotations

from kheish.core.contracts import FailureCode
from kheish.core.events import Choice, Cooling, Hop
from kheish.core.state import Run

MAY_PASS: tuple[FailureCode, ...] = ("overloaded", "rate_limited", "server_error", "timeout", "connection")
"""The failures for which a hop may be left. Any other the next would meet too, or nobody would learn of it."""

Hops = tuple[Hop, ...]


def is_left_for(hop: Hop, code: str) -> bool:
    return code in (hop.on or MAY_PASS)


def cooling_in(hops: Hops, cooling: tuple[Cooling, ...]) -> tuple[Cooling, ...]:
    """What is spared of these hops, in their order, for something that they are left for."""
    return tuple(
        spared
        for hop in hops
        for spared in cooling
        if (spared.route, spared.model) == (hop.route, hop.model) and is_left_for(hop, spared.code)
    )


def find_available(hops: Hops, cooling: tuple[Cooling, ...], tried: tuple[int, ...] = ()) -> int | None:
    places = (place for place in range(len(hops)) if place not in tried)
    return next((place for place in places if not cooling_in(hops[place : place + 1], cooling)), None)


def cooling_ms(hops: Hops, cooling: tuple[Cooling, ...], at_ms: int) -> int:
    """How long all of them are spared yet; 0 where one is not."""
    spared = cooling_in(hops, cooling)
    return max(0, min(s.until_ms for s in spared) - at_ms) if len(spared) == len(hops) else 0


def choose(run: Run, cooling: tuple[Cooling, ...]) -> tuple[int, Choice]:
    """The hop of a call that begins, or begins again: where all are spared the one that is so for the shortest time."""
    place = find_available(run.chain, cooling) if run.hops else 0
    if place is None:
        soonest = min(cooling_in(run.chain, cooling), key=lambda spared: spared.until_ms)
        place = place_of(run.chain, soonest.route, soonest.model)
    if place:
        return place, "cooling"
    return 0, "returned" if run.hop else "primary"


def place_of(hops: Hops, route: str, model: str) -> int:
    return next((place for place, hop in enumerate(hops) if (hop.route, hop.model) == (route, model)), 0)
