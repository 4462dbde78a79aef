"""A line between the transcript and the composer: what waits for the person, and what came below out of sight.

It takes no focus and no key by itself: whoever writes goes on writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from kheish.narration import call_text
from kheish.terminal import one_line
from kheish.tui.live import Asked, Call
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

    def show(self, asks: Sequence[Call | Asked], unseen: int, look: Look) -> None:
        self.display = bool(asks or unseen)
        self.set_class(bool(asks), "asks")
        parts: list[Any] = []
        self._request_id = ""
        if asks:
            request = asks[0].request or {}
            self._request_id = str(request.get("request_id", ""))
            more = f" (+{len(asks) - 1})" if len(asks) > 1 else ""
            parts += [(f"{look.marks.waiting} ctrl+y ", "bold $warning"), (f"{_what(asks[0])}{more}", "bold")]
        if unseen:
            parts.append(("   " * bool(asks) + f"{look.marks.below} {unseen} new below: ctrl+end", "$primary"))
        self.update(Content.assemble(*parts))

    def on_click(self, event: events.Click) -> None:
        if self._request_id:
            self.post_message(self.Chosen(self._request_id))


def _what(asked: Call | Asked) -> str:
    if isinstance(asked, Call):
        kind = (asked.request or {}).get("kind")
        what = {"uncertain": "outcome unknown: ", "budget": "raise? "}.get(str(kind), "allow? ")
        return what + one_line(call_text(asked.tool, asked.arguments))
    return one_line(asked.request["questions"][0]["question"])
