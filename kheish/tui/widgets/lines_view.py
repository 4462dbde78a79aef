"""The base of what shows lines that a person may mark with the mouse."""

from __future__ import annotations

from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.strip import Strip


class LinesView(ScrollView):
    """A subclass gives the line at a place of the view, which is drawn, and says where in the text a click on it is.

    Where that is stands in the styles of a line, but only for who asks, not while it is drawn: every line would have
    styles of its own, and what is drawn stays in caches of 16,384 styles."""

    _is_drawing = False

    def render_lines(self, crop: Region) -> list[Strip]:
        self._is_drawing = True
        try:
            return super().render_lines(crop)
        finally:
            self._is_drawing = False

    def marked(self, strip: Strip, line: int) -> Strip:
        """A strip that shows this line of the text."""
        return strip if self._is_drawing else strip.apply_offsets(0, line)
