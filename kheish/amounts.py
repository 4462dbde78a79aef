"""Amounts of a budget as people write and read them: dollars, counts with k and M, spans of time."""

from __future__ import annotations

from kheish.errors import Invalid
from kheish.terminal import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kheish.client import BudgetBody, BudgetView, Dimension

_COUNTS = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}  # `m` is a minute: no number
_SPANS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_EXAMPLES: dict[Dimension, str] = {"cost_usd": "1.00", "tokens": "200k", "steps": "20", "wall_ms": "10m"}
_NAMES: dict[str, Dimension] = {"cost": "cost_usd", "tokens": "tokens", "steps": "steps", "time": "wall_ms"}


def read_cost(text: str) -> float:
    """`0.50`, in US dollars. Raises Invalid."""
    value = _number(text.removeprefix("$"))
    if value is None:
        raise Invalid(f"cannot read {text!r} as a cost: write dollars, such as 0.50")
    return value


def read_count(text: str) -> int:
    """`200`, `200k`, `1.5M`. Raises Invalid."""
    unit = text[-1:] if text[-1:].isalpha() else ""
    value = (_number(text[: len(text) - len(unit)]) or 0) * _COUNTS.get(unit, 0)
    whole = round(value)
    if not whole or abs(whole - value) > 1e-6:
        raise Invalid(f"cannot read {text!r} as a number: write 200, 200k or 1.5M")
    return whole


def read_time(text: str) -> int:
    """`90s`, `10m`, `2h`, `1d`, as milliseconds. Raises Invalid."""
    value = _number(text[:-1])
    if value is None or text[-1:] not in _SPANS_MS:
        raise Invalid(f"cannot read {text!r} as a time: write 90s, 10m, 2h or 1d")
    return round(value * _SPANS_MS[text[-1]])


def _number(text: str) -> float | None:
    """A positive one, and no larger than any budget is."""
    if not (text.isascii() and text.replace(".", "", 1).isdecimal()) or len(text) > 12:
        return None
    return float(text) or None


_READ: dict[Dimension, Callable[[str], float | int]] = {
    "cost_usd": read_cost,
    "tokens": read_count,
    "steps": read_count,
    "wall_ms": read_time,
}


def read_budget(*, cost: str | None, tokens: str | None, steps: str | None, time: str | None) -> BudgetBody | None:
    """None where nothing is said. Raises Invalid."""
    given: dict[Dimension, str | None] = {"cost_usd": cost, "tokens": tokens, "steps": steps, "wall_ms": time}
    found = {name: _READ[name](text) for name, text in given.items() if text is not None}
    return found or None  # type: ignore[return-value]  # its keys are a budget's


def read_raise(text: str, reached: list[Dimension]) -> BudgetBody:
    """`1.00`, of what is used up; or `cost=1.00,steps=10`. Raises Invalid."""
    found: dict[str, float | int] = {}
    for part in text.split(","):
        name, equals, value = part.strip().rpartition("=")
        dimension = _NAMES.get(name) if equals else (reached or ["cost_usd"])[0]
        if dimension is None:
            raise Invalid(f"cannot raise {name!r}: it is one of {', '.join(_NAMES)}")
        try:
            found[dimension] = _READ[dimension](value)
        except Invalid as error:
            if equals:
                raise
            used_up = next(name for name, d in _NAMES.items() if d == dimension)
            raise Invalid(f"{error.message}; what is used up is {used_up}") from None
    return found  # type: ignore[return-value]  # its keys are a budget's


def example(reached: list[Dimension]) -> str:
    """An amount by which it could be raised."""
    if len(reached) < 2:
        return _EXAMPLES[(reached or ["cost_usd"])[0]]
    return ",".join(f"{name}={_EXAMPLES[d]}" for name, d in _NAMES.items() if d in reached)


def say_account(account: str) -> str:
    kind, _, id_ = account.partition(":")
    return f"{kind} {id_}" if id_ else "the daemon"


def used_of(view: BudgetView) -> str:
    """What is used of what."""
    parts = list(_parts(view))
    if (unpriced := view["unpriced_calls"]) and view["limit"]["cost_usd"] is not None:
        parts.append(f"{counted(unpriced, 'call')} of unknown price")
    return ", ".join(parts)


def share_used(view: BudgetView) -> float:
    """Of the limit that it is nearest to."""
    limits, used = view["limit"], view["used"]
    return max(((used[name] or 0) / limit for name in _EXAMPLES if (limit := limits[name])), default=1.0)


def _parts(view: BudgetView) -> Iterator[str]:
    used, limit = view["used"], view["limit"]
    if (cost := limit["cost_usd"]) is not None:
        yield f"${used['cost_usd'] or 0:.4f} of ${cost:.2f}"
    if (tokens := limit["tokens"]) is not None:
        yield f"{used['tokens']:,} of {tokens:,} tokens"
    if (steps := limit["steps"]) is not None:
        yield f"{used['steps']:,} of {steps:,} steps"
    if (wall_ms := limit["wall_ms"]) is not None:
        yield f"{(used['wall_ms'] or 0) / 60_000:.1f} of {wall_ms / 60_000:.1f} minutes"


def unpriced_note(view: BudgetView) -> str:
    """What a person who set a limit of cost has to know; "" where nothing."""
    if not view["unpriced"]:
        return ""
    models = ", ".join(view["unpriced"])
    return (
        f"the price of {models} is unknown: what it costs is not counted, only its tokens; `kheish routes set ROUTE "
        "--price 3/15` says it"
    )
