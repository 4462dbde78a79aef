"""Amounts of a budget, as people write them and read them."""

from __future__ import annotations

from typing import Any

import pytest

from kheish import amounts
from kheish.errors import Invalid


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (amounts.read_cost, "0.50", 0.5),
        (amounts.read_cost, "$12", 12.0),
        (amounts.read_count, "20", 20),
        (amounts.read_count, "200k", 200_000),
        (amounts.read_count, "1.5M", 1_500_000),
        (amounts.read_count, "1.001k", 1_001),
        (amounts.read_time, "90s", 90_000),
        (amounts.read_time, "10m", 600_000),
        (amounts.read_time, "1.5h", 5_400_000),
        (amounts.read_time, "1d", 86_400_000),
    ],
)
def test_an_amount_is_read_in_its_unit(read: Any, text: str, value: float) -> None:
    assert read(text) == value


@pytest.mark.parametrize("read", [amounts.read_cost, amounts.read_count, amounts.read_time])
@pytest.mark.parametrize("text", ["", "x", "-1", "0", "1e9", "nan", "1.2.3", "٣k", "1" * 20, "5x", "k", "m"])
def test_what_is_no_amount_is_refused_with_an_example(read: Any, text: str) -> None:
    with pytest.raises(Invalid, match=r"cannot read .*(such as|write)"):
        read(text)


@pytest.mark.parametrize("text", ["10m", "1.5", "0.0001k"])
def test_a_count_is_whole_and_minutes_are_no_millions(text: str) -> None:
    with pytest.raises(Invalid, match="as a number"):
        amounts.read_count(text)
    with pytest.raises(Invalid, match="what is used up is steps"):
        amounts.read_raise(text, ["steps"])


def test_a_raise_is_of_what_is_used_up_unless_it_says_otherwise() -> None:
    assert amounts.read_raise("200k", ["tokens", "steps"]) == {"tokens": 200_000}
    assert amounts.read_raise("cost=1, time=5m", ["tokens"]) == {"cost_usd": 1.0, "wall_ms": 300_000}
    with pytest.raises(Invalid, match="cost, tokens, steps, time"):
        amounts.read_raise("money=1", ["tokens"])
    for reached in (["cost_usd"], ["tokens"], ["steps"], ["wall_ms"], ["cost_usd", "steps"]):
        found: Any = reached
        assert list(amounts.read_raise(amounts.example(found), found)) == reached, "the example is one"


@pytest.mark.parametrize(
    ("limit", "used", "share"),
    [
        ({"tokens": 1_000}, {"tokens": 850}, 0.85),
        ({"tokens": 1_000, "steps": 10}, {"tokens": 850, "steps": 9}, 0.9),
        ({"cost_usd": 2.0}, {"cost_usd": 2.5, "tokens": 9}, 1.25),
        ({"wall_ms": 100}, {}, 0.0),
        ({"steps": 0}, {"steps": 0}, 1.0),
    ],
)
def test_how_much_is_used_is_told_of_the_limit_that_is_nearest(limit: Any, used: Any, share: float) -> None:
    nothing = dict.fromkeys(("cost_usd", "tokens", "steps", "wall_ms"))
    view: Any = {"limit": {**nothing, **limit}, "used": {**nothing, **used}}
    assert amounts.share_used(view) == share


def test_nothing_said_is_no_budget() -> None:
    assert amounts.read_budget(cost=None, tokens=None, steps=None, time=None) is None
    assert amounts.read_budget(cost="1", tokens=None, steps="5", time=None) == {"cost_usd": 1.0, "steps": 5}
