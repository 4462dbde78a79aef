"""What model calls cost, by the table of genai-prices. It knows the providers' own servers; of any other, such as one
on this machine, and of what is no model, the price is unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kheish.core.events import Usage
from kheish.core.usage import PriceOf
from kheish.providers import sdk

HOMES = {"anthropic": "anthropic", "openai": "openai", "google": "google", "openrouter": "openrouter", "xai": "x-ai"}
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


def _load() -> Any:
    import genai_prices

    return genai_prices


def _place(driver: str, base_url: str) -> dict[str, str]:
    """Where the table is to look for the models of a route; nothing where it cannot know them."""
    if base_url:
        return {"provider_api_url": base_url}
    return {"provider_id": HOMES[driver]} if driver in HOMES else {}
