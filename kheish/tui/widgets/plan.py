"""The plan of the session's run: what is done, what is worked at now, what is to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from kheish.narration import plan_done, plan_place
from kheish.tui.lines import strip_of, wrap
from kheish.tui.look import Look
from kheish.tui.widgets.rows import on_style

if TYPE_CHECKING:
    from kheish.client.views import PlanItem

MARK_COLUMNS = 2


class Plan(Widget):
    """Hidden while there is none. Where it is longer than its place, that shows what is worked at now."""

    DEFAULT_CSS = """
    Plan { display: none; padding: 0 1; background: $background; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._plan: Sequence[PlanItem] = ()
        self._look: Look | None = None
        self._shown: list[Strip] = []
        self._shown_in = Size(0, 0)

    def show(self, plan: Sequence[PlanItem], look: Look) -> None:
        if (plan, look) != (self._plan, self._look):
            self._plan, self._look, self._shown_in = plan, look, Size(0, 0)
            self.display = bool(plan)
            self.refresh(layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return 1 + sum(map(len, self._items(width)))

    def _items(self, width: int) -> list[list[Strip]]:
        """The lines of each."""
        if (look := self._look) is None:
            return []
        styles = {
            "completed": (look.marks.done, look.success, look.dim),
            "in_progress": (look.marks.running, look.accent, look.strong),
            "pending": (look.marks.queued, look.dim, look.text),
        }
        found = []
        for item in self._plan:
            mark, mark_style, style = styles[item["status"]]
            lines = wrap(" ".join(item["content"].split()), width - MARK_COLUMNS)
            found.append(
                [strip_of((f"{' ' if i else mark} ", mark_style), (line, style)) for i, line in enumerate(lines)]
            )
        return found

    def _draw(self, size: Size) -> list[Strip]:
        """The heading, and as much of the items as there is room for."""
        look, items, at = self._look, self._items(size.width), plan_place(self._plan)
        if look is None:
            return []
        lines = [line for item in items for line in item]
        before, room = sum(map(len, items[:at])), max(1, size.height - 1)
        start = max(0, min(before - room // 3, len(lines) - room))
        return [strip_of((f"Plan {plan_done(self._plan)}", look.dim)), *lines[start : start + room]]

    def render_line(self, y: int) -> Strip:
        if self._shown_in != self.content_size:
            self._shown, self._shown_in = self._draw(self.content_size), self.content_size
        line = self._shown[y] if y < len(self._shown) else Strip([])
        return on_style(line, self.rich_style, self.content_size.width)
