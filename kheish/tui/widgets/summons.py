"""A line between the transcript and the composer: what waits for the person, and what came below out of sight.

It takes no focus and no key by itself: whoever writes goes on writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from kheish.narration import call_text
from kheish.terminal import one_line
from kheish.tui.look import Look


class Summons(Static):
    DEFAULT_CSS = """
    Summons { display: none; height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Summons.asks { background: $warning 20%; }
    """

    class Chosen(Message):
        def __init__(self, request_id: str) -> None:
            super().__init__()
            self.request_id = request_id

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._request_id = ""

    def show(self, asks: Mapping[str, Mapping[str, Any]], unseen: int, look: Look, *, answer: str, bottom: str) -> None:
        """`asks` are the requests by id, oldest first, as the API shows them. `answer` and `bottom` are keys."""
        self.display = bool(asks or unseen)
        self.set_class(bool(asks), "asks")
        parts: list[Any] = []
        self._request_id = ""
        if asks:
            self._request_id, first = next(iter(asks.items()))
            more = f" (+{len(asks) - 1})" if len(asks) > 1 else ""
            parts += [(f"{look.marks.waiting} {answer} ", "bold $warning"), (f"{_what(first)}{more}", "bold")]
        if unseen:
            parts.append(("   " * bool(asks) + f"{look.marks.below} {unseen} new below: {bottom}", "$primary"))
        self.update(Content.assemble(*parts))

    def on_click(self, event: events.Click) -> None:
        if self._request_id:
            self.post_message(self.Chosen(self._request_id))


def _what(request: Mapping[str, Any]) -> str:
    if "questions" in request:
        return one_line(request["questions"][0]["question"])
    if "tool" not in request:
        return "it waits for you"
    what = {"uncertain": "outcome unknown: ", "budget": "raise? "}.get(request.get("kind", ""), "allow? ")
    return what + one_line(call_text(request["tool"], request["input"]))
