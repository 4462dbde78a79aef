"""A screen beside the work: it is looked at and left again with Escape."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.widget import Widget

from kheish.tui.actions import bindings
from kheish.tui.screen import KheishScreen
from kheish.tui.widgets.banner import Banner
from kheish.tui.widgets.footer import Footer
from kheish.tui.widgets.heading import Heading


class Aside(KheishScreen[None]):
    """`draw` draws all of it, from what the screen knows; it is called when the screen is seen and the look changes."""

    BINDINGS = bindings("aside")

    def compose(self) -> ComposeResult:
        yield Banner()
        yield Heading()
        yield from self.body()
        yield Footer()

    def body(self) -> Iterable[Widget]:
        raise NotImplementedError

    def draw(self) -> None:
        raise NotImplementedError

    @property
    def head(self) -> Heading:
        return self.query_one(Heading)

    def on_screen_resume(self) -> None:
        self.draw()

    def look_changed(self) -> None:
        self.draw()

    def action_close(self) -> None:
        self.dismiss()
