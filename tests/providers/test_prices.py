"""Prices: of the providers' own servers by the table; of any other, and of what is no model, unknown and not zero."""

from __future__ import annotations

import pytest

from kheish.core.events import Usage
from kheish.providers.prices import load_prices
from kheish.providers.routes import Price, Route

ROUTES = {
    "claude": Route(driver="anthropic"),
    "gpt": Route(driver="openai"),
    "router": Route(driver="openai_compatible", base_url="https://openrouter.ai/api/v1"),
    "local": Route(driver="openai_compatible", base_url="http://127.0.0.1:11434/v1"),
    "own": Route(driver="anthropic", base_url="http://127.0.0.1:9"),
    "scripted": Route(driver="scripted"),
    "said": Route(driver="scripted", price=Price(input_usd=3.0, output_usd=15.0, cache_read_usd=0.3)),
}
USAGE = Usage(input_tokens=1000, output_tokens=100)
AT_MS = 1_795_000_000_000


@pytest.mark.parametrize(
    ("route", "model", "is_known"),
    [
        ("claude", "claude-opus-4-6", True),
        ("gpt", "gpt-5.4", True),
        ("router", "openai/gpt-5.4-mini", True),
        ("claude", "no-such-model", False),
        ("local", "gpt-5.4", False),
        ("own", "claude-opus-4-6", False),
        ("scripted", "claude-opus-4-6", False),
        ("gone", "claude-opus-4-6", False),
    ],
)
async def test_a_price_is_known_or_it_is_none(route: str, model: str, is_known: bool) -> None:
    price = (await load_prices(ROUTES))(route, model, USAGE, AT_MS)
    assert (price is not None and price > 0) if is_known else price is None


async def test_what_came_from_the_cache_costs_less_and_is_not_counted_twice() -> None:
    price_of = await load_prices(ROUTES)
    whole = price_of("claude", "claude-opus-4-6", USAGE, AT_MS)
    cached = price_of("claude", "claude-opus-4-6", Usage(cache_read_tokens=1000, output_tokens=100), AT_MS)
    assert whole and cached and whole / 2 < cached + whole / 4 < whole


async def test_a_price_in_routes_toml_is_the_price() -> None:
    price_of = await load_prices(ROUTES)
    usage = Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=10_000)
    assert price_of("said", "anything", usage, AT_MS) == pytest.approx((1000 * 3 + 100 * 15 + 10_000 * 0.3) / 1e6)
