"""The keys that are valid now, as many as fit, and on the right what is true now."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import ActiveBinding
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from kheish.terminal import clean
from kheish.tui.actions import ACTIONS
from kheish.tui.lines import cut_columns, strip_of
from kheish.tui.look import rich_color

FACTS_MIN = 2
KEYS_COLUMNS_MIN = 14
"""Where even this is not left for the keys, only the most important fact is told."""
_ORDER = {action.id: place for place, action in enumerate(ACTIONS)}


def _place(active: ActiveBinding) -> str:
    return (active.binding.id or "").partition(".")[0]


class Footer(Widget):
    """One line. `facts` are its words on the right, the most important last: the others make room for the keys."""

    DEFAULT_CSS = """
    Footer { dock: bottom; height: 1; background: $surface; color: $foreground; }
    """

    facts: reactive[tuple[str, ...]] = reactive(())

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[int, int, ActiveBinding]] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def _keys(self) -> list[ActiveBinding]:
        """In the order of the table: those that only what has the focus has, the screen's, the application's."""
        found: dict[str, ActiveBinding] = {}
        for active in self.screen.active_bindings.values():
            if active.binding.show and active.enabled:
                found.setdefault(active.binding.action, active)
        places = {_place(active) for active in self.screen.active_bindings.values() if active.node is self.screen}

        def order(active: ActiveBinding) -> tuple[bool, bool, int]:
            return active.node is self.app, _place(active) in places, _ORDER.get(active.binding.id or "", 0)

        return sorted(found.values(), key=order)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.rich_style
        variables = self.app.theme_variables
        key_style = base + Style(color=rich_color(variables["primary"]))
        dim = base + Style(dim=True)
        keys = [
            (self.app.get_key_display(active.binding), active.binding.description, active) for active in self._keys()
        ]
        own = sum(len(key) + len(title) + 3 for key, title, active in keys if active.node is not self.app)
        facts = [clean(fact) for fact in self.facts if fact]
        while len(facts) > FACTS_MIN and len(" · ".join(facts)) > width - own - 3:
            facts.pop(0)
        if len(" · ".join(facts)) > width - KEYS_COLUMNS_MIN:
            facts = facts[-1:]
        right = cut_columns(" · ".join(facts), width)
        room = width - len(right) - 2
        parts: list[tuple[str, Style | None]] = [(" ", base)]
        at = 1
        self._places = []
        for key, title, active in keys:
            length = len(key) + len(title) + 3
            if at + length > room:
                break
            self._places.append((at, at + length - 2, active))
            parts += [(key, key_style), (f" {title}  ", dim)]
            at += length
        left = Strip([Segment(text, style) for text, style in parts])
        left = left.crop(0, max(0, width - len(right) - 1)).extend_cell_length(width - len(right) - 1, base)
        return Strip.join([left, strip_of((f"{right} ", base))]).crop(0, width)

    async def on_click(self, event: events.Click) -> None:
        for start, end, active in self._places:
            if start <= event.x < end:
                await self.app.run_action(active.binding.action, active.node)
                return

    def watch_facts(self) -> None:
        self.refresh()
