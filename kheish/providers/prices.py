"""What model calls cost and how much models take, by the table of genai-prices. It knows the providers' own servers; of
any other, such as one on this machine, and of what is no model, neither is known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kheish.core.events import Usage
from kheish.core.usage import PriceOf
from kheish.providers import sdk

HOMES = {"anthropic": "anthropic", "openai": "openai"}
"""The table's names for the servers of drivers that are at home."""


async def load_prices(routes: list[dict[str, Any]]) -> PriceOf:
    """Loads the table off the event loop; `routes` are as they are described."""
    table = await sdk.load(_load)
    places = {row["route_id"]: _place(row["driver"], row["base_url"]) for row in routes}

    def price_of(route: str, model: str, usage: Usage, at_ms: int) -> float | None:
        place = places.get(route)
        if not place:
            return None
        tokens = table.Usage(
            input_tokens=usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        try:
            at = datetime.fromtimestamp(at_ms / 1000, UTC)
            return float(table.calc_price(tokens, model, genai_request_timestamp=at, **place).total_price)
        except (LookupError, ValueError):
            return None

    return price_of


async def find_window(driver: str, base_url: str, model: str) -> int:
    """How many tokens a model takes, by the table; 0 where it does not know."""
    place = _place(driver, base_url)
    if not place:
        return 0
    table = await sdk.load(_load)
    try:
        _, found = table.data_snapshot.get_snapshot().find_provider_model(
            model, None, place.get("provider_id"), place.get("provider_api_url")
        )
    except LookupError:
        return 0
    return found.context_window or 0


def _load() -> Any:
    import genai_prices
    import genai_prices.data_snapshot

    return genai_prices


def _place(driver: str, base_url: str) -> dict[str, str]:
    """Where the table is to look for the models of a route; nothing where it cannot know them."""
    if base_url:
        return {"provider_api_url": base_url}
    return {"provider_id": HOMES[driver]} if driver in HOMES else {}
