"""The command palette: every action that is valid now, with its key, and every session."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from kheish.terminal import one_line
from kheish.tui.actions import ACTIONS
from kheish.tui.words import age_text, asks_text

if TYPE_CHECKING:
    from kheish.tui.app import KheishApp

SESSIONS_MAX = 500


class Found(NamedTuple):
    title: str
    help: str
    key: str
    run: partial[Any]


class Palette(Provider):
    """Without a word: what can be done here. With one: that, and sessions, by how well they match."""

    @property
    def _app(self) -> KheishApp:
        return cast("KheishApp", self.app)

    def _actions(self) -> Iterator[Found]:
        """Those of the place first, in the order of the table; then those that are valid everywhere."""
        active = {a.binding.id: a for a in reversed(self.screen.active_bindings.values()) if a.enabled}
        for action in sorted(ACTIONS, key=lambda action: action.where == "app"):
            if action.id in active and action.name != "command_palette":
                node, binding, *_ = active[action.id]
                yield Found(
                    binding.description,
                    action.help,
                    self.app.get_key_display(binding),
                    partial(self.app.run_action, binding.action, node),
                )

    def _sessions(self) -> Iterator[Found]:
        app = self._app
        rows = sorted(app.board.rows.values(), key=lambda row: row.since_ms, reverse=True)
        for row in rows[:SESSIONS_MAX]:
            about = asks_text(row) or row.headline
            yield Found(
                one_line(row.name, 60),
                one_line(f"{row.status}, {age_text(row, app.now_ms)} · {about}", 100),
                "",
                partial(app.open_session, row.session_id),
            )

    async def discover(self) -> Hits:
        for found in self._actions():
            yield DiscoveryHit(_shown(Content(found.title), found.key), found.run, found.title, found.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for found in (*self._actions(), *self._sessions()):
            score = max(matcher.match(found.title), matcher.match(found.help) * 0.5)
            if score > 0:
                yield Hit(score, _shown(matcher.highlight(found.title), found.key), found.run, found.title, found.help)


def _shown(title: Content, key: str) -> Content:
    return Content.assemble(title, (f"  {key}", "$primary")) if key else title
