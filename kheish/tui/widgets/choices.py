"""What can be answered, each with its key, on lines that stay in sight; above them a word on what was just pressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.style import Style
from textual import events
from textual.dom import DOMNode
from textual.markup import escape
from textual.reactive import reactive
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from kheish.terminal import one_line
from kheish.tui.lines import strip_of

SAID_S = 3.0


class _Choice(NamedTuple):
    """`start` and `end` are its columns; `node` has the action."""

    key: str
    title: str
    start: int
    end: int
    action: str
    node: DOMNode


class Choices(Widget):
    """Shows those of its actions that are valid now. A click does what the key does."""

    DEFAULT_CSS = """
    Choices {
        height: 2; padding: 0 1; border-top: solid $panel; border-title-color: $warning; border-title-style: bold;
    }
    """

    is_dim: reactive[bool] = reactive(False)
    """While keys do not count."""

    def __init__(self) -> None:
        super().__init__()
        self._actions: Sequence[tuple[str, str]] = ()
        self._silence: Timer | None = None
        self._lines: list[list[_Choice]] = []

    def show(self, actions: Sequence[tuple[str, str]]) -> None:
        """(action, title) in order; a title of others is clean."""
        self._actions = actions
        self._lay_out()

    def say(self, text: str) -> None:
        """On the line above the choices, which stay in sight, for as long as it takes to read."""
        self.border_title = escape(one_line(text))
        if self._silence is not None:
            self._silence.stop()
        self._silence = self.set_timer(SAID_S, lambda: self.say("")) if text else None

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._lay_out())

    def on_resize(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        """As many lines as it takes."""
        width = max(1, self.content_size.width)
        active = {
            bound.binding.action: bound for bound in reversed(self.screen.active_bindings.values()) if bound.enabled
        }
        lines: list[list[_Choice]] = [[]]
        at = 0
        for action, title in self._actions:
            if action not in active:
                continue
            key = self.app.get_key_display(active[action].binding)
            length = cell_len(key) + cell_len(title) + 1
            if at + length > width and lines[-1]:
                lines.append([])
                at = 0
            lines[-1].append(_Choice(key, title, at, at + length, action, active[action].node))
            at += length + 2
        self._lines = lines
        self.styles.height = len(lines) + 1
        self.refresh()

    def render_line(self, y: int) -> Strip:
        look = self.screen.look  # type: ignore[attr-defined]
        base: Style = self.rich_style
        width = self.size.width
        key_style, style = (
            base + (look.dim if self.is_dim else look.heading),
            base + (look.dim if self.is_dim else look.text),
        )
        parts: list[tuple[str, Style | None]] = []
        for choice in self._lines[y] if y < len(self._lines) else ():
            parts += [(choice.key, key_style), (f" {choice.title}  ", style)]
        return strip_of(*parts).crop(0, width).extend_cell_length(width, base)

    async def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is not None and 0 <= offset.y < len(self._lines):
            for choice in self._lines[offset.y]:
                if choice.start <= offset.x < choice.end:
                    await self.app.run_action(choice.action, choice.node)
                    return
