"""`todo_write`."""

from __future__ import annotations

from typing import Any

import pytest

from kheish.limits import PLAN_ITEM_CHARS_MAX, PLAN_ITEMS_MAX
from tests.tools.workplace import TOOLS, Workplace


async def test_it_says_back_the_list_that_it_was_given(place: Workplace) -> None:
    todos = [("look", "completed"), ("mend\nit", "in_progress"), ("test", "pending")]
    items = [{"content": content, "status": status} for content, status in todos]
    assert await place.text("todo_write", todos=items) == "[x] look\n[>] mend it\n[ ] test"
    assert await place.text("todo_write", todos=[]) == "The plan is empty."


@pytest.mark.parametrize(
    "todos",
    [
        [{"content": "x"}],
        [{"content": "", "status": "pending"}],
        [{"content": "x", "status": "done"}],
        [{"content": "x" * (PLAN_ITEM_CHARS_MAX + 1), "status": "pending"}],
        [{"content": "x", "status": "pending"}] * (PLAN_ITEMS_MAX + 1),
        [{"content": "x", "status": "pending", "id": 1}],
    ],
)
def test_a_list_of_another_form_or_beyond_its_bounds_is_refused(todos: Any) -> None:
    assert TOOLS["todo_write"].spec.check({"todos": todos})
    assert not TOOLS["todo_write"].spec.check({"todos": [{"content": "x", "status": "pending"}] * PLAN_ITEMS_MAX})
