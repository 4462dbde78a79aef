"""What model calls cost and how much models take: as routes.toml says, else by the table of genai-prices. That knows
the providers' own servers; of any other, such as one on this machine, and of what is no model, neither is known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from kheish.core.events import Usage
from kheish.core.usage import PriceOf
from kheish.providers import sdk
from kheish.providers.routes import Route
from kheish.wire.runtime import Price

HOMES = {"anthropic": "anthropic", "openai": "openai", "google": "google", "openrouter": "openrouter", "xai": "x-ai"}
"""The table's names for the servers of drivers that are at home."""


_table: Any = None


async def load_prices(routes: dict[str, Route]) -> PriceOf:
    """Loads the table off the event loop where one of the routes may be in it."""
    global _table
    given = {route_id: route.price for route_id, route in routes.items() if route.price is not None}
    places = {route_id: _place(route) for route_id, route in routes.items() if route_id not in given}
    if _table is None and any(places.values()):
        _table = await sdk.load(_load)
    table = _table

    def price_of(route: str, model: str, usage: Usage, at_ms: int) -> float | None:
        if (price := given.get(route)) is not None:
            return _by_price(price, usage)
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


async def find_window(route: Route, model: str) -> int:
    """How many tokens a model takes, by the table; 0 where it does not know."""
    place = _place(route)
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

    genai_prices.calc_price(genai_prices.Usage(input_tokens=1), "gpt-5", provider_id="openai")  # builds the rest of it
    return genai_prices


def _place(route: Route) -> dict[str, str]:
    """Where the table is to look for the models of a route; nothing where it cannot know them."""
    if route.base_url:
        is_here = urlsplit(route.base_url).hostname in ("localhost", "127.0.0.1", "::1")
        return {} if is_here else {"provider_api_url": route.base_url}
    return {"provider_id": HOMES[route.driver]} if route.driver in HOMES else {}


def _by_price(price: Price, usage: Usage) -> float:
    cached = price.input_usd if price.cache_read_usd is None else price.cache_read_usd
    read_usd = (usage.input_tokens + usage.cache_write_tokens) * price.input_usd + usage.cache_read_tokens * cached
    return (read_usd + usage.output_tokens * price.output_usd) / 1_000_000
