"""What all screens have: the application they belong to, and news of the link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from textual.screen import Screen

from kheish.client import AsyncKheish, StreamEvent
from kheish.tui.look import Look

if TYPE_CHECKING:
    from kheish.tui.app import KheishApp
    from kheish.tui.live import Row

Result = TypeVar("Result")


class KheishScreen(Screen[Result]):
    """A screen is told of everything while it is on the stack, also under another one; it draws when it is seen."""

    @property
    def kheish(self) -> KheishApp:
        from kheish.tui.app import KheishApp

        return cast(KheishApp, self.app)

    @property
    def client(self) -> AsyncKheish:
        return self.kheish.client

    @property
    def look(self) -> Look:
        return self.kheish.look

    def on_mount(self) -> None:
        self.kheish.show_banner_on(self)

    def _on_prune(self) -> None:
        """It is taken away: what its workers bring has no widget to show it any more."""
        self.workers.cancel_node(self)

    def arrived(self, events: Sequence[StreamEvent]) -> None:
        """Records and live text of all sessions, in order; the board has them already."""

    def board_changed(self, rows: Sequence[Row] | None) -> None:
        """These rows of the board changed, or, where it was loaded anew, all."""

    def connected(self, *, is_new_daemon: bool) -> None:
        """The link is up again; nothing was missed."""

    def disconnected(self) -> None:
        """No daemon answers; told again with each try."""

    def look_changed(self) -> None:
        """The theme or the marks are others now."""
