"""How much models take: from routes.toml, else from the table of prices, and nothing where there is no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheish.core.events import Hop
from kheish.errors import Invalid
from kheish.providers.registry import Routes
from tests.providers.test_routes import write

FILE = """\
version = 1
default_route = "claude"
[routes.claude]
driver = "anthropic"
default_model = "claude-opus-4-6"
[routes.small]
driver = "anthropic"
default_model = "claude-opus-4-6"
context_tokens = 50_000
[routes.local]
driver = "openai_compatible"
base_url = "http://127.0.0.1:1/v1"
default_model = "some-model"
[routes.play]
driver = "scripted"
default_model = "script.json"
context_tokens = 8_000
"""
KEYS = {"ANTHROPIC_API_KEY": "k"}


@pytest.mark.parametrize(
    ("route", "model", "window_tokens"),
    [
        ("claude", "claude-opus-4-6", 1_000_000),
        ("claude", "claude-that-nobody-knows", 0),
        ("small", "claude-opus-4-6", 50_000),
        ("local", "some-model", 0),
        ("play", "script.json", 8_000),
        ("scripted", "script.json", 0),
        ("rehearsal", "rehearsal", -1),
        ("shell", "bash", -1),
        ("gone", "m", 0),
    ],
)
async def test_the_window_of_a_way_to_a_model(tmp_path: Path, route: str, model: str, window_tokens: int) -> None:
    write(tmp_path, FILE)
    hop = Hop(route=route, model=model, on=("overloaded",))
    assert await Routes(tmp_path, KEYS).with_windows((hop,)) == (
        Hop(route=route, model=model, on=("overloaded",), window_tokens=window_tokens),
    )


async def test_a_window_too_small_to_work_in_is_refused_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, FILE.replace("8_000", "1_000"))
    with pytest.raises(Invalid, match=r"line 17.*context_tokens.*>= 4096"):
        await Routes(tmp_path, KEYS).with_windows(())
